//! `restow doctor`: can this node move containers, and what has to be done so that it can?
//!
//! Nothing is changed. Each question is a line: what was found, and where that is not right, what to do.
//!
//! * [`kernel`]: the kernel, capabilities, cgroups, directories that are written to.
//! * [`criu`]: which criu is found, by whom, and what it says itself.
//! * [`engines`]: runtimes, containerd, CRI-O, podman.
//! * [`own`]: our programs, the node's configuration, checkpoints.

mod criu;
mod engines;
mod kernel;
mod own;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use restow::finding::Severity;
use restow::policy::{NODE_CONFIG, NodeConfig};
use serde::Serialize;
use serde_json::{Value, json};

use super::install::open;
use super::journal::Journal;
use super::root::NodeRoot;
use crate::output::{self, Colour, Style, visible};
use crate::{Failure, verdict};

/// Options of `restow doctor`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// The root directory of the node, where it is not this one's own
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,

    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Colour,
}

const HELP: &str = "\
Nothing is changed. Run it as root: criu's own check needs that.

Exit codes:
  0  this node can move containers
  1  it can, with warnings
  2  the command line is wrong
  3  the node cannot be looked at
  5  it cannot";

/// How a question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Moves work, but not all, or not as somebody may expect.
    Warn,
    /// Moves do not work.
    Fail,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was asked about: a stable name.
    pub check: &'static str,
    /// The answer in one word.
    pub status: Status,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What is looked at.
#[derive(Debug)]
struct Node<'a> {
    root: &'a NodeRoot,
    config: NodeConfig,
    journal: Option<Journal>,
}

/// The answers.
#[derive(Debug, Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push(Line {
            check,
            status: Status::Ok,
            text: text.into(),
            fix: None,
        });
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Status::Warn, text, fix);
    }

    fn fail(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Status::Fail, text, fix);
    }

    fn add(
        &mut self,
        check: &'static str,
        status: Status,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Line {
            check,
            status,
            text: text.into(),
            fix: Some(fix.into()),
        });
    }
}

/// Runs `restow doctor`.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let root = open(&args.root)?;
    let lines = examine(&root);
    let worst = lines.iter().map(|line| line.status).max();
    if args.json {
        output::json(&report(&lines, worst))?;
    } else {
        output::text(&text(&lines, worst, Style::new(args.color)))?;
    }
    Ok(verdict::exit_code(worst.map(|status| match status {
        Status::Ok => Severity::Note,
        Status::Warn => Severity::Warning,
        Status::Fail => Severity::Blocker,
    })))
}

/// Asks all questions.
#[must_use]
pub fn examine(root: &NodeRoot) -> Vec<Line> {
    let mut lines = Lines::default();
    let config = own::configuration(root, &mut lines);
    let journal = own::journal(root, &mut lines);
    let node = Node {
        root,
        config: config.unwrap_or_default(),
        journal,
    };
    own::programs(&node, &mut lines);
    kernel::examine(&node, &mut lines);
    criu::examine(&node, &mut lines);
    engines::examine(&node, &mut lines);
    own::checkpoints(&node, &mut lines);
    lines.0
}

fn report(lines: &[Line], worst: Option<Status>) -> Value {
    json!({ "verdict": worst.unwrap_or(Status::Ok), "checks": lines })
}

fn text(lines: &[Line], worst: Option<Status>, style: Style) -> String {
    let mut text = String::new();
    let width = lines.iter().map(|line| line.check.len()).max().unwrap_or(0);
    for line in lines {
        let (word, colour) = match line.status {
            Status::Ok => ("ok  ", "32"),
            Status::Warn => ("warn", "33"),
            Status::Fail => ("fail", "31"),
        };
        let word = style.paint(colour, word);
        let _ = writeln!(
            text,
            "{word}  {:<width$}  {}",
            line.check,
            visible(&line.text)
        );
        if let Some(fix) = &line.fix {
            let _ = writeln!(text, "      {:<width$}  → {}", "", visible(fix));
        }
    }
    let answer = match worst {
        Some(Status::Fail) => "this node cannot move containers as it is",
        Some(Status::Warn) => "this node can move containers, with warnings",
        _ => "this node can move containers",
    };
    let _ = writeln!(text, "\n{}", style.strong(answer));
    text
}

/// Where the node's configuration is, as the node has it.
fn config_path() -> PathBuf {
    std::env::var_os("RESTOW_CONFIG").map_or_else(|| NODE_CONFIG.into(), PathBuf::from)
}
