//! The sockets of a checkpoint: internet ones of any protocol, and unix ones.
//!
//! CRIU keeps one entry for each in `files.img`. What a TCP connection had in its queues is in `tcp-stream-<inode>.img`, which
//! nothing here reads or changes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use criu_image::views::{InetSkEntry, UnixSkEntry};

use crate::finding::Holder;
use crate::ids::{ContainerPath, FileId, MountId};

/// Address families, types and protocols as Linux numbers them.
const AF_INET: u32 = 2;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const SOCK_SEQPACKET: u32 = 5;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// What an internet socket speaks.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite, ICMP echo and raw sockets.
    Other,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Other => "ip",
        })
    }
}

/// State of a socket, numbered as the kernel does (`include/net/tcp_states.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(pub u32);

impl State {
    /// Connected.
    pub const ESTABLISHED: Self = Self(1);
    /// Neither connected nor listening.
    pub const CLOSED: Self = Self(7);
    /// Listening.
    pub const LISTENING: Self = Self(10);
}

/// An internet socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InetSocket {
    /// Its id among the internet sockets of the image set.
    pub id: FileId,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its state.
    pub state: State,
    /// The address it is bound to; port 0 when it is not. An IPv4 address of an IPv6 socket is `::ffff:a.b.c.d`.
    pub local: SocketAddr,
    /// The address it is connected to.
    pub peer: Option<SocketAddr>,
    /// It is an IPv6 socket that takes no IPv4 connections.
    pub v6only: bool,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

impl InetSocket {
    /// Whether it is one end of a TCP connection, in whatever state: CRIU takes every TCP socket with a peer for one
    /// (`criu/sk-inet.c`, `tcp_connection`).
    pub fn connection(&self) -> bool {
        self.protocol == Protocol::Tcp && self.peer.is_some()
    }

    /// Whether it listens.
    pub fn listens(&self) -> bool {
        self.protocol == Protocol::Tcp && self.state == State::LISTENING
    }
}

/// Kind of a unix socket.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum UnixKind {
    /// A byte stream.
    Stream,
    /// Datagrams.
    Datagram,
    /// Sequences of packets.
    Seqpacket,
}

/// A unix socket that is bound to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its id among the unix sockets of the image set.
    pub id: FileId,
    /// Its kind.
    pub kind: UnixKind,
    /// Its state.
    pub state: State,
    /// Its name.
    pub name: UnixName,
    /// Its path is gone: CRIU binds it and takes the path away again.
    pub deleted: bool,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

impl UnixSocket {
    /// Whether CRIU binds it: ends of connections are made with their listener or as a pair
    /// (`criu/sk-unix.c`, `bind_unix_sk`).
    pub fn is_bound_at_restore(&self) -> bool {
        self.kind == UnixKind::Datagram || self.state != State::ESTABLISHED
    }
}

/// What a unix socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnixName {
    /// A path.
    Path {
        /// From the container's root; one that was bound as a relative path is below the directory it was bound in.
        path: ContainerPath,
        /// The mount it is on, where CRIU knows it.
        mount: Option<MountId>,
    },
    /// An abstract name, which belongs to the network namespace. Any bytes, without the leading zero.
    Abstract(Vec<u8>),
}

/// The name as `ss(8)` and `lsof(8)` show it: abstract ones after an `@`, other bytes than text escaped.
impl std::fmt::Display for UnixName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path { path, .. } => path.fmt(f),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

/// How CRIU locked a network, as `inventory.img` says: the numbers of `enum NETWORK_LOCK_METHOD` of `criu/include/cr_options.h`,
/// which are not those of `rpc.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockMethod(pub u32);

impl LockMethod {
    /// With iptables; what CRIU does unless told otherwise, and what images that say nothing were made with.
    pub const IPTABLES: Self = Self(0);
    /// With nftables.
    pub const NFTABLES: Self = Self(1);
}

/// All sockets of a checkpoint that the rules are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Internet sockets, in the order of the image.
    pub inet: Vec<InetSocket>,
    /// Unix sockets with a name, in the order of the image.
    pub unix: Vec<UnixSocket>,
    /// CRIU left the content of all TCP connections out (`--tcp-close` at dump).
    pub tcp_close: bool,
    /// The init had a network namespace other than that of the criu that dumped it.
    pub own_network: bool,
    /// Who holds an internet socket, by id, until [`Sockets::give_holders`].
    pub(super) inet_holders: BTreeMap<FileId, Vec<Holder>>,
    /// The same of unix sockets.
    pub(super) unix_holders: BTreeMap<FileId, Vec<Holder>>,
}

