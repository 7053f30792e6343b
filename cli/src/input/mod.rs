//! Where images come from: a file, a directory, or a checkpoint archive as containerd, CRI-O and podman write them.
//!
//! Pages are never read: of what holds no records only the size is known.

mod archive;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use criu_image::{Image, Kind, Named};

pub use restow::archive::is_archive;

pub use archive::{
    Dir, Dirs, Limits, read as read_archive, read_named, read_packed, read_tar, topmost,
};

/// An image directory, wherever it is.
#[derive(Debug)]
pub struct ImageSet {
    origin: PathBuf,
    images: BTreeMap<String, Content>,
    others: BTreeMap<String, u64>,
}

/// Where the bytes of an image are.
#[derive(Debug)]
enum Content {
    File(PathBuf),
    Held(Vec<u8>),
}

/// Opens a regular file, and nothing else, of a checkpoint that may have come from anywhere: what another name leads to is not its, and a pipe
/// is never at its end.
///
/// # Errors
/// When it is none, or cannot be opened.
pub fn regular(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// What a path on the command line stands for.
#[derive(Debug)]
pub enum Input {
    /// One image.
    Image(PathBuf),
    /// Many.
    Set(ImageSet),
}

impl Input {
    /// Finds out what `path` is and, for an archive, reads its images.
    pub fn open(path: &Path) -> Result<Self> {
        let meta =
            fs::metadata(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        if meta.is_dir() {
            return ImageSet::of_dir(path).map(Self::Set);
        }
        let mut start = Vec::new();
        let mut file =
            File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        (&mut file)
            .take(512)
            .read_to_end(&mut start)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        if is_archive(&start) {
            let contents = archive::read(path, &Limits::default())
                .with_context(|| path.display().to_string())?;
            return ImageSet::of_archive(path, contents).map(Self::Set);
        }
        Ok(Self::Image(path.to_owned()))
    }

    /// An image set, or why it is none.
    pub fn set(path: &Path) -> Result<ImageSet> {
        match Self::open(path)? {
            Self::Set(set) => Ok(set),
            Self::Image(path) => bail!(
                "{} is one file, expected an image directory or a checkpoint archive",
                path.display()
            ),
        }
    }
}

impl ImageSet {
    fn of_dir(path: &Path) -> Result<Self> {
        // An unpacked checkpoint archive has the images one level down.
        let nested = path.join("checkpoint");
        let dir = if !path.join("inventory.img").exists() && nested.join("inventory.img").exists() {
            &nested
        } else {
            path
        };
        let mut set = Self {
            origin: dir.to_path_buf(),
            images: BTreeMap::new(),
            others: BTreeMap::new(),
        };
        for entry in
            fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?
        {
            let entry = entry.with_context(|| format!("{} cannot be read", dir.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Not through links: images are files.
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            match Named::of(&name) {
                Named::Record(_) => drop(set.images.insert(name, Content::File(entry.path()))),
                _ => drop(set.others.insert(name, meta.len())),
            }
        }
        set.check()
    }

    fn of_archive(path: &Path, dirs: archive::Dirs) -> Result<Self> {
        let Some(dir) = topmost(dirs) else {
            bail!(
                "{} is an archive without a CRIU image set (no inventory.img in it)",
                path.display()
            );
        };
        let images = dir
            .images
            .into_iter()
            .map(|(name, bytes)| (name, Content::Held(bytes)))
            .collect();
        Self {
            origin: path.to_owned(),
            images,
            others: dir.others,
        }
        .check()
    }

    fn check(self) -> Result<Self> {
        if let Some(old) = self
            .others
            .keys()
            .find(|name| Named::of(name) == Named::Old)
            && !self.has("files.img")
        {
            bail!(
                "{}: it has {old}, a layout that criu left behind; dump again with a current criu",
                self.origin.display()
            );
        }
        if self.images.is_empty() {
            bail!("{} holds no CRIU images", self.origin.display());
        }
        Ok(self)
    }

    /// Where the set is, for messages.
    #[must_use]
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Whether there is an image of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.images.contains_key(name)
    }

    /// The names of all record images.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str)
    }

    /// The names of the record images of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.names()
            .filter(move |name| Named::of(name) == Named::Record(kind))
    }

    /// Name and size in bytes of everything that holds no records.
    #[must_use]
    pub fn others(&self) -> &BTreeMap<String, u64> {
        &self.others
    }

    /// An image; `None` when the set has none of this name, which CRIU leaves out what would be empty.
    pub fn image(&self, name: &str, kind: Kind) -> Result<Option<Image>> {
        Ok(match self.images.get(name) {
            None => None,
            Some(Content::File(path)) => Some(Image::open(path, kind)?),
            Some(Content::Held(bytes)) => Some(Image::from_bytes(
                self.origin.join(name),
                bytes.clone(),
                kind,
            )?),
        })
    }

    /// An image of any kind.
    pub fn any_image(&self, name: &str) -> Result<Option<Image>> {
        match Named::of(name) {
            Named::Record(kind) => self.image(name, kind),
            _ => Ok(None),
        }
    }

    /// The bytes of an image as a stream, and what to call it.
    pub fn stream(&self, name: &str) -> Result<Option<(PathBuf, Box<dyn Read + '_>)>> {
        Ok(match self.images.get(name) {
            None => None,
            Some(Content::File(path)) => {
                let file = File::open(path)
                    .with_context(|| format!("{} cannot be opened", path.display()))?;
                Some((path.clone(), Box::new(file)))
            }
            Some(Content::Held(bytes)) => {
                Some((self.origin.join(name), Box::new(bytes.as_slice())))
            }
        })
    }

    /// Where the earlier image sets of an incremental dump are, nearest first (`parent` links).
    pub fn parents(&self) -> Result<Vec<PathBuf>> {
        const MOST: usize = 64;
        let mut all: Vec<PathBuf> = Vec::new();
        let mut seen = Vec::new();
        let mut dir = self.origin.clone();
        loop {
            let Ok(meta) = fs::metadata(&dir) else {
                bail!(
                    "{}: the parent link leads to {}, which is not there",
                    self.origin.display(),
                    dir.display()
                );
            };
            if seen.contains(&(meta.dev(), meta.ino())) {
                bail!("{}: the parent links go in a circle", self.origin.display());
            }
            seen.push((meta.dev(), meta.ino()));
            if all.len() > MOST {
                bail!(
                    "{}: more than {MOST} parent links follow each other",
                    self.origin.display()
                );
            }
            let Ok(link) = fs::read_link(dir.join("parent")) else {
                return Ok(all);
            };
            dir = dir.join(link);
            all.push(dir.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_links_and_directories_are_no_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(regular(&at("file")).is_ok());
        for other in ["link", "pipe", ".", "none"] {
            assert!(regular(&at(other)).is_err(), "{other}");
        }
    }
}
