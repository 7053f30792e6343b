//! Whole messages over `SOCK_SEQPACKET`, with the descriptors that travel in them.
//!
//! CRIU's RPC is one protobuf message per packet (`criu/cr-service.c`, `recv_criu_msg`), of any size the socket takes;
//! `orphan-pts-master` carries a descriptor. Two things need care:
//!
//! * An empty packet and the end of the stream both read as 0 bytes. With `SO_PASSCRED` a packet always comes with
//!   credentials and the end never does (`net/unix/af_unix.c`, `__unix_dgram_recvmsg`).
//! * A packet larger than the send buffer is refused with `EMSGSIZE`, so the buffer grows first.

// Descriptors arrive as bare numbers; taking ownership of them is the one unsafe step.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixCredentials, getsockopt, recv, recvmsg, sendmsg, setsockopt, shutdown, socketpair, sockopt,
};
use nix::unistd::dup2;

/// What was received.
#[derive(Debug)]
pub enum Received {
    /// A message, possibly empty, with the descriptors that came in it.
    Message(Vec<u8>, Vec<OwnedFd>),
    /// The other side writes no more.
    End,
}

/// One end of a `SOCK_SEQPACKET` connection.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// Room the kernel wants in the send buffer beyond the payload (`net/unix/af_unix.c` takes 32 bytes off; the rest is
/// for the packet's own bookkeeping).
const SEND_OVERHEAD: usize = 4096;

/// Most descriptors one message can carry (`SCM_MAX_FD`, unix(7)).
const MAX_FDS: usize = 253;

impl Connection {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// When it is no unix socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self(socket))
    }

    /// A connected pair: one end to keep, one to give away. The credentials on both are this process's.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (kept, given) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self::new(kept)?, given))
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the connection broke; an interrupted wait goes on.
    pub fn receive(&self) -> io::Result<Received> {
        loop {
            match self.try_receive() {
                Err(Errno::EINTR) => {}
                // The other side closed with messages of ours unread. What it sent before is read first, so this is
                // an end like any other.
                Err(Errno::ECONNRESET) => return Ok(Received::End),
                other => return Ok(other?),
            }
        }
    }

    fn try_receive(&self) -> Result<Received, Errno> {
        let fd = self.0.as_raw_fd();
        let length = recv(fd, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
        let mut bytes = vec![0; length];
        let mut control = cmsg_space!([RawFd; MAX_FDS], UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(
            fd,
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let received = message.bytes;
        let mut fds = Vec::new();
        let mut real = false;
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::ScmRights(raw) => {
                    // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                    fds.extend(
                        raw.into_iter()
                            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                    );
                }
                ControlMessageOwned::ScmCredentials(_) => real = true,
                _ => {}
            }
        }
        if received == 0 && !real {
            return Ok(Received::End);
        }
        bytes.truncate(received);
        Ok(Received::Message(bytes, fds))
    }

    /// Sends one message and the descriptors in it.
    ///
    /// # Errors
    /// `BrokenPipe` when the other side is gone; never a signal.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.make_room(bytes.len());
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        loop {
            match sendmsg::<()>(
                self.0.as_raw_fd(),
                &[IoSlice::new(bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// Lets the send buffer hold a message of `length` bytes. Best effort: without the right to, the kernel's own
    /// `EMSGSIZE` says what is wrong.
    fn make_room(&self, length: usize) {
        let wanted = length + SEND_OVERHEAD;
        // The kernel reports twice what can be used.
        let have = getsockopt(&self.0, sockopt::SndBuf).unwrap_or(0) / 2;
        if have < wanted && setsockopt(&self.0, sockopt::SndBufForce, &wanted).is_err() {
            let _ = setsockopt(&self.0, sockopt::SndBuf, &wanted);
        }
    }

    /// Makes this descriptor number stand for `other`, also after an exec. What it stood for is closed.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn become_other(&mut self, other: &OwnedFd) -> io::Result<()> {
        Ok(dup2(other, &mut self.0)?)
    }

    /// Says that no more will be sent; the other side reads the end after what is still queued.
    pub fn finish(&self) {
        // It fails only when the other side is gone already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The next message, left in the queue; empty at the end.
///
/// # Errors
/// When `socket` is no connected socket.
pub fn peek(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let fd = socket.as_raw_fd();
    let length = retried(|| recv(fd, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC))?;
    let mut bytes = vec![0; length];
    let read = retried(|| recv(fd, &mut bytes, MsgFlags::MSG_PEEK))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Makes a call again when a signal interrupted it.
fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, Connection) {
        let (a, b) = Connection::pair().unwrap();
        (a, Connection::new(b).unwrap())
    }

    #[test]
    fn messages_of_every_size_arrive_whole() {
        for size in [0, 1, 200_000, 1 << 20] {
            let (a, b) = pair();
            let sent = vec![7; size];
            a.send(&sent, &[]).unwrap();
            let Received::Message(bytes, fds) = b.receive().unwrap() else {
                panic!("no message of {size} bytes")
            };
            assert_eq!(bytes.len(), size);
            assert!(bytes == sent && fds.is_empty());
        }
    }

    #[test]
    fn an_empty_message_is_not_the_end() {
        let (a, b) = pair();
        a.send(b"", &[]).unwrap();
        drop(a);
        assert!(matches!(b.receive().unwrap(), Received::Message(bytes, _) if bytes.is_empty()));
        assert!(matches!(b.receive().unwrap(), Received::End));
    }

    #[test]
    fn descriptors_travel_along() {
        let (a, b) = pair();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(b"take", &[file.as_fd()]).unwrap();
        let Received::Message(bytes, fds) = b.receive().unwrap() else {
            panic!("no message")
        };
        assert_eq!((bytes.as_slice(), fds.len()), (b"take".as_slice(), 1));
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fds[0].as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some("/dev/null"));
    }

    #[test]
    fn a_half_close_ends_one_direction_only() {
        let (a, b) = pair();
        a.finish();
        assert!(matches!(b.receive().unwrap(), Received::End));
        b.send(b"still", &[]).unwrap();
        assert!(matches!(a.receive().unwrap(), Received::Message(bytes, _) if bytes == b"still"));
    }

    #[test]
    fn sending_to_nobody_is_an_error_not_a_signal() {
        let (a, b) = pair();
        drop(b);
        assert_eq!(
            a.send(b"x", &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn peeking_leaves_the_message_in_the_queue() {
        let (a, b) = pair();
        a.send(b"request", &[]).unwrap();
        assert_eq!(peek(b.as_fd()).unwrap(), b"request");
        assert!(matches!(b.receive().unwrap(), Received::Message(bytes, _) if bytes == b"request"));
    }
}
