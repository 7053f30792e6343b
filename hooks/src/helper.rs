//! The process that stays behind as the relay while this one becomes the real criu.
//!
//! It is forked twice, so that it is never criu's child (criu takes an unknown SIGCHLD for a task that died), and it
//! makes the socket pair to criu itself: criu opens the directories of the request through
//! `/proc/<peer>/fd/<number>` (`criu/cr-service.c`, `setup_opts_from_req`), where the peer is whoever made the pair. So
//! the descriptors live in the relay under the numbers they have in the request, and none of them leaks into criu.

// fork(2), and closing descriptors that no Rust value of this process owns any more.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use crate::seqpacket::{Connection, Received};

/// Starts the helper: `work` runs in it with its end of the connection to criu, and the other end is returned here.
///
/// `keep` lists every descriptor the helper goes on using; it closes all others, among them the container's stdio,
/// whose readers wait for the end.
///
/// # Errors
/// When processes or descriptors run out, or the helper died before it was ready.
pub fn start(keep: &[RawFd], work: impl FnOnce(Connection)) -> io::Result<OwnedFd> {
    let (here, there) = Connection::pair()?;
    // SAFETY: this process has one thread, so the child may do whatever it could.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(there);
            waitpid(child, None)?;
            match here.receive()? {
                Received::Message(_, mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
                _ => Err(io::Error::other(
                    "the relay process ended before it was ready",
                )),
            }
        }
        ForkResult::Child => {
            // SAFETY: as above.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {}
                Ok(ForkResult::Parent { .. }) => leave(0),
                Err(_) => leave(1),
            }
            drop(here);
            match become_helper(there, keep) {
                Ok(connection) => work(connection),
                Err(_) => leave(1),
            }
            leave(0)
        }
    }
}

/// Ends this process without running destructors or exit handlers that belong to the process it was forked from.
pub fn leave(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) };
}

fn become_helper(parent: OwnedFd, keep: &[RawFd]) -> io::Result<Connection> {
    // A terminal's Ctrl-C is for the runtime; the end of the relay is the end of its sockets.
    let _ = setsid();
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    let (connection, for_criu) = Connection::pair()?;
    Connection::new(parent)?.send(b"ready", &[for_criu.as_fd()])?;
    drop(for_criu);
    drop(null);
    let mut kept: BTreeSet<RawFd> = keep.iter().copied().collect();
    kept.extend([0, 1, 2, connection.as_fd().as_raw_fd()]);
    close_all_but(&kept);
    // Losing the relay of a half-restored container to the OOM killer helps nobody. Not allowed everywhere.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    Ok(connection)
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
        // SAFETY: in this process no value that owns one of these is used or dropped again: `work` gets what is kept,
        // and the process leaves through _exit.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests have threads, which fork only in the sense of the async-signal-safe rules; the child does little enough.
    #[test]
    fn the_helper_owns_its_end_and_what_it_keeps() {
        let kept = File::open("/dev/zero").unwrap();
        let number = kept.as_raw_fd();
        let criu = start(&[number], |connection| {
            let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
            let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            let _ = connection.send(format!("{} {open}", link.display()).as_bytes(), &[]);
        })
        .unwrap();
        let criu = Connection::new(criu).unwrap();
        let Received::Message(text, _) = criu.receive().unwrap() else {
            panic!("no word from the helper")
        };
        // Standard input, output and error, the connection, what is kept, and the listing itself.
        assert_eq!(String::from_utf8(text).unwrap(), "/dev/zero 6");
        assert!(matches!(criu.receive().unwrap(), Received::End));
    }
}
