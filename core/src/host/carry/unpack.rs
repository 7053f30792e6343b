//! Reading a volume's archive, which is a stranger's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, mkfifo, symlinkat};
use tar::{Archive, Entry, EntryType};

use super::{
    MAX_APPARENT, MAX_ENTRIES, PAX_ATTRIBUTE, Summed, again, at, beneath, is_carried, unhex,
};
use crate::host::open_in;
use crate::ids::HostPath;
use crate::source::manifest::CarriedVolume;

/// Deeper paths are not believed.
const MAX_DEPTH: usize = 256;

/// A hole is left where this many zeros stand.
const BLOCK: usize = 64 << 10;

/// The content of a volume, which is taken away again unless it is kept.
#[derive(Debug)]
pub struct Unpacked {
    volume: HostPath,
    /// Names in the volume itself; all else is below them.
    names: Vec<PathBuf>,
    kept: bool,
}

impl Unpacked {
    /// Leaves it there.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Takes it away.
    pub fn undo(&mut self) {
        if std::mem::replace(&mut self.kept, true) {
            return;
        }
        for name in &self.names {
            // Neither follows links.
            let path = self.volume.as_path().join(name);
            let removed = match path.symlink_metadata() {
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
                _ => std::fs::remove_file(&path),
            };
            // There is nothing better to do, and the next restore says that the volume is not empty.
            let _ = removed;
        }
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        self.undo();
    }
}

/// Whether there is nothing in a directory of the node.
///
/// # Errors
/// When it is there and cannot be read.
pub fn is_empty(directory: &HostPath) -> io::Result<bool> {
    match std::fs::read_dir(directory.as_path()) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        // A missing source is a finding of its own.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// What is set once everything below is there.
struct Directory {
    path: PathBuf,
    attributes: Attributes,
}

/// What a file has besides its content.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) mtime: TimeSpec,
    pub(crate) extended: Vec<(String, Vec<u8>)>,
}

struct Unpacker {
    root: OwnedFd,
    directories: Vec<Directory>,
    apparent: u64,
    entries: u64,
    unpacked: Unpacked,
}

/// Unpacks a volume's archive into an empty directory of the node.
///
/// # Errors
/// When the directory is not empty or has not the room, or the archive is not what the manifest says or has what is not
/// carried; nothing is left behind then.
pub fn unpack(archive: File, expected: &CarriedVolume, into: &HostPath) -> io::Result<Unpacked> {
    let root = open_in(into.as_path(), Path::new(""))?;
    let root = beneath(
        root.as_fd(),
        Path::new(""),
        OFlag::O_RDONLY | OFlag::O_DIRECTORY,
    )?;
    if !is_empty(into)? {
        return Err(io::Error::other(format!("{into} is not empty")));
    }
    let room = fstatvfs(&root)?;
    let room = room.blocks_available() * room.fragment_size();
    if expected.content > room {
        return Err(io::Error::other(format!(
            "the content takes up to {} bytes, and {into} has room for {room}",
            expected.content
        )));
    }
    let mut unpacker = Unpacker {
        root,
        directories: Vec::new(),
        apparent: 0,
        entries: 0,
        unpacked: Unpacked {
            volume: into.clone(),
            names: Vec::new(),
            kept: false,
        },
    };
    let mut summed = Summed::new(archive);
    let mut decoder = zstd::Decoder::new(&mut summed)?;
    let mut tar = Archive::new((&mut decoder).take(expected.content));
    for entry in tar.entries()? {
        unpacker.entry(entry?)?;
    }
    // The rest of the archive belongs to the sum.
    let more = io::copy(&mut (&mut decoder).take(expected.content), &mut io::sink());
    drop(decoder);
    more?;
    io::copy(&mut summed, &mut io::sink())?;
    if (summed.bytes, summed.sum()) != (expected.size, expected.sha256.clone()) {
        return Err(io::Error::other(format!(
            "{} has {} bytes with SHA-256 {}, and had {} with {} when the checkpoint was made",
            expected.file,
            summed.bytes,
            summed.sum(),
            expected.size,
            expected.sha256
        )));
    }
    for directory in unpacker.directories.iter().rev() {
        let fd = beneath(unpacker.root.as_fd(), &directory.path, OFlag::O_RDONLY)?;
        directory.attributes.set(&fd).map_err(at(&directory.path))?;
    }
    Ok(unpacker.unpacked)
}

