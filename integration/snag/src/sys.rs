//! The calls that the standard library lacks.
#![allow(
    unsafe_code,
    reason = "hardly one of these kernel objects has a safe form in std"
)]

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::exit;

pub(crate) type Result<T> = std::result::Result<T, String>;

/// The result of a call that tells errors by -1.
pub(crate) fn check(what: &str, result: impl Into<i64>) -> Result<i64> {
    match result.into() {
        -1 => Err(format!("{what}: {}", Error::last_os_error())),
        result => Ok(result),
    }
}

/// The descriptor that a call has made.
pub(crate) fn owned(what: &str, result: impl Into<i64>) -> Result<OwnedFd> {
    let fd = check(what, result)?;
    let fd = RawFd::try_from(fd).map_err(|error| error.to_string())?;
    // SAFETY: the call that succeeded made this descriptor, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A C string.
pub(crate) fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| error.to_string())
}

/// A file error in words.
pub(crate) fn word<T>(what: &str, made: std::io::Result<T>) -> Result<T> {
    made.map_err(|error| format!("{what}: {error}"))
}

/// Waits for signals, which end it.
pub(crate) fn wait_forever() -> ! {
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

/// Stays for what it holds, and does not leave its children as zombies, whose numbers would stay in use.
pub(crate) fn hold_forever() -> ! {
    // SAFETY: no handler, no pointers.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    wait_forever()
}

/// Forks; the parent gets the child's number.
pub(crate) fn fork() -> Result<Option<libc::pid_t>> {
    // SAFETY: the process has one thread, so the child may go on like the parent.
    match check("fork", unsafe { libc::fork() })? {
        0 => Ok(None),
        child => Ok(Some(
            libc::pid_t::try_from(child).map_err(|error| error.to_string())?,
        )),
    }
}

/// Forks a child that runs `child` and then waits.
pub(crate) fn fork_waiting(child: impl FnOnce() -> Result<()>) -> Result<libc::pid_t> {
    match fork()? {
        Some(pid) => Ok(pid),
        None => match child() {
            Ok(()) => wait_forever(),
            Err(_) => exit(1),
        },
    }
}

/// Makes something in a process in the background, and prints that process' number when it is made.
pub(crate) fn in_background<T>(make: impl FnOnce() -> Result<T>) -> Result<T> {
    let (mut reader, mut writer) = word("pipe", std::io::pipe())?;
    if let Some(child) = fork()? {
        drop(writer);
        // One write is one read; what shares the pipe may hold it open.
        let mut said = [0; 500];
        let length = word("pipe", reader.read(&mut said))?;
        let said = String::from_utf8_lossy(&said[..length]).into_owned();
        if let Some(pid) = said.strip_prefix("ready ") {
            println!("{pid}");
            exit(0)
        }
        // SAFETY: no pointers but null.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        return Err(said);
    }
    drop(reader);
    // SAFETY: no pointers.
    unsafe { libc::setsid() };
    let null = word(
        "/dev/null",
        File::options().read(true).write(true).open("/dev/null"),
    )?;
    let kept = writer.as_raw_fd();
    // SAFETY: all descriptors but the pipe's end and the standard ones are closed, and no value of this process that is used or dropped
    // again owns one of them.
    unsafe {
        for standard in 0..3 {
            libc::dup2(null.as_raw_fd(), standard);
        }
        libc::syscall(libc::SYS_close_range, 3, kept - 1, 0);
        libc::syscall(libc::SYS_close_range, kept + 1, i32::MAX, 0);
    }
    std::mem::forget(null);
    match make() {
        Ok(made) => {
            word(
                "pipe",
                writer.write_all(format!("ready {}", std::process::id()).as_bytes()),
            )?;
            Ok(made)
        }
        Err(error) => {
            let _ = writer.write_all(error.as_bytes());
            exit(1)
        }
    }
}
