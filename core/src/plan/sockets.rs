//! Sockets: those on an address of the old pod get the new pod's, connections inside the container go on, connections to the
//! outside end or stay as the policy says.
//!
//! CRIU restores a TCP connection by putting both addresses and the queues back (`TCP_REPAIR`), whatever the addresses are, so
//! a pair of ends that both get the new address is a connection again. What is not to be restored becomes a closed socket in
//! the image, with both directions shut down: reads give end of file, writes EPIPE.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::addresses::AddressMap;
use super::connections::{Connections, object, refusal};
use super::resolve::{Lookup, Resolved, Resolver};
use crate::finding::{Finding, Holder, Object, Rule};
use crate::ids::{ContainerPath, FileId};
use crate::policy::{Policy, Tcp};
use crate::source::{InetSocket, Protocol, Source, State, UnixKind, UnixName, UnixSocket};
use crate::target::{Endpoint, Target, TargetNetwork, Trial};

/// What becomes of an internet socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPlan {
    /// Its id among the internet sockets.
    pub id: FileId,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it is in the checkpoint.
    pub old: SocketPlace,
    /// Where it is after the restore.
    pub new: SocketPlace,
    /// It listens for connections.
    pub listens: bool,
    /// What is done.
    pub action: SocketAction,
    /// Why.
    pub rule: Rule,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

impl SocketPlan {
    /// Whether it is one end of a TCP connection after the restore.
    pub fn connected(&self) -> bool {
        self.protocol == Protocol::Tcp && self.new.peer.is_some()
    }
}

/// The addresses of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPlace {
    /// Its own; port 0 when it is not bound.
    pub local: SocketAddr,
    /// The other end's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
}

/// What is done with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketAction {
    /// It is restored where it was.
    Keep,
    /// It is restored with other addresses.
    Rebind,
    /// It is restored unconnected, because there is no way to its peer.
    Disconnect,
    /// The connection is not restored: the socket is closed.
    Close,
}

/// What becomes of a unix socket with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixPlan {
    /// Its id among the unix sockets.
    pub id: FileId,
    /// Its kind.
    pub kind: UnixKind,
    /// Its name, abstract ones after an `@`; the same before and after.
    pub name: String,
    /// It listens for connections.
    pub listens: bool,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

/// What becomes of all sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketsPlan {
    /// Internet sockets.
    pub inet: Vec<SocketPlan>,
    /// Unix sockets that are bound to a name.
    pub unix: Vec<UnixPlan>,
    /// The new pod's network is locked until the connections in it are put together.
    pub locks_network: bool,
    /// CRIU wants to be told again that the checkpoint was made with `--tcp-close`.
    pub tcp_close: bool,
}

impl SocketsPlan {
    /// Whether CRIU has TCP connections to restore.
    pub fn connections(&self) -> bool {
        self.inet.iter().any(SocketPlan::connected)
    }
}

/// The places for sockets that a plan wants to have tried ([`crate::host::network::try_endpoints`]).
pub fn endpoints(source: &Source, network: &TargetNetwork) -> BTreeSet<Endpoint> {
    let map = AddressMap::new(source, network);
    let inet = source.sockets.inet.iter();
    let inet = inet.filter_map(|socket| place(socket, &map).and_then(|new| endpoint(socket, new)));
    let unix = source.sockets.unix.iter().filter_map(abstract_endpoint);
    inet.chain(unix).collect()
}

/// Directories that must be there for unix sockets to be bound in them.
pub(super) fn lookups(source: &Source, resolver: &Resolver<'_>) -> Vec<Lookup> {
    let unix = source.sockets.unix.iter();
    unix.filter_map(|socket| directory(socket, resolver).ok().flatten())
        .collect()
}

pub(super) fn plan(
    source: &Source,
    target: &Target,
    policy: &Policy,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) -> SocketsPlan {
    let unix = source.sockets.unix.iter();
    let unix = unix.filter(|socket| socket.is_bound_at_restore());
    let unix = unix
        .map(|socket| {
            findings.extend(in_the_way(socket, target, resolver));
            UnixPlan {
                id: socket.id,
                kind: socket.kind,
                name: socket.name.to_string(),
                listens: socket.state == State::LISTENING,
                holders: socket.holders.clone(),
            }
        })
        .collect();
    let planner = Planner {
        source,
        policy,
        connections: Connections::of(&source.sockets.inet),
        network: target.network.as_ref(),
        map: target
            .network
            .as_ref()
            .map(|network| AddressMap::new(source, network)),
    };
    let inet = source.sockets.inet.iter();
    let inet: Vec<SocketPlan> = inet
        .filter_map(|socket| planner.inet(socket, findings))
        .collect();
    SocketsPlan {
        // The network of the node itself is never locked.
        locks_network: target.network_namespace.is_some() && inet.iter().any(SocketPlan::connected),
        inet,
        unix,
        tcp_close: source.sockets.tcp_close,
    }
}

