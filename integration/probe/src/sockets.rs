//! Sockets that are held, served while the probe counts, and tried at each report.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::sys;

/// No answer takes longer, unless none ever comes.
const PATIENCE: Duration = Duration::from_secs(3);

/// A socket to hold: `PROCESS:KIND:ADDRESS`.
pub(crate) struct WantedSocket {
    pub(crate) process: usize,
    kind: String,
    address: String,
}

impl WantedSocket {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("--socket {text} is not PROCESS:KIND:ADDRESS");
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or_else(wrong);
        Ok(Self {
            process: part()?.parse().map_err(|_| wrong())?,
            kind: part()?.to_owned(),
            address: part()?.to_owned(),
        })
    }
}

/// A socket that is held, or several that belong together.
pub(crate) struct HeldSocket {
    pub(crate) wanted: String,
    held: Held,
    reports: usize,
}

enum Held {
    /// Listens; accepted connections are answered until their other end goes.
    Listener(TcpListener, Vec<TcpStream>),
    /// Both ends of a connection of this process with itself, and the listener; with this many bytes in flight.
    Pair(TcpListener, TcpStream, TcpStream, usize),
    /// One end of a connection.
    Stream(TcpStream),
    Udp(UdpSocket),
    UdpTo(UdpSocket),
    UnixListener(UnixListener, Vec<UnixStream>),
    UnixStream(UnixStream),
    UnixDatagram(UnixDatagram),
    /// A socket that only listens: nothing is ever accepted.
    Bare(OwnedFd),
}

/// What a report says of a socket.
pub(crate) struct Told {
    pub(crate) fd: i32,
    pub(crate) local: String,
    pub(crate) peer: Option<String>,
    /// What came of trying it.
    pub(crate) said: String,
}

fn unix(name: &str) -> Result<UnixAddr, Error> {
    match name.strip_prefix('@') {
        Some(name) => UnixAddr::from_abstract_name(name),
        None => UnixAddr::from_pathname(name),
    }
}

/// The server may still be starting.
fn until_there<T>(mut connect: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect() {
            Ok(connected) => return Ok(connected),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn pair(address: &str, full: bool) -> Result<Held, Error> {
    let listener = TcpListener::bind(address)?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    let mut queued = 0;
    if full {
        // More than the receiver's buffer takes, so that some is received, some sent and some not sent.
        client.set_nonblocking(true)?;
        loop {
            let bytes: Vec<u8> = (queued..queued + 4096).map(crate::pattern).collect();
            match client.write(&bytes) {
                Ok(written) => queued += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        client.set_nonblocking(false)?;
    }
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE))?;
    }
    Ok(Held::Pair(listener, client, server, queued))
}

fn open(kind: &str, address: &str) -> Result<Held, Error> {
    Ok(match kind {
        "listen" => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Held::Listener(listener, Vec::new())
        }
        "pair" => pair(address, false)?,
        "full" => pair(address, true)?,
        "connect" => {
            let stream = until_there(|| TcpStream::connect(address))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Held::Stream(stream)
        }
        "udp" => {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Held::Udp(socket)
        }
        // LOCAL,PEER
        "udp-to" => {
            let (local, peer) = address.split_once(',').unwrap_or(("0.0.0.0:0", address));
            let socket = UdpSocket::bind(local)?;
            socket.connect(peer)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Held::UdpTo(socket)
        }
        "unix" => {
            let listener = UnixListener::bind_addr(&unix(address)?)?;
            listener.set_nonblocking(true)?;
            Held::UnixListener(listener, Vec::new())
        }
        "unix-connect" => {
            let address = unix(address)?;
            let stream = until_there(|| UnixStream::connect_addr(&address))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Held::UnixStream(stream)
        }
        "unix-dgram" => {
            let socket = UnixDatagram::bind_addr(&unix(address)?)?;
            socket.set_nonblocking(true)?;
            Held::UnixDatagram(socket)
        }
        "unix-seqpacket" => Held::Bare(sys::seqpacket_listener(address)?),
        _ => return Err(Error::other("there is no such kind of socket")),
    })
}

