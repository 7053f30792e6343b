//! Work inside the restored container's mount namespace.

// The child is a fork.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::ids::HostPid;

/// Runs `work` in a child that has entered the mount namespace of `init`: paths are the container's. This process must have
/// one thread.
///
/// # Errors
/// What `work` returns, as text; or when the namespace cannot be entered.
pub(super) fn mounts_of(init: HostPid, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{init}/ns/mnt"))?;
    let (mut told, tell) = io::pipe()?;
    // SAFETY: this process has one thread, so the child may do whatever it could.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let done = setns(&namespace, CloneFlags::CLONE_NEWNS)
                .map_err(io::Error::from)
                .and_then(|()| work());
            let text = done.err().map(|error| error.to_string());
            let _ = (&tell).write_all(text.unwrap_or_default().as_bytes());
            // SAFETY: no destructor of the parent's values may run here.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut text = String::new();
            told.read_to_string(&mut text)?;
            let status = waitpid(child, None)?;
            match (text.is_empty(), status) {
                (true, WaitStatus::Exited(_, 0)) => Ok(()),
                (true, status) => Err(io::Error::other(format!(
                    "the process that works on the container's mounts ended: {status:?}"
                ))),
                (false, _) => Err(io::Error::other(text)),
            }
        }
    }
}