impl Unpacker {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> io::Result<()> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(io::Error::other(format!(
                "the archive has more than the {MAX_ENTRIES} entries that are carried"
            )));
        }
        let path = below(&entry.path_bytes())?;
        self.make(&path, &mut entry).map_err(at(&path))
    }

    fn make<R: Read>(&mut self, path: &Path, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        let attributes = Attributes::of(entry)?;
        let Some(name) = path.file_name() else {
            // The volume itself.
            let path = path.to_path_buf();
            self.directories.push(Directory { path, attributes });
            return Ok(());
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = beneath(
            self.root.as_fd(),
            parent,
            OFlag::O_PATH | OFlag::O_DIRECTORY,
        )?;
        if parent.as_os_str().is_empty() {
            self.unpacked.names.push(PathBuf::from(name));
        }
        match kind {
            EntryType::Directory => {
                mkdirat(&dir, name, Mode::S_IRWXU)?;
                let path = path.to_path_buf();
                self.directories.push(Directory { path, attributes });
            }
            EntryType::Regular | EntryType::GNUSparse => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let file = File::from(beneath(dir.as_fd(), Path::new(name), flags)?);
                self.apparent = self.apparent.saturating_add(entry.size());
                if self.apparent > MAX_APPARENT {
                    return Err(io::Error::other(format!(
                        "the archive has more than the {MAX_APPARENT} bytes that are carried"
                    )));
                }
                fill(&file, entry)?;
                attributes.set(&file.into())?;
            }
            EntryType::Symlink => {
                let to = entry.link_name_bytes().unwrap_or_default();
                symlinkat(OsStr::from_bytes(&to), &dir, name)?;
                let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
                fchownat(&dir, name, Some(uid), Some(gid), flags)?;
                let (time, flags) = (&attributes.mtime, UtimensatFlags::NoFollowSymlink);
                utimensat(&dir, name, time, time, flags)?;
            }
            EntryType::Link => {
                let to = below(&entry.link_name_bytes().unwrap_or_default())?;
                let to = beneath(self.root.as_fd(), &to, OFlag::O_PATH)?;
                linkat(&to, "", &dir, name, AtFlags::AT_EMPTY_PATH)?;
            }
            EntryType::Fifo => {
                let made = PathBuf::from(again(&dir)).join(name);
                mkfifo(&made, Mode::S_IRUSR)?;
                let fd = beneath(dir.as_fd(), Path::new(name), OFlag::O_PATH)?;
                attributes.set_by_path(&fd)?;
            }
            other => {
                return Err(io::Error::other(format!(
                    "the archive has an entry of type {:?}, which is not carried",
                    char::from(other.as_byte())
                )));
            }
        }
        Ok(())
    }
}

/// A path of the archive, as one below the volume.
pub(crate) fn below(bytes: &[u8]) -> io::Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let mut below = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => below.push(name),
            _ => {
                return Err(io::Error::other(format!(
                    "the archive has the path {}, which leads out of it",
                    path.display()
                )));
            }
        }
    }
    if below.components().count() > MAX_DEPTH {
        return Err(io::Error::other(format!(
            "the archive has a path of more than {MAX_DEPTH} levels"
        )));
    }
    Ok(below)
}

/// Copies the content, leaving holes where there are but zeros.
pub(crate) fn fill(file: &File, content: &mut impl Read) -> io::Result<()> {
    let (mut buffer, zeros) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < BLOCK {
            match content.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        let block = &buffer[..filled];
        if *block != zeros[..filled] {
            file.write_all_at(block, at)?;
        }
        at += filled as u64;
        if filled < BLOCK {
            return file.set_len(at);
        }
    }
}

impl Attributes {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let number = |value: u64| {
            u32::try_from(value).map_err(|_| io::Error::other(format!("{value} is no owner")))
        };
        let header = entry.header();
        let (uid, gid) = (number(header.uid()?)?, number(header.gid()?)?);
        let mode = header.mode()? & 0o7777;
        let seconds = i64::try_from(header.mtime()?).unwrap_or(0);
        let mut attributes = Self {
            uid,
            gid,
            mode,
            mtime: TimeSpec::new(seconds, 0),
            extended: Vec::new(),
        };
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let Ok(key) = record.key() else { continue };
            if key == "mtime" {
                let time = record.value().ok().and_then(time);
                attributes.mtime = time.unwrap_or(attributes.mtime);
            } else if key == PAX_ATTRIBUTE {
                let attribute = record.value().ok().and_then(extended_attribute);
                attributes.extended.extend(attribute);
            }
        }
        Ok(attributes)
    }

    pub(crate) fn set(&self, fd: &OwnedFd) -> io::Result<()> {
        std::os::unix::fs::fchown(fd, Some(self.uid), Some(self.gid))?;
        self.extended(fd)?;
        // After the owner, which takes set-user-id away, and the access lists, which are part of it.
        fchmod(fd, Mode::from_bits_truncate(self.mode))?;
        Ok(futimens(fd, &self.mtime, &self.mtime)?)
    }

    /// For what cannot be opened without an effect; the link in /proc leads to the object itself.
    pub(crate) fn set_by_path(&self, fd: &OwnedFd) -> io::Result<()> {
        let path = again(fd);
        std::os::unix::fs::chown(&path, Some(self.uid), Some(self.gid))?;
        self.extended(fd)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(self.mode);
        std::fs::set_permissions(&path, mode)?;
        let follow = UtimensatFlags::FollowSymlink;
        let here = nix::fcntl::AT_FDCWD;
        Ok(utimensat(
            here,
            path.as_str(),
            &self.mtime,
            &self.mtime,
            follow,
        )?)
    }

    fn extended(&self, fd: &OwnedFd) -> io::Result<()> {
        let path = again(fd);
        for (name, value) in &self.extended {
            xattr::set_deref(&path, name, value)
                .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        }
        Ok(())
    }
}

/// Name and value of a pax record, if it is one that is carried.
fn extended_attribute(text: &str) -> Option<(String, Vec<u8>)> {
    let (name, value) = text.split_once(':')?;
    let name = String::from_utf8(unhex(name)?).ok()?;
    is_carried(&name).then_some((name, unhex(value)?))
}

/// `seconds.fraction` of a pax record.
fn time(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Some(TimeSpec::new(seconds.parse().ok()?, digits.parse().ok()?))
}
