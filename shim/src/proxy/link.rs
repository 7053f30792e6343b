//! One connection of containerd's and the one to the stock shim that belongs to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use super::flow::Flow;
use crate::frame::Header;

/// How much is read at once; a frame of the calls that come every second is far smaller. The bound of what a slow reader makes us keep.
pub(super) const BUFFER: usize = 16 << 10;

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From containerd to the stock shim.
    Up,
    /// From the stock shim to containerd.
    Down,
}

/// A socket and what epoll tells of it.
#[derive(Debug)]
struct Side {
    fd: OwnedFd,
    token: u64,
    interest: EpollFlags,
}

impl Side {
    /// Changes what epoll tells of it. Of a socket that nothing is wanted of, it is to tell nothing: it would go on and on about an end.
    fn want(&mut self, epoll: &Epoll, interest: EpollFlags) -> nix::Result<()> {
        if interest == self.interest {
            return Ok(());
        }
        let mut event = EpollEvent::new(interest, self.token);
        if interest.is_empty() {
            epoll.delete(&self.fd)?;
        } else if self.interest.is_empty() {
            epoll.add(&self.fd, event)?;
        } else {
            epoll.modify(&self.fd, &mut event)?;
        }
        self.interest = interest;
        Ok(())
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    flow: Flow,
    /// What came behind a frame that was held.
    rest: Vec<u8>,
    /// What the reader has not taken yet.
    pending: Vec<u8>,
    /// The writer has said its last.
    ended: bool,
    /// So the reader was told.
    told: bool,
}

impl Direction {
    /// Passes on what came, up to a frame that is held.
    fn take(
        &mut self,
        input: &[u8],
        to: &Side,
        output: &mut Vec<u8>,
        hold: &mut dyn FnMut(&mut Header, &[u8]) -> bool,
        held: &mut Vec<Vec<u8>>,
    ) -> io::Result<()> {
        output.clear();
        let taken = self.flow.feed(input, hold, output, held);
        self.rest.extend_from_slice(&input[taken..]);
        self.send(to.fd.as_fd(), output)
    }

    /// Sends what is new, behind what is pending.
    fn send(&mut self, to: BorrowedFd<'_>, new: &[u8]) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(new);
            return self.flush(to);
        }
        let sent = send_some(to, new)?;
        self.pending.extend_from_slice(&new[sent..]);
        Ok(())
    }

    fn flush(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        let sent = send_some(to, &self.pending)?;
        if sent == self.pending.len() {
            // What one slow reader needed once is not kept for ever.
            self.pending = Vec::new();
        } else {
            self.pending.drain(..sent);
        }
        Ok(())
    }
}

/// The buffers of the whole proxy.
#[derive(Debug)]
pub(super) struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            input: vec![0; BUFFER],
            output: Vec::new(),
        }
    }
}

/// What became of reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// There may be more.
    More,
    /// Nothing more for now.
    Drained,
}

/// How a link stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// There is more to come.
    Going,
    /// Both sides have said their last.
    Finished,
    /// The stock shim has closed its side, though containerd has not.
    Abandoned,
}

/// The two connections.
#[derive(Debug)]
pub(super) struct Link {
    client: Side,
    stock: Side,
    up: Direction,
    down: Direction,
}

impl Link {
    /// Two connected, non-blocking sockets, told of by epoll with these tokens.
    pub(super) fn new(client: (OwnedFd, u64), stock: (OwnedFd, u64)) -> Self {
        let side = |(fd, token)| Side {
            fd,
            token,
            interest: EpollFlags::empty(),
        };
        Self {
            client: side(client),
            stock: side(stock),
            up: Direction::default(),
            down: Direction::default(),
        }
    }

    fn parts(&mut self, way: Way) -> (&Side, &mut Direction, &Side) {
        match way {
            Way::Up => (&self.client, &mut self.up, &self.stock),
            Way::Down => (&self.stock, &mut self.down, &self.client),
        }
    }

