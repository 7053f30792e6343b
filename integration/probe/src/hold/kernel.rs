//! Kernel objects, devices and memory.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Error, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Result, call, keep, map, number, open, positive};

/// `struct io_uring_params` is 120 bytes; the kernel fills it.
pub(super) fn io_uring(mapped: bool) -> Result<()> {
    let mut params = [0_u64; 15];
    let ring = call(
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        [4, params.as_mut_ptr() as usize, 0, 0, 0],
    )?;
    if mapped {
        map(Some(&ring), 4096, libc::MAP_SHARED, 0)?;
        // The mapping alone, as a library leaves it that registers its ring.
        return Ok(());
    }
    keep(ring)
}

pub(super) fn aio() -> Result<()> {
    let mut context = 0_usize;
    // SAFETY: the context is valid for the call.
    positive("io_setup", unsafe {
        libc::syscall(libc::SYS_io_setup, 8, &raw mut context)
    })
    .map(drop)
}

/// `struct perf_event_attr`: type software, size 64, config CPU clock.
pub(super) fn perf_event() -> Result<()> {
    let mut attributes = [0_u64; 8];
    attributes[0] = 1 | (64 << 32);
    let none = usize::MAX;
    keep(call(
        "perf_event_open",
        libc::SYS_perf_event_open,
        [attributes.as_ptr() as usize, 0, none, none, 0],
    )?)
}

pub(super) fn perf_map() -> Result<()> {
    let mut attributes = [0_u64; 8];
    attributes[0] = 1 | (64 << 32);
    let none = usize::MAX;
    let event = call(
        "perf_event_open",
        libc::SYS_perf_event_open,
        [attributes.as_ptr() as usize, 0, none, none, 0],
    )?;
    map(Some(&event), 8192, libc::MAP_SHARED, 0)
}

/// `BPF_MAP_CREATE` of an array of four.
pub(super) fn bpf_map() -> Result<OwnedFd> {
    let attributes: [u32; 18] = [2, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    call(
        "bpf",
        libc::SYS_bpf,
        [0, attributes.as_ptr() as usize, 72, 0, 0],
    )
}

/// `BPF_PROG_LOAD` of a socket filter that returns 0.
pub(super) fn bpf_prog() -> Result<OwnedFd> {
    let instructions: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let mut attributes = [0_u64; 9];
    attributes[0] = 1 | (2 << 32);
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    call(
        "bpf",
        libc::SYS_bpf,
        [5, attributes.as_ptr() as usize, 72, 0, 0],
    )
}

pub(super) fn memfd(flags: usize) -> Result<()> {
    let fd = call(
        "memfd_create",
        libc::SYS_memfd_create,
        [c"held".as_ptr() as usize, flags, 0, 0, 0],
    )?;
    keep(fd)
}

pub(super) fn memfd_secret() -> Result<()> {
    let fd = call("memfd_secret", libc::SYS_memfd_secret, [0, 0, 0, 0, 0])?;
    let file = File::from(fd);
    file.set_len(4096).map_err(|error| error.to_string())?;
    keep(file.into())
}

pub(super) fn secret_map() -> Result<()> {
    let file = File::from(call(
        "memfd_secret",
        libc::SYS_memfd_secret,
        [0, 0, 0, 0, 0],
    )?);
    file.set_len(4096).map_err(|error| error.to_string())?;
    map(Some(&file.into()), 4096, libc::MAP_SHARED, 0)
}

pub(super) fn fanotify() -> Result<()> {
    // SAFETY: no pointers.
    let fd = positive(
        "fanotify_init",
        i64::from(unsafe { libc::fanotify_init(0, 0) }),
    )? as RawFd;
    // SAFETY: the path is a C string.
    let marked = unsafe {
        libc::fanotify_mark(
            fd,
            libc::FAN_MARK_ADD,
            libc::FAN_OPEN,
            libc::AT_FDCWD,
            c"/data".as_ptr(),
        )
    };
    positive("fanotify_mark", i64::from(marked)).map(drop)
}

/// Of `self`, or of a process number.
pub(super) fn pidfd(argument: &str) -> Result<()> {
    let pid = if argument == "self" {
        std::process::id()
    } else {
        number(argument)?
    };
    keep(call(
        "pidfd_open",
        libc::SYS_pidfd_open,
        [pid as usize, 0, 0, 0, 0],
    )?)
}

/// A pseudo terminal, both ends.
pub(super) fn pty() -> Result<()> {
    let master = open("/dev/pts/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    let unlocked = 0;
    // SAFETY: the number is valid for the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    positive("TIOCSPTLCK", i64::from(done))?;
    let mut index = 0_u32;
    // SAFETY: the number is valid for the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut index) };
    positive("TIOCGPTN", i64::from(done))?;
    let slave = open(&format!("/dev/pts/{index}"), libc::O_RDWR | libc::O_NOCTTY)?;
    keep(master)?;
    keep(slave)
}

pub(super) fn device_map(path: &str) -> Result<()> {
    let fd = open(path, libc::O_RDWR)?;
    map(Some(&fd), 4096, libc::MAP_SHARED, 0)
}

/// `KIND,MAJOR,MINOR`: a device node of its own, opened.
pub(super) fn node(argument: &str) -> Result<()> {
    let mut parts = argument.split(',');
    let kind = if parts.next() == Some("b") {
        libc::S_IFBLK
    } else {
        libc::S_IFCHR
    };
    let numbers: Vec<u32> = parts.map(number).collect::<Result<_>>()?;
    let [major, minor] = numbers[..] else {
        return Err("not KIND,MAJOR,MINOR".into());
    };
    let path =
        CString::new(format!("/dev/held-{major}-{minor}")).map_err(|error| error.to_string())?;
    // SAFETY: the path is a C string.
    let made = unsafe { libc::mknod(path.as_ptr(), kind | 0o600, libc::makedev(major, minor)) };
    positive("mknod", i64::from(made))?;
    keep(open(
        &path.to_string_lossy(),
        libc::O_RDONLY | libc::O_NONBLOCK,
    )?)
}

/// A pressure trigger: 150 ms of stall in two seconds, which needs no privilege.
pub(super) fn trigger(path: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| format!("{path}: {error}"))?;
    file.write_all(b"some 150000 2000000\0")
        .map_err(|error| format!("{path}: {error}"))?;
    keep(file.into())
}

pub(super) fn sysv_shm() -> Result<()> {
    // SAFETY: no pointers.
    let id = positive(
        "shmget",
        i64::from(unsafe { libc::shmget(4711, 4096, libc::IPC_CREAT | 0o600) }),
    )?;
    // SAFETY: attached at an address that the kernel picks.
    let at = unsafe { libc::shmat(id as i32, std::ptr::null(), 0) };
    if at as isize == -1 {
        Err(format!("shmat: {}", Error::last_os_error()))
    } else {
        Ok(())
    }
}

pub(super) fn mqueue() -> Result<()> {
    let flags = libc::O_RDWR | libc::O_CREAT;
    keep(call(
        "mq_open",
        libc::SYS_mq_open,
        [c"held".as_ptr() as usize, flags as usize, 0o600, 0, 0],
    )?)
}

pub(super) fn anonymous_map() -> Result<()> {
    map(None, 2 << 20, libc::MAP_SHARED | libc::MAP_ANONYMOUS, 0)
}
