//! What a log of CRIU says went wrong: known lines become findings, root cause first.
//!
//! ```text
//! log ─▶ line ─▶ context (quiet lines: which process, which fd) ─┐
//!              └▶ errors and warnings ─▶ causes (the table) ──────┴─▶ Report
//! ```
//!
//! A log is read line by line and hardly anything of it is kept, so that 100 MB cost time but no memory. It is not trusted: lines are
//! cut, findings are counted beyond a bound.
//!
//! The texts in the table are facts about CRIU 4.1 and 4.2; each was taken from a log that a test provokes, or from CRIU's source.

mod causes;
mod context;
mod line;
mod pattern;
mod quiet;
mod template;

use std::collections::VecDeque;
use std::io::{self, BufRead};

use serde::Serialize;

use crate::finding::{Finding, Object, Rule};
use context::{Context, Facts};
use line::{Level, Line};
use quiet::Quiet;

pub use causes::{Cause, Subject, all};

/// How Restow's own explanations at the end of a log go on: with the path of the log. A refusal has no such words.
pub const LOG_AT: &str = "; CRIU's log is ";

/// A longer line is cut, in bytes. The longest that CRIU writes is 1024 (`criu/log.c`, LOG_BUF_LEN).
const LONGEST_LINE: usize = 4096;
/// More findings are only counted.
const MOST_FINDINGS: usize = 64;
/// More errors that nobody knows are only counted.
const MOST_UNKNOWN: usize = 16;
/// Lines kept for a log that ends in the middle.
const LAST_LINES: usize = 5;

/// What CRIU was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Checkpoint.
    Dump,
    /// Restore.
    Restore,
}

/// How the log says that it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// CRIU says that it succeeded; errors in the log did no harm.
    Succeeded,
    /// CRIU says that it failed, or its log has errors and no verdict.
    Failed,
    /// The log ends without a verdict and without an error: CRIU was killed, crashed, or is still at work.
    Unfinished,
    /// There is nothing in it.
    Empty,
    /// No line in it is one of CRIU's.
    Foreign,
}

/// A line as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// Its number, from 1.
    pub line: u64,
    /// Its text, cut when it is very long.
    pub text: String,
}

/// One cause that a log shows.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Its stable name.
    pub cause: &'static str,
    /// The object, and what it means and what to do in one text.
    pub finding: Finding,
    /// What it means.
    pub meaning: String,
    /// What a user can do.
    pub remedy: String,
    /// What the log says about the object, by name.
    pub facts: Facts,
    /// Where the log says it first.
    pub quote: Quote,
    /// How often it says it.
    pub times: u64,
    #[serde(skip)]
    rank: Rank,
}

/// Which of several causes in one log is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Restow itself refused.
    Refusal,
    /// CRIU names it.
    Root,
    /// It can be the consequence of another one.
    Vague,
}

/// What a log says.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Dump or restore, as far as it can be seen.
    pub operation: Option<Operation>,
    /// How it ended.
    pub outcome: Outcome,
    /// CRIU's version.
    pub criu: Option<String>,
    /// What went wrong, the root cause first.
    pub causes: Vec<Explanation>,
    /// Errors that nobody knows, in the order of the log.
    pub unknown: Vec<Quote>,
    /// Errors beyond these.
    pub more: u64,
    /// The last lines.
    pub last: Vec<Quote>,
    /// How many lines the log has.
    pub lines: u64,
}

impl Report {
    /// Reads a log to its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(mut log: impl BufRead) -> io::Result<Self> {
        let mut reader = Reader::default();
        let mut line = Vec::new();
        while next_line(&mut log, &mut line)? {
            reader.line(&String::from_utf8_lossy(&line));
        }
        Ok(reader.finish())
    }

    /// The root cause.
    #[must_use]
    pub fn decisive(&self) -> Option<&Explanation> {
        self.causes.first()
    }

    /// Why it failed, in one line: the decisive cause, or the first error as it stands; `None` when the log does not say.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        if let Some(cause) = self.decisive() {
            return Some(cause.to_string());
        }
        let first = self.unknown.first()?;
        let line = Line::parse(&first.text);
        let speaker = line
            .pid
            .map(|pid| format!("process {pid}: "))
            .unwrap_or_default();
        Some(format!("{speaker}CRIU says: {}", line.message))
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} [{}]",
            self.finding.object, self.finding.text, self.cause
        )
    }
}

