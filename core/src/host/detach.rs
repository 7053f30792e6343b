//! A process that goes on beside the one that becomes the real criu.

// fork(2), and closing descriptors that no Rust value of this process owns any more.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};

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
/// When processes or descriptors run out.
pub fn detached(keep: &[RawFd], work: impl FnOnce()) -> io::Result<()> {
    detached_into(None, |newborn| {
        newborn.stand_alone(keep);
        work();
    })
}

/// As [`detached`], in another cgroup of version 2 than this process's, given by its open directory; and `work` says itself from
/// when on its process has only some of the descriptors.
///
/// To be born there costs nothing; to move there afterwards, the kernel waits 10 to 20 ms for an RCU grace period
/// (`kernel/cgroup/cgroup.c`, `cgroup_attach_lock`). Where it cannot be born there, it is in this process's.
///
/// # Errors
/// When processes or descriptors run out.
pub fn detached_into(cgroup: Option<BorrowedFd<'_>>, work: impl FnOnce(Newborn)) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // SAFETY: this process has one thread, so the child may do whatever it could.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => Err(io::Error::other("No process could be started")),
        },
        ForkResult::Child => {
            match fork_into(cgroup) {
                Ok(true) => {}
                Ok(false) => leave(0),
                Err(_) => leave(1),
            }
            work(Newborn { null });
            leave(0)
        }
    }
}

/// A process that has all the descriptors of the one it was forked from, and its session.
#[derive(Debug)]
pub struct Newborn {
    null: File,
}

impl Newborn {
    /// Leaves it with `keep` and nothing of the other's.
    pub fn stand_alone(self, keep: &[RawFd]) {
        // A terminal's Ctrl-C is for the runtime or criu.
        let _ = setsid();
        // These cannot fail: the numbers are there, or free.
        let _ = dup2_stdin(&self.null);
        let _ = dup2_stdout(&self.null);
        let _ = dup2_stderr(&self.null);
        // It is closed with all others, unless it is one of the three.
        let _ = self.null.into_raw_fd();
        let mut kept: BTreeSet<RawFd> = keep.iter().copied().collect();
        kept.extend([0, 1, 2]);
        close_all_but(&kept);
        // Losing the relay of a half-restored container to the OOM killer helps nobody. Not allowed everywhere.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    }
}

/// Forks, into a cgroup where that is possible; `true` in the child. This process must have one thread.
fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    if let Some(cgroup) = cgroup {
        // SAFETY: all of it is numbers, and zero is what is not asked for.
        let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
        args.flags = CLONE_INTO_CGROUP;
        args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
        // SAFETY: without CLONE_VM this is fork(2), of a process with one thread. What the C library does besides is for
        // locks of other threads, and for the thread's number, by which nothing here goes.
        match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) } {
            0 => return Ok(true),
            child if child > 0 => return Ok(false),
            _ => {}
        }
    }
    // SAFETY: as above.
    Ok(matches!(unsafe { fork() }?, ForkResult::Child))
}

/// `include/uapi/linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Ends this process without running destructors or exit handlers that belong to the process it was forked from.
fn leave(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) };
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
