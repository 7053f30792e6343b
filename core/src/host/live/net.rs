//! The internet and netlink sockets of a process's network namespace, from `/proc/<pid>/net`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::check::InetSocket;
use crate::ids::HostPid;

/// Adds what the tables say; a table that is not there has no sockets.
pub(super) fn inet(pid: HostPid, found: &mut BTreeMap<u64, InetSocket>) {
    for (table, tcp) in [
        ("tcp", true),
        ("tcp6", true),
        ("udp", false),
        ("udp6", false),
    ] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| inet_line(line, tcp)));
    }
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode` (`proc_net(5)`).
fn inet_line(line: &str, tcp: bool) -> Option<(u64, InetSocket)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, remote, state, queues, _, _, _, _, inode, ..] = fields[..] else {
        return None;
    };
    let inode: u64 = inode.parse().ok()?;
    let socket = InetSocket {
        tcp,
        local: address(local)?,
        remote: address(remote)?,
        state: u8::from_str_radix(state, 16).ok()?,
        waiting: u32::from_str_radix(queues.split_once(':')?.1, 16).ok()?,
    };
    // Those in TIME_WAIT have none and belong to nobody.
    (inode != 0).then_some((inode, socket))
}

/// Address and port in hexadecimal; addresses are words in the machine's byte order (`net/ipv4/tcp_ipv4.c`).
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u8> = address
        .as_bytes()
        .chunks(8)
        .map(|word| {
            let word = std::str::from_utf8(word)
                .ok()
                .filter(|word| word.len() == 8)?;
            Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
        })
        .collect::<Option<Vec<_>>>()?
        .concat();
    let address = if let Ok(v4) = <[u8; 4]>::try_from(words.as_slice()) {
        IpAddr::V4(Ipv4Addr::from(v4))
    } else {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.as_slice()).ok()?))
    };
    Some(SocketAddr::new(address, port))
}

/// Netlink sockets with bytes to be read: `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`.
pub(super) fn netlink_pending(pid: HostPid) -> Vec<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap_or_default();
    text.lines().skip(1).filter_map(netlink_line).collect()
}

fn netlink_line(line: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let waiting: u64 = fields.get(4)?.parse().ok()?;
    (waiting > 0).then(|| fields.last()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        if cfg!(target_endian = "little") {
            assert_eq!(
                address("0100007F:1F90").unwrap().to_string(),
                "127.0.0.1:8080"
            );
            let v6 = address("00000000000000000000000001000000:0050").unwrap();
            assert_eq!(v6.to_string(), "[::1]:80");
        }
        assert!(address("0100:1F90").is_none());
    }

    #[test]
    fn a_listener_with_connections_that_wait() {
        let line = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 4711 1 0 100";
        let (inode, socket) = inet_line(line, true).unwrap();
        assert_eq!((inode, socket.state, socket.waiting), (4711, 10, 3));
    }

    #[test]
    fn netlink_sockets_count_only_with_something_to_read() {
        let text = "000 0   3  00000000 0        0        0 2        0        1057";
        assert_eq!(netlink_line(text), None);
        let text = "000 0   3  00000000 2304     0        0 2        0        1057";
        assert_eq!(netlink_line(text), Some(1057));
    }
}
