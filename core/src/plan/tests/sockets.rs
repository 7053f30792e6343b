//! Sockets.

use super::*;
use crate::policy::Tcp;
use crate::source::manifest::InterfaceAddress;
use crate::source::{InetSocket, Protocol, State, UnixKind, UnixName, UnixSocket};
use crate::target::{Endpoint, TargetNetwork, Trial};

const OUTSIDE: &str = "192.0.2.9:443";

fn socket(id: u32, state: State, local: &str, peer: Option<&str>) -> InetSocket {
    InetSocket {
        id: FileId(id),
        protocol: Protocol::Tcp,
        state,
        local: local.parse().unwrap(),
        peer: peer.map(|peer| peer.parse().unwrap()),
        v6only: false,
        holders: vec![Holder {
            pid: NsPid(1),
            fd: id,
        }],
    }
}

fn listener(local: &str) -> InetSocket {
    socket(3, State::LISTENING, local, None)
}

fn connected(id: u32, local: &str, peer: &str) -> InetSocket {
    socket(id, State::ESTABLISHED, local, Some(peer))
}

fn at(all: &[(&str, &str)]) -> Vec<InterfaceAddress> {
    let all = all.iter().map(|(interface, address)| InterfaceAddress {
        interface: (*interface).into(),
        address: address.parse().unwrap(),
    });
    all.collect()
}

const OLD_ADDRESSES: [(&str, &str); 4] = [
    ("lo", "127.0.0.1"),
    ("eth0", "10.0.0.1"),
    ("eth0", "fd00::1"),
    ("eth1", "10.1.0.1"),
];
const NEW_ADDRESSES: [(&str, &str); 4] = [
    ("lo", "127.0.0.1"),
    ("eth1", "10.1.0.2"),
    ("eth0", "10.0.0.2"),
    ("eth0", "fd00::2"),
];

/// A plan for these sockets, from a pod with the old addresses to one with the new ones.
fn planned_with(
    sockets: Vec<InetSocket>,
    old: &[(&str, &str)],
    new: &[(&str, &str)],
    tcp: Tcp,
    trials: &[(Endpoint, Trial)],
) -> Plan {
    let mut source = source(true);
    source.sockets.inet = sockets;
    source.manifest.as_mut().unwrap().addresses = at(old);
    let mut target = target();
    target.network = Some(TargetNetwork {
        addresses: at(new),
        trials: trials.iter().cloned().collect(),
    });
    let policy = Policy {
        tcp,
        ..Policy::default()
    };
    plan(&source, &target, &policy)
}

fn planned(sockets: Vec<InetSocket>, tcp: Tcp) -> Plan {
    planned_with(sockets, &OLD_ADDRESSES, &NEW_ADDRESSES, tcp, &[])
}

/// Where a listener goes.
fn moved(local: &str) -> String {
    let plan = planned(vec![listener(local)], Tcp::Close);
    assert!(plan.possible(), "{:?}", plan.findings);
    plan.sockets.inet[0].new.local.to_string()
}

#[test]
fn listeners_get_the_address_of_the_same_interface_and_family() {
    assert_eq!(moved("10.0.0.1:80"), "10.0.0.2:80");
    assert_eq!(moved("10.1.0.1:80"), "10.1.0.2:80");
    assert_eq!(moved("[fd00::1]:80"), "[fd00::2]:80");
    assert_eq!(moved("[::ffff:10.0.0.1]:80"), "[::ffff:10.0.0.2]:80");
    // Not the old pod's own.
    for kept in [
        "0.0.0.0:80",
        "[::]:80",
        "127.0.0.1:80",
        "127.9.9.9:80",
        "[::1]:80",
        "224.0.0.1:80",
        "192.0.2.1:80",
    ] {
        assert_eq!(moved(kept), kept);
    }
}

#[test]
fn an_address_both_pods_have_stays() {
    let both = [("eth0", "10.0.0.1"), ("eth0", "10.0.0.7")];
    let plan = planned_with(
        vec![listener("10.0.0.7:80")],
        &both,
        &[("eth0", "10.0.0.7")],
        Tcp::Close,
        &[],
    );
    assert_eq!(plan.sockets.inet[0].action, SocketAction::Keep);
}

