//! Sockets with something in their queues.

use std::fs::File;
use std::io::{Result as IoResult, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use crate::sys::{self, Result};

type Made = (&'static str, Result<Vec<OwnedFd>>);

pub(crate) fn all(dir: &Path, unix_only: bool) -> Vec<Made> {
    let mut all = vec![
        ("unix sockets", text(unix(dir))),
        ("a descriptor in a queue", in_a_queue()),
    ];
    if !unix_only {
        all.extend(network());
    }
    all
}

fn network() -> Vec<Made> {
    let up = sys::loopback_up();
    let socket =
        |family, protocol| sys::socket(family, libc::SOCK_RAW, protocol).map(|fd| vec![fd]);
    vec![
        ("the loopback interface", up.map(|()| Vec::new())),
        ("TCP", text(tcp())),
        ("TCP over IPv6", text(tcp6())),
        ("UDP", text(udp())),
        (
            "a netlink socket",
            socket(libc::AF_NETLINK, libc::NETLINK_ROUTE),
        ),
        ("a packet socket", socket(libc::AF_PACKET, 0)),
    ]
}

fn text<T>(made: IoResult<T>) -> Result<T> {
    made.map_err(|error| error.to_string())
}

fn tcp() -> IoResult<Vec<OwnedFd>> {
    let listener = TcpListener::bind("127.0.0.1:8080")?;
    let mut client = TcpStream::connect("127.0.0.1:8080")?;
    let (server, _) = listener.accept()?;
    client.write_all(b"not read yet")?;
    let any = TcpListener::bind("0.0.0.0:8082")?;
    Ok(vec![
        listener.into(),
        client.into(),
        server.into(),
        any.into(),
    ])
}

fn tcp6() -> IoResult<Vec<OwnedFd>> {
    Ok(vec![TcpListener::bind("[::1]:8081")?.into()])
}

fn udp() -> IoResult<Vec<OwnedFd>> {
    let bound = UdpSocket::bind("127.0.0.1:5353")?;
    let connected = UdpSocket::bind("127.0.0.1:0")?;
    connected.connect("127.0.0.1:5353")?;
    Ok(vec![bound.into(), connected.into()])
}

fn unix(dir: &Path) -> IoResult<Vec<OwnedFd>> {
    let listener = UnixListener::bind(dir.join("listener"))?;
    let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(b"zoo\0hidden=\xff")?)?;
    let (mut one, other) = UnixStream::pair()?;
    one.write_all(b"in the stream")?;
    let receiver = UnixDatagram::bind(dir.join("datagrams"))?;
    let sender = UnixDatagram::unbound()?;
    sender.connect(dir.join("datagrams"))?;
    sender.send(b"first")?;
    sender.send(b"second")?;
    Ok(vec![
        listener.into(),
        hidden.into(),
        one.into(),
        other.into(),
        receiver.into(),
        sender.into(),
    ])
}

fn in_a_queue() -> Result<Vec<OwnedFd>> {
    let sent = text(File::open("/dev/null"))?.into();
    let pair = sys::seqpacket_pair(&sent)?;
    Ok(Vec::from(pair))
}
