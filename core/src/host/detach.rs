//! A process that goes on beside the one that becomes the real criu.

// fork(2), and closing descriptors that no Rust value of this process owns any more.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// Runs `work` in a process of its own, which ends with it.
///
/// It is forked twice, so that it is never criu's child: criu takes an unknown SIGCHLD for a task that died. It is in a
/// session of its own, and of the descriptors it has only `keep`: who reads this process's output waits for the end.
/// Whether it got as far as `work` is for `work` to tell, by a descriptor it keeps.
///
/// This process must have one thread.
///
/// # Errors
/// When processes run out.
pub fn detached(keep: &[RawFd], work: impl FnOnce()) -> io::Result<()> {
    // SAFETY: this process has one thread, so the child may do whatever it could.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => Err(io::Error::other("No process could be started")),
        },
        ForkResult::Child => {
            // SAFETY: as above.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {}
                Ok(ForkResult::Parent { .. }) => leave(0),
                Err(_) => leave(1),
            }
            if stand_alone(keep).is_ok() {
                work();
            }
            leave(0)
        }
    }
}

/// Ends this process without running destructors or exit handlers that belong to the process it was forked from.
fn leave(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) };
}

fn stand_alone(keep: &[RawFd]) -> io::Result<()> {
    // A terminal's Ctrl-C is for the runtime or criu.
    let _ = setsid();
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    let mut kept: BTreeSet<RawFd> = keep.iter().copied().collect();
    kept.extend([0, 1, 2]);
    close_all_but(&kept);
    // Losing the relay of a half-restored container to the OOM killer helps nobody. Not allowed everywhere.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    Ok(())
}

fn close_all_but(kept: &BTreeSet<RawFd>) {
    let mut first = 0;
    for fd in kept {
        close_range(first, fd - 1);
        first = fd + 1;
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if let (Ok(first), Ok(last)) = (u32::try_from(first), u32::try_from(last))
        && first <= last
    {
        // SAFETY: in this process no value that owns one of these is used or dropped again: `work` uses what is kept,
        // and the process leaves through _exit.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}
