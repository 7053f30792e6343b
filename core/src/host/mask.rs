//! Hides paths from the restored container before it runs, as runtimes do for `linux.maskedPaths`.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};

use super::within;
use crate::ids::{ContainerPath, HostPid};

/// Lays an empty read-only file system over each directory and `/dev/null` over each file; a path that is not there needs no
/// mask. This process must have one thread.
///
/// # Errors
/// With the path that could not be masked; those before it are.
pub fn mask(init: HostPid, paths: &[ContainerPath]) -> io::Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    within::mounts_of(init, || {
        paths.iter().try_for_each(|path| {
            mask_one(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        })
    })
}

/// Runs inside the container's mount namespace.
fn mask_one(path: &ContainerPath) -> io::Result<()> {
    let none = None::<&str>;
    let target = path.as_path();
    match fs::metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => {
            let flags =
                MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            // The container's own mounts may be shared with nobody, so neither is this one.
            Ok(mount(
                Some("tmpfs"),
                target,
                Some("tmpfs"),
                flags,
                Some("size=0k,nr_inodes=2"),
            )?)
        }
        Ok(_) => Ok(mount(
            Some("/dev/null"),
            target,
            none,
            MsFlags::MS_BIND,
            none,
        )?),
    }
}
