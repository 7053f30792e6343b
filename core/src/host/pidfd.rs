//! A process held by descriptor, so that its number cannot come to mean another one.

// pidfd_open(2), pidfd_getfd(2) and pidfd_send_signal(2) have no safe wrapper in nix.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl PidFd {
    /// Opens a process.
    ///
    /// # Errors
    /// When there is none with this number.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: the call takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = RawFd::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// One of its descriptors, as another of ours on the same open file description.
    ///
    /// # Errors
    /// When it has no such descriptor, or may not be traced.
    pub fn descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: the call takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0) };
        let fd = RawFd::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Whether it has not ended (a zombie has).
    pub fn alive(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// How it ended, when it has, or does within a second; once its parent has collected it, only Linux 6.15 and later still know.
    pub fn end(&self) -> Option<End> {
        // Its descriptors are closed before it is a zombie.
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(1000u16));
        let code = self.code_of_zombie().or_else(|| self.code_of_collected())?;
        Some(match code & 0x7f {
            0 => End::Status(code >> 8 & 0xff),
            signal => End::Signal(signal),
        })
    }

    fn code_of_zombie(&self) -> Option<i32> {
        let info = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = std::fs::read_to_string(info).ok()?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
        // The state is after the name in parentheses, the exit code at the end (man proc_pid_stat).
        let (_, rest) = stat.rsplit_once(") ")?;
        let code: i32 = rest.trim_end().rsplit(' ').next()?.parse().ok()?;
        rest.starts_with(['Z', 'X']).then_some(code)
    }

    fn code_of_collected(&self) -> Option<i32> {
        /// `struct pidfd_info` of include/uapi/linux/pidfd.h in its first size, 64 bytes.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            mask: u64,
            cgroup: u64,
            ids: [u32; 11],
            exit_code: i32,
        }
        /// `PIDFD_INFO_EXIT`.
        const EXIT: u64 = 1 << 3;
        /// `PIDFD_GET_INFO`, `_IOWR(0xFF, 11, struct pidfd_info)`.
        const GET_INFO: u64 = 3 << 30 | 64 << 16 | 0xff << 8 | 11;
        let mut info = Info {
            mask: EXIT,
            ..Info::default()
        };
        // SAFETY: the request has the size of the structure, which outlives the call.
        let got =
            unsafe { libc::ioctl(self.0.as_raw_fd(), GET_INFO as libc::Ioctl, &raw mut info) };
        (got == 0 && info.mask & EXIT != 0).then_some(info.exit_code)
    }

    /// A second descriptor of what it has open under a number, which shares its offset.
    ///
    /// # Errors
    /// When it has no such descriptor or has ended.
    pub fn take(&self, number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: the call takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0) };
        let fd = RawFd::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn kill(&self) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: no siginfo is given, so no memory is read.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd,
                libc::SIGKILL,
                std::ptr::null::<u8>(),
                0,
            )
        };
        if sent == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_by_itself_has_a_status() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exit 7"])
            .spawn()
            .unwrap();
        let pidfd = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        while pidfd.alive() {}
        assert_eq!(pidfd.end(), Some(End::Status(7)));
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_alive_until_it_is_killed() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(pidfd.alive());
        assert!(pidfd.take(0).is_ok());
        pidfd.kill().unwrap();
        while pidfd.alive() {}
        assert_eq!(pidfd.end(), Some(End::Signal(libc::SIGKILL)));
        child.wait().unwrap();
        let end = pidfd.end();
        assert!(
            end.is_none() || end == Some(End::Signal(libc::SIGKILL)),
            "{end:?}"
        );
        assert!(!pidfd.alive());
        assert!(pidfd.kill().is_err());
    }
}
