//! Processes and namespaces.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use super::{Result, call, keep, open, positive};

/// A child that does something and then waits for its parent's end; waits until it has done it.
pub(super) fn child(prepare: impl FnOnce() -> Result<()>) -> Result<()> {
    child_then(prepare, || {})
}

/// The same, with something to do that it does not come back from.
pub(super) fn child_then(prepare: impl FnOnce() -> Result<()>, after: impl FnOnce()) -> Result<()> {
    let (mut told, tell) = std::io::pipe().map_err(|error| error.to_string())?;
    match crate::sys::fork()? {
        Some(_) => {
            drop(tell);
            let mut text = String::new();
            std::io::Read::read_to_string(&mut told, &mut text)
                .map_err(|error| error.to_string())?;
            if text.is_empty() { Ok(()) } else { Err(text) }
        }
        None => {
            drop(told);
            // What the parent holds is the parent's alone, and a pipe of its own parent's must not stay open here.
            let kept = tell.as_raw_fd() as u32;
            // SAFETY: no pointers; nothing here uses the descriptors that are closed.
            unsafe {
                if kept > 3 {
                    libc::syscall(libc::SYS_close_range, 3_u32, kept - 1, 0);
                }
                libc::syscall(libc::SYS_close_range, kept + 1, u32::MAX, 0);
            }
            // SAFETY: no pointers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
            if let Err(error) = prepare() {
                let _ = (&tell).write_all(error.as_bytes());
            }
            drop(tell);
            after();
            loop {
                // SAFETY: no pointers.
                unsafe { libc::pause() };
            }
        }
    }
}

pub(super) fn unshare(argument: &str) -> Result<()> {
    let flags = match argument {
        "net" => libc::CLONE_NEWNET,
        "uts" => libc::CLONE_NEWUTS,
        "ipc" => libc::CLONE_NEWIPC,
        "mnt" => libc::CLONE_NEWNS,
        "user" => libc::CLONE_NEWUSER,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "time" => 0x80,
        "pid" => libc::CLONE_NEWPID,
        _ => return Err("no such namespace".into()),
    };
    // SAFETY: no pointers.
    positive("unshare", i64::from(unsafe { libc::unshare(flags) }))?;
    // Whoever makes a pid or time namespace is not in it, but its children are.
    if ["pid", "time"].contains(&argument) {
        child(|| Ok(()))?;
    }
    Ok(())
}

/// Only reads, writes and the end are allowed from here on, so it reads until its parent ends.
pub(super) fn strict() {
    let mut pair = [0; 2];
    let mut byte = 0_u8;
    // SAFETY: the array has room for both ends; the byte for what is read, which never comes.
    unsafe {
        libc::pipe(pair.as_mut_ptr());
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0);
        libc::read(pair[0], (&raw mut byte).cast(), 1);
    }
}

pub(super) fn zombie() -> Result<()> {
    match crate::sys::fork()? {
        Some(_) => Ok(()),
        // SAFETY: nothing of the parent's may run here.
        None => unsafe { libc::_exit(3) },
    }
}

/// A filter that asks a supervisor about nothing, and its listener.
pub(super) fn seccomp_notify() -> Result<()> {
    let mut allow = libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut allow,
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as usize;
    let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
    keep(call(
        "seccomp",
        libc::SYS_seccomp,
        [mode, listener, (&raw const program) as usize, 0, 0],
    )?)
}

/// Waits for ever for a child that shares its memory.
pub(super) fn vfork() {
    // SAFETY: the child only waits, and the parent does not go on before it has ended.
    unsafe {
        if libc::syscall(
            libc::SYS_clone,
            libc::CLONE_VFORK | libc::SIGCHLD,
            0,
            0,
            0,
            0,
        ) == 0
        {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            loop {
                libc::pause();
            }
        }
    }
}

/// Opens and closes files and makes children that end, for ever.
pub(super) fn churn() {
    loop {
        let files: Vec<_> = (0..50)
            .filter_map(|_| open("/probe", libc::O_RDONLY).ok())
            .collect();
        // SAFETY: the process has one thread, and the child ends at once.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(0),
                child => libc::waitpid(child, null_mut(), 0),
            };
        }
        drop(files);
    }
}