/// Opens the sockets of this process.
pub(crate) fn open_all(wanted: &[WantedSocket], own: usize) -> Result<Vec<HeldSocket>, String> {
    let own = wanted.iter().filter(|socket| socket.process == own);
    own.map(|socket| {
        let wanted = format!("{}:{}", socket.kind, socket.address);
        match open(&socket.kind, &socket.address) {
            Ok(held) => Ok(HeldSocket {
                wanted,
                held,
                reports: 0,
            }),
            Err(error) => Err(format!("{wanted}: {error}")),
        }
    })
    .collect()
}

/// Answers what has come on a connection; false when it has ended.
fn answer(stream: &mut (impl Read + Write), counter: u64) -> bool {
    let mut buffer = [0; 256];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => {
            let text = String::from_utf8_lossy(&buffer[..length]);
            stream
                .write_all(format!("{counter} {text}").as_bytes())
                .is_ok()
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

impl HeldSocket {
    /// Accepts and answers, without waiting.
    pub(crate) fn serve(&mut self, counter: u64) {
        match &mut self.held {
            Held::Listener(listener, accepted) => {
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok() {
                        accepted.push(stream);
                    }
                }
                accepted.retain_mut(|stream| answer(stream, counter));
            }
            Held::UnixListener(listener, accepted) => {
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok() {
                        accepted.push(stream);
                    }
                }
                accepted.retain_mut(|stream| answer(stream, counter));
            }
            Held::Udp(socket) => {
                let mut buffer = [0; 256];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    // Who does not wait for the answer misses it.
                    let _ = socket.send_to(format!("{counter} {text}").as_bytes(), from);
                }
            }
            Held::UnixDatagram(socket) => {
                let mut buffer = [0; 256];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let answer = format!("{counter} {text}");
                    let _ = socket.send_to_addr(answer.as_bytes(), &from);
                }
            }
            Held::Pair(..)
            | Held::Stream(_)
            | Held::UdpTo(_)
            | Held::UnixStream(_)
            | Held::Bare(_) => {}
        }
    }

    /// Tries it, and tells where it is.
    pub(crate) fn tell(&mut self) -> Told {
        self.reports += 1;
        let later = self.reports > 1;
        let local = |address: Result<SocketAddr, Error>| {
            address.map_or_else(|error| format!("({error})"), |address| address.to_string())
        };
        let peer = |address: Result<SocketAddr, Error>| address.ok().map(|at| at.to_string());
        let named = |address: Result<UnixAddr, Error>| match &address {
            Ok(address) => match (address.as_pathname(), address.as_abstract_name()) {
                (Some(path), _) => path.display().to_string(),
                (None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
                (None, None) => String::new(),
            },
            Err(error) => format!("({error})"),
        };
        let (fd, local, peer, said) = match &mut self.held {
            Held::Listener(listener, accepted) => (
                listener.as_raw_fd(),
                local(listener.local_addr()),
                None,
                format!("{} connections", accepted.len()),
            ),
            Held::Pair(listener, client, server, queued) => (
                listener.as_raw_fd(),
                local(client.local_addr()),
                peer(client.peer_addr()),
                said(exchange(
                    client,
                    server,
                    if later { *queued } else { 0 },
                    *queued > 0,
                )),
            ),
            Held::Stream(stream) => (
                stream.as_raw_fd(),
                local(stream.local_addr()),
                peer(stream.peer_addr()),
                said(ping(stream, true)),
            ),
            Held::Udp(socket) => (
                socket.as_raw_fd(),
                local(socket.local_addr()),
                None,
                String::new(),
            ),
            Held::UdpTo(socket) => {
                let mut buffer = [0; 256];
                let tried = socket.send(b"ping").and_then(|_| socket.recv(&mut buffer));
                (
                    socket.as_raw_fd(),
                    local(socket.local_addr()),
                    peer(socket.peer_addr()),
                    said(
                        tried.map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned()),
                    ),
                )
            }
            Held::UnixListener(listener, accepted) => (
                listener.as_raw_fd(),
                named(listener.local_addr()),
                None,
                format!("{} connections", accepted.len()),
            ),
            Held::UnixStream(stream) => (
                stream.as_raw_fd(),
                named(stream.local_addr()),
                Some(named(stream.peer_addr())),
                said(ping(stream, false)),
            ),
            Held::UnixDatagram(socket) => (
                socket.as_raw_fd(),
                named(socket.local_addr()),
                None,
                String::new(),
            ),
            Held::Bare(fd) => (fd.as_raw_fd(), sys::socket_name(fd), None, String::new()),
        };
        Told {
            fd,
            local,
            peer,
            said,
        }
    }
}

