//! Sockets.

use std::collections::{BTreeMap, BTreeSet};

use super::{blocked_by, only, restow, rules, socket, stock, with_files};
use crate::check::{Circumstances, InetSocket, Rule, UnixSocket, Verdict, check, verdict};
use crate::finding::Severity;
use crate::policy::{Policy, Tcp};

#[test]
fn sockets_of_families_that_criu_does_not_know() {
    for protocol in ["AF_VSOCK", "MPTCP", "XDP", "ALG", "PING"] {
        let found = blocked_by(&with_files(vec![socket(3, protocol)]), Rule::SocketFamily);
        assert!(found.object.contains(protocol));
    }
}

#[test]
fn criu_4_1_asks_sockets_for_what_newer_kernels_refuse() {
    let mut old = with_files(vec![
        socket(3, "UDPv6"),
        socket(4, "UNIX-STREAM"),
        socket(5, "NETLINK"),
    ]);
    old.node.criu_version = Some([4, 1, 1]);
    let found = blocked_by(&old, Rule::SocketOptions);
    assert_eq!(found.places.len(), 1);
    old.node.kernel = Some([6, 15]);
    assert_eq!(check(&old, &stock()), []);
}

fn inet(local: &str, remote: &str, state: u8) -> InetSocket {
    InetSocket {
        tcp: true,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        state,
        waiting: 0,
    }
}

#[test]
fn connections_inside_and_outside() {
    let mut facts = with_files(vec![socket(3, "TCP"), socket(4, "TCP"), socket(5, "TCP")]);
    facts.inet = BTreeMap::from([
        (1003, inet("127.0.0.1:80", "127.0.0.1:5000", 1)),
        (1004, inet("127.0.0.1:5000", "127.0.0.1:80", 1)),
        (1005, inet("10.0.0.1:5001", "10.9.9.9:80", 8)),
        // Somebody else's.
        (4711, inet("10.0.0.1:5002", "10.9.9.9:80", 1)),
    ]);
    let findings = check(&facts, &stock());
    assert_eq!(
        rules(&findings),
        [(Rule::TcpEstablished, Severity::Warning); 3]
    );
    let inside = findings
        .iter()
        .filter(|finding| finding.text.contains("both ends"));
    assert_eq!(inside.count(), 2);
    assert_eq!(verdict(&findings), Verdict::Warnings);
    // Restow takes care of those inside, and of the others as the policy says.
    for (tcp, severity) in [
        (Tcp::Close, Severity::Warning),
        (Tcp::Keep, Severity::Warning),
        (Tcp::Refuse, Severity::Blocker),
    ] {
        let found = only(&facts, &with_tcp(tcp));
        assert_eq!((found.severity, found.places[0].fd), (severity, Some(5)));
    }
}

fn with_tcp(tcp: Tcp) -> Circumstances {
    Circumstances {
        policy: Some(Policy {
            tcp,
            ..Policy::default()
        }),
    }
}

#[test]
fn listeners_with_addresses_of_their_own_or_with_connections_that_wait() {
    let listening = |address: &str, waiting| {
        let mut facts = with_files(vec![socket(3, "TCP")]);
        let socket = InetSocket {
            waiting,
            ..inet(address, "0.0.0.0:0", 10)
        };
        facts.inet.insert(1003, socket);
        facts
    };
    for address in [
        "0.0.0.0:80",
        "127.0.0.1:80",
        "[::]:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        assert_eq!(check(&listening(address, 0), &stock()), [], "{address}");
    }
    for address in ["10.0.0.1:80", "[fd00::1]:80"] {
        assert_eq!(
            only(&listening(address, 0), &stock()).rule,
            Rule::ListenAddress
        );
    }
    assert_eq!(check(&listening("10.0.0.1:80", 0), &restow()), []);
    blocked_by(&listening("0.0.0.0:80", 2), Rule::TcpWaiting);
    let waiting = only(&listening("0.0.0.0:80", 2), &restow());
    assert_eq!(waiting.severity, Severity::Warning);
}

#[test]
fn unix_sockets_with_a_peer_outside() {
    let unix = |kind, peer, name: Option<&str>| UnixSocket {
        kind,
        peer,
        name: name.map(str::to_owned),
        pending: Vec::new(),
    };
    let mut facts = with_files(vec![socket(3, "UNIX-STREAM"), socket(4, "UNIX-STREAM")]);
    facts.unix = BTreeMap::from([
        (1003, unix(1, Some(1004), None)),
        (1004, unix(1, Some(1003), None)),
    ]);
    assert_eq!(check(&facts, &stock()), []);
    facts.unix.insert(1004, unix(1, Some(4711), None));
    blocked_by(&facts, Rule::UnixOutside);
    facts.unix.insert(1004, unix(2, Some(4711), None));
    facts.unix.insert(4711, unix(2, None, Some("/dev/log")));
    let found = only(&facts, &stock());
    assert_eq!(
        (found.object.as_str(), found.severity),
        ("/dev/log", Severity::Warning)
    );
    facts.unix.insert(
        1004,
        UnixSocket {
            pending: vec![0],
            ..unix(1, None, Some("/s"))
        },
    );
    blocked_by(&facts, Rule::UnixClosed);
}

#[test]
fn netlink_sockets_with_something_to_read() {
    let mut facts = with_files(vec![socket(3, "NETLINK"), socket(4, "NETLINK")]);
    facts.netlink_pending = BTreeSet::from([1004, 4711]);
    assert_eq!(
        blocked_by(&facts, Rule::NetlinkWaiting).places[0].fd,
        Some(4)
    );
}
