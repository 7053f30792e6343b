//! Established TCP connections: which are inside the container, and which lead out of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::addresses::plain;
use crate::finding::{Finding, Object, Rule};
use crate::source::InetSocket;

/// Both ends of a connection as one end sees it.
type Ends = (SocketAddr, SocketAddr);

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(plain(address.ip()), address.port())
}

fn ends(socket: &InetSocket) -> Option<Ends> {
    let peer = socket.peer.filter(|_| socket.connection())?;
    Some((canonical(socket.local), canonical(peer)))
}

/// The connections among some sockets.
pub struct Connections {
    ends: BTreeSet<Ends>,
}

impl Connections {
    /// Learns them.
    pub fn of<'a>(sockets: impl IntoIterator<Item = &'a InetSocket>) -> Self {
        Self {
            ends: sockets.into_iter().filter_map(ends).collect(),
        }
    }

    /// Whether the other end of this connection is among the sockets too. One that nobody has accepted yet is not.
    pub fn inside(&self, socket: &InetSocket) -> bool {
        ends(socket).is_some_and(|(local, peer)| self.ends.contains(&(peer, local)))
    }
}

/// How a finding names an internet socket.
pub(super) fn object(socket: &InetSocket) -> Object {
    Object::Socket {
        protocol: socket.protocol.to_string(),
        local: canonical(socket.local).to_string(),
        peer: socket.peer.map(|peer| canonical(peer).to_string()),
        holders: socket.holders.clone(),
    }
}

/// The connections that lead out of a container, each as a blocker: what `restow.dev/tcp: refuse` says to a checkpoint.
pub fn refused(sockets: &[InetSocket]) -> Vec<Finding> {
    let connections = Connections::of(sockets);
    let outside = sockets
        .iter()
        .filter(|socket| socket.connection() && !connections.inside(socket));
    outside.map(refusal).collect()
}

pub(super) fn refusal(socket: &InetSocket) -> Finding {
    Finding::blocker(
        Rule::Connection,
        object(socket),
        "the connection leads out of the container and tcp=refuse forbids that",
    )
    .way_out("end it, or set restow.dev/tcp to close or keep")
}
