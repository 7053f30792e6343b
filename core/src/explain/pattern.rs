//! Literal text with captures: `File {path} has bad size {size#} (expect {expected#})`.
//!
//! `{name}` stands for any text that is not empty, `{name#}` for a number as CRIU prints it (decimal, hexadecimal, negative). A text
//! matches that starts as the pattern says; a capture at the end takes all the rest. A capture reaches as far as it can, since paths may
//! hold anything.

/// What was captured, by name.
pub(super) type Captures<'p, 't> = Vec<(&'p str, &'t str)>;

/// Matches `text`, or `text` without the topics that CRIU puts before a message (`mnt: `, `unix: ghost: `).
pub(super) fn find<'p, 't>(pattern: &'p str, text: &'t str) -> Option<Captures<'p, 't>> {
    /// `net: ipv4: ` is the most there is.
    const MOST_TOPICS: usize = 2;
    let mut rest = text;
    for _ in 0..=MOST_TOPICS {
        if let Some(found) = matches(pattern, rest) {
            return Some(found);
        }
        let (topic, after) = rest.split_once(": ")?;
        if topic.is_empty()
            || !topic
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return None;
        }
        rest = after.trim_start_matches('\t');
    }
    None
}

/// Matches `text` from its start.
pub(super) fn matches<'p, 't>(pattern: &'p str, text: &'t str) -> Option<Captures<'p, 't>> {
    let mut captures = Vec::new();
    rest_matches(pattern, text, &mut captures).then_some(captures)
}

fn rest_matches<'p, 't>(pattern: &'p str, text: &'t str, captures: &mut Captures<'p, 't>) -> bool {
    let Some((literal, after)) = pattern.split_once('{') else {
        return text.starts_with(pattern);
    };
    let Some(text) = text.strip_prefix(literal) else {
        return false;
    };
    let Some((name, pattern)) = after.split_once('}') else {
        return false;
    };
    let (name, fits): (&str, fn(&str) -> bool) = match name.strip_suffix('#') {
        Some(name) => (name, is_number),
        None => (name, |value| !value.is_empty()),
    };
    if pattern.is_empty() {
        let fits = fits(text);
        if fits {
            captures.push((name, text));
        }
        return fits;
    }
    // The literal up to the next capture; patterns have something between two captures.
    let next = pattern.split('{').next().unwrap_or_default();
    for (at, _) in text.rmatch_indices(next) {
        if !fits(&text[..at]) {
            continue;
        }
        let known = captures.len();
        captures.push((name, &text[..at]));
        if rest_matches(pattern, &text[at..], captures) {
            return true;
        }
        captures.truncate(known);
    }
    false
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_reach_as_far_as_they_can() {
        let found = matches(
            "Can't open file {path} on restore: {error}",
            "Can't open file a on restore: b on restore: c",
        );
        assert_eq!(
            found,
            Some(vec![("path", "a on restore: b"), ("error", "c")])
        );
        assert_eq!(
            matches("{pid#} fdinfo {fd#}: pos:", "780 fdinfo 3: pos: 0"),
            Some(vec![("pid", "780"), ("fd", "3")])
        );
        assert_eq!(matches("{pid#} killed", "x killed"), None);
        assert_eq!(matches("a {x} b", "a  b"), None, "a capture is not empty");
        assert_eq!(matches("plain", "plainly"), Some(vec![]));
    }

    #[test]
    fn topics_come_before_a_message() {
        assert_eq!(
            find(
                "No mapping for {id#}:{path} mountpoint",
                "mnt: No mapping for 179:/x mountpoint"
            ),
            Some(vec![("id", "179"), ("path", "/x")])
        );
        assert_eq!(
            find("Can't create {what}", "unix: ghost: Can't create a: b"),
            Some(vec![("what", "a: b")])
        );
        assert_eq!(find("b", "Not a topic: b"), None);
    }

    /// Backtracking is bounded by the few captures a pattern has.
    #[test]
    fn a_long_line_is_no_trouble() {
        let text = format!("Can't open file {}", " on restore: ".repeat(2_000));
        assert!(matches("Can't open file {path} on restore: {error}!", &text).is_none());
    }
}
