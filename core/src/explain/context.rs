//! What lines before (and just after) an error say about the object that the error does not name.

use std::collections::{BTreeMap, HashMap};

use super::line::Line;
use super::pattern;

/// Facts by name, as they are used in the texts of causes.
pub(super) type Facts = BTreeMap<String, String>;

/// Quiet lines that say what CRIU works on; a fact holds until the next line of its group.
struct Clue {
    pattern: &'static str,
    /// Facts that no longer hold.
    forgets: &'static [&'static str],
}

/// What belongs to one descriptor.
const OF_A_FD: &[&str] = &[
    "fd", "path", "area", "family", "port", "state", "address", "epoll",
];

const CLUES: &[Clue] = &[
    // Dump: criu/cr-dump.c, criu/files.c, criu/files-reg.c, criu/proc_parse.c
    Clue {
        pattern: "Dumping task (pid: {pid#} comm: {program})",
        forgets: OF_A_FD,
    },
    Clue {
        pattern: "{pid#} fdinfo {fd#}: pos:",
        forgets: OF_A_FD,
    },
    Clue {
        pattern: "Dumping path for {fd#} fd via self {_} [{path}]",
        forgets: &[],
    },
    Clue {
        pattern: "Handling VMA with the following smaps entry: {area}",
        forgets: &["fd", "path"],
    },
    Clue {
        pattern: "lockinfo: {_}:{_} {_} {lock_pid#} {lock_device}:{lock_inode#} ",
        forgets: &[],
    },
    Clue {
        pattern: "epoll: kid_lookup_epoll: no match pid {pid#} efd {epoll#} tfd {fd#} ",
        forgets: OF_A_FD,
    },
    Clue {
        pattern: "unix: \tRunaway socket: ino {inode#} peer_ino {peer#} ",
        forgets: &["fd", "path"],
    },
    Clue {
        pattern: "----------------------------------------",
        forgets: OF_A_FD,
    },
    // Restore: criu/files.c, criu/sk-inet.c, criu/cr-restore.c
    Clue {
        pattern: "inet: \tRestore: family {family} type {_} port {port} state {state} src_addr {address}",
        forgets: OF_A_FD,
    },
    Clue {
        pattern: "Forking task with {child#} pid ",
        forgets: &[],
    },
];

/// Lines after an error that say what it was about.
const AFTERWARDS: &[(&str, Option<&str>)] = &[
    ("Unable to open fd={fd#} id={_}", None),
    ("Can't open cwd", Some("the working directory")),
    ("Can't open root", Some("the root")),
    ("`- Can't open vma", Some("a mapping")),
    ("Dump files (pid: {pid#}) failed", None),
    ("Dump core (pid: {pid#}) failed", None),
    ("Collect mappings (pid: {pid#}) failed", None),
    ("Dump mappings (pid: {pid#}) failed", None),
];

/// More processes than this are not kept apart.
const MOST_SPEAKERS: usize = 4096;

/// What is known while a log is read.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// By the process that speaks; CRIU's first process is the empty name.
    speakers: HashMap<String, Facts>,
}

impl Context {
    /// Takes note of a quiet line. Called for every line of a log, so it looks twice only at what can matter.
    pub(super) fn note(&mut self, line: &Line<'_>) {
        let message = line.message;
        let Some(clue) = CLUES.iter().find_map(|clue| {
            let literal = clue.pattern.split('{').next().unwrap_or_default();
            let may_match = message.starts_with(literal)
                && (!literal.is_empty()
                    || message.as_bytes().first().is_some_and(u8::is_ascii_digit));
            let found = may_match.then(|| pattern::matches(clue.pattern, message));
            Some((clue, found.flatten()?))
        }) else {
            return;
        };
        let (clue, captures) = clue;
        let speaker = line.pid.unwrap_or_default();
        if !self.speakers.contains_key(speaker) && self.speakers.len() >= MOST_SPEAKERS {
            return;
        }
        let facts = self.speakers.entry(speaker.to_owned()).or_default();
        for name in clue.forgets {
            facts.remove(*name);
        }
        facts.extend(collect(captures));
    }

    /// The facts that hold for an error of this speaker.
    pub(super) fn facts(&self, line: &Line<'_>) -> Facts {
        let speaker = line.pid.unwrap_or_default();
        let mut facts = self.speakers.get(speaker).cloned().unwrap_or_default();
        if let Some(pid) = line.pid {
            facts.insert("pid".to_owned(), pid.to_owned());
        }
        facts
    }
}

/// Facts that a line gives about the errors before it; `None` when it is no such line.
pub(super) fn afterwards(message: &str) -> Option<Facts> {
    AFTERWARDS.iter().find_map(|(pattern, part)| {
        let captures = pattern::find(pattern, message)?;
        let mut facts = collect(captures);
        if let Some(part) = part {
            facts.insert("part".to_owned(), (*part).to_owned());
        }
        Some(facts)
    })
}

/// Captures as facts.
pub(super) fn collect(captures: pattern::Captures<'_, '_>) -> Facts {
    captures
        .into_iter()
        .filter(|(name, value)| is_fact(name, value))
        .map(|(name, value)| (name.to_owned(), tidy(name, value)))
        .collect()
}

/// Negative descriptors are CRIU's words for the working directory, root, program and mappings.
fn is_fact(name: &str, value: &str) -> bool {
    name != "_" && value != "null" && value != "(null)" && !(name == "fd" && value.starts_with('-'))
}

/// A fact as people read it: CRIU writes most paths relative to the root, and fills columns with blanks.
fn tidy(name: &str, value: &str) -> String {
    let value = value.trim();
    match name {
        "path" => {}
        // The line of smaps starts with it.
        "area" => return value.split(' ').next().unwrap_or_default().to_owned(),
        _ => return value.to_owned(),
    }
    // While mounts are made they are below /tmp/.criu.mntns.XXXXXX/mnt-0000000156 (criu/mount-v2.c).
    let value = value
        .strip_prefix("/tmp/.criu.mntns.")
        .and_then(|rest| rest.splitn(3, '/').nth(2))
        .unwrap_or(value);
    let relative = value
        .strip_prefix('.')
        .filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let value = relative.unwrap_or(value);
    if value.starts_with('/') {
        value.to_owned()
    } else {
        format!("/{value}")
    }
}
