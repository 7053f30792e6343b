//! The process that stays between containerd and the stock shim for as long as a pod lives.
//!
//! One thread waits for everything: connections, frames in both directions, the stock shim's end, signals, workers. Each connection of
//! containerd's gets one to the stock shim, and frames go through undecoded, many calls at a time.
//!
//! * [`flow`]: frames in one direction.
//! * `link`: a connection.
//! * `calls`: the few calls that are looked at.
//! * `streams`: the numbers of calls on both sides.
//! * `jobs`: other processes that do what takes long.

mod calls;
pub mod flow;
mod jobs;
mod link;
mod streams;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{SockFlag, accept4};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::address;
use crate::arguments::Arguments;
use crate::error::{Attempt, Error};
use crate::frame::Header;
use calls::{Restore, Watched};
use jobs::{Job, Then};
use link::{Buffers, Link, Read, Settled, Way};
use streams::Streams;

pub(crate) use jobs::parts;

/// When the stock shim closes a connection or takes none, it is nearly always ending, and its descriptors are closed a moment before it
/// has ended; on a busy machine that is long. containerd is to see the end of its connection when the sockets are gone, so it is given so
/// long.
const PATIENCE: Duration = Duration::from_secs(1);

/// What epoll's tokens say, in their lowest bits; the number of a link or worker is above.
const LISTENER: u64 = 0;
const STOCK_ENDED: u64 = 1;
const SIGNAL: u64 = 2;
const CLIENT: u64 = 3;
const STOCK: u64 = 4;
const JOB: u64 = 5;
const BITS: u32 = 3;

fn token(kind: u64, slot: usize) -> u64 {
    (slot as u64) << BITS | kind
}

/// Runs as the proxy: the stock shim's address, our socket's path, and three inherited descriptors.
///
/// # Errors
/// When it was not started by [`start`](crate::start).
pub fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let wrong = || io::Error::other("it is started by `start` only");
    let [stock, own, fds @ ..] = &arguments.rest[..] else {
        return Err(wrong()).attempt(|| "be the proxy".into());
    };
    let fds: Vec<OwnedFd> = fds.iter().filter_map(|fd| inherited(fd)).collect();
    let [listener, watch, _guard] = <[OwnedFd; 3]>::try_from(fds)
        .map_err(|_| wrong())
        .attempt(|| "be the proxy".into())?;
    let stock = stock.to_string_lossy();
    let Some(stock) = address::path(&stock) else {
        return Err(Error::Address(stock.into_owned()));
    };
    let mut proxy =
        Proxy::new(stock, Path::new(own), listener, watch).attempt(|| "set the proxy up".into())?;
    let served = proxy.serve();
    proxy.end();
    served.attempt(|| "serve containerd".into())?;
    Ok(ExitCode::SUCCESS)
}

/// A descriptor that `start` left for us; from here on nothing else inherits it.
#[allow(unsafe_code)]
fn inherited(number: &OsStr) -> Option<OwnedFd> {
    let number: RawFd = number.to_str()?.parse().ok()?;
    if number <= 2 {
        return None;
    }
    // SAFETY: `start` opened it for this process, and nothing else here owns it; when it is not open, the next call says so.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Some(fd),
        Err(_) => {
            std::mem::forget(fd);
            None
        }
    }
}

/// A link, and what is known of what goes through it.
struct Connection {
    link: Link,
    /// No other had this number.
    serial: u64,
    /// Streams whose answers are looked at.
    watched: Vec<(u32, Watched)>,
    streams: Streams,
}

/// A worker, and who waits for it.
struct Working {
    job: Job,
    then: Then,
    /// Slot and serial number of the connection.
    at: Option<(usize, u64)>,
}

/// The proxy.
struct Proxy {
    epoll: Epoll,
    listener: OwnedFd,
    watch: OwnedFd,
    signals: SignalFd,
    /// The stock shim's socket.
    stock: PathBuf,
    /// Ours.
    own: PathBuf,
    links: Vec<Option<Connection>>,
    /// How many there were.
    serial: u64,
    /// Containers that will be restored when they start.
    restores: Vec<Restore>,
    jobs: Vec<Option<Working>>,
    /// Links that the stock shim has closed, connections of containerd's that it did not take, and until when they are kept.
    abandoned: Vec<usize>,
    refused: Vec<OwnedFd>,
    patience: Option<Instant>,
    buffers: Buffers,
}

