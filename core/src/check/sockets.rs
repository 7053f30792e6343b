//! Rules about sockets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{
    Circumstances, Facts, FileKind, Findings, InetSocket, OpenFile, Place, Rule, Task, UnixSocket,
};
use crate::finding::Severity;
use crate::policy::Tcp;

/// The kernel's names of the protocols that CRIU dumps (`criu/sockets.c`, `dump_socket`; `criu/sk-inet.c`,
/// `can_dump_ipproto`).
const UNIX: [&str; 2] = ["UNIX", "UNIX-STREAM"];
const WITH_OPTIONS: [&str; 9] = [
    "TCP",
    "TCPv6",
    "UDP",
    "UDPv6",
    "UDP-Lite",
    "UDPLITEv6",
    "RAW",
    "RAWv6",
    "PACKET",
];
const NETLINK: &str = "NETLINK";

/// `include/net/tcp_states.h`.
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
const SOCK_DGRAM: u8 = 2;

/// From here on the kernel refuses SO_PASSCRED and SO_PASSSEC to all but unix and netlink sockets.
const KERNEL_WITHOUT_PASSCRED: [u32; 2] = [6, 16];
/// From here on CRIU asks only those for it.
const CRIU_WITHOUT_PASSCRED: [u32; 3] = [4, 2, 0];

pub(super) fn check(facts: &Facts, circumstances: &Circumstances, findings: &mut Findings) {
    let held: BTreeSet<u64> = sockets(facts).map(|(_, file)| file.inode).collect();
    let inside: BTreeSet<SocketAddr> = facts
        .inet
        .iter()
        .filter(|(inode, socket)| held.contains(*inode) && socket.tcp)
        .map(|(_, socket)| socket.local)
        .collect();
    for (task, file) in sockets(facts) {
        let here = || Some(Place::of(task, Some(file.fd)));
        let protocol = file.protocol.as_deref().unwrap_or_default();
        if let Some(socket) = facts.unix.get(&file.inode) {
            unix(socket, file.inode, &held, facts, here(), findings);
            continue;
        }
        if facts.netlink_pending.contains(&file.inode) {
            findings.blocker(
                Rule::NetlinkWaiting,
                format!("socket:[{}]", file.inode),
                here(),
                "messages wait in this netlink socket, and CRIU cannot carry them along",
            );
        }
        if WITH_OPTIONS.contains(&protocol) {
            options(protocol, facts, here(), findings);
        } else if !UNIX.contains(&protocol) && protocol != NETLINK && !protocol.is_empty() {
            findings.blocker(
                Rule::SocketFamily,
                format!("{protocol} socket"),
                here(),
                "CRIU cannot dump sockets of this protocol",
            );
        }
        if let Some(socket) = facts.inet.get(&file.inode) {
            inet(socket, &inside, circumstances, here(), findings);
        }
    }
}

fn sockets(facts: &Facts) -> impl Iterator<Item = (&Task, &OpenFile)> {
    facts.tasks.iter().flat_map(|task| {
        let files = task
            .files
            .iter()
            .filter(|file| file.kind == FileKind::Socket);
        files.map(move |file| (task, file))
    })
}

fn options(protocol: &str, facts: &Facts, place: Option<Place>, findings: &mut Findings) {
    if let (Some(kernel), Some(criu)) = (facts.node.kernel, facts.node.criu_version)
        && kernel >= KERNEL_WITHOUT_PASSCRED
        && criu < CRIU_WITHOUT_PASSCRED
    {
        findings.blocker(
            Rule::SocketOptions,
            format!("{protocol} sockets"),
            place,
            format!(
                "criu {}.{}.{} asks each socket for SO_PASSCRED, which Linux {}.{} refuses to all but unix sockets",
                criu[0], criu[1], criu[2], kernel[0], kernel[1]
            ),
        );
    }
}

fn inet(
    socket: &InetSocket,
    inside: &BTreeSet<SocketAddr>,
    circumstances: &Circumstances,
    place: Option<Place>,
    findings: &mut Findings,
) {
    let InetSocket { local, remote, .. } = socket;
    let policy = circumstances.policy.as_ref().map(|policy| policy.tcp);
    if socket.tcp && socket.state == TCP_LISTEN && socket.waiting > 0 {
        let (severity, what) = if policy == Some(Tcp::Close) {
            (Severity::Warning, "they are dropped")
        } else {
            (Severity::Blocker, "CRIU cannot carry them along")
        };
        let text = format!("{} connections wait to be accepted; {what}", socket.waiting);
        findings.add(
            severity,
            Rule::TcpWaiting,
            format!("TCP {local}"),
            place.clone(),
            text,
        );
    }
    if socket.tcp && ![TCP_CLOSE, TCP_LISTEN].contains(&socket.state) {
        let (severity, what) = match (policy, inside.contains(remote)) {
            // Restow has CRIU take it along, and both ends arrive.
            (Some(_), true) => return,
            (None, true) => (
                Severity::Warning,
                "both ends are in the tree; CRIU refuses it without --tcp-established",
            ),
            (None, false) => (
                Severity::Warning,
                "its peer is outside of the tree; CRIU refuses it without --tcp-established",
            ),
            (Some(Tcp::Close), false) => (
                Severity::Warning,
                "its peer is outside of the tree; it ends at the restore",
            ),
            (Some(Tcp::Keep), false) => (
                Severity::Warning,
                "its peer is outside of the tree; it goes on only where the new pod has this address",
            ),
            (Some(Tcp::Refuse), false) => (
                Severity::Blocker,
                "its peer is outside of the tree, which restow.dev/tcp=refuse forbids",
            ),
        };
        findings.add(
            severity,
            Rule::TcpEstablished,
            format!("TCP {local} to {remote}"),
            place,
            what,
        );
    } else if policy.is_none() && local.port() != 0 && own_address(local.ip()) {
        // Restow gives it the new pod's address.
        let protocol = if socket.tcp { "TCP" } else { "UDP" };
        findings.warning(
            Rule::ListenAddress,
            format!("{protocol} {local}"),
            place,
            "it is bound to an address that another pod has not got",
        );
    }
}

/// An address that belongs to one pod or node.
fn own_address(address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

fn unix(
    socket: &UnixSocket,
    inode: u64,
    held: &BTreeSet<u64>,
    facts: &Facts,
    place: Option<Place>,
    findings: &mut Findings,
) {
    if socket.pending.contains(&0) {
        findings.blocker(
            Rule::UnixClosed,
            socket.name.clone().unwrap_or_else(|| format!("socket:[{inode}]")),
            place.clone(),
            "a connection was closed before it was accepted, and CRIU cannot tell whether it sent anything",
        );
    }
    let Some(peer) = socket.peer.filter(|peer| !held.contains(peer)) else {
        return;
    };
    let name = facts.unix.get(&peer).and_then(|peer| peer.name.clone());
    let object = name.clone().unwrap_or_else(|| format!("socket:[{peer}]"));
    if socket.kind == SOCK_DGRAM && name.is_some() {
        findings.warning(
            Rule::UnixOutside,
            object,
            place,
            "this socket outside of the tree is its peer; CRIU refuses that without --ext-unix-sk",
        );
    } else {
        findings.blocker(
            Rule::UnixOutside,
            object,
            place,
            "it is connected to a process outside of the tree, and CRIU cannot dump half of a connection",
        );
    }
}
