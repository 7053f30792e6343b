//! Reading the record images out of a checkpoint archive, in bounded memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use criu_image::Named;
use restow::archive::EXPANSION;
use restow::archive::tar::{Source, Tar};
use restow::source::manifest;

/// How much an archive may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Record images that are held, all together, in bytes.
    pub images: u64,
    /// Members.
    pub members: u64,
    /// How many times its own size a compressed archive may unpack to, see [`EXPANSION`].
    pub expansion: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            images: 512 << 20,
            members: 4 << 20,
            expansion: EXPANSION,
        }
    }
}

/// What one directory of the archive holds.
#[derive(Debug, Default)]
pub struct Dir {
    /// Record images and their bytes.
    pub images: BTreeMap<String, Vec<u8>>,
    /// Other files and their sizes.
    pub others: BTreeMap<String, u64>,
    /// `source.json`, which Restow adds.
    pub manifest: Option<Vec<u8>>,
}

/// The directories that hold images.
pub type Dirs = BTreeMap<String, Dir>;

/// The image set among them: the topmost, as a container's file system may hold checkpoints of its own.
#[must_use]
pub fn topmost(mut dirs: Dirs) -> Option<Dir> {
    let with_inventory = dirs
        .iter()
        .filter(|(_, dir)| dir.images.contains_key("inventory.img"));
    let name = with_inventory
        .map(|(name, _)| name.clone())
        .min_by_key(|name| name.split('/').count())?;
    dirs.remove(&name)
}

/// Reads the record images of an archive: tar, plain or compressed with gzip or zstd.
pub fn read(path: &Path, limits: &Limits) -> Result<Dirs> {
    go_through(path, limits, Images)
}

/// Reads the files of an archive that have one of these names, in whatever directory, with their paths. One that is longer than
/// `limits.images` is an error.
pub fn read_named(path: &Path, limits: &Limits, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    go_through(path, limits, Files(names))
}

/// What is taken from an archive.
trait Take {
    type Taken;

    fn take<R: Source>(self, tar: Tar<R>, limits: &Limits) -> Result<Self::Taken>;
}

struct Images;

impl Take for Images {
    type Taken = Dirs;

    fn take<R: Source>(self, tar: Tar<R>, limits: &Limits) -> Result<Dirs> {
        members(tar, limits)
    }
}

struct Files<'n>(&'n [&'n str]);

impl Take for Files<'_> {
    type Taken = Vec<(String, Vec<u8>)>;

    fn take<R: Source>(self, mut tar: Tar<R>, limits: &Limits) -> Result<Self::Taken> {
        let mut taken = Vec::new();
        let (mut held, mut count) = (0u64, 0u64);
        while let Some(member) = tar.next_member().context("The archive is damaged")? {
            count += 1;
            if count > limits.members {
                bail!("The archive has more than {} members", limits.members);
            }
            let path = String::from_utf8_lossy(&member.path).into_owned();
            let name = path.rsplit('/').next().unwrap_or(&path);
            if !member.is_file || !self.0.contains(&name) {
                continue;
            }
            held = held
                .saturating_add(member.size)
                .saturating_add(path.len() as u64 + 64);
            if held > limits.images {
                bail!(
                    "{path} in the archive takes more than {} MiB",
                    limits.images >> 20
                );
            }
            let bytes = tar
                .read()
                .with_context(|| format!("{path} cannot be read"))?;
            taken.push((path, bytes));
        }
        Ok(taken)
    }
}

fn go_through<T: Take>(path: &Path, limits: &Limits, what: T) -> Result<T::Taken> {
    let file = File::open(path).context("It cannot be opened")?;
    let tar = restow::archive::open(file, limits.expansion).context("It cannot be read")?;
    what.take(tar, limits)
}

/// Reads the record images of a compressed archive.
pub fn read_packed(packed: impl Read, limits: &Limits) -> Result<Dirs> {
    let unpacked = restow::archive::unpacked(packed, limits.expansion);
    Images.take(Tar::new(unpacked.context("It cannot be unpacked")?), limits)
}

/// Reads the record images of an archive that is not compressed.
pub fn read_tar(tar: impl Source, limits: &Limits) -> Result<Dirs> {
    members(Tar::new(tar), limits)
}

fn members<R: Source>(mut tar: Tar<R>, limits: &Limits) -> Result<Dirs> {
    let mut dirs = Dirs::new();
    let mut held = 0u64;
    let mut count = 0u64;
    while let Some(member) = tar.next_member().context("The archive is damaged")? {
        count += 1;
        if count > limits.members {
            bail!("The archive has more than {} members", limits.members);
        }
        if !member.is_file {
            continue;
        }
        let path = String::from_utf8_lossy(&member.path);
        let path = path.trim_start_matches("./");
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        // A name of its own counts as well: many small members are a bomb, too.
        let cost = member.path.len() as u64 + 64;
        match Named::of(name) {
            Named::Other if name == manifest::FILE_NAME && member.size <= manifest::MAX_SIZE => {
                held = held.saturating_add(member.size).saturating_add(cost);
                let bytes = tar
                    .read()
                    .with_context(|| format!("{path} cannot be read"))?;
                dirs.entry(dir.to_owned()).or_default().manifest = Some(bytes);
            }
            Named::Other => continue,
            Named::Record(_) => {
                held = held.saturating_add(member.size).saturating_add(cost);
                if held > limits.images {
                    bail!(
                        "The images in the archive take more than {} MiB",
                        limits.images >> 20
                    );
                }
                let bytes = tar
                    .read()
                    .with_context(|| format!("{path} cannot be read"))?;
                dirs.entry(dir.to_owned())
                    .or_default()
                    .images
                    .insert(name.to_owned(), bytes);
            }
            Named::Raw | Named::Old => {
                held = held.saturating_add(cost);
                dirs.entry(dir.to_owned())
                    .or_default()
                    .others
                    .insert(name.to_owned(), member.size);
            }
        }
        if held > limits.images {
            bail!(
                "The images in the archive take more than {} MiB",
                limits.images >> 20
            );
        }
    }
    Ok(dirs)
}
