//! `restow image sockets`.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use criu_image::Kind;
use criu_image::object::Object;
use serde_json::{Value, json};

use super::Report;
use super::model::{holder_text, holders, processes, records};
use crate::input::ImageSet;
use crate::output::{Table, visible_bytes};

pub(super) fn report(set: &ImageSet) -> Result<Report> {
    let holders = holders(set, &processes(set)?)?;
    let mut table = Table::new(&["type", "state", "local~", "remote~", "network#", "pid/fd~"]);
    let mut json = Vec::new();
    records(set, "files.img", Kind::Files, |entry| {
        let (Some(kind), Some(id)) = (entry.name_of("type"), entry.u32("id")) else {
            return;
        };
        let members = ["isk", "usk", "nlsk", "psk"];
        let Some((member, of)) = members
            .iter()
            .find_map(|name| Some((*name, entry.object(name)?)))
        else {
            return;
        };
        let socket = Socket::read(member, &of);
        let held = holders.get(&(kind.to_owned(), id));
        json.push(json!({
            "id": id, "type": socket.typ, "state": socket.state, "local": socket.local, "remote": socket.remote,
            "ino": of.u64("ino"), "net_ns_id": of.u64("ns_id"), "holders": held.into_iter().flatten()
                .map(|(pid, fd)| json!({"pid": pid, "fd": fd})).collect::<Vec<_>>(),
        }));
        let network = of.u64("ns_id").map(|id| id.to_string()).unwrap_or_default();
        table.row([
            socket.typ,
            socket.state.to_owned(),
            socket.local,
            socket.remote,
            network,
            holder_text(held),
        ]);
    })?;
    Ok(Report::new(table, Value::Array(json)))
}

struct Socket {
    typ: String,
    state: &'static str,
    local: String,
    remote: String,
}

/// A socket in one line, for a list of files.
pub(super) fn describe(member: &str, of: &Object<'_>) -> String {
    let Socket {
        typ,
        state,
        local,
        remote,
    } = Socket::read(member, of);
    let mut text = typ;
    for (before, part) in [
        (" ", local.as_str()),
        (" -> ", remote.as_str()),
        (" ", state),
    ] {
        if !part.is_empty() {
            text.push_str(before);
            text.push_str(part);
        }
    }
    text
}

impl Socket {
    fn read(member: &str, of: &Object<'_>) -> Self {
        let number = |name| of.u64(name).unwrap_or(0);
        match member {
            "isk" => {
                let local = address(of, "src_addr", "src_port");
                let remote =
                    Some(address(of, "dst_addr", "dst_port")).filter(|_| number("dst_port") != 0);
                let protocol = match number("proto") {
                    6 => "tcp".to_owned(),
                    17 => "udp".to_owned(),
                    1 | 58 => "icmp".to_owned(),
                    136 => "udplite".to_owned(),
                    other => format!("ip protocol {other}"),
                };
                let version = if number("family") == 10 { "6" } else { "" };
                // The kernel's states are TCP's, and CLOSE for others.
                let state = if number("proto") == 6 || remote.is_some() {
                    state(number("state"))
                } else {
                    ""
                };
                Self {
                    typ: format!("{protocol}{version}"),
                    state,
                    local,
                    remote: remote.unwrap_or_default(),
                }
            }
            "usk" => {
                let local = unix_name(of.bytes("name").unwrap_or_default());
                let remote = Some(number("peer"))
                    .filter(|peer| *peer != 0)
                    .map(|peer| format!("unix:[{peer}]"));
                Self {
                    typ: format!("unix {}", unix_type(number("type"))),
                    state: state(number("state")),
                    local: if local.is_empty() {
                        format!("unix:[{}]", number("ino"))
                    } else {
                        local
                    },
                    remote: remote.unwrap_or_default(),
                }
            }
            "nlsk" => Self {
                typ: format!("netlink {}", number("protocol")),
                state: "",
                local: format!("port {}", number("portid")),
                remote: String::new(),
            },
            _ => Self {
                typ: format!("packet {}", unix_type(number("type"))),
                state: "",
                local: format!("interface {}", number("ifindex")),
                remote: String::new(),
            },
        }
    }
}

fn address(of: &Object<'_>, address: &str, port: &str) -> String {
    let port = of
        .u64(port)
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(0);
    match of.address(address) {
        Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => format!("[{v6}]:{port}"),
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => format!("?:{port}"),
    }
}

/// A name in the file system, or an abstract one with `@` in place of its zero byte.
fn unix_name(name: &[u8]) -> String {
    match name.split_first() {
        Some((0, rest)) => format!("@{}", visible_bytes(rest)),
        _ => visible_bytes(name.strip_suffix(&[0]).unwrap_or(name)),
    }
}

fn unix_type(number: u64) -> &'static str {
    match number {
        1 => "stream",
        2 => "dgram",
        3 => "raw",
        5 => "seqpacket",
        _ => "",
    }
}

fn state(number: u64) -> &'static str {
    match number {
        1 => "established",
        2 => "syn-sent",
        3 => "syn-received",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 => "closed",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listening",
        11 => "closing",
        _ => "",
    }
}