impl Proxy {
    fn new(stock: &Path, own: &Path, listener: OwnedFd, watch: OwnedFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let readable = |kind| EpollEvent::new(EpollFlags::EPOLLIN, kind);
        epoll.add(&listener, readable(LISTENER))?;
        epoll.add(&watch, readable(STOCK_ENDED))?;
        epoll.add(&signals, readable(SIGNAL))?;
        Ok(Self {
            epoll,
            listener,
            watch,
            signals,
            stock: stock.into(),
            own: own.into(),
            links: Vec::new(),
            serial: 0,
            restores: Vec::new(),
            jobs: Vec::new(),
            abandoned: Vec::new(),
            refused: Vec::new(),
            patience: None,
            buffers: Buffers::new(),
        })
    }

    /// Works until the stock shim has ended.
    fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 16];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut ended = false;
            for event in &events[..count] {
                let data = event.data();
                let slot = usize::try_from(data >> BITS).unwrap_or(usize::MAX);
                match data & ((1 << BITS) - 1) {
                    LISTENER => self.accept(),
                    STOCK_ENDED => ended = true,
                    SIGNAL => self.signalled(),
                    CLIENT => self.ready(slot, Way::Up, event.events()),
                    STOCK => self.ready(slot, Way::Down, event.events()),
                    JOB => self.job_ready(slot),
                    _ => {}
                }
            }
            if ended {
                return Ok(());
            }
            self.drop_abandoned();
        }
    }

    /// Takes a connection of containerd's. When the stock shim takes none, containerd is told so by its end, in a while.
    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let Ok(number) = accept4(self.listener.as_raw_fd(), flags) else {
            return;
        };
        let client = own(number);
        let Ok(stock) = UnixStream::connect(&self.stock) else {
            self.refused.push(client);
            self.patience = Some(Instant::now() + PATIENCE);
            return;
        };
        if stock.set_nonblocking(true).is_err() {
            return;
        }
        let slot = free(&mut self.links);
        let stock = (OwnedFd::from(stock), token(STOCK, slot));
        self.serial += 1;
        self.links[slot] = Some(Connection {
            link: Link::new((client, token(CLIENT, slot)), stock),
            serial: self.serial,
            watched: Vec::new(),
            streams: Streams::default(),
        });
        self.settle(slot);
    }

    /// A side of a link can be read or written; `way` is the one that leads away from it.
    fn ready(&mut self, slot: usize, way: Way, events: EpollFlags) {
        let Some(Some(Connection { link, .. })) = self.links.get_mut(slot) else {
            // Dropped on account of an earlier event.
            return;
        };
        let mut worked = Ok(());
        if events.contains(EpollFlags::EPOLLOUT) {
            let back = match way {
                Way::Up => Way::Down,
                Way::Down => Way::Up,
            };
            worked = link.flush(back);
        }
        if worked.is_ok()
            && events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
        {
            worked = self.pass(slot, way).map(drop);
        }
        match worked {
            Ok(()) => self.settle(slot),
            Err(_) => self.abandon(slot),
        }
    }

    /// Nothing more can go through a link. Where it broke off at the stock shim's side (a request that it has not read makes that a reset, not
    /// an end), containerd sees it with the others.
    fn abandon(&mut self, slot: usize) {
        if let Some(Some(connection)) = self.links.get_mut(slot) {
            connection.link.forget(&self.epoll);
            self.abandoned.push(slot);
            self.patience = Some(Instant::now() + PATIENCE);
        }
    }

    /// Reads once and passes on, or does what there is to be done.
    fn pass(&mut self, slot: usize, way: Way) -> io::Result<Read> {
        loop {
            let Some(Some(connection)) = self.links.get_mut(slot) else {
                return Ok(Read::Drained);
            };
            let Connection {
                link,
                watched,
                streams,
                ..
            } = connection;
            let restores = !self.restores.is_empty();
            let mut hold = |header: &mut Header, payload: &[u8]| match way {
                Way::Up => {
                    let held = calls::held_request(restores, *header, payload);
                    if !held {
                        header.stream = streams.up(*header);
                    }
                    held
                }
                Way::Down => {
                    header.stream = streams.down(*header);
                    calls::held_response(watched, *header)
                }
            };
            let mut held = Vec::new();
            let read = link.pass(way, &mut self.buffers, &mut hold, &mut held)?;
            let more = link.has_more(way);
            for frame in held {
                match way {
                    Way::Up => self.requested(slot, frame)?,
                    Way::Down => self.answered(slot, frame)?,
                }
            }
            if !more {
                return Ok(read);
            }
        }
    }

    /// Sends a frame of ours, or one that was held, with the number that containerd gave its stream.
    fn inject(&mut self, slot: usize, way: Way, mut frame: Vec<u8>) -> io::Result<()> {
        let Some(Some(connection)) = self.links.get_mut(slot) else {
            return Ok(());
        };
        if let (Way::Up, Some(mut header)) = (way, Header::of(&frame)) {
            header.stream = connection.streams.up(header);
            header.put_stream(&mut frame);
        }
        connection.link.inject(way, frame)
    }

    fn watch(&mut self, slot: usize, stream: u32, watched: Watched) {
        if let Some(Some(connection)) = self.links.get_mut(slot) {
            connection.watched.push((stream, watched));
        }
    }

    fn unwatch(&mut self, slot: usize, stream: u32) -> Option<Watched> {
        let watched = &mut self.links.get_mut(slot)?.as_mut()?.watched;
        let at = watched.iter().position(|(other, _)| *other == stream)?;
        Some(watched.swap_remove(at).1)
    }

    /// Waits for a worker for the sake of a connection.
    fn work(&mut self, slot: usize, job: Job, then: Then) -> io::Result<()> {
        let at = match self.links.get(slot) {
            Some(Some(connection)) => Some((slot, connection.serial)),
            _ => None,
        };
        let slot = free(&mut self.jobs);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token(JOB, slot));
        self.epoll.add(&job, event)?;
        self.jobs[slot] = Some(Working { job, then, at });
        Ok(())
    }

    /// Has a worker do something that nobody waits for.
    fn aside(&mut self, task: &str, parts: &[&[u8]]) {
        // What cannot be cleared up now is with the next restore, which collects what is left over.
        if let Ok(job) = Job::start(task, &self.stock, parts) {
            let _ = self.work(usize::MAX, job, Then::Nothing);
        }
    }

    /// A worker says something, or has ended.
    fn job_ready(&mut self, slot: usize) {
        let Some(place) = self.jobs.get_mut(slot) else {
            return;
        };
        if !place.as_mut().is_some_and(|working| working.job.read()) {
            return;
        }
        let Some(Working { job, then, at }) = place.take() else {
            return;
        };
        let serial = |slot: usize| self.links.get(slot)?.as_ref().map(|link| link.serial);
        let slot = at.and_then(|(slot, wanted)| (serial(slot) == Some(wanted)).then_some(slot));
        self.worked(slot, then, &job.said());
    }

    fn settle(&mut self, slot: usize) {
        let settled = match self.links.get_mut(slot) {
            Some(Some(connection)) => connection.link.settle(&self.epoll),
            _ => return,
        };
        match settled {
            Ok(Settled::Going) => {}
            Ok(Settled::Abandoned) => self.abandon(slot),
            Ok(Settled::Finished) | Err(_) => self.drop_link(slot),
        }
    }

    /// How long to wait for something to happen.
    fn timeout(&self) -> EpollTimeout {
        let left = self
            .patience
            .map(|until| until.saturating_duration_since(Instant::now()));
        left.and_then(|left| EpollTimeout::try_from(left).ok())
            .unwrap_or(EpollTimeout::NONE)
    }

    /// The stock shim closed or refused connections and goes on: containerd is to see that.
    fn drop_abandoned(&mut self) {
        if self.patience.is_some_and(|until| until <= Instant::now()) {
            self.patience = None;
            self.refused.clear();
            for slot in std::mem::take(&mut self.abandoned) {
                self.drop_link(slot);
            }
        }
    }

    fn drop_link(&mut self, slot: usize) {
        if let Some(link) = self.links.get_mut(slot) {
            *link = None;
            self.abandoned.retain(|abandoned| *abandoned != slot);
        }
    }

    /// Asked to end: the stock shim is, in the same words, and we end with it. Children that have ended are collected.
    fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            if signal != libc::SIGCHLD {
                send_signal(&self.watch, signal);
            }
        }
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }

    /// The stock shim has ended. What it still said is passed on; then the sockets go, before containerd sees the end of its connections
    /// and goes on.
    fn end(&mut self) {
        for slot in 0..self.links.len() {
            while let Ok(Read::More) = self.pass(slot, Way::Down) {}
        }
        let _ = fs::remove_file(&self.own);
        address::remove_stale(&self.stock);
        self.links.clear();
    }
}

/// A free place in a list.
fn free<T>(list: &mut Vec<Option<T>>) -> usize {
    list.iter().position(Option::is_none).unwrap_or_else(|| {
        list.push(None);
        list.len() - 1
    })
}

#[allow(unsafe_code)]
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: accept4(2) has just made it; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[allow(unsafe_code)]
fn send_signal(process: &OwnedFd, signal: i32) {
    // SAFETY: numbers, and no siginfo.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        );
    }
}
