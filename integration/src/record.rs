//! Verdicts of scenarios, kept for `docs/matrix.md`: one line of JSON for each.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::engine::{Manager, Mode, Runtime, Stack};
use crate::node::CgroupView;
use crate::suite::Suite;

/// Names, in the environment, the file that verdicts are added to.
pub const VARIABLE: &str = "RESTOW_RECORD";

/// What became of a scenario on one stack in one mode.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "verdict", content = "text")]
pub enum Outcome {
    /// All held; the text shows it.
    Right(String),
    /// The text says what did not hold.
    Wrong(String),
    /// What was to be run has no restore at all; the text says what has none.
    NoRestore(String),
    /// It cannot be run here; the text says why.
    Skipped(String),
    /// The stage itself broke; the text says how.
    Broken(String),
}

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The scenario and its case, as the test names it.
    pub scenario: String,
    /// The Debian suite.
    pub suite: Suite,
    /// The runtime.
    pub runtime: Runtime,
    /// Which cgroups the node saw.
    pub view: CgroupView,
    /// What made pods and containers.
    #[serde(default)]
    pub manager: Manager,
    /// Whether Restow took part.
    pub mode: Mode,
    /// The versions of runtime and CRIU; empty when no node was started.
    pub versions: String,
    /// The part of the text that says that stock is wrong for the reason the scenario is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Entry {
    /// What became of `scenario` on `stack` in `mode`.
    #[must_use]
    pub fn new(scenario: &str, stack: Stack, mode: Mode, versions: &str, outcome: Outcome) -> Self {
        Self {
            scenario: scenario.to_owned(),
            suite: stack.suite,
            runtime: stack.runtime,
            view: stack.cgroup_view,
            manager: stack.manager,
            mode,
            versions: versions.to_owned(),
            known: None,
            outcome,
        }
    }

    /// Adds it to the file that [`VARIABLE`] names; does nothing without one.
    pub fn keep(&self) -> Result<()> {
        let Some(path) = std::env::var_os(VARIABLE) else {
            return Ok(());
        };
        let path = Path::new(&path);
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        // One write at the end of the file: tests run side by side.
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(&line))
            .with_context(|| format!("Add to the record {}", path.display()))
    }
}

/// Reads a record.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("Read {}", path.display()))?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("Understand the record {line:?}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_that_is_read_back() {
        let entry = Entry {
            scenario: "Cgroup 1".into(),
            suite: Suite::Testing,
            runtime: Runtime::Crun,
            view: CgroupView::V2,
            manager: Manager::Suite,
            mode: Mode::Stock,
            versions: "crun 1.28, criu 4.2.1".into(),
            known: Some("a".into()),
            outcome: Outcome::Wrong("a\nb".into()),
        };
        let line = serde_json::to_string(&entry).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
    }
}
