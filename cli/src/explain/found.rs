//! The logs that a path on the command line stands for.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use restow::explain::{Outcome, Report};
use restow::finding::{Finding, Severity};
use serde_json::{Value, json};

use crate::input::{Limits, is_archive, read_named};

/// Names that runtimes give to CRIU's logs; the last is CRIU's own default.
const CRIU_LOGS: [&str; 3] = ["dump.log", "restore.log", "criu.log"];
/// Restow's log.
const RESTOW_LOG: &str = "restow.log";
/// Restow's plan of a restore.
const PLAN: &str = "restow-plan.json";
/// As much of the end of Restow's log is read.
const RESTOW_TAIL: u64 = 64 << 10;
/// So many of its lines are shown.
const RESTOW_LINES: usize = 20;
/// A longer plan is not read.
const LONGEST_PLAN: u64 = 64 << 20;
/// A directory of kept logs has no more than this.
const MOST_LOGS: usize = 1000;

/// A log of CRIU's.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    pub(super) report: Report,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) logs: Vec<Log>,
    /// What Restow wrote about its last operation there, without notes.
    pub(super) restow: Vec<String>,
    /// The findings of the plan there that are no notes.
    pub(super) plan: Vec<Finding>,
}

impl Found {
    /// Reads what `path` stands for.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            let report =
                Report::read(std::io::stdin().lock()).context("Standard input cannot be read")?;
            return Self::default()
                .with(PathBuf::from("standard input"), report)
                .check(path);
        }
        let meta =
            fs::metadata(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        if meta.is_dir() {
            return Self::of_dir(path)?.check(path);
        }
        let mut file =
            File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        let mut start = Vec::new();
        let unreadable = || format!("{} cannot be read", path.display());
        (&mut file)
            .take(512)
            .read_to_end(&mut start)
            .with_context(unreadable)?;
        if is_archive(&start) {
            return Self::of_archive(path)?.check(path);
        }
        // A pipe has no start to go back to.
        let log = std::io::Cursor::new(start).chain(file);
        let report =
            Report::read(BufReader::with_capacity(1 << 16, log)).with_context(unreadable)?;
        Self::default().with(path.to_owned(), report).check(path)
    }

    fn with(mut self, path: PathBuf, report: Report) -> Self {
        self.logs.push(Log { path, report });
        self
    }

    fn of_dir(dir: &Path) -> Result<Self> {
        let mut found = Self::default();
        let mut names: Vec<_> = fs::read_dir(dir)
            .with_context(|| format!("{} cannot be read", dir.display()))?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| is_criu_log(name))
            .take(MOST_LOGS)
            .collect();
        names.sort();
        for name in names {
            let path = dir.join(name);
            let Some(file) = open_file(&path)? else {
                continue;
            };
            let report = Report::read(BufReader::with_capacity(1 << 16, file))
                .with_context(|| format!("{} cannot be read", path.display()))?;
            found.logs.push(Log { path, report });
        }
        let path = dir.join(RESTOW_LOG);
        if let Some(mut log) = open_file(&path)? {
            found.restow = restow_lines(&mut log)
                .with_context(|| format!("{} cannot be read", path.display()))?;
        }
        let path = dir.join(PLAN);
        if let Some(plan) = open_file(&path)? {
            found.plan = plan_findings(plan)
                .with_context(|| format!("{} cannot be read", path.display()))?;
        }
        Ok(found)
    }

    fn of_archive(path: &Path) -> Result<Self> {
        let names = [&CRIU_LOGS[..], &[RESTOW_LOG, PLAN]].concat();
        let files = read_named(path, &Limits::default(), &names)
            .with_context(|| path.display().to_string())?;
        let mut found = Self::default();
        for (name, bytes) in files {
            let inside = path.join(name.trim_start_matches("./"));
            match name.rsplit('/').next() {
                Some(RESTOW_LOG) => found.restow = restow_lines(&mut std::io::Cursor::new(bytes))?,
                Some(PLAN) => found.plan = plan_findings(bytes.as_slice())?,
                _ => found.logs.push(Log {
                    path: inside,
                    report: Report::read(bytes.as_slice())?,
                }),
            }
        }
        Ok(found)
    }

    fn check(mut self, path: &Path) -> Result<Self> {
        if let [log] = self.logs.as_slice()
            && log.report.outcome == Outcome::Foreign
        {
            bail!("{} has no line of CRIU's in it", log.path.display());
        }
        self.logs
            .retain(|log| log.report.outcome != Outcome::Foreign);
        if self.logs.is_empty() && self.restow.is_empty() && self.plan.is_empty() {
            bail!(
                "{} holds no log: expected {} or {RESTOW_LOG}",
                path.display(),
                CRIU_LOGS.join(", ")
            );
        }
        Ok(self)
    }

    pub(super) fn json(&self) -> Value {
        let logs: Vec<Value> = self
            .logs
            .iter()
            .map(|log| json!({"log": log.path.to_string_lossy(), "report": log.report}))
            .collect();
        json!({"logs": logs, "restow": self.restow, "plan": self.plan})
    }
}