#[test]
fn without_a_counterpart_the_socket_is_named() {
    let plan = planned_with(
        vec![listener("[fd00::1]:80")],
        &OLD_ADDRESSES,
        &NEW_ADDRESSES[..3],
        Tcp::Close,
        &[],
    );
    let text = plan.blockers().next().unwrap().to_string();
    assert!(
        text.contains("fd 3 of process 1, tcp socket [fd00::1]:80"),
        "{text}"
    );
    assert!(
        text.contains("no address that could take the place"),
        "{text}"
    );
}

#[test]
fn without_a_record_what_the_new_pod_has_not_got_was_the_old_pods() {
    let new = |sockets| {
        let plan = planned_with(sockets, &[], &NEW_ADDRESSES, Tcp::Close, &[]);
        let first = plan
            .sockets
            .inet
            .first()
            .map(|socket| socket.new.local.to_string());
        first.ok_or(plan.findings)
    };
    assert_eq!(new(vec![listener("[fd00::9]:80")]).unwrap(), "[fd00::2]:80");
    // Two of one family: nobody can say which is which.
    assert!(
        new(vec![
            listener("10.0.0.1:80"),
            socket(4, State::LISTENING, "10.9.0.1:81", None)
        ])
        .is_err()
    );
}

#[test]
fn what_is_in_the_way_is_found_before_criu_starts() {
    let endpoint = Endpoint::Inet {
        protocol: Protocol::Tcp,
        local: "10.0.0.2:80".parse().unwrap(),
        peer: None,
        v6only: false,
    };
    let mut source = source(true);
    source.sockets.inet = vec![listener("10.0.0.1:80")];
    source.manifest.as_mut().unwrap().addresses = at(&OLD_ADDRESSES);
    let network = TargetNetwork {
        addresses: at(&NEW_ADDRESSES),
        trials: BTreeMap::new(),
    };
    assert_eq!(
        endpoints(&source, &network),
        BTreeSet::from([endpoint.clone()])
    );
    let taken = (endpoint, Trial::NotBound(libc::EADDRINUSE));
    let plan = planned_with(
        source.sockets.inet,
        &OLD_ADDRESSES,
        &NEW_ADDRESSES,
        Tcp::Close,
        &[taken],
    );
    let text = plan.blockers().next().unwrap().to_string();
    assert!(
        text.contains("10.0.0.2:80 cannot be bound in the new pod: another socket"),
        "{text}"
    );
}

#[test]
fn a_connected_udp_socket_without_a_way_is_not_connected_any_more() {
    let mut udp = connected(3, "10.0.0.1:5000", OUTSIDE);
    udp.protocol = Protocol::Udp;
    let endpoint = Endpoint::Inet {
        protocol: Protocol::Udp,
        local: "10.0.0.2:5000".parse().unwrap(),
        peer: Some(OUTSIDE.parse().unwrap()),
        v6only: false,
    };
    let plan = planned(vec![udp.clone()], Tcp::Refuse);
    assert_eq!(
        plan.sockets.inet[0].new.peer, udp.peer,
        "UDP is no connection"
    );
    let trial = (endpoint, Trial::NotConnected(libc::ENETUNREACH));
    let plan = planned_with(
        vec![udp],
        &OLD_ADDRESSES,
        &NEW_ADDRESSES,
        Tcp::Close,
        &[trial],
    );
    assert!(plan.possible());
    assert_eq!(plan.sockets.inet[0].action, SocketAction::Disconnect);
    assert_eq!(plan.sockets.inet[0].new.peer, None);
}

#[test]
fn connections_to_the_outside_end_stay_or_forbid() {
    let outside = || vec![connected(5, "10.0.0.1:4000", OUTSIDE)];
    let close = planned(outside(), Tcp::Close);
    assert!(close.possible());
    assert_eq!(close.sockets.inet[0].action, SocketAction::Close);
    let warning = close
        .findings
        .iter()
        .find(|finding| finding.rule == Rule::Connection)
        .unwrap();
    let named = "warning: fd 5 of process 1, tcp socket 10.0.0.1:4000 connected to 192.0.2.9:443: it leads out";
    assert!(warning.to_string().starts_with(named), "{warning}");

    let refuse = planned(outside(), Tcp::Refuse);
    assert!(
        refuse
            .blockers()
            .next()
            .unwrap()
            .to_string()
            .contains("tcp=refuse forbids")
    );

    let keep = planned(outside(), Tcp::Keep);
    assert!(
        keep.blockers()
            .next()
            .unwrap()
            .to_string()
            .contains("needs the old address")
    );
    let same = planned_with(outside(), &OLD_ADDRESSES, &OLD_ADDRESSES, Tcp::Keep, &[]);
    assert!(same.possible());
    assert_eq!(same.sockets.inet[0].action, SocketAction::Keep);
    assert!(same.sockets.connections());
}

