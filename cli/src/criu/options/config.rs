//! criu's configuration files.

use std::ffi::OsString;

/// A configuration file of criu's as the words of a command line: one option a line, without its dashes, then values;
/// `#` begins a comment, `"` quotes a word.
pub fn config_words(text: &str) -> Vec<OsString> {
    text.lines().flat_map(config_line).collect()
}

fn config_line(line: &str) -> Vec<OsString> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"').and_then(quoted) {
            Some(found) => found,
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    if let Some(name) = words.first_mut() {
        name.insert_str(0, "--");
    }
    words.into_iter().map(OsString::from).collect()
}

/// A quoted word whose opening quote is gone, and what follows; `None` when it is not closed.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        rest = after;
        match before.strip_suffix('\\') {
            Some(escaped) => {
                word.push_str(escaped);
                word.push('"');
            }
            None => {
                word.push_str(before);
                return Some((word, rest));
            }
        }
    }
}
