//! Mappings.
#![allow(
    unsafe_code,
    reason = "hardly one of these mappings has a safe form in std"
)]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;

use crate::sys::{Result, check, owned, word};
use crate::{Held, arg};

pub(crate) fn make(name: &str, args: &[String]) -> Option<Result<Held>> {
    Some(match name {
        "io-uring" => io_uring(true),
        "io-uring-fd" => io_uring(false),
        "secret-memory" => secret_memory(),
        "sysv-shm" => sysv_shm(),
        "mapped" => mapped(args),
        _ => return None,
    })
}

fn map(fd: &OwnedFd, size: usize, offset: libc::off_t, shared: bool) -> Result<()> {
    let flags = if shared {
        libc::MAP_SHARED
    } else {
        libc::MAP_PRIVATE
    };
    // SAFETY: a new mapping that nothing in this program looks at.
    let at = unsafe {
        libc::mmap(
            null_mut(),
            size,
            libc::PROT_READ,
            flags,
            fd.as_raw_fd(),
            offset,
        )
    };
    check("mmap", if at == libc::MAP_FAILED { -1 } else { 0 }).map(drop)
}

fn io_uring(with_ring: bool) -> Result<Held> {
    let mut parameters = [0u32; 30];
    // SAFETY: struct io_uring_params has 120 bytes, which outlive the call.
    let fd = owned("io_uring_setup", unsafe {
        libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr())
    })?;
    if with_ring {
        map(&fd, 4096, 0, true)?;
    }
    Ok(vec![fd])
}

fn secret_memory() -> Result<Held> {
    // SAFETY: no pointers.
    let fd = owned("memfd_secret", unsafe {
        libc::syscall(libc::SYS_memfd_secret, 0)
    })?;
    // SAFETY: no pointers.
    check("ftruncate", unsafe {
        libc::ftruncate(fd.as_raw_fd(), 4096)
    })?;
    map(&fd, 4096, 0, true)?;
    Ok(vec![fd])
}

/// A segment of the ipc namespace that this process shares with others.
fn sysv_shm() -> Result<Held> {
    // SAFETY: no pointers.
    let id = check("shmget", unsafe {
        libc::shmget(libc::IPC_PRIVATE, 4096, 0o600)
    })?;
    let id = libc::c_int::try_from(id).map_err(|error| error.to_string())?;
    // SAFETY: the kernel picks where, and nothing in this program looks at it. The segment goes with this process.
    unsafe {
        let at = libc::shmat(id, null_mut(), 0);
        libc::shmctl(id, libc::IPC_RMID, null_mut());
        check("shmat", if at as isize == -1 { -1 } else { 0 })?;
    }
    Ok(Vec::new())
}

fn mapped(args: &[String]) -> Result<Held> {
    let path = arg(args, 0)?;
    let file = OwnedFd::from(word(path, File::open(path))?);
    map(&file, 4096, 0, false)?;
    Ok(Vec::new())
}