/// Reads a line without its end into `line`, cut at [`LONGEST_LINE`]; `false` at the end of the log.
fn next_line(log: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let buffer = match log.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        let room = LONGEST_LINE.saturating_sub(line.len()).min(part.len());
        line.extend_from_slice(&part[..room]);
        let used = part.len() + usize::from(end.is_some());
        log.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Takes a log line by line.
#[derive(Debug, Default)]
struct Reader {
    context: Context,
    operation: Option<Operation>,
    succeeded: Option<bool>,
    criu: Option<String>,
    found: Vec<Found>,
    unknown: Vec<Quote>,
    /// Errors that explain nothing, for a log that has no others.
    consequences: Vec<Quote>,
    more: u64,
    last: VecDeque<Quote>,
    lines: u64,
    /// There was a line of CRIU's.
    is_criu: bool,
}

#[derive(Debug)]
struct Found {
    cause: &'static Cause,
    facts: Facts,
    quote: Quote,
    speaker: Option<String>,
    times: u64,
    /// A line has said what it was about; what comes now is another matter.
    complete: bool,
}

impl Reader {
    fn line(&mut self, text: &str) {
        self.lines += 1;
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        let text = line::unquoted(text);
        let text = text.as_ref();
        let line = Line::parse(text);
        self.is_criu |= line.is_criu;
        match line.level {
            Level::Other => self.quiet(&line),
            Level::Warning => self.loud(&line, text),
            Level::Error => {
                self.verdict(line.message);
                self.loud(&line, text);
            }
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(self.quote(text));
    }

    fn quote(&self, text: &str) -> Quote {
        Quote {
            line: self.lines,
            text: text.to_owned(),
        }
    }

    fn quiet(&mut self, line: &Line<'_>) {
        self.verdict(line.message);
        self.context.note(line);
    }

    fn verdict(&mut self, message: &str) {
        let (operation, succeeded) = match message {
            "Dumping finished successfully" | "Pre-dumping finished successfully" => {
                (Operation::Dump, Some(true))
            }
            "Dumping FAILED." | "Pre-dumping FAILED." => (Operation::Dump, Some(false)),
            "Restore finished successfully. Tasks resumed." => (Operation::Restore, Some(true)),
            "Restoring FAILED." => (Operation::Restore, Some(false)),
            "Reading image tree" => (Operation::Restore, None),
            _ => {
                if let Some(version) = message.strip_prefix("Version: ") {
                    let version = version.split(' ').next().unwrap_or_default();
                    self.criu.get_or_insert_with(|| version.to_owned());
                } else if message.starts_with("Dumping processes (pid: ") {
                    self.operation = Some(Operation::Dump);
                }
                return;
            }
        };
        self.operation = Some(operation);
        self.succeeded = succeeded.or(self.succeeded);
    }

    fn loud(&mut self, line: &Line<'_>, text: &str) {
        if let Some(facts) = context::afterwards(line.message) {
            self.complete(line.pid, &facts);
        }
        let own = line.file == Some("restow");
        if own && (causes::names_one(line.message) || line.message.contains(LOG_AT)) {
            // What Restow wrote at the end of an earlier reading of this log.
            return;
        }
        let found = if own {
            Some((&causes::REFUSAL, vec![("text", line.message)]))
        } else {
            causes::find(line)
        };
        if let Some((cause, captures)) = found {
            let mut facts = self.context.facts(line);
            let named = context::collect(captures);
            if named
                .get("pid")
                .is_some_and(|pid| facts.get("pid") != Some(pid))
            {
                // What was said before was about another process.
                facts.clear();
            }
            facts.extend(named);
            self.add(Found {
                cause,
                facts,
                quote: self.quote(text),
                speaker: line.pid.map(str::to_owned),
                times: 1,
                complete: false,
            });
        } else if line.level == Level::Error {
            let quote = self.quote(text);
            match quiet::of(line.message) {
                None if self.unknown.len() < MOST_UNKNOWN => self.unknown.push(quote),
                None => self.more += 1,
                Some(Quiet::Consequence) if self.consequences.len() < MOST_UNKNOWN => {
                    self.consequences.push(quote);
                }
                Some(_) => {}
            }
        }
    }

    fn add(&mut self, found: Found) {
        let same = |known: &&mut Found| {
            // The second of two functions that tell of one file.
            let goes_on = !known.complete
                && known.speaker == found.speaker
                && found.facts.contains_key("path")
                && known.facts.get("path") == found.facts.get("path");
            let again = known.cause.name == found.cause.name
                && (known.facts == found.facts || known.object() == found.object());
            goes_on || again
        };
        if let Some(known) = self.found.iter_mut().find(same) {
            known.times += 1;
        } else if self.found.len() < MOST_FINDINGS {
            self.found.push(found);
        } else {
            self.more += 1;
        }
    }

    /// A line that says what the last errors of its speaker were about.
    fn complete(&mut self, speaker: Option<&str>, facts: &Facts) {
        for found in &mut self.found {
            if found.complete || found.speaker.as_deref() != speaker {
                continue;
            }
            found.complete = true;
            for (name, value) in facts {
                let known = found.facts.entry(name.clone());
                known.or_insert_with(|| value.clone());
            }
        }
    }

    fn finish(self) -> Report {
        let failed = !self.found.is_empty() || !self.unknown.is_empty();
        let outcome = match self.succeeded {
            Some(true) => Outcome::Succeeded,
            Some(false) => Outcome::Failed,
            None if failed => Outcome::Failed,
            None if self.last.is_empty() => Outcome::Empty,
            None if !self.is_criu => Outcome::Foreign,
            None => Outcome::Unfinished,
        };
        let mut causes: Vec<_> = self.found.into_iter().map(Found::explain).collect();
        if outcome == Outcome::Unfinished
            && let Some(quote) = self.last.back()
        {
            causes.push(
                Found {
                    cause: &causes::UNFINISHED,
                    facts: Facts::new(),
                    quote: quote.clone(),
                    speaker: None,
                    times: 1,
                    complete: true,
                }
                .explain(),
            );
        }
        let mut unknown = self.unknown;
        if causes.is_empty() && unknown.is_empty() && outcome == Outcome::Failed {
            unknown = self.consequences;
        }
        // Stable: among equals the first in the log is the root.
        causes.sort_by_key(|cause| cause.rank);
        Report {
            operation: self.operation,
            outcome,
            criu: self.criu,
            causes,
            unknown,
            more: self.more,
            last: self.last.into(),
            lines: self.lines,
        }
    }
}

impl Found {
    fn render(&self, template: &str) -> String {
        let holder = holder(&self.facts);
        template::render(template, &|name| match name {
            "holder" => holder.as_deref(),
            _ => self.facts.get(name).map(String::as_str),
        })
    }

    fn object(&self) -> String {
        self.render(self.cause.object)
    }

    fn explain(self) -> Explanation {
        let (meaning, remedy) = (
            self.render(self.cause.meaning),
            self.render(self.cause.remedy),
        );
        let object = Object::Reported {
            name: self.object(),
        };
        let text = if remedy.is_empty() {
            meaning.clone()
        } else {
            format!("{meaning}; {remedy}")
        };
        Explanation {
            cause: self.cause.name,
            finding: Finding::blocker(Rule::Criu, object, text),
            meaning,
            remedy,
            rank: self.cause.rank(),
            facts: self.facts,
            quote: self.quote,
            times: self.times,
        }
    }
}

/// Who has the object: `fd 3 of process 12`.
fn holder(facts: &Facts) -> Option<String> {
    let pid = facts.get("pid")?;
    Some(match (facts.get("part"), facts.get("fd")) {
        (Some(part), _) => format!("{part} of process {pid}"),
        (None, Some(fd)) => format!("fd {fd} of process {pid}"),
        (None, None) => format!("process {pid}"),
    })
}

#[cfg(test)]
mod tests;