/// Where a socket goes; `None` when the new pod has no address for it.
fn place(socket: &InetSocket, map: &AddressMap) -> Option<SocketPlace> {
    let peer = match socket.peer {
        Some(peer) => Some(map.map_socket(peer)?),
        None => None,
    };
    Some(SocketPlace {
        local: map.map_socket(socket.local)?,
        peer,
    })
}

/// What to try for a socket that is to be at `new`.
fn endpoint(socket: &InetSocket, new: SocketPlace) -> Option<Endpoint> {
    // Connections are put back by repair, which no listener is in the way of.
    (new.local.port() != 0 && !socket.connection() && socket.protocol != Protocol::Other).then_some(
        Endpoint::Inet {
            protocol: socket.protocol,
            local: new.local,
            peer: new.peer,
            v6only: socket.v6only,
        },
    )
}

fn abstract_endpoint(socket: &UnixSocket) -> Option<Endpoint> {
    match &socket.name {
        UnixName::Abstract(name) if socket.is_bound_at_restore() => Some(Endpoint::Abstract {
            kind: socket.kind,
            name: name.clone(),
        }),
        _ => None,
    }
}

struct Planner<'a> {
    source: &'a Source,
    policy: &'a Policy,
    connections: Connections,
    network: Option<&'a TargetNetwork>,
    map: Option<AddressMap>,
}

impl Planner<'_> {
    fn inet(&self, socket: &InetSocket, findings: &mut Vec<Finding>) -> Option<SocketPlan> {
        let old = SocketPlace {
            local: socket.local,
            peer: socket.peer,
        };
        let as_planned = |new, action, rule| SocketPlan {
            id: socket.id,
            protocol: socket.protocol,
            old,
            new,
            listens: socket.listens(),
            action,
            rule,
            holders: socket.holders.clone(),
        };
        if socket.connection() && !self.stays(socket, findings)? {
            let new = nowhere(socket);
            return Some(as_planned(new, SocketAction::Close, Rule::Connection));
        }
        let rule = if socket.connection() {
            Rule::Connection
        } else {
            Rule::Socket
        };
        let Some(map) = &self.map else {
            return Some(as_planned(old, SocketAction::Keep, rule));
        };
        let Some(new) = place(socket, map) else {
            let text = "the new pod has no address that could take the place of the old pod's";
            findings.push(Finding::blocker(rule, object(socket), text).way_out(
                "give it one of the same family on an interface of the same name, or close the socket before the checkpoint",
            ));
            return None;
        };
        let trial = endpoint(socket, new)
            .and_then(|endpoint| self.network?.trials.get(&endpoint).copied())
            .unwrap_or(Trial::Fine);
        let (new, action) = match trial {
            Trial::NotBound(errno) => {
                let text = format!(
                    "{} cannot be bound in the new pod: {}",
                    new.local,
                    not_bound(errno)
                );
                findings.push(Finding::blocker(rule, object(socket), text).way_out(TAKEN));
                return None;
            }
            Trial::NotConnected(errno) => {
                let text = format!(
                    "the new pod has no way to {} ({}); the socket is not connected any more, and sending without an \
                     address fails",
                    shown_peer(new),
                    std::io::Error::from_raw_os_error(errno)
                );
                findings.push(Finding::warning(rule, object(socket), text));
                (SocketPlace { peer: None, ..new }, SocketAction::Disconnect)
            }
            Trial::Fine if new == old => (new, SocketAction::Keep),
            Trial::Fine => {
                findings.push(Finding::note(rule, object(socket), moved(old, new)));
                (new, SocketAction::Rebind)
            }
        };
        Some(as_planned(new, action, rule))
    }

    /// Whether a connection goes on; `None` when the restore is not possible with it.
    fn stays(&self, socket: &InetSocket, findings: &mut Vec<Finding>) -> Option<bool> {
        let inside = self.connections.inside(socket);
        if self.source.sockets.tcp_close {
            let text =
                "the checkpoint was made with tcp-close, which keeps no connection: it is closed";
            findings.push(Finding::warning(Rule::Connection, object(socket), text));
            return Some(false);
        }
        if inside {
            return Some(true);
        }
        match self.policy.tcp {
            Tcp::Close => {
                let text = match &self.map {
                    Some(map) if socket.peer.is_some_and(|peer| map.was_the_pods(peer.ip())) => {
                        "its other end is in the pod but not in this checkpoint (another container's, or not accepted yet): \
                         it is closed, as tcp=close says"
                    }
                    _ => "it leads out of the container: it is closed, as tcp=close says",
                };
                findings.push(Finding::warning(Rule::Connection, object(socket), text));
                Some(false)
            }
            Tcp::Refuse => {
                findings.push(refusal(socket));
                None
            }
            Tcp::Keep => {
                let there = self
                    .map
                    .as_ref()
                    .is_none_or(|map| map.has(socket.local.ip()));
                if !there {
                    let text =
                        "tcp=keep needs the old address in the new pod, which has not got it";
                    findings.push(
                        Finding::blocker(Rule::Connection, object(socket), text)
                            .way_out("give the pod that address, or set restow.dev/tcp to close"),
                    );
                }
                there.then_some(true)
            }
        }
    }
}

