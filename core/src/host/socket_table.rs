//! The sockets of a network namespace, as `/proc/<pid>/net` lists them, and those that a tree of processes holds.
//!
//! The lists have sockets that are bound, listening or connected; closed ones and unbound ones are in none of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::{PidFd, RestoredTree};
use crate::finding::Holder;
use crate::ids::{FileId, HostPid};
use crate::source::{InetSocket, Protocol, State};
use crate::verify::{InetLine, Restored, UnixLine};

/// A flag of a listening unix socket (`__SO_ACCEPTCON` of `include/uapi/linux/net.h`).
const ACCEPTS: u32 = 1 << 16;

/// The sockets of a network namespace, by inode number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketTable {
    /// TCP and UDP sockets.
    pub inet: BTreeMap<u64, InetLine>,
    /// Unix sockets.
    pub unix: BTreeMap<u64, UnixLine>,
}

impl SocketTable {
    /// Reads the lists of a process's network namespace.
    ///
    /// # Errors
    /// When the process is gone. A kernel without IPv6 has no lists of it, which is no error.
    pub fn of(pid: HostPid) -> io::Result<Self> {
        let mut table = Self::default();
        let lists = [
            ("tcp", Protocol::Tcp),
            ("tcp6", Protocol::Tcp),
            ("udp", Protocol::Udp),
            ("udp6", Protocol::Udp),
        ];
        for (name, protocol) in lists {
            match std::fs::read_to_string(format!("/proc/{pid}/net/{name}")) {
                Ok(text) => table.inet.extend(inet_lines(&text, protocol)),
                Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with('6') => {}
                Err(error) => return Err(error),
            }
        }
        let unix = std::fs::read(format!("/proc/{pid}/net/unix"))?;
        table.unix.extend(unix_lines(&unix));
        Ok(table)
    }
}

fn inet_lines(text: &str, protocol: Protocol) -> impl Iterator<Item = (u64, InetLine)> {
    text.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = address(words.next()?)?;
        let peer = address(words.next()?).filter(|peer| peer.port() != 0);
        let state = State(u32::from_str_radix(words.next()?, 16).ok()?);
        let inode = words.nth(5)?.parse().ok()?;
        let found = InetLine {
            protocol,
            local,
            peer,
            state,
        };
        Some((inode, found))
    })
}

/// `0F00580A:1F41`: the address as one or four numbers of the machine, and the port.
fn address(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let part = |at: usize| {
        let number = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(number.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(part(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[4 * at..4 * at + 4].copy_from_slice(&part(8 * at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// `address: references protocol flags type state inode name`.
fn unix_lines(text: &[u8]) -> impl Iterator<Item = (u64, UnixLine)> {
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let mut rest = line;
            let mut word = || {
                let start = rest.iter().position(|byte| *byte != b' ')?;
                let end = rest[start..].iter().position(|byte| *byte == b' ');
                let (word, left) = rest[start..].split_at(end.unwrap_or(rest.len() - start));
                rest = left;
                std::str::from_utf8(word).ok()
            };
            let flags = u32::from_str_radix(
                word()
                    .and_then(|_| word())
                    .and_then(|_| word())
                    .and_then(|_| word())?,
                16,
            );
            let inode = word()
                .and_then(|_| word())
                .and_then(|_| word())?
                .parse()
                .ok()?;
            let name = rest.strip_prefix(b" ").unwrap_or(rest).to_vec();
            let listens = flags.ok()? & ACCEPTS != 0;
            Some((inode, UnixLine { name, listens }))
        })
}

/// The inode of the socket behind a descriptor, `None` when it is no socket.
///
/// # Errors
/// When there is no such descriptor.
pub fn socket_inode(descriptor: &Path) -> io::Result<Option<u64>> {
    let link = std::fs::read_link(descriptor)?;
    let text = link
        .to_str()
        .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
    Ok(text.and_then(|inode| inode.parse().ok()))
}

/// The TCP and UDP sockets that the tree below `init` holds, for a look at its connections before a dump. The tree may be
/// running: what comes and goes meanwhile may be missing. The ids are of no image.
///
/// # Errors
/// When the tree or its network namespace cannot be read.
pub fn sockets_of(init: HostPid) -> io::Result<Vec<InetSocket>> {
    let table = SocketTable::of(init)?;
    let mut held: BTreeMap<u64, Vec<Holder>> = BTreeMap::new();
    for (ns_pid, pid) in RestoredTree::of(init)?.tasks() {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            if let (Some(fd), Ok(Some(inode))) = (number, socket_inode(&entry.path())) {
                held.entry(inode)
                    .or_default()
                    .push(Holder { pid: *ns_pid, fd });
            }
        }
    }
    let sockets = held.into_iter().filter_map(|(inode, holders)| {
        let line = table.inet.get(&inode)?;
        Some(InetSocket {
            id: FileId(0),
            protocol: line.protocol,
            state: line.state,
            local: line.local,
            peer: line.peer,
            v6only: false,
            holders,
        })
    });
    Ok(sockets.collect())
}

/// Ends the repair mode that a killed criu leaves the TCP connections of a tree in that goes on (`soccr/soccr.c`,
/// `libsoccr_pause`): the kernel sends nothing on them until then. Returns how many there were.
///
/// # Errors
/// When the tree or its network namespace cannot be read, or a connection cannot be reached.
pub fn end_repair(init: HostPid) -> io::Result<usize> {
    let tree = RestoredTree::of(init)?;
    let mut ended = 0;
    for socket in sockets_of(init)?
        .iter()
        .filter(|socket| socket.connection())
    {
        // One descriptor is as good as another.
        let Some(holder) = socket.holders.first() else {
            continue;
        };
        let (Some(pid), Ok(number)) = (tree.tasks().get(&holder.pid), holder.fd.try_into()) else {
            continue;
        };
        let fd = PidFd::open(pid.0)?.descriptor(number)?;
        if getsockopt(&fd, sockopt::TcpRepair)? != 0 {
            setsockopt(&fd, sockopt::TcpRepair, &0)?;
            ended += 1;
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_lists() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                   0: 0F00580A:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0\n";
        let (inode, line) = inet_lines(tcp, Protocol::Tcp).next().unwrap();
        assert_eq!(
            (inode, line.local.to_string()),
            (4711, "10.88.0.15:8001".into())
        );
        assert_eq!((line.peer, line.state), (None, State::LISTENING));
        let mapped = address("0000000000000000FFFF00000F00580A:0050").unwrap();
        assert_eq!(mapped.to_string(), "[::ffff:10.88.0.15]:80");
        assert_eq!(address("0F00580A"), None);
        let unix = b"Num RefCount Protocol Flags Type St Inode Path\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 10013 /run/with space\n\
                     0000000000000000: 00000002 00000000 00000000 0002 01 10014 @a@b\n\
                     0000000000000000: 00000003 00000000 00000000 0001 03 10015\n";
        let lines: Vec<_> = unix_lines(unix).collect();
        let named = |at: usize| String::from_utf8_lossy(&lines[at].1.name).into_owned();
        assert_eq!(
            (lines[0].0, named(0), lines[0].1.listens),
            (10013, "/run/with space".into(), true)
        );
        assert_eq!(
            (lines[1].0, named(1), lines[1].1.listens),
            (10014, "@a@b".into(), false)
        );
        assert_eq!((lines[2].0, named(2)), (10015, String::new()));
    }
}
