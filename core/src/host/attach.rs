//! Mounts that only the new pod has, put into the restored container before it runs.
//!
//! CRIU re-creates exactly the mounts of the checkpoint. A further one is cloned in the node's mount namespace
//! (`open_tree(2)`), or a file system made for it, and moved into the container's by a child that enters it, so that the
//! path is resolved there: a link in the container's root leads nowhere else.

// The mount calls have no safe wrapper in nix.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::{fresh, open_in, within};
use crate::ids::HostPid;
use crate::plan::AddedMount;

/// Attaches the mounts, in this order, and then makes the root file system read-only where that is wanted. This process
/// must have one thread.
///
/// # Errors
/// With the mount that could not be attached; those before it are.
pub fn attach(init: HostPid, mounts: &[AddedMount], read_only_root: bool) -> io::Result<()> {
    if mounts.is_empty() && !read_only_root {
        return Ok(());
    }
    let copies = mounts
        .iter()
        .map(|mount| match mount.fresh {
            Some(_) => Ok(None),
            None => copy(mount).map(Some).map_err(|error| named(mount, &error)),
        })
        .collect::<io::Result<Vec<_>>>()?;
    let namespaces = fresh::Namespaces::of(init)?;
    within::mounts_of(init, || {
        for (mount, copy) in mounts.iter().zip(&copies) {
            let attached = match (copy, &mount.fresh) {
                (Some(copy), _) => move_to(mount, copy),
                (None, kind) => {
                    let kind = kind.as_deref().unwrap_or_default();
                    let made = fresh::make(kind, &mount.options, &namespaces);
                    made.and_then(|made| move_to(mount, &made))
                }
            };
            attached.map_err(|error| named(mount, &error))?;
        }
        if read_only_root {
            set_attributes(libc::AT_FDCWD, c"/", 0, libc::MOUNT_ATTR_RDONLY, 0)
                .map_err(|error| io::Error::new(error.kind(), format!("/ read-only: {error}")))?;
        }
        Ok(())
    })
}

fn set_attributes(
    fd: RawFd,
    path: &CStr,
    flags: i32,
    set: u64,
    propagation: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        // The times of access are one attribute with several values.
        attr_clr: if set & libc::MOUNT_ATTR__ATIME == 0 {
            0
        } else {
            libc::MOUNT_ATTR__ATIME
        },
        propagation,
        userns_fd: 0,
    };
    let (at, size) = (&raw const attributes, size_of::<libc::mount_attr>());
    // SAFETY: path and structure live for the length of the call, and the structure's size is given.
    checked(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, path.as_ptr(), flags, at, size) })
        .map(drop)
}

