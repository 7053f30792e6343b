//! What the new pod's spec keeps from the container, put into force before it runs: masked paths, read-only paths, mounts that
//! are read-only there and were not.

// The mount calls have no safe wrapper in nix.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::within;
use crate::ids::{ContainerPath, HostPid};
use crate::plan::Plan;

/// Masks paths with an empty read-only file system or `/dev/null`, makes paths and mounts read-only. A
/// path that is not there needs no protection. This process must have one thread.
///
/// # Errors
/// With the path that could not be protected; those before it are.
pub fn protect(init: HostPid, plan: &Plan) -> io::Result<()> {
    let Plan {
        masked,
        read_only_paths,
        read_only_mounts,
        ..
    } = plan;
    if masked.is_empty() && read_only_paths.is_empty() && read_only_mounts.is_empty() {
        return Ok(());
    }
    within::mounts_of(init, || {
        each(masked, mask)?;
        each(read_only_paths, make_read_only)?;
        read_only_mounts
            .iter()
            .try_for_each(|path| set_read_only(path.as_path()).map_err(named(path)))
    })
}

fn each(paths: &[ContainerPath], work: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    paths
        .iter()
        .try_for_each(|path| match work(path.as_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(named(path)),
        })
}

fn named(path: &ContainerPath) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn mask(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        return bind(Path::new("/dev/null"), path);
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("size=0k,nr_inodes=2");
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, options)?)
}

fn make_read_only(path: &Path) -> io::Result<()> {
    fs::metadata(path)?;
    bind(path, path)?;
    set_read_only(path)
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let none = None::<&str>;
    Ok(mount(
        Some(from),
        to,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?)
}

fn set_read_only(path: &Path) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (at, size) = (&raw const attributes, size_of::<libc::mount_attr>());
    // SAFETY: path and structure live for the length of the call, and the structure's size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            at,
            size,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
