//! Sockets.
#![allow(
    unsafe_code,
    reason = "hardly one of these sockets has a safe form in std"
)]

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use crate::sys::{self, Result, check, owned, word};
use crate::{Held, arg};

pub(crate) fn make(name: &str, args: &[String]) -> Option<Result<Held>> {
    Some(match name {
        "socket" => socket(args),
        "tcp" => tcp(args),
        "tcp-listener" => tcp_listener(args),
        "tcp-in-flight" => in_flight(args),
        "udp" => udp(args),
        "udp-corked" => corked(),
        "netlink-data" => netlink_data(),
        "unix-listener" => unix_listener(args),
        "unix-client" => unix_client(args),
        "unix-half" => unix_half(),
        "unix-datagram" => unix_datagram(args),
        "unix-in-flight" => unix_in_flight(args),
        _ => return None,
    })
}

fn number<T: std::str::FromStr>(args: &[String], at: usize) -> Result<T> {
    let text = arg(args, at)?;
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// A socket of a family, type and protocol.
fn socket(args: &[String]) -> Result<Held> {
    let (family, kind, protocol) = (number(args, 0)?, number(args, 1)?, number(args, 2)?);
    // SAFETY: no pointers.
    let fd = owned("socket", unsafe { libc::socket(family, kind, protocol) })?;
    Ok(vec![fd])
}

/// Both ends of a connection.
fn tcp(args: &[String]) -> Result<Held> {
    let listener = word("tcp", TcpListener::bind(arg(args, 0)?))?;
    let client = word("tcp", TcpStream::connect(arg(args, 0)?))?;
    let (server, _) = word("tcp", listener.accept())?;
    Ok(vec![client.into(), server.into()])
}

fn tcp_listener(args: &[String]) -> Result<Held> {
    Ok(vec![word("tcp", TcpListener::bind(arg(args, 0)?))?.into()])
}

/// A connection that nobody has accepted.
fn in_flight(args: &[String]) -> Result<Held> {
    let listener = word("tcp", TcpListener::bind(arg(args, 0)?))?;
    // By another process, so that only the listener is seen.
    let address = arg(args, 0)?.to_owned();
    let (mut reader, writer) = word("pipe", std::io::pipe())?;
    if sys::fork()?.is_some() {
        // The peer; the one that is dumped is the child.
        drop((writer, listener));
        let client = word("tcp", TcpStream::connect(address))?;
        std::mem::forget(client);
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| error.to_string())?;
        sys::hold_forever();
    }
    drop(reader);
    // SAFETY: no pointers.
    unsafe { libc::setsid() };
    let mut ready = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure that outlives the call.
    check("poll", unsafe { libc::poll(&mut ready, 1, 10_000) })?;
    drop(writer);
    Ok(vec![listener.into()])
}

fn udp(args: &[String]) -> Result<Held> {
    Ok(vec![word("udp", UdpSocket::bind(arg(args, 0)?))?.into()])
}

/// A socket that holds back what was written.
fn corked() -> Result<Held> {
    let socket = word("udp", UdpSocket::bind("127.0.0.1:0"))?;
    word("udp", socket.connect("127.0.0.1:9"))?;
    let one: libc::c_int = 1;
    // SAFETY: the number outlives the call. 17 is SOL_UDP, 1 is UDP_CORK.
    check("UDP_CORK", unsafe {
        libc::setsockopt(socket.as_raw_fd(), 17, 1, (&raw const one).cast(), 4)
    })?;
    word("udp", socket.send(b"held back"))?;
    Ok(vec![socket.into()])
}

/// A routing socket with an answer that is not read.
fn netlink_data() -> Result<Held> {
    // SAFETY: no pointers.
    let fd = owned("netlink", unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)
    })?;
    // RTM_GETLINK (18) with NLM_F_REQUEST | NLM_F_DUMP for any family: struct nlmsghdr, struct rtgenmsg.
    let mut ask = [0u8; 20];
    ask[..4].copy_from_slice(&20u32.to_ne_bytes());
    ask[4..6].copy_from_slice(&18u16.to_ne_bytes());
    ask[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
    // SAFETY: the bytes outlive the call.
    check("netlink", unsafe {
        i64::try_from(libc::send(fd.as_raw_fd(), ask.as_ptr().cast(), 20, 0)).unwrap_or(-1)
    })?;
    Ok(vec![fd])
}

fn unix_listener(args: &[String]) -> Result<Held> {
    Ok(vec![
        word("unix", UnixListener::bind(arg(args, 0)?))?.into(),
    ])
}

fn unix_client(args: &[String]) -> Result<Held> {
    Ok(vec![
        word("unix", UnixStream::connect(arg(args, 0)?))?.into(),
    ])
}

/// One end of a pair; the other is another process'.
fn unix_half() -> Result<Held> {
    let (one, other) = word("unix", UnixStream::pair())?;
    if sys::fork()?.is_some() {
        drop(one);
        std::mem::forget(other);
        sys::hold_forever();
    }
    // SAFETY: no pointers.
    unsafe { libc::setsid() };
    drop(other);
    Ok(vec![one.into()])
}

/// A socket that is connected to a name.
fn unix_datagram(args: &[String]) -> Result<Held> {
    let socket = word("unix", UnixDatagram::unbound())?;
    word("unix", socket.connect(arg(args, 0)?))?;
    Ok(vec![socket.into()])
}

/// A connection to this process that was closed before it was accepted.
fn unix_in_flight(args: &[String]) -> Result<Held> {
    let listener = word("unix", UnixListener::bind(arg(args, 0)?))?;
    let mut client = word("unix", UnixStream::connect(arg(args, 0)?))?;
    word("unix", client.write_all(b"early"))?;
    drop(client);
    Ok(vec![OwnedFd::from(listener)])
}
