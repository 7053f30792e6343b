//! `restow image mems`.

use std::collections::HashMap;

use anyhow::Result;
use criu_image::Kind;
use criu_image::object::Object;
use serde_json::{Value, json};

use super::Report;
use super::model::{Files, OpenFile, processes, records};
use crate::input::ImageSet;
use crate::output::Table;

// `criu/include/image.h`, VMA_*.
const STACK: u64 = 1 << 1;
const VSYSCALL: u64 = 1 << 2;
const VDSO: u64 = 1 << 3;
const HEAP: u64 = 1 << 5;
const FILE: u64 = 1 << 6 | 1 << 7;
const ANON_SHARED: u64 = 1 << 8;
const SYSV: u64 = 1 << 10;
const SOCKET: u64 = 1 << 11;
const VVAR: u64 = 1 << 12;
const AIO: u64 = 1 << 13;
const MEMFD: u64 = 1 << 14;

/// `MAP_SHARED`.
const SHARED: u64 = 1;

pub(super) fn report(set: &ImageSet) -> Result<Report> {
    let files = Files::read(set)?;
    // Shared memory has large numbers; people tell small ones apart more easily.
    let mut shared: HashMap<u64, usize> = HashMap::new();
    let mut table = Table::new(&["pid#", "start#", "end#", "KiB#", "mode", "what~"]);
    let mut json = Vec::new();
    for process in processes(set)? {
        records(set, &Kind::Mm.file_name(process.pid), Kind::Mm, |mm| {
            for vma in mm.objects("vmas") {
                let number = |name| vma.u64(name).unwrap_or(0);
                let (start, end) = (number("start"), number("end"));
                let what = what(&vma, &files, &mut shared);
                let mode = mode(number("prot"), number("flags"));
                json.push(json!({
                    "pid": process.pid, "start": start, "end": end, "mode": mode, "what": what,
                    "pgoff": number("pgoff"), "status": number("status"), "flags": number("flags"), "shmid": number("shmid"),
                }));
                let size = end.saturating_sub(start) / 1024;
                table.row([
                    process.pid.to_string(),
                    format!("{start:x}"),
                    format!("{end:x}"),
                    size.to_string(),
                    mode,
                    what,
                ]);
            }
        })?;
    }
    Ok(Report::new(table, Value::Array(json)))
}

fn what(vma: &Object<'_>, files: &Files, shared: &mut HashMap<u64, usize>) -> String {
    let status = vma.u64("status").unwrap_or(0);
    let id = vma.u64("shmid").unwrap_or(0);
    let mut number = || {
        let next = shared.len() + 1;
        *shared.entry(id).or_insert(next)
    };
    let is = |bit: u64| status & bit != 0;
    if is(SYSV) {
        format!("[sysv {}]", number())
    } else if is(SOCKET) {
        format!("[packet ring {}]", number())
    } else if is(MEMFD) && anonymous(id, files) {
        format!("[shared {}]", number())
    } else if is(MEMFD) || is(FILE) {
        let file = file_of(id, files);
        let name = file.map_or_else(|| format!("(file {id})"), |file| file.text.clone());
        match vma.u64("pgoff").unwrap_or(0) {
            0 => name,
            offset => format!("{name} + {offset:#x}"),
        }
    } else if is(ANON_SHARED) {
        format!("[shared {}]", number())
    } else {
        let named = [
            (STACK, "[stack]"),
            (VSYSCALL, "[vsyscall]"),
            (VDSO, "[vdso]"),
            (VVAR, "[vvar]"),
            (HEAP, "[heap]"),
            (AIO, "[aio ring]"),
        ];
        named
            .iter()
            .find(|(bit, _)| is(*bit))
            .map_or_else(String::new, |(_, name)| (*name).to_owned())
    }
}

/// CRIU keeps shared anonymous memory as a memory file, of the name that the kernel shows in `/proc/<pid>/maps`.
fn anonymous(id: u64, files: &Files) -> bool {
    file_of(id, files).is_some_and(|file| file.text == "memfd:/dev/zero")
}

fn file_of(id: u64, files: &Files) -> Option<&OpenFile> {
    let id = u32::try_from(id).ok()?;
    files.regular(id).or_else(|| files.get("MEMFD", id))
}

fn mode(prot: u64, flags: u64) -> String {
    let bit = |bit: u64, c| if prot & bit != 0 { c } else { '-' };
    [
        bit(1, 'r'),
        bit(2, 'w'),
        bit(4, 'x'),
        if flags & SHARED != 0 { 's' } else { 'p' },
    ]
    .iter()
    .collect()
}
