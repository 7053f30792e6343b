//! Files and directories.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{Error, Write};
use std::mem::zeroed;
use std::os::fd::{AsRawFd, RawFd};

use super::{Result, keep, map, number, open, positive};

pub(super) fn lock(path: &str, take: impl FnOnce(RawFd) -> i32) -> Result<()> {
    let fd = open(path, libc::O_RDWR | libc::O_CREAT)?;
    positive("lock", i64::from(take(fd.as_raw_fd())))?;
    keep(fd)
}

pub(super) fn flock(fd: RawFd) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::flock(fd, libc::LOCK_EX) }
}

pub(super) fn fcntl_lock(fd: RawFd, command: i32) -> i32 {
    // SAFETY: all zeroes is a valid value: the whole file.
    let mut lock: libc::flock = unsafe { zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    // SAFETY: the lock is valid for the call.
    unsafe { libc::fcntl(fd, command, &raw const lock) }
}

pub(super) fn lease(path: &str) -> Result<()> {
    fs::write(path, "leased").map_err(|error| error.to_string())?;
    let fd = open(path, libc::O_RDONLY)?;
    // SAFETY: no pointers.
    let taken = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    positive("F_SETLEASE", i64::from(taken))?;
    keep(fd)
}

/// `PATH,TEXT`: a named pipe with text that nobody has read.
pub(super) fn fifo(argument: &str) -> Result<()> {
    let (path, text) = argument.split_once(',').ok_or("not PATH,TEXT")?;
    let name = CString::new(path).map_err(|error| error.to_string())?;
    // SAFETY: the path is a C string.
    let made = unsafe { libc::mkfifo(name.as_ptr(), 0o644) };
    positive("mkfifo", i64::from(made))?;
    let fd = open(path, libc::O_RDWR)?;
    // SAFETY: the bytes are valid for the call.
    let written = unsafe { libc::write(fd.as_raw_fd(), text.as_ptr().cast(), text.len()) };
    positive("write", written as i64)?;
    keep(fd)
}

/// `PATH,TEXT`: a shared mapping of a file, with this text written through it, and no descriptor.
pub(super) fn dirty_map(argument: &str) -> Result<()> {
    let (path, text) = argument.split_once(',').ok_or("not PATH,TEXT")?;
    let fd = open(path, libc::O_RDWR)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel picks.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            access,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(format!("mmap: {}", Error::last_os_error()));
    }
    // SAFETY: the text is shorter than the page that was mapped, as the caller sees to.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), at.cast(), text.len()) };
    Ok(())
}

/// `PATH,SIZE`: a file of so many bytes without a name.
pub(super) fn unlinked(argument: &str) -> Result<()> {
    let (path, size) = argument.split_once(',').ok_or("not PATH,SIZE")?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|error| error.to_string())?;
    let content = vec![7; number(size)? as usize];
    file.write_all(&content)
        .map_err(|error| error.to_string())?;
    fs::remove_file(path).map_err(|error| error.to_string())?;
    keep(file.into())
}

/// A file that lost the name it was opened by and has another.
pub(super) fn linked_elsewhere(path: &str) -> Result<()> {
    fs::write(path, "linked").map_err(|error| error.to_string())?;
    let fd = open(path, libc::O_RDONLY)?;
    fs::hard_link(path, format!("{path}.other")).map_err(|error| error.to_string())?;
    fs::remove_file(path).map_err(|error| error.to_string())?;
    keep(fd)
}

pub(super) fn deleted_cwd(path: &str) -> Result<()> {
    let wrong = |error: Error| format!("{path}: {error}");
    fs::create_dir(path).map_err(wrong)?;
    std::env::set_current_dir(path).map_err(wrong)?;
    fs::remove_dir(path).map_err(wrong)
}

/// A file in a directory that something is then mounted on.
pub(super) fn overmounted(dir: &str) -> Result<()> {
    let wrong = |error: Error| format!("{dir}: {error}");
    fs::create_dir_all(dir).map_err(wrong)?;
    fs::write(format!("{dir}/file"), "below").map_err(wrong)?;
    let fd = open(&format!("{dir}/file"), libc::O_RDONLY)?;
    let target = CString::new(dir).map_err(|error| error.to_string())?;
    // SAFETY: all texts are C strings.
    let mounted = unsafe {
        libc::mount(
            c"none".as_ptr(),
            target.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    positive("mount", i64::from(mounted))?;
    keep(fd)
}

pub(super) fn removed_cgroup() -> Result<()> {
    let dir = "/sys/fs/cgroup/gone";
    fs::create_dir(dir).map_err(|error| error.to_string())?;
    let fd = open(&format!("{dir}/cgroup.events"), libc::O_RDONLY)?;
    fs::remove_dir(dir).map_err(|error| error.to_string())?;
    keep(fd)
}

pub(super) fn mapped_unlinked(path: &str) -> Result<()> {
    fs::write(path, [7; 4096]).map_err(|error| error.to_string())?;
    let fd = open(path, libc::O_RDWR)?;
    map(Some(&fd), 4096, libc::MAP_SHARED, 0)?;
    fs::remove_file(path).map_err(|error| error.to_string())
}
