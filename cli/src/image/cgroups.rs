//! `restow image cgroups`.

use std::collections::BTreeMap;

use anyhow::Result;
use criu_image::Kind;
use criu_image::object::Object;
use serde_json::{Value, json};

use super::Report;
use super::model::{processes, records};
use crate::input::ImageSet;
use crate::output::{Table, visible_bytes};

/// Cgroups nest as deep as the kernel's default allows, and images may say anything.
const MAX_DEPTH: usize = 100;

pub(super) fn report(set: &ImageSet) -> Result<Report> {
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in processes(set)? {
        for (thread, cgroups) in process.cgroups {
            members.entry(cgroups).or_default().push(thread);
        }
    }
    let mut sets = Table::new(&["set#", "hierarchy", "path~", "namespace~", "threads~"]);
    let mut dirs = Table::new(&["hierarchy", "directory~", "properties#"]);
    let (mut json_sets, mut json_dirs) = (Vec::new(), Vec::new());
    records(set, "cgroup.img", Kind::Cgroup, |entry| {
        for one in entry.objects("sets") {
            let id = one.u32("id").unwrap_or(0);
            let threads = members.get(&id).cloned().unwrap_or_default();
            for member in one.objects("ctls") {
                let path = member.bytes("path").unwrap_or_default();
                let length = member
                    .u64("cgns_prefix")
                    .and_then(|length| usize::try_from(length).ok());
                let namespace = length
                    .and_then(|length| path.get(..length))
                    .map(visible_bytes);
                let hierarchy = hierarchy(member.bytes("name").unwrap_or_default());
                json_sets.push(json!({
                    "set": id, "hierarchy": hierarchy, "path": visible_bytes(path), "namespace_root": namespace, "threads": threads,
                }));
                let threads = threads
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(" ");
                sets.row([
                    id.to_string(),
                    hierarchy,
                    visible_bytes(path),
                    namespace.unwrap_or_default(),
                    threads,
                ]);
            }
        }
        for controller in entry.objects("controllers") {
            let names = controller.all("cnames").filter_map(|name| match name {
                criu_image::object::Value::Text(name) => Some(hierarchy(name)),
                _ => None,
            });
            let names = names.collect::<Vec<_>>().join(",");
            for dir in controller.objects("dirs") {
                walk(&dir, "", 0, &mut |path, dir| {
                    let properties = dir.objects("properties").map(|property| {
                        (
                            property.text("name").unwrap_or_default(),
                            Value::from(property.text("value").unwrap_or_default()),
                        )
                    });
                    let properties: serde_json::Map<_, _> = properties.collect();
                    dirs.row([names.clone(), path.to_owned(), properties.len().to_string()]);
                    json_dirs
                        .push(json!({"hierarchy": names, "path": path, "properties": properties}));
                });
            }
        }
    })?;
    let tables = vec![
        (String::new(), sets),
        ("Directories that CRIU makes again".to_owned(), dirs),
    ];
    Ok(Report {
        tables,
        json: json!({"sets": json_sets, "directories": json_dirs}),
    })
}

fn walk(dir: &Object<'_>, above: &str, depth: usize, each: &mut impl FnMut(&str, &Object<'_>)) {
    let name = dir.bytes("dir_name").map(visible_bytes).unwrap_or_default();
    // The topmost has its whole path.
    let path = if above.is_empty() {
        name
    } else {
        format!("{above}/{name}")
    };
    each(&path, dir);
    if depth < MAX_DEPTH {
        for child in dir.objects("children") {
            walk(&child, &path, depth + 1, each);
        }
    }
}

/// Version 2 has no name in `/proc/<pid>/cgroup`, and CRIU keeps it so.
fn hierarchy(name: &[u8]) -> String {
    if name.is_empty() {
        "v2".to_owned()
    } else {
        visible_bytes(name)
    }
}
