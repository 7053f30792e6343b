//! Explanations for people.

use std::fmt::Write;

use restow::explain::{self, Explanation, Operation, Outcome, Quote, Report};
use unicode_width::UnicodeWidthStr;

use super::found::{Found, Log};
use crate::output::{Style, visible};

/// Errors that follow from the first ones are not all shown.
const SHOWN_ERRORS: usize = 6;

/// Everything that was found, the last log at the end.
pub(super) fn found(found: &Found, style: Style) -> String {
    let mut text = String::new();
    for log in &found.logs {
        one(&mut text, log, style);
        text.push('\n');
    }
    if !found.plan.is_empty() {
        let _ = writeln!(text, "{}", style.strong("Restow's plan of the restore"));
        for finding in &found.plan {
            paragraph(&mut text, "  ", &finding.to_string(), style);
        }
        text.push('\n');
    }
    if !found.restow.is_empty() {
        let _ = writeln!(
            text,
            "{}",
            style.strong("Restow's log of its last operation here")
        );
        for line in &found.restow {
            paragraph(&mut text, "  ", line, style);
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn one(text: &mut String, log: &Log, style: Style) {
    let report = &log.report;
    let path = visible(&log.path.to_string_lossy());
    let _ = writeln!(text, "{}: {}", style.strong(&path), verdict(report, style));
    if matches!(report.outcome, Outcome::Succeeded | Outcome::Empty) {
        return;
    }
    for (index, cause) in report.causes.iter().enumerate() {
        if index == 1 {
            text.push_str("\nAlso in this log, perhaps as a consequence:\n");
        }
        text.push('\n');
        explanation(text, cause, style);
    }
    if !report.unknown.is_empty() {
        let what = if report.causes.is_empty() {
            "No known cause. The errors, as they stand"
        } else {
            "Errors that are not known"
        };
        let _ = writeln!(text, "\n{what}:");
        for quote in report.unknown.iter().take(SHOWN_ERRORS) {
            quoted(text, quote);
        }
        let more = report.unknown.len().saturating_sub(SHOWN_ERRORS) as u64 + report.more;
        if more > 0 {
            let _ = writeln!(text, "  and {more} more");
        }
    }
    if report.outcome == Outcome::Unfinished
        || (report.causes.is_empty() && report.unknown.is_empty())
    {
        text.push_str("\nThe last lines:\n");
        for quote in &report.last {
            quoted(text, quote);
        }
    }
}

fn verdict(report: &Report, style: Style) -> String {
    let operation = match report.operation {
        Some(Operation::Dump) => "checkpoint",
        Some(Operation::Restore) => "restore",
        None => "operation",
    };
    let criu = report.criu.as_deref().unwrap_or_default();
    let criu = if criu.is_empty() {
        String::new()
    } else {
        format!(" (criu {})", visible(criu))
    };
    match report.outcome {
        Outcome::Succeeded => format!("the {operation} succeeded{criu}"),
        Outcome::Failed => format!("the {operation} {}{criu}", style.paint("31", "failed")),
        Outcome::Unfinished => format!(
            "the {operation} has not come to its {}{criu}",
            style.paint("31", "end")
        ),
        Outcome::Foreign => "no line in it is CRIU's".to_owned(),
        Outcome::Empty => {
            "it is empty: criu ended before it could write, or there is no room".to_owned()
        }
    }
}

fn explanation(text: &mut String, cause: &Explanation, style: Style) {
    let object = visible(&cause.finding.object.to_string());
    let _ = writeln!(text, "  {} [{}]", style.strong(&object), cause.cause);
    paragraph(text, "    ", &cause.meaning, style);
    if !cause.remedy.is_empty() {
        paragraph(text, "    way round: ", &cause.remedy, style);
    }
    let times = match cause.times {
        1 => String::new(),
        times => format!(" ({times} times)"),
    };
    let _ = writeln!(
        text,
        "    line {}{times}: {}",
        cause.quote.line,
        visible(&cause.quote.text)
    );
}

fn quoted(text: &mut String, quote: &Quote) {
    let _ = writeln!(text, "  line {}: {}", quote.line, visible(&quote.text));
}

/// A paragraph that fits the terminal; further lines stand below the first one's text.
fn paragraph(text: &mut String, start: &str, words: &str, style: Style) {
    let words = visible(words);
    let Some(width) = style.width.filter(|width| *width > start.len() + 20) else {
        let _ = writeln!(text, "{start}{words}");
        return;
    };
    let mut line = start.to_owned();
    let mut empty = true;
    for word in words.split(' ') {
        if !empty && line.width() + 1 + word.width() > width {
            let _ = writeln!(text, "{line}");
            line = " ".repeat(start.width());
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{line}");
}

/// All causes that are known.
pub(super) fn list(style: Style) -> String {
    let mut text = String::new();
    let mut last = None;
    for (subject, cause) in explain::all() {
        if last != Some(subject) {
            if last.is_some() {
                text.push('\n');
            }
            let _ = writeln!(text, "{}", style.strong(&subject.to_string()));
            last = Some(subject);
        }
        let _ = writeln!(text, "\n  {}", style.strong(cause.name));
        paragraph(&mut text, "    ", &cause.meaning(), style);
        if !cause.remedy().is_empty() {
            paragraph(&mut text, "    way round: ", &cause.remedy(), style);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_fit_a_terminal_and_are_whole_elsewhere() {
        let mut style = Style {
            colour: false,
            width: Some(30),
        };
        let mut text = String::new();
        paragraph(
            &mut text,
            "  do: ",
            "give CRIU the option link-remap\x1b",
            style,
        );
        assert_eq!(
            text,
            "  do: give CRIU the option\n      link-remap\\u{1b}\n"
        );
        style.width = None;
        text.clear();
        paragraph(&mut text, "  ", "a b", style);
        assert_eq!(text, "  a b\n");
    }
}