/// Where a closed socket is: nowhere, in its family.
fn nowhere(socket: &InetSocket) -> SocketPlace {
    let any = match socket.local {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketPlace {
        local: SocketAddr::new(any, 0),
        peer: None,
    }
}

fn shown_peer(place: SocketPlace) -> String {
    place
        .peer
        .map_or_else(|| "its peer".to_owned(), |peer| peer.to_string())
}

fn moved(old: SocketPlace, new: SocketPlace) -> String {
    match new.peer.filter(|_| new.peer != old.peer) {
        Some(peer) => format!("it becomes {} connected to {peer}", new.local),
        None => format!("it becomes {}", new.local),
    }
}

fn not_bound(errno: i32) -> String {
    match errno {
        libc::EADDRINUSE => "another socket of its network namespace has that place".to_owned(),
        libc::EADDRNOTAVAIL => "the address is none of its own".to_owned(),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

const TAKEN: &str = "end the program that has it; it may be another container's of the pod";

/// Why a unix socket cannot be bound.
fn in_the_way(socket: &UnixSocket, target: &Target, resolver: &Resolver<'_>) -> Option<Finding> {
    let object = Object::Socket {
        protocol: "unix".into(),
        local: socket.name.to_string(),
        peer: None,
        holders: socket.holders.clone(),
    };
    let (text, way_out) = match directory(socket, resolver) {
        Err(MountGone) => {
            let text = "it is on a mount that the new pod has not got";
            (text.to_owned(), "give the pod that mount")
        }
        Ok(Some(lookup)) if target.fact(&lookup.path()) == Some(None) => {
            let path = lookup.path();
            let text = format!("its directory does not exist in the new pod ({path})");
            (text, "make it, or carry the volume's content along")
        }
        Ok(_) => {
            let endpoint = abstract_endpoint(socket)?;
            match target.network.as_ref()?.trials.get(&endpoint) {
                Some(Trial::NotBound(errno)) => {
                    let why = not_bound(*errno);
                    (
                        format!("the name cannot be bound in the new pod: {why}"),
                        TAKEN,
                    )
                }
                _ => return None,
            }
        }
    };
    Some(Finding::blocker(Rule::Socket, object, text).way_out(way_out))
}

/// The new pod has not got the mount.
struct MountGone;

/// Where on the node the directory of a unix socket's path has to be.
fn directory(socket: &UnixSocket, resolver: &Resolver<'_>) -> Result<Option<Lookup>, MountGone> {
    // CRIU makes the directories of a socket whose path is gone.
    let UnixName::Path { path, mount } = &socket.name else {
        return Ok(None);
    };
    if !socket.is_bound_at_restore() || socket.deleted {
        return Ok(None);
    }
    let dir: ContainerPath = path.parent().unwrap_or_else(|| path.clone());
    match resolver.resolve_path(*mount, &dir) {
        Resolved::MountGone => Err(MountGone),
        Resolved::Volume { lookup } | Resolved::Managed { lookup, .. } => Ok(Some(lookup)),
        _ => Ok(None),
    }
}
