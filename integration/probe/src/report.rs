//! A process's account of itself, as JSON written by hand: a probe with serde would take longer to build than the tests to run.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::sockets::HeldSocket;
use crate::{Held, sys};

/// Writes `<dir>/<number>.json`, all at once.
pub(crate) fn write(
    dir: &Path,
    number: usize,
    counter: u64,
    memory_intact: bool,
    held: &[Held],
    sockets: &mut [HeldSocket],
) -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| format!("({error})"));
    let cwd = std::env::current_dir().map_or_else(
        |error| format!("({error})"),
        |dir| dir.display().to_string(),
    );
    let files: Vec<String> = held.iter().map(file).collect();
    let sockets: Vec<String> = sockets.iter_mut().map(socket).collect();
    let text = format!(
        "{{\"process\":{number},\"pid\":{},\"counter\":{counter},\"memory_intact\":{memory_intact},\"hostname\":{},\"cwd\":{},\"cgroup\":{},\"mountinfo\":{},\"files\":[{}],\"sockets\":[{}]}}\n",
        std::process::id(),
        string(read("/proc/sys/kernel/hostname").trim_end()),
        string(&cwd),
        string(&read("/proc/self/cgroup")),
        string(&read("/proc/self/mountinfo")),
        files.join(","),
        sockets.join(",")
    );
    let unfinished = dir.join(format!("{number}.unfinished"));
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, dir.join(format!("{number}.json"))))
        .map_err(|error| format!("report in {}: {error}", dir.display()))
}

fn file(held: &Held) -> String {
    let fd = held.file.as_raw_fd();
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).map_or_else(
        |error| format!("({error})"),
        |path| path.display().to_string(),
    );
    // `pos:` decimal, `flags:` octal.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name))
            .map_or("", str::trim)
    };
    if held.watches {
        // `inotify wd:1 ino:2a sdev:26 …`, hexadecimal.
        // `fanotify ino:2a sdev:26 …` on an inode, `fanotify mnt_id:2a …` on a mount.
        let is_mark = !field("fanotify ").is_empty();
        let mark = info
            .lines()
            .find(|line| line.starts_with("fanotify ino:") || line.starts_with("fanotify mnt_id:"));
        let watch = mark.unwrap_or(field("inotify "));
        let watched = watch
            .split(' ')
            .find_map(|word| word.strip_prefix("ino:").or(word.strip_prefix("mnt_id:")))
            .and_then(|ino| u64::from_str_radix(ino, 16).ok());
        let mut buffer = [0; 4096];
        let events = if is_mark {
            sys::marked_events(&held.file)
        } else {
            (&held.file).read(&mut buffer).unwrap_or(0)
        };
        return format!(
            "{{\"fd\":{fd},\"opened\":{},\"link\":{},\"inode\":{},\"offset\":0,\"flags\":0,\"content\":{},\"errno\":null}}",
            string(&held.wanted),
            string(&link),
            watched.unwrap_or(0),
            string(if events > 0 { "events" } else { "no events" }),
        );
    }
    if held.logs {
        // The length of the file tells whether it was.
        let _ = (&held.file).write_all(b"+");
    }
    let mut buffer = [0; 4096];
    let (content, errno) = match held.file.read_at(&mut buffer, 0) {
        Ok(length) => (
            string(&String::from_utf8_lossy(&buffer[..length])),
            "null".to_owned(),
        ),
        Err(error) => (
            "null".to_owned(),
            error.raw_os_error().unwrap_or(0).to_string(),
        ),
    };
    let inode = held.file.metadata().map_or(0, |data| data.ino());
    format!(
        "{{\"fd\":{fd},\"opened\":{},\"link\":{},\"inode\":{inode},\"shared\":{},\"offset\":{},\"flags\":{},\"content\":{content},\"errno\":{errno}}}",
        string(&held.wanted),
        string(&link),
        sys::shares_with_parent(fd),
        field("pos:").parse::<u64>().unwrap_or(0),
        u32::from_str_radix(field("flags:"), 8).unwrap_or(0),
    )
}

fn socket(held: &mut HeldSocket) -> String {
    let told = held.tell();
    format!(
        "{{\"fd\":{},\"opened\":{},\"local\":{},\"peer\":{},\"said\":{}}}",
        told.fd,
        string(&held.wanted),
        string(&told.local),
        told.peer
            .as_deref()
            .map_or_else(|| "null".to_owned(), string),
        string(&told.said)
    )
}

fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Writing to a string cannot fail.
            control if u32::from(control) < 32 => _ = write!(out, "\\u{:04x}", u32::from(control)),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
