//! Writing a volume's archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::unistd::{Whence, lseek};
use tar::{Builder, EntryType, Header};

use super::{
    MAX_APPARENT, MAX_ENTRIES, PAX_ATTRIBUTE, Summed, again, at, beneath, hex, is_carried,
};
use crate::host::open_in;
use crate::ids::HostPath;

/// How much is told of progress: once for each of these, in bytes.
const PROGRESS: u64 = 1 << 30;

/// zstd's own default.
const LEVEL: i32 = 3;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// Size of the archive, in bytes.
    pub size: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Size of the tar inside, in bytes.
    pub content: u64,
    /// Number of entries.
    pub entries: u64,
    /// What was left out, in words.
    pub left_out: Vec<String>,
}

type Output = Summed<zstd::Encoder<'static, Summed<File>>>;

struct Packer<'a> {
    root: OwnedFd,
    tar: Builder<Output>,
    /// The first name of each file that has several.
    linked: BTreeMap<(u64, u64), PathBuf>,
    apparent: u64,
    told: u64,
    packed: Packed,
    progress: &'a mut dyn FnMut(u64),
}

/// Writes everything below `volume` into `out`. Other mounts below it are not entered. `progress` is told now and then how
/// many bytes were read.
///
/// # Errors
/// When something cannot be read or written, is more than the bounds allow, or changes meanwhile; naming what.
pub fn pack(volume: &HostPath, out: File, progress: &mut dyn FnMut(u64)) -> io::Result<Packed> {
    let encoder = zstd::Encoder::new(Summed::new(out), LEVEL)?;
    let mut tar = Builder::new(Summed::new(encoder));
    tar.mode(tar::HeaderMode::Complete);
    let mut packer = Packer {
        root: open_in(volume.as_path(), Path::new(""))?,
        tar,
        linked: BTreeMap::new(),
        apparent: 0,
        told: 0,
        packed: Packed::default(),
        progress,
    };
    packer.tree()?;
    let Packer {
        tar, mut packed, ..
    } = packer;
    let tar = tar.into_inner()?;
    packed.content = tar.bytes;
    let mut written = tar.inner.finish()?;
    written.flush()?;
    written.inner.sync_data()?;
    packed.size = written.bytes;
    packed.sha256 = written.sum();
    Ok(packed)
}

