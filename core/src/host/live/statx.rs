//! `statx(2)`: the one call that tells kind, inode, mount, names and size on disk of what is behind a path.

// It has no wrapper in nix.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::check::FileKind;
use crate::ids::MountId;

/// What is asked.
pub(super) struct Stat(libc::statx);

/// Follows links.
pub(super) fn of_path(path: &Path) -> io::Result<Stat> {
    ask(
        libc::AT_FDCWD,
        &CString::new(path.as_os_str().as_bytes())?,
        0,
    )
}

/// Of an entry of an open directory; follows links.
pub(super) fn of_entry(dir: &impl AsRawFd, name: &CStr) -> io::Result<Stat> {
    ask(dir.as_raw_fd(), name, 0)
}

pub(super) fn of_descriptor(fd: &OwnedFd) -> io::Result<Stat> {
    ask(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

fn ask(dir: i32, path: &CStr, flags: i32) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let wanted = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    // A file of a network that hangs must not hang us: what the kernel knows is enough.
    let flags = flags | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path is a valid C string and the buffer is writable for the length of the call.
    if unsafe { libc::statx(dir, path.as_ptr(), flags, wanted, stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed memory is a valid statx, and the kernel has filled it.
    Ok(Stat(unsafe { stat.assume_init() }))
}

impl Stat {
    pub(super) fn kind(&self) -> FileKind {
        let numbers = (self.0.stx_rdev_major, self.0.stx_rdev_minor);
        match u32::from(self.0.stx_mode) & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFCHR => FileKind::Character(numbers.0, numbers.1),
            libc::S_IFBLK => FileKind::Block(numbers.0, numbers.1),
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFIFO => FileKind::Pipe,
            _ => FileKind::Other,
        }
    }

    pub(super) fn mount(&self) -> Option<MountId> {
        let known = self.0.stx_mask & libc::STATX_MNT_ID != 0;
        u32::try_from(self.0.stx_mnt_id)
            .ok()
            .filter(|_| known)
            .map(MountId)
    }

    pub(super) fn inode(&self) -> u64 {
        self.0.stx_ino
    }

    pub(super) fn links(&self) -> u64 {
        u64::from(self.0.stx_nlink)
    }

    /// Bytes on disk.
    pub(super) fn allocated(&self) -> u64 {
        self.0.stx_blocks.saturating_mul(512)
    }

    /// Device in the kernel's own encoding, as `fdinfo` has it, and inode, of a regular file.
    pub(super) fn file(&self) -> Option<(u32, u64)> {
        let device = (self.0.stx_dev_major << 20) | self.0.stx_dev_minor;
        (self.kind() == FileKind::Regular).then_some((device, self.0.stx_ino))
    }
}

/// Whether a directory, opened by path only, has anything in it.
pub(super) fn has_entries(fd: &OwnedFd) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// The protocol of the socket behind `path`, as the kernel names it (`net/socket.c`, `system.sockprotoname`).
pub(super) fn protocol(path: &Path) -> Option<String> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut name = [0_u8; 64];
    let attribute = c"system.sockprotoname";
    let (at, room) = (name.as_mut_ptr().cast(), name.len());
    // SAFETY: both texts are C strings and the buffer has the room that is said.
    let length = unsafe { libc::getxattr(path.as_ptr(), attribute.as_ptr(), at, room) };
    let used = name.get(..usize::try_from(length).ok()?)?;
    Some(
        String::from_utf8_lossy(used)
            .trim_end_matches('\0')
            .to_owned(),
    )
}

/// Whether the file behind `path` is on hugetlbfs.
pub(super) fn on_hugetlbfs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is a C string and the buffer is writable for the length of the call.
    let done = unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) };
    // SAFETY: zeroed memory is a valid statfs.
    let stat = unsafe { stat.assume_init() };
    done == 0 && stat.f_type == libc::HUGETLBFS_MAGIC
}