/// A file of a directory that may be anybody's: no link is followed, and no pipe waited for.
fn open_file(path: &Path) -> Result<Option<File>> {
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Ok(None);
    }
    File::open(path)
        .map(Some)
        .with_context(|| format!("{} cannot be opened", path.display()))
}

/// Restow keeps logs of failures as `<time>-<container>-dump.log`.
fn is_criu_log(name: &str) -> bool {
    CRIU_LOGS.iter().any(|known| {
        let Some(before) = name.strip_suffix(known) else {
            return false;
        };
        before.is_empty() || before.ends_with('-')
    })
}

/// The lines of the last operation in Restow's log: `<time> <operation> <container>[<process>] <text>`.
fn restow_lines(log: &mut (impl Read + Seek)) -> Result<Vec<String>> {
    let length = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(length.saturating_sub(RESTOW_TAIL)))?;
    let mut bytes = Vec::new();
    log.take(RESTOW_TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let parts = |line: &'_ str| -> Option<(String, String)> {
        let mut words = line.splitn(4, ' ');
        let (_, operation, who) = (words.next()?, words.next()?, words.next()?);
        Some((format!("{operation} {who}"), words.next()?.to_owned()))
    };
    let Some((last, _)) = text.lines().rev().find_map(parts) else {
        return Ok(Vec::new());
    };
    let mut lines: Vec<String> = text
        .lines()
        .filter_map(parts)
        .filter(|(operation, text)| *operation == last && !text.starts_with("note: "))
        .map(|(operation, text)| format!("{operation}: {text}"))
        .collect();
    lines.drain(..lines.len().saturating_sub(RESTOW_LINES));
    Ok(lines)
}

fn plan_findings(plan: impl Read) -> Result<Vec<Finding>> {
    let mut plan: Value = serde_json::from_reader(plan.take(LONGEST_PLAN))?;
    let findings: Vec<Finding> = serde_json::from_value(plan["findings"].take())?;
    let mut findings: Vec<Finding> = findings
        .into_iter()
        .filter(|finding| finding.severity > Severity::Note)
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_operation_counts() {
        let log = "2026-01-01T00:00:00Z restore a[1] refused: old\n\
                   2026-01-01T00:00:01Z restore a[2] note: a watch\n\
                   2026-01-01T00:00:01Z restore a[2] blocker: mount /data\n";
        let lines = restow_lines(&mut std::io::Cursor::new(log)).unwrap();
        assert_eq!(lines, ["restore a[2]: blocker: mount /data"]);
        assert!(
            restow_lines(&mut std::io::Cursor::new("no\nform"))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn kept_logs_are_logs() {
        assert!(is_criu_log("dump.log") && is_criu_log("20260101T000000-web-restore.log"));
        assert!(!is_criu_log("mydump.log") && !is_criu_log("restow.log"));
    }
}