#[test]
fn connections_inside_the_container_go_on_under_every_policy() {
    let pair = |client: &str, server: &str| {
        vec![connected(5, client, server), connected(6, server, client)]
    };
    for tcp in [Tcp::Close, Tcp::Keep, Tcp::Refuse] {
        let plan = planned(pair("127.0.0.1:4000", "127.0.0.1:80"), tcp);
        assert!(plan.possible(), "{tcp:?}");
        assert!(
            plan.sockets
                .inet
                .iter()
                .all(|socket| socket.action == SocketAction::Keep)
        );
        // Over the pod's own address both ends move together.
        let plan = planned(pair("10.0.0.1:4000", "10.0.0.1:80"), tcp);
        let new: Vec<_> = plan
            .sockets
            .inet
            .iter()
            .map(|socket| (socket.new.local, socket.new.peer))
            .collect();
        let [client, server]: [std::net::SocketAddr; 2] =
            ["10.0.0.2:4000", "10.0.0.2:80"].map(|text| text.parse().unwrap());
        assert_eq!(
            new,
            [(client, Some(server)), (server, Some(client))],
            "{tcp:?}"
        );
    }
    // An IPv6 server sees an IPv4 client by its mapped address.
    let mapped = vec![
        connected(5, "127.0.0.1:4000", "127.0.0.1:80"),
        connected(6, "[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:4000"),
    ];
    assert!(refused(&mapped).is_empty());
    // One that nobody accepted has no other end in the checkpoint.
    assert_eq!(refused(&mapped[..1]).len(), 1);
}

#[test]
fn a_checkpoint_made_with_tcp_close_keeps_no_connection() {
    let mut source = source(true);
    source.sockets.inet = vec![
        connected(5, "127.0.0.1:4000", "127.0.0.1:80"),
        connected(6, "127.0.0.1:80", "127.0.0.1:4000"),
    ];
    source.sockets.tcp_close = true;
    let plan = plan(&source, &target(), &Policy::default());
    assert!(plan.possible() && plan.sockets.tcp_close && !plan.sockets.connections());
    assert!(
        plan.sockets
            .inet
            .iter()
            .all(|socket| socket.action == SocketAction::Close)
    );
}

fn unix(name: UnixName) -> UnixSocket {
    UnixSocket {
        id: FileId(7),
        kind: UnixKind::Stream,
        state: State::LISTENING,
        name,
        deleted: false,
        holders: vec![Holder {
            pid: NsPid(1),
            fd: 7,
        }],
    }
}

#[test]
fn unix_sockets_need_their_directory_and_an_abstract_name_that_is_free() {
    let mut source = source(true);
    let path = ContainerPath::new("/data/run/x.sock");
    source.sockets.unix = vec![unix(UnixName::Path {
        path,
        mount: Some(MountId(DATA_MOUNT)),
    })];
    let blocker = |source: &Source, target: &Target| {
        let plan = plan(source, target, &Policy::default());
        plan.blockers().next().map(ToString::to_string)
    };
    let there = looked_up(&source, target(), 10, &[]);
    assert_eq!(blocker(&source, &there), None);
    let asked: Vec<_> = Questions::of(&source, &target(), &Policy::default())
        .files
        .into_iter()
        .map(|lookup| lookup.path())
        .collect();
    let directory = asked
        .iter()
        .find(|path| path.to_string().ends_with("/run"))
        .unwrap()
        .to_string();
    let absent = looked_up(&source, target(), 10, &[&directory]);
    let text = blocker(&source, &absent).unwrap();
    assert!(
        text.contains("unix socket /data/run/x.sock: its directory does not exist"),
        "{text}"
    );

    source.sockets.unix = vec![unix(UnixName::Abstract(b"taken".to_vec()))];
    let mut taken = target();
    let endpoint = Endpoint::Abstract {
        kind: UnixKind::Stream,
        name: b"taken".to_vec(),
    };
    taken.network = Some(TargetNetwork {
        addresses: Vec::new(),
        trials: BTreeMap::from([(endpoint, Trial::NotBound(libc::EADDRINUSE))]),
    });
    let text = blocker(&source, &taken).unwrap();
    assert!(
        text.contains("unix socket @taken: the name cannot be bound"),
        "{text}"
    );
}
