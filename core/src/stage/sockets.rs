//! Edits of internet sockets in `files.img`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use criu_image::views::InetSkEntry;

use crate::ids::FileId;
use crate::plan::{Plan, SocketAction, SocketPlan};
use crate::source::State;

/// `SK_SHUTDOWN__BOTH` of `sk-opts.proto`.
const SHUT_BOTH: u32 = 3;

/// The sockets that change, by id.
pub(super) fn changed(plan: &Plan) -> BTreeMap<FileId, &SocketPlan> {
    let sockets = plan.sockets.inet.iter();
    let sockets = sockets.filter(|socket| socket.action != SocketAction::Keep);
    sockets.map(|socket| (socket.id, socket)).collect()
}

/// Puts a socket where the plan wants it.
///
/// CRIU takes a TCP entry without a remote port for a socket that is no connection, so that it asks for no `tcp-stream` image
/// (`criu/sk-inet.c`, `tcp_connection`), and shuts a closed one down where the entry says so, without minding that it is not
/// connected (`open_inet_sk`).
pub(super) fn edit(entry: &mut InetSkEntry, socket: &SocketPlan) {
    (entry.src_addr, entry.src_port) = parts(socket.new.local);
    match socket.new.peer {
        Some(peer) => (entry.dst_addr, entry.dst_port) = parts(peer),
        None => {
            entry.dst_addr = vec![0; entry.src_addr.len()];
            entry.dst_port = 0;
        }
    }
    if socket.action == SocketAction::Close {
        entry.state = State::CLOSED.0;
        entry.shutdown = Some(SHUT_BOTH);
    }
}

/// An address as CRIU keeps it: the bytes in network order, taken as numbers of the machine.
fn parts(address: SocketAddr) -> (Vec<u32>, u32) {
    let parts = match address.ip() {
        IpAddr::V4(v4) => vec![u32::from_ne_bytes(v4.octets())],
        IpAddr::V6(v6) => {
            let bytes = v6.octets();
            let words = bytes.as_chunks::<4>().0.iter();
            words.map(|word| u32::from_ne_bytes(*word)).collect()
        }
    };
    (parts, address.port().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SocketPlace;
    use crate::source::Protocol;

    fn planned(action: SocketAction, local: &str, peer: Option<&str>) -> SocketPlan {
        let place = SocketPlace {
            local: local.parse().unwrap(),
            peer: peer.map(|peer| peer.parse().unwrap()),
        };
        SocketPlan {
            id: FileId(1),
            protocol: Protocol::Tcp,
            old: place,
            new: place,
            listens: false,
            action,
            rule: crate::finding::Rule::Connection,
            holders: Vec::new(),
        }
    }

    fn connected() -> InetSkEntry {
        InetSkEntry {
            state: State::ESTABLISHED.0,
            src_port: 4000,
            dst_port: 80,
            src_addr: vec![1],
            dst_addr: vec![2],
            ..InetSkEntry::default()
        }
    }

    #[test]
    fn a_connection_moves_with_both_ends() {
        let mut entry = connected();
        edit(
            &mut entry,
            &planned(SocketAction::Rebind, "10.0.0.2:4000", Some("[::1]:80")),
        );
        assert_eq!(entry.src_addr, [u32::from_ne_bytes([10, 0, 0, 2])]);
        assert_eq!(entry.dst_addr, [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])]);
        assert_eq!((entry.src_port, entry.dst_port), (4000, 80));
        assert_eq!((entry.state, entry.shutdown), (State::ESTABLISHED.0, None));
    }

    #[test]
    fn a_closed_connection_is_none_for_criu() {
        let mut entry = connected();
        edit(&mut entry, &planned(SocketAction::Close, "0.0.0.0:0", None));
        assert_eq!((entry.src_port, entry.dst_port), (0, 0));
        assert_eq!((entry.src_addr, entry.dst_addr), (vec![0], vec![0]));
        assert_eq!(
            (entry.state, entry.shutdown),
            (State::CLOSED.0, Some(SHUT_BOTH))
        );
    }
}