/// A detached copy of what is mounted at a path, with all that is mounted below when `flags` has `AT_RECURSIVE`.
fn open_tree(at: RawFd, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | flags.cast_unsigned();
    // SAFETY: the path is a valid C string for the length of the call.
    let fd = checked(unsafe { libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached read-only copy of the mounts at and below an open file or directory. What was opened in it stays usable
/// when it is closed.
pub(super) fn read_only_copy(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let copy = open_tree(root.as_raw_fd(), c"", flags)?;
    let (set, private) = (libc::MOUNT_ATTR_RDONLY, libc::MS_PRIVATE);
    set_attributes(copy.as_raw_fd(), c"", flags, set, private)?;
    Ok(copy)
}

/// A detached copy of the source with the mount's attributes.
fn copy(mount: &AddedMount) -> io::Result<OwnedFd> {
    let source = c_path(mount.source.as_path())?;
    let recursive = if mount.has("bind") {
        0
    } else {
        libc::AT_RECURSIVE
    };
    let copy = open_tree(libc::AT_FDCWD, &source, recursive)?;
    let (fd, at) = (copy.as_raw_fd(), libc::AT_EMPTY_PATH);
    let propagation = PROPAGATION
        .iter()
        .rfind(|(option, _)| mount.has(option))
        .map_or(libc::MS_PRIVATE, |(_, propagation)| *propagation);
    // An option is for the mount itself, unless it says otherwise.
    set_attributes(fd, c"", at | recursive, 0, propagation)?;
    set_attributes(fd, c"", at, attributes(&mount.options, ""), 0)?;
    let all = attributes(&mount.options, "r");
    set_attributes(fd, c"", at | libc::AT_RECURSIVE, all, 0)?;
    Ok(copy)
}

/// How a bind mount sees what is mounted later on the node (OCI runtime specification, `config.md`, mount options).
const PROPAGATION: [(&str, libc::c_ulong); 6] = [
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE),
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED),
];

/// Mount options of the OCI specification that are attributes of a mount. With an `r` before it an option is for all that
/// is mounted below, too.
const ATTRIBUTES: [(&str, u64); 8] = [
    ("ro", libc::MOUNT_ATTR_RDONLY),
    ("nosuid", libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MOUNT_ATTR_NODEV),
    ("noexec", libc::MOUNT_ATTR_NOEXEC),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
];

/// The attributes among options that begin with `prefix`.
pub(super) fn attributes(options: &[String], prefix: &str) -> u64 {
    let words = options
        .iter()
        .filter_map(|option| option.strip_prefix(prefix));
    words
        .filter_map(|word| ATTRIBUTES.iter().find(|(name, _)| *name == word))
        .fold(0, |set, (_, flag)| set | flag)
}

/// Whether an option is about a mount and not about its file system.
pub(super) fn is_attribute(option: &str) -> bool {
    /// Those that undo others, or are the default.
    const OTHERS: [&str; 17] = [
        "rw",
        "suid",
        "dev",
        "exec",
        "atime",
        "diratime",
        "symfollow",
        "relatime",
        "norelatime",
        "nostrictatime",
        "defaults",
        "sync",
        "async",
        "dirsync",
        "mand",
        "nomand",
        "tmpcopyup",
    ];
    let known = |word: &str| {
        OTHERS.contains(&word)
            || ATTRIBUTES.iter().any(|(name, _)| *name == word)
            || PROPAGATION.iter().any(|(name, _)| *name == word)
    };
    known(option) || option.strip_prefix('r').is_some_and(known)
}

/// Runs inside the container's mount namespace.
fn move_to(mount: &AddedMount, from: &OwnedFd) -> io::Result<()> {
    let target = mount_point(mount.mount_point.as_path(), from)?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (from.as_raw_fd(), target.as_raw_fd());
    // SAFETY: both paths are valid C strings for the length of the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from,
            c"".as_ptr(),
            to,
            c"".as_ptr(),
            flags,
        )
    })?;
    Ok(())
}

/// Opens a mount point, and makes it where it is missing. The runtime makes mount points of its spec in the root file
/// system; one below another mount is made here, but never through a link, which would lead to where nobody wants one.
fn mount_point(path: &Path, mount: &OwnedFd) -> io::Result<OwnedFd> {
    let rest = path.strip_prefix("/").unwrap_or(path);
    let missing = match open_in(Path::new("/"), rest) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => rest,
        found => return found,
    };
    let is_directory = super::file_fact(mount)?.mode & libc::S_IFMT == libc::S_IFDIR;
    let mut at = open_in(Path::new("/"), Path::new(""))?;
    let mut parts = missing.components().peekable();
    while let Some(part) = parts.next() {
        let name = Path::new(part.as_os_str());
        let last = parts.peek().is_none();
        let found = open_beside(&at, name);
        at = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (all, read) = (0o755, 0o644);
                let mode = Mode::from_bits_truncate;
                if !last || is_directory {
                    mkdirat(&at, name, mode(all))?;
                } else {
                    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                    drop(openat(&at, name, flags, mode(read))?);
                }
                open_beside(&at, name)?
            }
            found => found?,
        };
    }
    Ok(at)
}

/// Opens a name in a directory; a link is an error.
fn open_beside(directory: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(directory, name, how)?)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

pub(super) fn checked(result: libc::c_long) -> io::Result<RawFd> {
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn named(mount: &AddedMount, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("{} from {}: {error}", mount.mount_point, mount.source),
    )
}
