//! Reading the record images out of a checkpoint archive, in bounded memory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use criu_image::Named;
use restow::source::manifest;

use super::tar::{Source, Tar, is_header};

/// How much an archive may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Record images that are held, all together, in bytes.
    pub images: u64,
    /// Members.
    pub members: u64,
    /// How many times its own size a compressed archive may unpack to. The pages of a checkpoint shrink a few times; only
    /// a bomb shrinks ten thousand times.
    pub expansion: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            images: 512 << 20,
            members: 4 << 20,
            expansion: 10_000,
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

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Memory that a zstd stream may ask for, as a power of two in bytes; zstd's own bound for untrusted streams.
const ZSTD_WINDOW: u32 = 27;

/// Whether a file that starts so is an archive.
#[must_use]
pub fn is_archive(start: &[u8]) -> bool {
    start.starts_with(GZIP) || start.starts_with(ZSTD) || is_header(start)
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
    let mut file = File::open(path).context("It cannot be opened")?;
    let mut start = [0; 4];
    let got = file.read(&mut start).context("It cannot be read")?;
    file.rewind().context("It cannot be read")?;
    if start[..got].starts_with(GZIP) || start[..got].starts_with(ZSTD) {
        go_through_packed(file, limits, what)
    } else {
        let left = file.metadata().context("It cannot be read")?.len();
        let input = BufReader::with_capacity(1 << 16, file);
        what.take(Tar::new(Plain { input, left }), limits)
    }
}

/// Reads the record images of a compressed archive.
pub fn read_packed(packed: impl Read, limits: &Limits) -> Result<Dirs> {
    go_through_packed(packed, limits, Images)
}

fn go_through_packed<T: Take>(packed: impl Read, limits: &Limits, what: T) -> Result<T::Taken> {
    let taken = Rc::new(Cell::new(0));
    let mut packed = BufReader::with_capacity(
        1 << 16,
        Counted {
            input: packed,
            taken: Rc::clone(&taken),
        },
    );
    let is_gzip = io::BufRead::fill_buf(&mut packed)
        .context("It cannot be read")?
        .starts_with(GZIP);
    let unpacked: Box<dyn Read + '_> = if is_gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(packed))
    } else {
        let mut decoder = zstd::Decoder::with_buffer(packed).context("It cannot be unpacked")?;
        decoder
            .window_log_max(ZSTD_WINDOW)
            .context("It cannot be unpacked")?;
        Box::new(decoder)
    };
    let unpacked = Unpacked {
        input: unpacked,
        given: 0,
        taken,
        expansion: limits.expansion,
    };
    what.take(Tar::new(unpacked), limits)
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

/// A file, in which what is left out is not even read.
struct Plain {
    input: BufReader<File>,
    /// Up to its end; seeking goes beyond without an error.
    left: u64,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.left = self.left.saturating_sub(got as u64);
        Ok(got)
    }
}

impl Source for Plain {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match i64::try_from(count) {
            Ok(offset) if count <= self.left => {
                self.left -= count;
                self.input.seek_relative(offset)
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Counts what a decoder takes.
struct Counted<R> {
    input: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.taken.set(self.taken.get() + got as u64);
        Ok(got)
    }
}

/// A decoder's output, watched for bombs.
struct Unpacked<'a> {
    input: Box<dyn Read + 'a>,
    given: u64,
    taken: Rc<Cell<u64>>,
    expansion: u64,
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        /// Every archive may have this much, however small it is.
        const FREE: u64 = 1 << 30;
        let got = self.input.read(buffer)?;
        self.given += got as u64;
        if self.given > FREE && self.given / self.expansion > self.taken.get() {
            let what = format!("it unpacks to more than {} times its size", self.expansion);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(got)
    }
}

impl Source for Unpacked<'_> {}
