//! `restow image scan`: every text that names a pod, a sandbox or a node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use criu_image::Kind;
use criu_image::object::{Object, Value as Field};
use serde_json::{Value, json};

use super::Report;
use super::model::records;
use crate::input::ImageSet;
use crate::output::{Table, visible_bytes};

/// How deep messages are looked into.
const MAX_DEPTH: usize = 100;

/// Directories of the programs that run pods.
const NODE_PATHS: &[&str] = &[
    "/var/lib/kubelet/",
    "/var/lib/containerd/",
    "/run/containerd/",
    "/var/lib/containers/",
    "/run/containers/",
    "/var/run/containers/",
    "/run/netns/",
    "/var/run/netns/",
    "/var/lib/docker/",
    "/run/user/",
];

pub(super) fn report(set: &ImageSet) -> Result<Report> {
    let mut hosts = BTreeSet::new();
    for name in set
        .of_kind(Kind::Utsns)
        .map(str::to_owned)
        .collect::<Vec<_>>()
    {
        records(set, &name, Kind::Utsns, |uts| {
            hosts.extend(uts.text("nodename").filter(|name| name.len() > 1));
        })?;
    }
    let mut table = Table::new(&["image", "record#", "field~", "names", "value~"]);
    let mut json = Vec::new();
    for name in set.names().map(str::to_owned).collect::<Vec<_>>() {
        let Some(image) = set.any_image(&name)? else {
            continue;
        };
        for record in image.records() {
            let record = record?;
            let mut found = Vec::new();
            walk(&record.object()?, "", 0, &hosts, &mut found);
            for (field, names, value) in found {
                json.push(json!({"image": name, "record": record.index, "field": field, "names": names, "value": value}));
                table.row([
                    name.clone(),
                    record.index.to_string(),
                    field,
                    names.join(", "),
                    value,
                ]);
            }
        }
    }
    Ok(Report::new(table, Value::Array(json)))
}

type Found = (String, Vec<&'static str>, String);

fn walk(
    object: &Object<'_>,
    path: &str,
    depth: usize,
    hosts: &BTreeSet<String>,
    found: &mut Vec<Found>,
) {
    let mut last = (0, 0);
    for (def, field) in object.fields() {
        let Some(def) = def else { continue };
        last = if last.0 == def.number {
            (def.number, last.1 + 1)
        } else {
            (def.number, 0)
        };
        let index = if def.label == criu_image::schema::Label::Repeated {
            format!("[{}]", last.1)
        } else {
            String::new()
        };
        let here = || format!("{path}{}{index}", def.name);
        match criu_image::object::value(def, field) {
            Some(Field::Object(nested)) if depth < MAX_DEPTH => {
                walk(&nested, &format!("{}.", here()), depth + 1, hosts, found);
            }
            Some(Field::Text(text)) => {
                let text = visible_bytes(text);
                let names = names(object.def.name, def.name, &text, hosts);
                if !names.is_empty() {
                    found.push((here(), names, text));
                }
            }
            // An abstract or relative name of a unix socket.
            Some(Field::Bytes(bytes)) if object.def.name == "unix_sk_entry" => {
                let text = visible_bytes(bytes);
                let names = names(object.def.name, def.name, &text, hosts);
                if !names.is_empty() {
                    found.push((here(), names, text));
                }
            }
            _ => {}
        }
    }
    for field in ["src_addr", "dst_addr"] {
        if let Some(address) = object.address(field).filter(|address| of_a_node(*address)) {
            found.push((
                format!("{path}{field}"),
                vec!["address"],
                address.to_string(),
            ));
        }
    }
}

/// What a text names.
fn names(message: &str, field: &str, text: &str, hosts: &BTreeSet<String>) -> Vec<&'static str> {
    let mut names = Vec::new();
    let in_cgroup = matches!(
        (message, field),
        ("cg_member_entry", "path") | ("cgroup_dir_entry", "dir_name")
    );
    if (in_cgroup && text.len() > 1)
        || text.contains("kubepods")
        || text.contains("/sys/fs/cgroup/")
    {
        names.push("cgroup");
    }
    let words = || text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'));
    if words().any(has_uuid) {
        names.push("pod uid");
    }
    if text
        .split(|c: char| !c.is_ascii_hexdigit())
        .any(|word| word.len() == 64)
    {
        names.push("container id");
    }
    if NODE_PATHS.iter().any(|path| text.contains(path)) {
        names.push("node path");
    }
    if text.split('/').any(is_timestamp) {
        names.push("volume timestamp");
    }
    let host = |host: &String| {
        text == host
            || text
                .split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.'))
                .any(|word| word == host)
    };
    if hosts.iter().any(host) {
        names.push("host name");
    }
    if matches!(
        field,
        "lsm_profile" | "lsm_sockcreate" | "xattr_security_selinux"
    ) && !text.is_empty()
    {
        names.push("security label");
    }
    if field == "dump_criu_run_id" {
        names.push("node");
    }
    names
}

/// A pod's uid as kubelet writes it in paths, with dashes, or in systemd's names, with underscores.
fn has_uuid(word: &str) -> bool {
    let bytes = word.as_bytes();
    let groups = [8, 4, 4, 4, 12];
    bytes.windows(36).any(|window| {
        let mut at = 0;
        let separator = window[8];
        matches!(separator, b'-' | b'_')
            && groups.iter().enumerate().all(|(index, length)| {
                let group = &window[at..at + length];
                let end = window.get(at + length);
                at += length + 1;
                group.iter().all(u8::is_ascii_hexdigit) && (index == 4 || end == Some(&separator))
            })
    })
}

/// A directory that a projected volume, a secret or a config map goes through: `..2024_05_01_10_20_30.123456789`.
fn is_timestamp(word: &str) -> bool {
    let Some(word) = word.strip_prefix("..") else {
        return false;
    };
    let (date, fraction) = word.split_once('.').unwrap_or((word, "0"));
    let parts: Vec<_> = date.split('_').collect();
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.len() == 6 && parts.iter().all(|part| digits(part)) && digits(fraction)
}

/// An address that means something elsewhere.
fn of_a_node(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_name_a_pod_a_sandbox_or_a_node_are_found() {
        let hosts = BTreeSet::from(["web-0".to_owned()]);
        let uid = "0f8c8f7e-7d0f-4f0e-9d53-7a3c5a5a0c11";
        let id = "a1".repeat(32);
        for (text, expected) in [
            (
                format!("/kubepods/burstable/pod{uid}/{id}"),
                vec!["cgroup", "pod uid", "container id"],
            ),
            (
                format!("/kubepods-pod{}.slice", uid.replace('-', "_")),
                vec!["cgroup", "pod uid"],
            ),
            (
                "/var/lib/kubelet/pods/x/etc-hosts".into(),
                vec!["node path"],
            ),
            (
                "/secrets/..2024_05_01_10_20_30.123456789/token".into(),
                vec!["volume timestamp"],
            ),
            ("/var/log/web-0.log".into(), vec![]),
            ("/var/log/web-0/log".into(), vec!["host name"]),
            ("/usr/lib/libc.so.6".into(), vec![]),
        ] {
            assert_eq!(
                names("reg_file_entry", "name", &text, &hosts),
                expected,
                "{text}"
            );
        }
    }
}
