//! Which cgroup an open file belongs to, on whatever mount it was opened.

// The calls for file handles have no wrapper in nix.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{cgroup_mounts, cgroups, mountinfo};
use crate::ids::{CgroupPath, HostPid};
use crate::source::manifest::CgroupFile;
use crate::target::CgroupMount;

/// Room for a handle; kernfs needs 8 bytes (`fs/kernfs/mount.c`, `kernfs_encode_fh`).
const HANDLE: usize = 64;

/// `struct file_handle` of `linux/fcntl.h` with room for a handle.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; HANDLE],
}

/// The node's cgroup file systems, by device.
pub(super) struct NodeCgroups {
    mounts: BTreeMap<u64, (CgroupMount, File)>,
}

impl NodeCgroups {
    /// Those this process sees.
    pub(super) fn new() -> io::Result<Self> {
        let own = HostPid(nix::unistd::getpid().as_raw());
        let found = cgroup_mounts(&mountinfo(own)?, &cgroups(own)?);
        let mut mounts: BTreeMap<u64, (CgroupMount, File)> = BTreeMap::new();
        for mount in found {
            // One that cannot be opened shows nothing.
            let Ok(dir) = File::open(mount.mount_point.as_path()) else {
                continue;
            };
            let dev = dir.metadata()?.dev();
            let wider = mounts
                .get(&dev)
                .is_none_or(|(known, _)| known.root.depth() > mount.root.depth());
            if wider {
                mounts.insert(dev, (mount, dir));
            }
        }
        Ok(Self { mounts })
    }

    /// The place of the file behind a link of `/proc/<pid>/fd`; `None` when it is on no cgroup file system, or its cgroup
    /// was removed.
    ///
    /// A path would be that on its own mount, which may be seen from nowhere, so the file's handle is asked for: it is
    /// the same on each mount of the file system.
    pub(super) fn place(&self, link: &Path, dev: u64) -> Option<CgroupFile> {
        let (mount, dir) = self.mounts.get(&dev)?;
        let mut handle = handle_of(link)?;
        let file = open_handle(dir, &mut handle)?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        let rest = path.strip_prefix(mount.mount_point.as_path()).ok()?;
        // The kernel marks the path of a file whose cgroup was removed.
        let deleted = path.as_os_str().as_bytes().ends_with(b" (deleted)");
        (!deleted).then(|| CgroupFile {
            hierarchy: mount.hierarchy.clone(),
            path: CgroupPath::new(mount.root.join(rest).as_path()),
        })
    }
}

fn handle_of(link: &Path) -> Option<Handle> {
    let path = CString::new(link.as_os_str().as_bytes()).ok()?;
    let mut handle = Handle {
        bytes: libc::c_uint::try_from(HANDLE).ok()?,
        kind: 0,
        handle: [0; HANDLE],
    };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is a valid C string, and the handle has the room it says it has.
    let result = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            path.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    (result == 0).then_some(handle)
}

fn open_handle(mount: &File, handle: &mut Handle) -> Option<OwnedFd> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the handle is one that the kernel made.
    let fd =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut *handle).cast(), flags) };
    // SAFETY: the kernel has just made it; nobody else owns it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