    /// Reads once and passes on what may go on; a frame for which `hold` is true is put into `held`, and what comes behind it waits for the
    /// next call.
    ///
    /// # Errors
    /// When a side is broken: the link has to be dropped.
    pub(super) fn pass(
        &mut self,
        way: Way,
        buffers: &mut Buffers,
        hold: &mut dyn FnMut(&mut Header, &[u8]) -> bool,
        held: &mut Vec<Vec<u8>>,
    ) -> io::Result<Read> {
        let (from, direction, to) = self.parts(way);
        if !direction.rest.is_empty() {
            let rest = std::mem::take(&mut direction.rest);
            direction.take(&rest, to, &mut buffers.output, hold, held)?;
            return Ok(Read::More);
        }
        if direction.ended || !direction.pending.is_empty() {
            return Ok(Read::Drained);
        }
        let read = match recv(from.fd.as_raw_fd(), &mut buffers.input, MsgFlags::empty()) {
            Ok(read) => read,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Read::Drained),
            Err(error) => return Err(error.into()),
        };
        if read == 0 {
            direction.ended = true;
            return Ok(Read::Drained);
        }
        let input = &buffers.input[..read];
        direction.take(input, to, &mut buffers.output, hold, held)?;
        Ok(match read == buffers.input.len() {
            true => Read::More,
            false => Read::Drained,
        })
    }

    /// Whether there is something behind a frame that was held, which the next [`Self::pass`] takes.
    pub(super) fn has_more(&mut self, way: Way) -> bool {
        !self.parts(way).1.rest.is_empty()
    }

    /// Sends a frame of ours, or one that was held.
    ///
    /// # Errors
    /// When the side is broken.
    pub(super) fn inject(&mut self, way: Way, frame: Vec<u8>) -> io::Result<()> {
        let mut out = Vec::new();
        let (_, direction, to) = self.parts(way);
        direction.flow.inject(frame, &mut out);
        direction.send(to.fd.as_fd(), &out)
    }

    /// Sends what is pending.
    ///
    /// # Errors
    /// When the side is broken.
    pub(super) fn flush(&mut self, way: Way) -> io::Result<()> {
        let (_, direction, to) = self.parts(way);
        direction.flush(to.fd.as_fd())
    }

    /// Has epoll tell nothing of it any more.
    pub(super) fn forget(&mut self, epoll: &Epoll) {
        for side in [&mut self.client, &mut self.stock] {
            // What epoll does not know, it tells nothing of.
            let _ = side.want(epoll, EpollFlags::empty());
        }
    }

    /// Tells each side of the other's end, and epoll what is wanted next.
    ///
    /// # Errors
    /// When a side is broken.
    pub(super) fn settle(&mut self, epoll: &Epoll) -> io::Result<Settled> {
        let done = |direction: &Direction| direction.ended && direction.pending.is_empty();
        if done(&self.down) {
            if self.up.ended {
                return Ok(Settled::Finished);
            }
            return Ok(Settled::Abandoned);
        }
        if done(&self.up) && !self.up.told {
            self.up.told = true;
            // It may be gone already.
            let _ = shutdown(self.stock.fd.as_raw_fd(), Shutdown::Write);
        }
        let wanted = |from: &Direction, to: &Direction| {
            let mut wanted = EpollFlags::empty();
            wanted.set(EpollFlags::EPOLLIN, !from.ended && from.pending.is_empty());
            wanted.set(EpollFlags::EPOLLOUT, !to.pending.is_empty());
            wanted
        };
        self.client.want(epoll, wanted(&self.up, &self.down))?;
        self.stock.want(epoll, wanted(&self.down, &self.up))?;
        Ok(Settled::Going)
    }
}

/// Sends what the socket takes; how much that was.
fn send_some(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(to.as_raw_fd(), &bytes[sent..], flags) {
            Ok(count) => sent += count,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
