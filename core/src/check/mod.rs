//! `restow check`: what in a running tree cannot be dumped, or restored elsewhere.
//!
//! [`check`] is pure: [`Facts`], as [`crate::host::live`] reads them without stopping anything, become [`Finding`]s.
//! Each rule is one that the real criu was seen to follow; `docs/check.md` has the table.

mod facts;
mod files;
mod node;
mod rule;
mod sockets;
mod tasks;

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::finding::Severity;
use crate::ids::HostPid;
use crate::policy::Policy;

pub use facts::{Facts, FileKind, InetSocket, Mapping, Mount, Node, OpenFile, Task, UnixSocket};
pub use rule::Rule;

/// How the tree would be moved.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// What pod and node ask for, when Restow works on this container; `None` when it is dumped by CRIU alone.
    pub policy: Option<Policy>,
}

/// Who has the object of a finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The process, as this process counts.
    pub pid: HostPid,
    /// The same, in its innermost pid namespace.
    pub container_pid: u32,
    /// Its command name.
    pub command: String,
    /// The descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<u32>,
}

impl Place {
    fn of(task: &Task, fd: Option<u32>) -> Self {
        Self {
            pid: task.pid,
            container_pid: task.ns_pid,
            command: task.command.clone(),
            fd,
        }
    }
}

/// One object, why it matters, and the way round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The rule.
    pub rule: Rule,
    /// The object: a path, an address, a namespace.
    pub object: String,
    /// Who has it; empty when it is the node's.
    pub places: Vec<Place>,
    /// What it is, and what CRIU makes of it; no trailing period.
    pub text: String,
    /// What a user can do; no trailing period.
    pub way_round: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fd) = self.fd {
            write!(f, "fd {fd} of ")?;
        }
        write!(f, "process {} ({}", self.pid, self.command)?;
        if u32::try_from(self.pid.0) != Ok(self.container_pid) {
            write!(f, ", {} in the container", self.container_pid)?;
        }
        f.write_str(")")
    }
}

/// One line: `fd 3 of process 4711 (node, 1 in the container): io_uring: CRIU cannot … [io-uring]. Run the program …`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.places.first() {
            write!(f, "{place}")?;
            match self.places.len() {
                1 => f.write_str(": ")?,
                many => write!(f, " and {} more: ", many - 1)?,
            }
        }
        let (object, text, way) = (&self.object, &self.text, &self.way_round);
        write!(f, "{object}: {text} [{}]. {way}", self.rule)
    }
}

/// Whether the tree can be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Yes.
    Yes,
    /// Yes, with warnings.
    Warnings,
    /// No.
    No,
}

/// Collects findings; the same object of one rule is told once, with all who have it.
#[derive(Debug, Default)]
struct Findings {
    all: Vec<Finding>,
    /// Where the finding of a rule and object is among them.
    at: HashMap<(Rule, String), usize>,
}

/// More who have one object are counted by their first ones only.
const MOST_PLACES: usize = 1000;

impl Findings {
    fn add(
        &mut self,
        severity: Severity,
        rule: Rule,
        object: impl Into<String>,
        place: Option<Place>,
        text: impl Into<String>,
    ) {
        let object = object.into();
        if let Some(found) = self
            .at
            .get(&(rule, object.clone()))
            .and_then(|at| self.all.get_mut(*at))
        {
            found.severity = found.severity.max(severity);
            let room = found.places.len() < MOST_PLACES;
            found.places.extend(place.filter(|_| room));
            return;
        }
        self.at.insert((rule, object.clone()), self.all.len());
        self.all.push(Finding {
            severity,
            rule,
            object,
            places: place.into_iter().collect(),
            text: text.into(),
            way_round: rule.way_round().to_owned(),
        });
    }

    fn blocker(
        &mut self,
        rule: Rule,
        object: impl Into<String>,
        place: Option<Place>,
        text: impl Into<String>,
    ) {
        self.add(Severity::Blocker, rule, object, place, text);
    }

    fn warning(
        &mut self,
        rule: Rule,
        object: impl Into<String>,
        place: Option<Place>,
        text: impl Into<String>,
    ) {
        self.add(Severity::Warning, rule, object, place, text);
    }
}

/// Applies all rules. The most severe findings come first.
pub fn check(facts: &Facts, circumstances: &Circumstances) -> Vec<Finding> {
    let mut findings = Findings::default();
    node::check(facts, circumstances, &mut findings);
    tasks::check(facts, &mut findings);
    files::check(facts, circumstances, &mut findings);
    sockets::check(facts, circumstances, &mut findings);
    let mut findings = findings.all;
    for finding in &mut findings {
        finding.places.sort();
        finding.places.dedup();
    }
    findings.sort_by(|a, b| {
        (b.severity, a.rule, &a.places, &a.object).cmp(&(a.severity, b.rule, &b.places, &b.object))
    });
    findings
}

/// What the findings come to.
pub fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Blocker) => Verdict::No,
        Some(Severity::Warning) => Verdict::Warnings,
        Some(Severity::Note) | None => Verdict::Yes,
    }
}

#[cfg(test)]
mod tests;