impl Sockets {
    pub(super) fn add_inet(&mut self, entry: &InetSkEntry) {
        let local = SocketAddr::new(address(entry.family, &entry.src_addr), port(entry.src_port));
        let peer = SocketAddr::new(address(entry.family, &entry.dst_addr), port(entry.dst_port));
        let protocol = match (entry.type_, entry.proto) {
            (SOCK_RAW, _) => Protocol::Other,
            (_, IPPROTO_TCP) => Protocol::Tcp,
            (_, IPPROTO_UDP) => Protocol::Udp,
            _ => Protocol::Other,
        };
        self.inet.push(InetSocket {
            id: FileId(entry.id),
            protocol,
            state: State(entry.state),
            local,
            peer: (entry.dst_port != 0).then_some(peer),
            v6only: entry.v6only.unwrap_or(false),
            holders: Vec::new(),
        });
    }

    pub(super) fn add_unix(&mut self, entry: &UnixSkEntry) {
        let name = match entry.name.0.split_first() {
            None => return,
            Some((0, name)) => UnixName::Abstract(name.to_vec()),
            Some(_) => {
                let text = entry.name.0.split(|byte| *byte == 0).next().unwrap_or(&[]);
                let base = entry.name_dir.as_ref().map(ContainerPath::new);
                let path = Path::new(OsStr::from_bytes(text));
                let path = match base.filter(|_| path.is_relative()) {
                    Some(base) => base.join(path),
                    None => ContainerPath::new(path),
                };
                let mount = entry.mnt_id.and_then(|id| u32::try_from(id.0).ok());
                UnixName::Path {
                    path,
                    mount: mount.map(MountId),
                }
            }
        };
        let kind = match entry.type_ {
            SOCK_DGRAM => UnixKind::Datagram,
            SOCK_SEQPACKET => UnixKind::Seqpacket,
            _ => UnixKind::Stream,
        };
        self.unix.push(UnixSocket {
            id: FileId(entry.id),
            kind,
            state: State(entry.state),
            name,
            deleted: entry.deleted.unwrap_or(false),
            holders: Vec::new(),
        });
    }

    /// Gives each socket its holders, once all descriptor tables and all sockets are read.
    pub(super) fn give_holders(&mut self) {
        for holders in self
            .inet_holders
            .values_mut()
            .chain(self.unix_holders.values_mut())
        {
            holders.sort_unstable();
        }
        for socket in &mut self.inet {
            socket.holders = self.inet_holders.remove(&socket.id).unwrap_or_default();
        }
        for socket in &mut self.unix {
            socket.holders = self.unix_holders.remove(&socket.id).unwrap_or_default();
        }
    }
}

fn port(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(0)
}

/// An address as CRIU keeps it: the bytes in network order, taken as numbers of the machine. Missing parts are zero, which is
/// the unspecified address.
fn address(family: u32, parts: &[u32]) -> IpAddr {
    let part = |at: usize| parts.get(at).copied().unwrap_or(0).to_ne_bytes();
    if family == AF_INET {
        return IpAddr::V4(Ipv4Addr::from(part(0)));
    }
    let mut bytes = [0; 16];
    for at in 0..4 {
        bytes[4 * at..4 * at + 4].copy_from_slice(&part(at));
    }
    IpAddr::V6(Ipv6Addr::from(bytes))
}

#[cfg(test)]
mod tests {
    use criu_image::Bytes;

    use super::*;

    #[test]
    fn addresses_are_in_network_byte_order() {
        let v4 = u32::from_ne_bytes([10, 88, 0, 15]);
        assert_eq!(address(AF_INET, &[v4]).to_string(), "10.88.0.15");
        let mapped = [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), v4];
        assert_eq!(address(10, &mapped).to_string(), "::ffff:10.88.0.15");
        // Damage does not panic.
        assert_eq!(address(10, &[]).to_string(), "::");
    }

    #[test]
    fn names_of_unix_sockets() {
        let named = |name: &[u8], dir: Option<&str>| {
            let mut sockets = Sockets::default();
            sockets.add_unix(&UnixSkEntry {
                name: Bytes(name.to_vec()),
                name_dir: dir.map(Into::into),
                ..UnixSkEntry::default()
            });
            sockets.unix.first().map(|socket| socket.name.to_string())
        };
        assert_eq!(named(b"", None), None);
        assert_eq!(named(b"/run/x\0", None).as_deref(), Some("/run/x"));
        assert_eq!(named(b"x", Some("/data")).as_deref(), Some("/data/x"));
        assert_eq!(named(b"\0a\0b\xff", None).as_deref(), Some("@a\\x00b\\xff"));
    }
}
