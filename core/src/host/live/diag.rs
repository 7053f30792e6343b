//! The unix sockets of a network namespace with their peers, which only `sock_diag(7)` tells.

// A netlink socket has no wrapper among the features of nix that are used here.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::check::UnixSocket;
use crate::ids::HostPid;

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `linux/unix_diag.h`: names, peers, and who waits to be accepted.
const SHOW: u32 = 1 | 4 | 8;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_ICONS: u16 = 3;
/// `struct nlmsghdr`, and `struct unix_diag_msg` behind it.
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// Asks in the network namespace of `pid`, from a thread that ends afterwards.
pub(super) fn unix_sockets(pid: HostPid) -> io::Result<BTreeMap<u64, UnixSocket>> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let asking = std::thread::spawn(move || {
        // Not needed, and not allowed to everybody, where it is this process's own.
        if std::fs::read_link("/proc/thread-self/ns/net").ok()
            != std::fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).ok()
        {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        }
        ask()
    });
    asking
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that asks for them ended")))
}

fn ask() -> io::Result<BTreeMap<u64, UnixSocket>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    patience(&fd, Duration::from_secs(5))?;
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([1, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(SHOW.to_ne_bytes());
    request.extend([0xff; 8]);
    // SAFETY: the buffer is as long as is said.
    let sent = unsafe { libc::send(fd.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = BTreeMap::new();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        // SAFETY: the buffer has the room that is said.
        let got =
            unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(length) = usize::try_from(got) else {
            return Err(io::Error::last_os_error());
        };
        if parse(buffer.get(..length).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

fn patience(fd: &OwnedFd, time: Duration) -> io::Result<()> {
    let value = libc::timeval {
        tv_sec: time.as_secs().cast_signed(),
        tv_usec: 0,
    };
    let size = libc::socklen_t::try_from(size_of::<libc::timeval>()).map_err(io::Error::other)?;
    let at = (&raw const value).cast();
    // SAFETY: the value is valid for its size.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            at,
            size,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the messages of one datagram; true when it was the last.
fn parse(mut rest: &[u8], found: &mut BTreeMap<u64, UnixSocket>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (word(rest, 0), half(rest, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = rest.get(HEADER..length) else {
            break;
        };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let number = word(message, 0).map_or(0, u32::cast_signed);
                return Err(io::Error::from_raw_os_error(-number));
            }
            SOCK_DIAG_BY_FAMILY => {
                if let Some((inode, socket)) = socket(message) {
                    found.insert(inode, socket);
                }
            }
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn socket(message: &[u8]) -> Option<(u64, UnixSocket)> {
    let mut socket = UnixSocket {
        kind: *message.get(1)?,
        peer: None,
        name: None,
        pending: Vec::new(),
    };
    let inode = u64::from(word(message, 4)?);
    let mut rest = message.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else {
            break;
        };
        match kind {
            UNIX_DIAG_NAME => socket.name = Some(name(value)),
            UNIX_DIAG_PEER => socket.peer = word(value, 0).map(u64::from),
            UNIX_DIAG_ICONS => {
                let words = value.chunks_exact(4).filter_map(|chunk| word(chunk, 0));
                socket.pending = words.map(u64::from).collect();
            }
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Some((inode, socket))
}

fn name(bytes: &[u8]) -> String {
    match bytes.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => String::from_utf8_lossy(bytes)
            .trim_end_matches('\0')
            .to_owned(),
    }
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(fd: &impl AsRawFd) -> u64 {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn both_ends_of_a_pair_know_each_other_and_a_listener_who_waits() {
        let (a, b) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let waiting = UnixStream::connect(&path).unwrap();
        let closed = UnixStream::connect(&path).unwrap();
        drop(closed);
        let found = unix_sockets(HostPid(nix::unistd::getpid().as_raw())).unwrap();
        assert_eq!(found[&inode(&a)].peer, Some(inode(&b)));
        assert_eq!(found[&inode(&b)].peer, Some(inode(&a)));
        let listening = &found[&inode(&listener)];
        assert_eq!(listening.name.as_deref(), path.to_str());
        assert_eq!(listening.pending.len(), 2);
        assert!(listening.pending.contains(&inode(&waiting)) && listening.pending.contains(&0));
    }

    #[test]
    fn a_message_that_is_cut_short_is_not_read_beyond_its_end() {
        let mut found = BTreeMap::new();
        for length in 0..64 {
            let mut bytes = vec![0xff; length];
            if length >= 4 {
                bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
            }
            assert!(!parse(&bytes, &mut found).unwrap_or(false));
        }
    }
}
