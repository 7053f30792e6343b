//! `restow image mounts`.

use anyhow::Result;
use criu_image::Kind;
use criu_image::schema::EnumDef;
use serde_json::{Value, json};

use super::Report;
use super::model::records;
use crate::input::ImageSet;
use crate::output::{Table, visible_bytes};

pub(super) fn report(set: &ImageSet) -> Result<Report> {
    let mut tables = Vec::new();
    let mut json = Vec::new();
    let names: Vec<_> = set.of_kind(Kind::Mountpoints).map(str::to_owned).collect();
    for name in &names {
        let namespace = name
            .trim_start_matches("mountpoints-")
            .trim_end_matches(".img");
        let mut table = Table::new(&[
            "id#",
            "parent#",
            "mount point~",
            "type",
            "source~",
            "root~",
            "external~",
            "options~",
        ]);
        records(set, name, Kind::Mountpoints, |mount| {
            let number = |name| mount.u64(name).unwrap_or(0);
            let text = |name| mount.bytes(name).map(visible_bytes);
            let external = text("ext_key").or_else(|| {
                mount
                    .bool("ext_mount")
                    .then(|| text("root").unwrap_or_default())
            });
            let fs_type = file_system(mount.u32("fstype").unwrap_or(0), text("fsname"));
            json.push(json!({
                "mnt_ns_id": namespace.parse::<u64>().ok(), "mnt_id": number("mnt_id"), "parent_mnt_id": number("parent_mnt_id"),
                "mountpoint": text("mountpoint"), "fstype": fs_type, "source": text("source"), "root": text("root"),
                "external": external, "options": text("options"), "flags": number("flags"), "root_dev": number("root_dev"),
                "shared_id": mount.u64("shared_id"), "master_id": mount.u64("master_id"),
            }));
            table.row([
                number("mnt_id").to_string(),
                number("parent_mnt_id").to_string(),
                text("mountpoint").unwrap_or_default(),
                fs_type,
                text("source").unwrap_or_default(),
                text("root").unwrap_or_default(),
                external.unwrap_or_default(),
                text("options").unwrap_or_default(),
            ]);
        })?;
        let heading = if names.len() > 1 {
            format!("Mount namespace {namespace}")
        } else {
            String::new()
        };
        tables.push((heading, table));
    }
    Ok(Report {
        tables,
        json: Value::Array(json),
    })
}

fn file_system(number: u32, name: Option<String>) -> String {
    let known = EnumDef::of("fstype")
        .zip(i32::try_from(number).ok())
        .and_then(|(names, number)| names.name(number));
    match (known, name) {
        // CRIU has no number for it and keeps its name.
        (Some("AUTO" | "UNSUPPORTED") | None, Some(name)) => name,
        (Some(known), _) => known.to_lowercase(),
        (None, None) => number.to_string(),
    }
}
