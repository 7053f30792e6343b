//! `restow image ps`.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::Report;
use super::model::{Files, Process, processes};
use crate::input::ImageSet;
use crate::output::Table;

pub(super) fn report(set: &ImageSet) -> Result<Report> {
    let all = processes(set)?;
    let files = Files::read(set)?;
    let program = |process: &Process| {
        process
            .exe
            .and_then(|exe| Some(files.regular(exe)?.text.clone()))
    };
    let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
    let known: Vec<u32> = all.iter().map(|process| process.pid).collect();
    let mut pending = Vec::new();
    for (at, process) in all.iter().enumerate() {
        // Damaged images may name a parent that is not there, or a process as its own.
        if process.ppid == process.pid || !known.contains(&process.ppid) {
            pending.push((at, 0));
        } else {
            children.entry(process.ppid).or_default().push(at);
        }
    }
    // The first process is at the top; those behind it are only there when nothing above shows them.
    let all_of_them = (0..all.len()).rev().map(|at| (at, 0));
    pending.reverse();
    pending.splice(0..0, all_of_them);
    let mut table = Table::new(&[
        "pid#", "pgid#", "sid#", "threads#", "state", "command", "program~",
    ]);
    let mut shown = vec![false; all.len()];
    while let Some((at, depth)) = pending.pop() {
        if std::mem::replace(&mut shown[at], true) {
            continue;
        }
        let process = &all[at];
        table.row([
            process.pid.to_string(),
            process.pgid.to_string(),
            process.sid.to_string(),
            process.threads.len().max(1).to_string(),
            process.state.to_owned(),
            format!("{}{}", "  ".repeat(depth), process.name),
            program(process).unwrap_or_default(),
        ]);
        let below = children.get(&process.pid).into_iter().flatten().rev();
        pending.extend(below.map(|child| (*child, (depth + 1).min(64))));
    }
    let json = all.iter().map(|process| {
        json!({
            "pid": process.pid, "ppid": process.ppid, "pgid": process.pgid, "sid": process.sid,
            "threads": process.threads, "state": process.state, "command": process.name, "program": program(process),
        })
    });
    Ok(Report::new(table, Value::Array(json.collect())))
}
