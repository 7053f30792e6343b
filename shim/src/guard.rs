//! The stock shim does not outlive the proxy, however that ends, and no process has to watch for it.
//!
//! The stock shim is started with the reading end of a pipe among its descriptors, whose only writing end is the proxy's. The pipe is
//! set to send its owner, the stock shim, SIGKILL when something can be read of it (`fcntl(2)`, `F_SETOWN`, `F_SETSIG`, `O_ASYNC`); the
//! end of the last writer counts (`pipe_release` in the kernel's `fs/pipe.c`). Nothing is ever written. The owner is held as a
//! process, not as a number (`struct fown_struct`), so that nobody else can be hit.
//!
//! What the stock shim starts inherits the reading end too, which does nothing there: the owner is one process. Runtimes close it before
//! a container's program runs.

// F_SETSIG has no wrapper in nix, and F_DUPFD gives a number.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{Pid, pipe2};

/// `F_SETSIG` of the kernel's `include/uapi/asm-generic/fcntl.h`, which the libc crate has not.
const F_SETSIG: libc::c_int = 10;

/// The stock shim's `start` gives what it starts its sockets as descriptors 3 and 4, over whatever was there.
const OUT_OF_THE_WAY: RawFd = 100;

/// The pipe before it has an owner.
#[derive(Debug)]
pub struct Guard {
    /// For the stock shim to inherit.
    reader: OwnedFd,
    /// For the proxy.
    writer: OwnedFd,
}

impl Guard {
    /// Makes the pipe. What is started from here on inherits the reading end.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (low, writer) = pipe2(OFlag::O_CLOEXEC)?;
        let number = fcntl(&low, FcntlArg::F_DUPFD(OUT_OF_THE_WAY))?;
        // SAFETY: the kernel has just made it; nobody else owns it.
        let reader = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Self { reader, writer })
    }

    /// The stock shim has been started: nothing else inherits the reading end. The writing end, for the proxy.
    ///
    /// # Errors
    /// Of `fcntl(2)`.
    pub fn handed_on(&self) -> io::Result<BorrowedFd<'_>> {
        fcntl(&self.reader, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(self.writer.as_fd())
    }

    /// Ends `stock`, which has inherited the reading end, as soon as nobody has the writing end any more, which is returned.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn set(self, stock: Pid) -> io::Result<OwnedFd> {
        let fd = self.reader.as_raw_fd();
        // SAFETY: the descriptor is open, and the arguments are numbers.
        let set = unsafe {
            libc::fcntl(fd, libc::F_SETOWN, stock.as_raw()) == 0
                && libc::fcntl(fd, F_SETSIG, libc::SIGKILL) == 0
                && libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) == 0
        };
        if !set {
            return Err(io::Error::last_os_error());
        }
        Ok(self.writer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_stock_shim_is_killed_when_the_writing_end_is_gone() {
        let guard = Guard::new().unwrap();
        // It reads of its standard input, which does not end, and starts something that has the pipe too.
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let writer = guard.set(Pid::from_raw(child.id().cast_signed())).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(writer);
        // `wait` would close its input.
        let input = child.stdin.take();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        drop(input);
    }
}
