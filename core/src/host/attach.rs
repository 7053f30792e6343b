//! Mounts that only the new pod has, put into the restored container before it runs.
//!
//! CRIU re-creates exactly the mounts of the checkpoint. A further one is cloned in the node's mount namespace
//! (`open_tree(2)`) and moved into the container's by a child that enters it, so that the path is resolved there: a link
//! in the container's root leads nowhere else.

// The mount calls have no safe wrapper in nix.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::within;
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
    let clones = mounts
        .iter()
        .map(|mount| clone(mount).map_err(|error| named(mount, &error)))
        .collect::<io::Result<Vec<_>>>()?;
    within::mounts_of(init, || mount_all(mounts, &clones, read_only_root))
}

/// Runs inside the container's mount namespace.
fn mount_all(mounts: &[AddedMount], clones: &[OwnedFd], read_only_root: bool) -> io::Result<()> {
    for (mount, clone) in mounts.iter().zip(clones) {
        move_to(mount, clone).map_err(|error| named(mount, &error))?;
    }
    if read_only_root {
        set_attributes(libc::AT_FDCWD, c"/", 0, libc::MOUNT_ATTR_RDONLY, 0)
            .map_err(|error| io::Error::new(error.kind(), format!("/ read-only: {error}")))?;
    }
    Ok(())
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
        attr_clr: 0,
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
fn clone(mount: &AddedMount) -> io::Result<OwnedFd> {
    let source = c_path(mount.source.as_path())?;
    let recursive = if mount.has("bind") {
        0
    } else {
        libc::AT_RECURSIVE
    };
    let fd = open_tree(libc::AT_FDCWD, &source, recursive)?;
    let set = ATTRIBUTES
        .iter()
        .filter(|(option, _)| mount.has(option))
        .fold(0, |set, (_, flag)| set | flag);
    set_attributes(
        fd.as_raw_fd(),
        c"",
        libc::AT_EMPTY_PATH | recursive,
        set,
        libc::MS_PRIVATE,
    )?;
    Ok(fd)
}

/// Mount options of the OCI specification that are attributes of a bind mount.
const ATTRIBUTES: [(&str, u64); 5] = [
    ("ro", libc::MOUNT_ATTR_RDONLY),
    ("nosuid", libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MOUNT_ATTR_NODEV),
    ("noexec", libc::MOUNT_ATTR_NOEXEC),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
];

/// Runs inside the container's mount namespace.
fn move_to(mount: &AddedMount, clone: &OwnedFd) -> io::Result<()> {
    let path = mount.mount_point.as_path();
    // The runtime makes mount points of its spec in the root file system; one below another mount is made here.
    if !path.exists() {
        let meta = File::open(format!("/proc/self/fd/{}", clone.as_raw_fd()))
            .and_then(|file| file.metadata());
        make_mount_point(path, meta.map_or(true, |meta| meta.is_dir()))?;
    }
    let target = c_path(path)?;
    let from = clone.as_raw_fd();
    // SAFETY: both paths are valid C strings for the length of the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from,
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })?;
    Ok(())
}

fn make_mount_point(path: &Path, directory: bool) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    if directory {
        return builder.create(path);
    }
    if let Some(parent) = path.parent() {
        builder.create(parent)?;
    }
    File::create_new(path).map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn checked(result: libc::c_long) -> io::Result<RawFd> {
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