impl Packer<'_> {
    fn tree(&mut self) -> io::Result<()> {
        let mut directories = vec![PathBuf::new()];
        while let Some(path) = directories.pop() {
            let names = self.directory(&path).map_err(at(&path))?;
            for name in names {
                let path = path.join(name);
                if self.entry(&path).map_err(at(&path))? {
                    directories.push(path);
                }
            }
        }
        Ok(())
    }

    /// Writes a directory's own entry and returns the names in it, sorted.
    fn directory(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = beneath(self.root.as_fd(), path, flags)?;
        self.append(path, &fd, EntryType::Directory)?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(PathBuf::from(std::ffi::OsStr::from_bytes(&name)));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Writes anything but a directory; whether it is one.
    fn entry(&mut self, path: &Path) -> io::Result<bool> {
        let fd = match beneath(self.root.as_fd(), path, OFlag::O_PATH) {
            Ok(fd) => fd,
            // A mount point below the volume belongs to another volume.
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
                self.leave_out(path, "another mount");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let meta = File::from(fd.try_clone()?).metadata()?;
        let kind = meta.file_type();
        if kind.is_dir() {
            return Ok(true);
        }
        if meta.nlink() > 1 && !self.first_name(path, &meta)? {
            return Ok(false);
        }
        if kind.is_file() {
            self.file(path, &fd)?;
        } else if kind.is_symlink() {
            self.append(path, &fd, EntryType::Symlink)?;
        } else if kind.is_fifo() {
            self.append(path, &fd, EntryType::Fifo)?;
        } else if kind.is_socket() {
            self.leave_out(path, "a socket");
        } else {
            self.leave_out(path, "a device node");
        }
        Ok(false)
    }

    fn leave_out(&mut self, path: &Path, what: &str) {
        /// More are not listed.
        const LISTED: usize = 32;
        if self.packed.left_out.len() < LISTED {
            self.packed
                .left_out
                .push(format!("{} ({what})", path.display()));
        }
    }

    /// Whether this is the first name of a file with several; else a link to that is written.
    fn first_name(&mut self, path: &Path, meta: &std::fs::Metadata) -> io::Result<bool> {
        let known = self.linked.entry((meta.dev(), meta.ino()));
        let first = match known {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(path.to_path_buf());
                return Ok(true);
            }
            std::collections::btree_map::Entry::Occupied(entry) => entry.get().clone(),
        };
        self.count()?;
        let mut header = Header::new_gnu();
        header.set_metadata(meta);
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        self.tar.append_link(&mut header, path, &first)?;
        Ok(false)
    }

    fn count(&mut self) -> io::Result<()> {
        self.packed.entries += 1;
        if self.packed.entries > MAX_ENTRIES {
            return Err(io::Error::other(format!(
                "the volume has more than the {MAX_ENTRIES} entries that are carried"
            )));
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, fd: &OwnedFd) -> io::Result<()> {
        let file = File::options().read(true).open(again(fd));
        let mut file = file?;
        let before = file.metadata()?;
        self.apparent = self.apparent.saturating_add(before.len());
        if self.apparent > MAX_APPARENT {
            return Err(io::Error::other(format!(
                "the volume has more than the {MAX_APPARENT} bytes that are carried"
            )));
        }
        self.count()?;
        self.attributes(&before, fd)?;
        // A file system may have data and count no blocks for it (data inside the inode, or not written out yet).
        let trusted = before.blocks() > 0 || !has_data(&file)?;
        self.tar.sparse(trusted);
        self.tar.append_file(path, &mut file)?;
        let after = file.metadata()?;
        let stamp = |meta: &std::fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
        if stamp(&before) != stamp(&after) {
            return Err(io::Error::other(
                "it changed while it was read; what writes to it is not part of this checkpoint",
            ));
        }
        let bytes = self.tar.get_ref().bytes;
        if bytes / PROGRESS > self.told {
            self.told = bytes / PROGRESS;
            (self.progress)(bytes);
        }
        Ok(())
    }

    /// An entry that is nothing but its header.
    fn append(&mut self, path: &Path, fd: &OwnedFd, kind: EntryType) -> io::Result<()> {
        self.count()?;
        let meta = File::from(fd.try_clone()?).metadata()?;
        if kind != EntryType::Symlink {
            self.attributes(&meta, fd)?;
        } else {
            self.times(&meta)?;
        }
        let mut header = Header::new_gnu();
        header.set_metadata(&meta);
        header.set_entry_type(kind);
        header.set_size(0);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        if kind == EntryType::Symlink {
            let to = readlinkat(fd, "")?;
            self.tar.append_link(&mut header, path, &to)
        } else {
            self.tar.append_data(&mut header, path, io::empty())
        }
    }

    fn times(&mut self, meta: &std::fs::Metadata) -> io::Result<()> {
        let time = |seconds: i64, nanos: i64| format!("{seconds}.{nanos:09}");
        let mtime = time(meta.mtime(), meta.mtime_nsec());
        self.tar
            .append_pax_extensions([("mtime", mtime.as_bytes())])
    }

    /// What the header has no room for.
    fn attributes(&mut self, meta: &std::fs::Metadata, fd: &OwnedFd) -> io::Result<()> {
        let mtime = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        let mut records = vec![("mtime".to_owned(), mtime.into_bytes())];
        let path = again(fd);
        let names = match xattr::list_deref(&path) {
            Ok(names) => names.collect(),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
            Err(error) => return Err(error),
        };
        for name in names {
            let Some(text) = name.to_str().filter(|name| is_carried(name)) else {
                continue;
            };
            if let Some(value) = xattr::get_deref(&path, text)? {
                let text = format!("{}:{}", hex(text.as_bytes()), hex(&value));
                records.push((PAX_ATTRIBUTE.to_owned(), text.into_bytes()));
            }
        }
        let records = records
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records)
    }
}

/// Whether there is anything but a hole.
fn has_data(file: &File) -> io::Result<bool> {
    let found = match lseek(file, 0, Whence::SeekData) {
        Ok(_) => true,
        Err(Errno::ENXIO) => false,
        // A file system that does not know of holes.
        Err(Errno::EINVAL) => true,
        Err(errno) => return Err(errno.into()),
    };
    (&*file).seek(SeekFrom::Start(0))?;
    Ok(found)
}
