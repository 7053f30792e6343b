//! `restow image fds`.

use anyhow::Result;
use criu_image::Kind;
use serde_json::{Value, json};

use super::Report;
use super::model::{Files, OpenFile, open_flags, processes, records};
use crate::input::ImageSet;
use crate::output::Table;

pub(super) fn report(set: &ImageSet) -> Result<Report> {
    let files = Files::read(set)?;
    let mut table = Table::new(&[
        "pid#", "fd#", "type", "mode~", "pos#", "mount~", "state~", "file~",
    ]);
    let mut json = Vec::new();
    let mut add = |pid: u32,
                   fd: String,
                   kind: &str,
                   close_on_exec: bool,
                   id: u32,
                   file: Option<&OpenFile>| {
        let unknown = OpenFile {
            text: format!("(file {id} is not in files.img)"),
            ..OpenFile::default()
        };
        let file = file.unwrap_or(&unknown);
        let mut mode = file.flags.map(open_flags).unwrap_or_default();
        if close_on_exec {
            mode.push_str(",cloexec");
        }
        let state = match (file.external, file.remap) {
            (true, _) => "external".to_owned(),
            (false, Some(how)) => format!("unlinked ({how})"),
            _ => String::new(),
        };
        json.push(json!({
            "pid": pid, "fd": fd.parse::<u32>().map_or(Value::from(fd.as_str()), Value::from), "type": kind, "id": id,
            "flags": file.flags, "close_on_exec": close_on_exec, "pos": file.pos, "size": file.size, "mnt_id": file.mnt_id,
            "mount": file.mount, "external": file.external, "unlinked": file.remap, "file": file.text,
        }));
        let pos = file.pos.map(|pos| pos.to_string()).unwrap_or_default();
        let kind = kind.to_lowercase();
        table.row([
            pid.to_string(),
            fd,
            kind,
            mode,
            pos,
            file.mount.clone().unwrap_or_default(),
            state,
            file.text.clone(),
        ]);
    };
    for process in processes(set)? {
        let named = [
            ("cwd", process.cwd),
            ("root", process.root),
            ("exe", process.exe),
        ];
        for (name, id) in named.into_iter().filter_map(|(name, id)| Some((name, id?))) {
            add(
                process.pid,
                name.into(),
                "REG",
                false,
                id,
                files.regular(id),
            );
        }
        let Some(table) = process.files_id else {
            continue;
        };
        records(set, &Kind::Fdinfo.file_name(table), Kind::Fdinfo, |fd| {
            let (Some(number), Some(kind), Some(id)) =
                (fd.u32("fd"), fd.name_of("type"), fd.u32("id"))
            else {
                return;
            };
            let close_on_exec = fd.u32("flags").is_some_and(|flags| flags & 1 != 0);
            add(
                process.pid,
                number.to_string(),
                kind,
                close_on_exec,
                id,
                files.get(kind, id),
            );
        })?;
    }
    Ok(Report::new(table, Value::Array(json)))
}
