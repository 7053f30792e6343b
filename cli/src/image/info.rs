//! `restow image info`.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use criu_image::object::Object;
use criu_image::{Kind, Reader};
use serde_json::{Value, json};

use super::Report;
use super::model::records;
use crate::Failure;
use crate::input::{ImageSet, Input};
use crate::output::{Style, Table, size};

pub(super) fn run(path: &Path, json: bool, style: Style) -> Result<ExitCode, Failure> {
    let report = match Input::open(path)? {
        Input::Image(path) => of_image(&path)?,
        Input::Set(set) => of_set(&set)?,
    };
    report.print(json, style)?;
    Ok(ExitCode::SUCCESS)
}

/// What one stream of records holds.
struct Count {
    kind: Kind,
    records: u64,
    payload: u64,
}

fn count<R: std::io::Read>(mut reader: Reader<R>) -> Result<Count, criu_image::Error> {
    let mut count = Count {
        kind: reader.kind(),
        records: 0,
        payload: 0,
    };
    while reader.advance()? {
        count.records += 1;
        count.payload += reader.skip_extra()?;
    }
    Ok(count)
}

fn of_image(path: &Path) -> Result<Report> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let count = count(Reader::new(path, file, None)?)?;
    let mut table = Table::new(&["kind", "records#", "payload#"]);
    table.row([
        count.kind.name().to_owned(),
        count.records.to_string(),
        size(count.payload),
    ]);
    // The names of `crit info`: its count leaves out a pagemap's head.
    let head = u64::from(count.kind == Kind::Pagemap);
    let json = json!({"magic": count.kind.name(), "count": count.records.saturating_sub(head), "payload_bytes": count.payload});
    Ok(Report::new(table, json))
}

fn of_set(set: &ImageSet) -> Result<Report> {
    let mut facts = Table::new(&["what", "value~"]);
    let mut json_facts = serde_json::Map::new();
    let mut fact = |name: &str, value: Value| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        facts.row([name.replace('_', " "), text]);
        json_facts.insert(name.to_owned(), value);
    };
    fact("origin", set.origin().display().to_string().into());
    records(set, "inventory.img", Kind::Inventory, |inventory| {
        inventory_facts(inventory, &mut fact);
    })?;
    for name in set
        .of_kind(Kind::Stats)
        .map(str::to_owned)
        .collect::<Vec<_>>()
    {
        records(set, &name, Kind::Stats, |stats| {
            stats_facts(stats, &mut fact);
        })?;
    }
    let parents = set.parents()?;
    if !parents.is_empty() {
        fact(
            "parents",
            parents
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .into(),
        );
    }
    let mut table = Table::new(&["image~", "kind", "records#", "payload#"]);
    let mut images = Vec::new();
    for name in set.names() {
        let Some((path, bytes)) = set.stream(name)? else {
            continue;
        };
        let count = count(Reader::new(path, bytes, None)?)?;
        let payload = if count.payload == 0 {
            String::new()
        } else {
            size(count.payload)
        };
        table.row([
            name.to_owned(),
            count.kind.name().to_owned(),
            count.records.to_string(),
            payload,
        ]);
        images.push(json!({
            "image": name, "magic": count.kind.name(), "records": count.records, "payload_bytes": count.payload,
        }));
    }
    let mut others = Table::new(&["other file~", "size#"]);
    for (name, bytes) in set.others() {
        others.row([name.clone(), size(*bytes)]);
    }
    let tables = vec![
        (String::new(), facts),
        ("Images".to_owned(), table),
        ("Without records".to_owned(), others),
    ];
    let others: serde_json::Map<_, _> = set
        .others()
        .iter()
        .map(|(name, bytes)| (name.clone(), Value::from(*bytes)))
        .collect();
    Ok(Report {
        tables,
        json: json!({"facts": json_facts, "images": images, "others": others}),
    })
}

fn inventory_facts(inventory: &Object<'_>, fact: &mut impl FnMut(&str, Value)) {
    fact("image_version", inventory.u64("img_version").into());
    if let Some(lsm) = inventory.name_of("lsmtype") {
        fact(
            "security_module",
            lsm.to_lowercase().replace("no_lsm", "none").into(),
        );
    }
    if let Some(uptime) = inventory.u64("dump_uptime") {
        fact("uptime_at_dump_us", uptime.into());
    }
    if inventory.bool("tcp_close") {
        fact("connections", "closed at dump".into());
    }
    if let Some(plugins) = inventory.object("plugins_entry") {
        let names = plugins.all("plugins").filter_map(|name| match name {
            criu_image::object::Value::Text(name) => {
                Some(String::from_utf8_lossy(name).into_owned())
            }
            _ => None,
        });
        let names: Vec<_> = names.collect();
        if !names.is_empty() {
            fact("plugins", names.into());
        }
    }
    if let Some(id) = inventory.text("dump_criu_run_id") {
        fact("criu_run_id", id.into());
    }
}

/// Times are in microseconds, pages in units of the machine's page size.
fn stats_facts(stats: &Object<'_>, fact: &mut impl FnMut(&str, Value)) {
    if let Some(dump) = stats.object("dump") {
        for name in [
            "freezing_time",
            "frozen_time",
            "memdump_time",
            "memwrite_time",
        ] {
            fact(&format!("{name}_us"), dump.u64(name).into());
        }
        for name in ["pages_scanned", "pages_skipped_parent", "pages_written"] {
            fact(name, dump.u64(name).into());
        }
    }
    if let Some(restore) = stats.object("restore") {
        for name in ["forking_time", "restore_time"] {
            fact(&format!("{name}_us"), restore.u64(name).into());
        }
        for name in ["pages_compared", "pages_restored"] {
            fact(name, restore.u64(name).into());
        }
    }
}
