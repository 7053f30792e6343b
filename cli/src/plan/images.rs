//! The checkpoint: an image directory, or what an archive has of it, unpacked into a directory that goes away again.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use restow::source::Source;
use restow::source::images::ImageDir;
use restow::source::manifest::FILE_NAME;
use tempfile::TempDir;

use crate::input::{Dir, Limits, is_archive, read_archive, topmost};

/// Reads the checkpoint. The directory is that of an archive, and has to stay while the source is in use.
pub(super) fn read(path: &Path) -> Result<(Source, Option<TempDir>)> {
    let meta =
        fs::metadata(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    if meta.is_dir() {
        let nested = path.join("checkpoint");
        let dir = if !path.join("inventory.img").exists() && nested.join("inventory.img").exists() {
            &nested
        } else {
            path
        };
        return Ok((source(dir)?, None));
    }
    if !is_archive(&start(path)?) {
        bail!(
            "{} is one file, expected an image directory or a checkpoint archive",
            path.display()
        );
    }
    let dirs =
        read_archive(path, &Limits::default()).with_context(|| path.display().to_string())?;
    let Some(dir) = topmost(dirs) else {
        bail!(
            "{} is an archive without a CRIU image set (no inventory.img in it)",
            path.display()
        );
    };
    let unpacked = unpack(&dir).context("The archive's images cannot be unpacked")?;
    let source = source(unpacked.path()).with_context(|| path.display().to_string())?;
    Ok((source, Some(unpacked)))
}

fn source(dir: &Path) -> Result<Source> {
    let open = || -> Result<ImageDir> { Ok(ImageDir::open(File::open(dir)?.into())?) };
    let images = open().with_context(|| format!("{} cannot be opened", dir.display()))?;
    Ok(Source::read(&images)?)
}

fn start(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    file.take(512)
        .read_to_end(&mut start)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(start)
}

/// Names of images have no slash in them, so that nothing is written elsewhere.
fn unpack(dir: &Dir) -> Result<TempDir> {
    let there = tempfile::Builder::new().prefix("restow-plan-").tempdir()?;
    let manifest = dir.manifest.as_ref().map(|bytes| (FILE_NAME, bytes));
    let images = dir
        .images
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes));
    for (name, bytes) in images.chain(manifest) {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options
            .open(there.path().join(name))
            .with_context(|| name.to_owned())?;
        file.write_all(bytes).with_context(|| name.to_owned())?;
    }
    Ok(there)
}
