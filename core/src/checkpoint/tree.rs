//! Files below an open directory: looked at, copied and removed without following a link or entering a mount.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use crate::host::carry::{Attributes, again, beneath, fill};

/// Deeper trees are not gone through.
const MAX_DEPTH: usize = 256;

/// Extended attributes of the overlay file system itself, which mean something else in another place.
const OVERLAY: &str = "trusted.overlay.";

/// A directory, below which everything is.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// What is at a path, for its attributes.
    pub(super) fn object(&self, path: &Path) -> io::Result<OwnedFd> {
        beneath(self.0.as_fd(), path, OFlag::O_PATH)
    }

    /// The directory at a path.
    pub(super) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        beneath(self.0.as_fd(), path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// The directory that a path is in, and its name there.
    pub(super) fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::other("it is the root itself"))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.directory(parent)?, name))
    }

    /// What is at a path; `None` when nothing is. Nothing is behind a link.
    pub(super) fn look(&self, path: &Path) -> io::Result<Option<FileStat>> {
        if path.as_os_str().is_empty() {
            return look(&self.0, OsStr::new(".")).map(Some).or_else(absent);
        }
        match self.parent(path) {
            Ok((dir, name)) => look(&dir, name).map(Some).or_else(absent),
            Err(error) => absent(error),
        }
    }
}

/// Nothing can be at a path: it leads through something that is not there, or no directory.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}

fn absent<T>(error: io::Error) -> io::Result<Option<T>> {
    if is_absent(&error) {
        Ok(None)
    } else {
        Err(error)
    }
}

fn look(dir: &OwnedFd, name: &OsStr) -> io::Result<FileStat> {
    Ok(fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT)
}

pub(super) fn is_link(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFLNK
}

pub(super) fn is_dir(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFDIR
}

/// The attributes of an object that is open by path.
pub(super) fn attributes(object: &OwnedFd) -> io::Result<Attributes> {
    let stat = nix::sys::stat::fstat(object)?;
    let mut extended = Vec::new();
    if kind(&stat) != SFlag::S_IFLNK {
        let path = again(object);
        for name in xattr::list_deref(&path)? {
            let Some(text) = name.to_str().filter(|name| !name.starts_with(OVERLAY)) else {
                continue;
            };
            if let Some(value) = xattr::get_deref(&path, &name)? {
                extended.push((text.to_owned(), value));
            }
        }
    }
    Ok(Attributes {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        mtime: TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
        extended,
    })
}

/// Sets owner and time of a symbolic link, which has nothing else.
pub(super) fn set_on_link(dir: &OwnedFd, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    fchownat(
        dir,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    let (time, flags) = (&attributes.mtime, UtimensatFlags::NoFollowSymlink);
    Ok(utimensat(dir, name, time, time, flags)?)
}

/// Copies an object with all below it. Further names of a file become files of their own.
pub(super) fn copy(
    from: &OwnedFd,
    name: &OsStr,
    to: &OwnedFd,
    to_name: &OsStr,
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("it is too deep"));
    }
    let object = beneath(from.as_fd(), Path::new(name), OFlag::O_PATH)?;
    let stat = nix::sys::stat::fstat(&object)?;
    let attributes = attributes(&object)?;
    match kind(&stat) {
        SFlag::S_IFDIR => {
            mkdirat(to, to_name, Mode::S_IRWXU)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let source = beneath(from.as_fd(), Path::new(name), flags)?;
            let made = beneath(to.as_fd(), Path::new(to_name), flags)?;
            for entry in fs::read_dir(again(&source))? {
                let entry = entry?.file_name();
                copy(&source, &entry, &made, &entry, depth + 1)?;
            }
            attributes.set(&made)
        }
        SFlag::S_IFREG => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
            let made = File::from(beneath(to.as_fd(), Path::new(to_name), flags)?);
            fill(&made, &mut File::open(again(&object))?)?;
            attributes.set(&made.into())
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name)?;
            symlinkat(target.as_os_str(), to, to_name)?;
            set_on_link(to, to_name, &attributes)
        }
        other => {
            mknodat(to, to_name, other, Mode::S_IRUSR, stat.st_rdev)?;
            let made = beneath(to.as_fd(), Path::new(to_name), OFlag::O_PATH)?;
            attributes.set_by_path(&made)
        }
    }
}

/// Removes an object with all below it; that nothing is there is no error.
pub(super) fn remove(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    remove_at(dir, name, 0)
}

fn remove_at(dir: &OwnedFd, name: &OsStr, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("it is too deep"));
    }
    let Some(stat) = look(dir, name).map(Some).or_else(absent)? else {
        return Ok(());
    };
    if !is_dir(&stat) {
        return Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let below = beneath(dir.as_fd(), Path::new(name), flags)?;
    for entry in fs::read_dir(again(&below))? {
        remove_at(&below, &entry?.file_name(), depth + 1)?;
    }
    Ok(unlinkat(dir, name, UnlinkatFlags::RemoveDir)?)
}

/// A path as JSON can hold it: bytes in hexadecimal.
pub(super) mod hex_path {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{OsStr, OsStrExt, Path, PathBuf};
    use crate::host::carry::{hex, unhex};

    pub(in crate::checkpoint) fn serialize<S: Serializer>(
        path: &Path,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(path.as_os_str().as_bytes()))
    }

    pub(in crate::checkpoint) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unhex(&text).ok_or_else(|| D::Error::custom("no hexadecimal digits"))?;
        Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
    }
}
