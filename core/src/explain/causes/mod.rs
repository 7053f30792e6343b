//! The table of known causes, grouped by subject.
//!
//! In the texts of a cause `{name}` is a fact: a capture of its lines, or what [`super::context`] knows; `{holder}` is the descriptor or
//! process. What is in brackets is left out when a fact in it is not known.

mod cgroups;
mod files;
mod images;
mod memory;
mod mounts;
mod namespaces;
mod node;
mod processes;
mod sockets;
mod terminals;

use std::fmt;

use serde::Serialize;

use super::line::{Level, Line};
use super::pattern::{self, Captures};
use super::{Rank, template};

/// What a cause is about; how the table is grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Open files, pipes, watches, locks.
    Files,
    /// Terminals.
    Terminals,
    /// Sockets and the network.
    Sockets,
    /// Mounts and file systems.
    Mounts,
    /// Cgroups.
    Cgroups,
    /// Namespaces.
    Namespaces,
    /// Processes and threads.
    Processes,
    /// Memory.
    Memory,
    /// The checkpoint's images.
    Images,
    /// The node: kernel, CRIU, programs, options.
    Node,
    /// Restow's own words.
    Restow,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "Files",
            Self::Terminals => "Terminals",
            Self::Sockets => "Sockets and network",
            Self::Mounts => "Mounts",
            Self::Cgroups => "Cgroups",
            Self::Namespaces => "Namespaces",
            Self::Processes => "Processes",
            Self::Memory => "Memory",
            Self::Images => "Images",
            Self::Node => "Node, kernel and CRIU",
            Self::Restow => "Restow",
        })
    }
}

/// Something that goes wrong, and the lines by which it is known.
#[derive(Debug, Clone, Copy)]
pub struct Cause {
    /// Its stable name.
    pub name: &'static str,
    /// Error lines that show it, as patterns.
    pub(super) lines: &'static [&'static str],
    /// Warnings that show it when the operation failed.
    pub(super) warnings: &'static [&'static str],
    /// The object.
    pub(super) object: &'static str,
    /// What it means.
    pub(super) meaning: &'static str,
    /// What a user can do.
    pub(super) remedy: &'static str,
    /// It can be the consequence of another cause.
    pub(super) vague: bool,
}

impl Cause {
    /// What most causes have.
    const NEW: Self = Self {
        name: "",
        lines: &[],
        warnings: &[],
        object: "",
        meaning: "",
        remedy: "",
        vague: false,
    };

    /// What it means, with the names of facts where a log has the facts.
    #[must_use]
    pub fn meaning(&self) -> String {
        generic(self.meaning)
    }

    /// What a user can do, likewise.
    #[must_use]
    pub fn remedy(&self) -> String {
        generic(self.remedy)
    }

    /// The lines by which it is known, as patterns.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let all = self.lines.iter().chain(self.warnings);
        all.map(|line| {
            line.replace("{_}", "…")
                .replace("#}", "}")
                .replace('\t', "")
        })
        .collect()
    }

    pub(super) fn rank(&self) -> Rank {
        if self.name == REFUSAL.name {
            Rank::Refusal
        } else if self.vague {
            Rank::Vague
        } else {
            Rank::Root
        }
    }
}

/// A text in which facts are only named.
fn generic(text: &str) -> String {
    let names: Vec<String> = text
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let shown: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
    template::render(text, &|wanted| {
        let at = names.iter().position(|name| name == wanted)?;
        shown.get(at).map(String::as_str)
    })
}

/// Restow refused or vetoed, and wrote so into CRIU's log.
pub(super) const REFUSAL: Cause = Cause {
    name: "restow-refused",
    object: "Restow",
    meaning: "{text}",
    ..Cause::NEW
};

/// A log without a verdict.
pub(super) const UNFINISHED: Cause = Cause {
    name: "criu-ended-early",
    object: "criu",
    meaning: "its log ends in the middle, without an error: criu was killed (by the kernel for lack of memory, or by the end of the \
              runtime), it crashed, or it is still at work",
    remedy: "look for criu and its process number in the kernel's log (dmesg, journalctl -k) and for a limit of memory or time on the \
             service that runs the runtime; an image that is missing makes some versions of criu crash",
    vague: true,
    ..Cause::NEW
};

const GROUPS: &[(Subject, &[Cause])] = &[
    (Subject::Files, files::CAUSES),
    (Subject::Terminals, terminals::CAUSES),
    (Subject::Sockets, sockets::CAUSES),
    (Subject::Mounts, mounts::CAUSES),
    (Subject::Cgroups, cgroups::CAUSES),
    (Subject::Namespaces, namespaces::CAUSES),
    (Subject::Processes, processes::CAUSES),
    (Subject::Memory, memory::CAUSES),
    (Subject::Images, images::CAUSES),
    (Subject::Node, node::CAUSES),
    (Subject::Restow, &[REFUSAL]),
];

/// All causes, by subject.
pub fn all() -> impl Iterator<Item = (Subject, &'static Cause)> {
    GROUPS
        .iter()
        .flat_map(|(subject, causes)| causes.iter().map(|cause| (*subject, cause)))
}

/// The first cause in the table that a line shows.
pub(super) fn find<'t>(line: &Line<'t>) -> Option<(&'static Cause, Captures<'static, 't>)> {
    all().find_map(|(_, cause)| {
        let patterns = match line.level {
            Level::Error => cause.lines,
            Level::Warning => cause.warnings,
            Level::Other => return None,
        };
        let found = patterns
            .iter()
            .find_map(|pattern| pattern::find(pattern, line.message))?;
        Some((cause, found))
    })
}

/// Whether a text has the name of a cause in brackets.
pub(super) fn names_one(text: &str) -> bool {
    let names = text
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split_once(']'));
    names
        .map(|(name, _)| name)
        .any(|name| all().any(|(_, cause)| cause.name == name))
}