fn said(tried: Result<String, Error>) -> String {
    tried.unwrap_or_else(|error| match error.raw_os_error() {
        Some(number) => format!("errno {number}"),
        None => format!("({error})"),
    })
}

/// Whether the other end has gone, without waiting for it.
fn ended(stream: BorrowedFd<'_>) -> bool {
    stream
        .try_clone_to_owned()
        .map(TcpStream::from)
        .is_ok_and(|stream| {
            let quiet = stream.set_nonblocking(true).is_ok();
            let end = quiet && matches!(stream.peek(&mut [0]), Ok(0));
            let _ = stream.set_nonblocking(false);
            end
        })
}

/// Sends a word and waits for what the other end makes of it.
fn ping<S>(stream: &S, may_end: bool) -> Result<String, Error>
where
    S: AsFd,
    for<'s> &'s S: Read + Write,
{
    if may_end && ended(stream.as_fd()) {
        let written = (&*stream).write(b"ping");
        return Ok(format!(
            "end of file, then {}",
            said(written.map(|_| "written".to_owned()))
        ));
    }
    let mut other = stream;
    other.write_all(b"ping")?;
    let mut buffer = [0; 256];
    let length = other.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Reads what is in flight, and then sends a word in both directions.
fn exchange(
    client: &mut TcpStream,
    server: &mut TcpStream,
    in_flight: usize,
    full: bool,
) -> Result<String, Error> {
    if full && in_flight == 0 {
        return Ok("in flight".to_owned());
    }
    let mut bytes = vec![0; in_flight];
    server.read_exact(&mut bytes)?;
    let intact = bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == crate::pattern(at));
    let mut word = [0; 4];
    client.write_all(b"ping")?;
    server.read_exact(&mut word)?;
    server.write_all(b"pong")?;
    client.read_exact(&mut word)?;
    Ok(format!(
        "{in_flight} bytes {}, {}",
        if intact { "intact" } else { "DAMAGED" },
        String::from_utf8_lossy(&word)
    ))
}

/// Serves TCP and UDP on an address until the standard input ends.
pub(crate) fn serve(address: &str) -> Result<(), String> {
    let wrong = |error: Error| format!("{address}: {error}");
    let mut held = Vec::new();
    for kind in ["listen", "udp"] {
        held.push(HeldSocket {
            wanted: String::new(),
            held: open(kind, address).map_err(wrong)?,
            reports: 0,
        });
    }
    println!("serving");
    let ended = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut counter = 0;
    while !ended.is_finished() {
        counter += 1;
        held.iter_mut().for_each(|socket| socket.serve(counter));
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Sends a word to an address and returns the answer.
pub(crate) fn ask(kind: &str, address: &str) -> Result<String, String> {
    let asked = match kind {
        "tcp" => address
            .parse::<SocketAddr>()
            .map_err(Error::other)
            .and_then(|address| TcpStream::connect_timeout(&address, PATIENCE))
            .and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                ping(&stream, false)
            }),
        "udp" => {
            let any = if address.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            UdpSocket::bind(any).and_then(|socket| {
                socket.connect(address)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send(b"ping")?;
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            })
        }
        "unix" => unix(address)
            .and_then(|address| UnixStream::connect_addr(&address))
            .and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                ping(&stream, false)
            }),
        "unix-dgram" => unix(address).and_then(|to| {
            let own = UnixAddr::from_abstract_name(format!("ask-{}", std::process::id()))?;
            let socket = UnixDatagram::bind_addr(&own)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to_addr(b"ping", &to)?;
            let mut buffer = [0; 256];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        }),
        "unix-seqpacket" => sys::seqpacket_connect(address).map(|_| "connected".to_owned()),
        _ => return Err(format!("there is no kind {kind}")),
    };
    asked.map_err(|error| format!("{kind} {address}: {error}"))
}
