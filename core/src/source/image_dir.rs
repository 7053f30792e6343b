//! An image directory: its record images, opened without following links and within bounds.
//!
//! A checkpoint is untrusted input. Parsing a message takes up to some thirty times its size in memory, so both files
//! and records are bounded before they are parsed. `pages-*.img` are never opened.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use criu_image::views::View;
use criu_image::{Image, Kind, Record};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::manifest;

/// Name of the link to the previous image set of an incremental dump.
pub const PARENT: &str = "parent";

/// Largest `files.img` that is read, in bytes: about 150 a file make more than a million files.
const MAX_FILES_SIZE: u64 = 256 << 20;

/// Largest other image, in bytes. The largest seen, a `cgroup.img` of a host with 5,000 cgroups, had 6 MiB.
pub(crate) const MAX_SIZE: u64 = 32 << 20;

/// Largest record, in bytes. A whole `cgroup.img` is one record.
pub(crate) const MAX_RECORD: usize = 16 << 20;

/// Why an image set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image is damaged or of a version that is not known.
    #[error(transparent)]
    Image(#[from] criu_image::Error),
    /// `source.json` cannot be used.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The image directory or a file in it cannot be read.
    #[error("Cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image or a record in it is larger than any honest one.
    #[error("{path}: {what}, which is more than the {limit} bytes that are read")]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// What is too large.
        what: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// A path in an image has `..` in it, which no kernel or CRIU writes.
    #[error("{path}: {field} is {value:?}; a path with \"..\" is not believed")]
    Climbs {
        /// The image.
        path: PathBuf,
        /// Which field of which message.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// Memory is not whole.
    #[error(
        "{path}: {has}, and {pagemap} says that {bytes} bytes of memory are in it: the checkpoint was cut short, or is still \
         being written; copy it again, or make a new one"
    )]
    Pages {
        /// The file with pages.
        path: PathBuf,
        /// What is there of it.
        has: String,
        /// The pagemap that says otherwise.
        pagemap: String,
        /// How many bytes it says.
        bytes: u64,
    },
    /// An image that every set has is not there.
    #[error("{dir} is no whole CRIU image set: it has no {name}")]
    Missing {
        /// The image directory.
        dir: PathBuf,
        /// The image.
        name: String,
    },
}

/// An image directory.
#[derive(Debug)]
pub struct ImageDir {
    dir: OwnedFd,
    path: PathBuf,
}

impl ImageDir {
    /// Takes an open directory.
    ///
    /// # Errors
    /// When its path cannot be found out.
    pub fn open(dir: OwnedFd) -> Result<Self, Error> {
        let link = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let path =
            std::fs::read_link(&link).map_err(|source| Error::Read { path: link, source })?;
        Ok(Self { dir, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The names of everything in it.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn names(&self) -> Result<Vec<OsString>, Error> {
        let failed = |source| Error::Read {
            path: self.path.clone(),
            source,
        };
        let entries =
            std::fs::read_dir(format!("/proc/self/fd/{}", self.dir.as_raw_fd())).map_err(failed)?;
        entries
            .map(|entry| Ok(entry.map_err(failed)?.file_name()))
            .collect()
    }

    fn file(&self, name: &OsStr) -> Result<Option<File>, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(self.dir.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::Read {
                path: self.path.join(name),
                source: errno.into(),
            }),
        }
    }

    /// Opens an image, `None` when the set has none of this name: CRIU leaves out what would be empty.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or is no image of this kind.
    pub fn image(&self, name: &str, kind: Kind) -> Result<Option<Image>, Error> {
        let Some(file) = self.file(OsStr::new(name))? else {
            return Ok(None);
        };
        let path = self.path.join(name);
        let size = file.metadata().map_or(0, |meta| meta.len());
        let limit = if kind == Kind::Files {
            MAX_FILES_SIZE
        } else {
            MAX_SIZE
        };
        if size > limit {
            return Err(Error::TooLarge {
                path,
                what: format!("it has {size} bytes"),
                limit,
            });
        }
        let image = Image::from_file(path, file, kind)?;
        for record in image.records() {
            check_size(&image, &record?)?;
        }
        Ok(Some(image))
    }

    pub(super) fn required(&self, name: &str, kind: Kind) -> Result<Image, Error> {
        let missing = || Error::Missing {
            dir: self.path.clone(),
            name: name.to_owned(),
        };
        self.image(name, kind)?.ok_or_else(missing)
    }

    /// The file of this name, not following a link; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn other(&self, name: &str) -> Result<Option<File>, Error> {
        self.file(OsStr::new(name))
    }

    /// The record of an image that may be missing.
    pub(super) fn optional<T: View>(&self, name: &str, kind: Kind) -> Result<Option<T>, Error> {
        let image = self.image(name, kind)?;
        image
            .map(|image| Ok(image.only_record()?.view()?))
            .transpose()
    }

    /// Every record of an image that may be missing: CRIU leaves out what would be empty.
    pub(super) fn all<T: View>(&self, name: &str, kind: Kind) -> Result<Vec<T>, Error> {
        self.image(name, kind)?
            .map_or_else(|| Ok(Vec::new()), |image| views(&image))
    }

    /// Every record of an image that a whole set has.
    pub(super) fn some<T: View>(&self, name: &str, kind: Kind) -> Result<Vec<T>, Error> {
        views(&self.required(name, kind)?)
    }

    /// The record of an image that a whole set has.
    pub(super) fn one<T: View>(&self, name: &str, kind: Kind) -> Result<T, Error> {
        Ok(self.required(name, kind)?.only_record()?.view()?)
    }
}

fn check_size(image: &Image, record: &Record<'_>) -> Result<(), Error> {
    let size = record.payload.len();
    if size <= MAX_RECORD {
        return Ok(());
    }
    let what = format!("record {} has {size} bytes", record.index);
    Err(Error::TooLarge {
        path: image.name().into(),
        what,
        limit: MAX_RECORD as u64,
    })
}

fn views<T: View>(image: &Image) -> Result<Vec<T>, Error> {
    image.records().map(|record| Ok(record?.view()?)).collect()
}
