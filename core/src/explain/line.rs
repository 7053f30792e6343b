//! One line of a CRIU log taken apart.
//!
//! CRIU writes `(00.002399)    910: Error (criu/files-reg.c:2175): File tmp/w/f has bad size 9 (expect 6)`: seconds since its start, the
//! process that speaks (when it is not CRIU's first one), the level, the place in CRIU's source, the message (`criu/log.c`). What runs
//! inside a process writes `pie: 910: Error (criu/pie/parasite.c:588): …`. Before the log is open, and in what a runtime quotes, parts at
//! the start are missing or others come before; so the level is looked for anywhere. runc (>= 1.3) quotes lines inside of its own, with
//! their numbers: `… msg="350:(00.130283) Error (criu/files-reg.c:1790): …"`.

use std::borrow::Cow;

/// How loud a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warning,
    Other,
}

/// A line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) level: Level,
    /// The process that wrote it, in its own pid namespace; CRIU's first process does not say.
    pub(super) pid: Option<&'a str>,
    /// The source file, as CRIU names it; of a line that is loud.
    pub(super) file: Option<&'a str>,
    pub(super) message: &'a str,
    /// Whether it has CRIU's form at all.
    pub(super) is_criu: bool,
}

impl<'a> Line<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        for (word, level) in [("Error (", Level::Error), ("Warn  (", Level::Warning)] {
            if let Some(line) = Self::loud(text, word, level) {
                return line;
            }
        }
        let rest = after_time(text);
        let (pid, message) = speaker(rest);
        Self {
            is_criu: rest.len() < text.len() || text.starts_with("pie: "),
            level: Level::Other,
            pid,
            file: None,
            message,
        }
    }

    fn loud(text: &'a str, word: &str, level: Level) -> Option<Self> {
        let at = text.find(word)?;
        let (place, message) = text[at + word.len()..].split_once("):")?;
        // `criu/files-reg.c:2175`, and Restow's own name.
        let (file, _) = place.split_once(':').unwrap_or((place, ""));
        if file.is_empty() || file.contains(' ') {
            return None;
        }
        let (pid, _) = speaker(after_time(&text[..at]));
        Some(Self {
            is_criu: true,
            level,
            pid,
            file: Some(file),
            message: message.strip_prefix(' ').unwrap_or(message),
        })
    }
}

/// The line of CRIU's that a line of a runtime's log quotes, or else the line itself.
pub(super) fn unquoted(text: &str) -> Cow<'_, str> {
    let marks = ["msg=\"", "\"msg\":\""];
    let quoted = marks.iter().find_map(|mark| {
        let (_, rest) = text.split_once(mark)?;
        let mut line = String::new();
        let mut characters = rest.chars();
        loop {
            match characters.next()? {
                '"' => return Some(line),
                '\\' => match characters.next()? {
                    't' => line.push('\t'),
                    'n' => return Some(line),
                    other => line.push(other),
                },
                other => line.push(other),
            }
        }
    });
    match quoted {
        None => Cow::Borrowed(text),
        Some(line) => match line.split_once(':') {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => {
                Cow::Owned(rest.to_owned())
            }
            _ => Cow::Owned(line),
        },
    }
}

/// What follows `(00.002399)` and the blanks after it.
fn after_time(text: &str) -> &str {
    let Some(rest) = text.strip_prefix('(') else {
        return text;
    };
    match rest.split_once(')') {
        Some((time, rest)) if time.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            rest.strip_prefix(' ').unwrap_or(rest)
        }
        _ => text,
    }
}

/// `910: ` at the start, also after `pie: `.
fn speaker(text: &str) -> (Option<&str>, &str) {
    let rest = text.trim_start_matches(' ');
    let rest = rest.strip_prefix("pie: ").unwrap_or(rest);
    if let Some((pid, message)) = rest.split_once(':')
        && !pid.is_empty()
        && pid.bytes().all(|b| b.is_ascii_digit())
    {
        return (Some(pid), message.strip_prefix(' ').unwrap_or(message));
    }
    (None, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_quote_is_taken_off() {
        let runc =
            "time=\"2026-11-25T03:05:43Z\" level=warning msg=\"364:(00.1) \\tRPC \\\"x\\\"\"";
        assert_eq!(unquoted(runc), "(00.1) \tRPC \"x\"");
        let json = r#"{"level":"error","msg":"criu failed: type NOTIFY errno 0\nlog file: w/dump.log","time":""}"#;
        assert_eq!(unquoted(json), "criu failed: type NOTIFY errno 0");
        for plain in ["(00.1) x", "msg=\"no end", "msg=\"\\"] {
            assert_eq!(unquoted(plain), plain);
        }
    }

    #[test]
    fn all_forms_of_a_line() {
        let line = Line::parse(
            "(00.002399)    910: Error (criu/files-reg.c:2175): File tmp/w/f has bad size 9 (expect 6)",
        );
        assert_eq!(line.level, Level::Error);
        assert_eq!(line.pid, Some("910"));
        assert_eq!(line.file, Some("criu/files-reg.c"));
        assert_eq!(line.message, "File tmp/w/f has bad size 9 (expect 6)");

        let line = Line::parse("pie: 809: Error (criu/pie/parasite.c:588): send_fds failed (-22)");
        assert_eq!(
            (line.pid, line.message),
            (Some("809"), "send_fds failed (-22)")
        );

        let line = Line::parse("(00.0) Warn  (compel/src/lib/infect.c:133): Unable: x (y)");
        assert_eq!(line.level, Level::Warning);
        assert_eq!(line.pid, None);

        let quoted = "time=\"…\" level=error msg=\"(00.1)      1: Error (criu/mount.c:1): mnt: x\"";
        let line = Line::parse(quoted);
        assert_eq!((line.level, line.message), (Level::Error, "mnt: x\""));

        let line = Line::parse("Error (restow): The restore is not possible: mount /data");
        assert_eq!(line.file, Some("restow"));
        assert_eq!(line.message, "The restore is not possible: mount /data");

        let line = Line::parse("(00.008022) 780 fdinfo 3: pos: 0 flags: 2/0");
        assert_eq!(
            (line.level, line.message),
            (Level::Other, "780 fdinfo 3: pos: 0 flags: 2/0")
        );
        let line = Line::parse("(00.009444)   1781: inet: \tRestore: family AF_INET");
        assert_eq!(
            (line.pid, line.message),
            (Some("1781"), "inet: \tRestore: family AF_INET")
        );
        for odd in ["", "(", "(x)", "Error (", "Error (no end", "Error (a b): c"] {
            assert_eq!(Line::parse(odd).level, Level::Other, "{odd}");
        }
    }
}
