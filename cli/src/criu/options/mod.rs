//! criu's command line, parsed as far as needed: what it means stays criu's to decide.
//!
//! criu reads it with `getopt_long(3)`: options and other words in any order, unambiguous abbreviations of long options,
//! short ones bundled, values attached or in the next word, until `--`. What it does not find there it takes from its
//! configuration files (`criu/config.c`, `parse_options`).

mod config;
mod known;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use self::known::{SHORT, Takes, long, takes};

pub use self::config::config_words;
pub use self::known::{WITH_OPTIONAL_VALUE, WITH_VALUE, WITHOUT_VALUE};

/// Prefix of our own options. None of criu's begins so, nor can it be an abbreviation of one.
const OURS: &str = "--restow-";

/// An option with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    name: &'static str,
    value: Option<OsString>,
}

/// A command line for criu, with our own options taken out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// criu's words, as they were given.
    words: Vec<OsString>,
    /// Where further options can be put into [`Self::words`].
    end: usize,
    options: Vec<Given>,
    operands: Vec<OsString>,
    ours: Vec<(String, OsString)>,
    incomplete: bool,
}

impl CommandLine {
    /// Parses the words after `criu`.
    ///
    /// # Errors
    /// With the option of ours that has no value.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut line = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if let Some(text) = word.to_str().and_then(|text| text.strip_prefix(OURS)) {
                let (name, value) = match text.split_once('=') {
                    Some((name, value)) => (name, Some(value.into())),
                    None => (text, words.next()),
                };
                let value = value.ok_or_else(|| format!("{OURS}{name} needs a value"))?;
                line.ours.push((name.to_owned(), value));
                continue;
            }
            line.words.push(word.clone());
            if word == "--" {
                line.end = line.words.len() - 1;
                for operand in words {
                    line.words.push(operand.clone());
                    line.operands.push(operand);
                }
                return Ok(line);
            }
            let mut value = || {
                let value = words.next();
                line.words.extend(value.clone());
                line.incomplete |= value.is_none();
                value
            };
            let bytes = word.as_bytes();
            if let Some(text) = bytes.strip_prefix(b"--") {
                let mut parts = text.splitn(2, |byte| *byte == b'=');
                let name = parts.next().unwrap_or_default();
                let attached = parts
                    .next()
                    .map(|value| OsStr::from_bytes(value).to_owned());
                let Some(name) = std::str::from_utf8(name).ok().and_then(long) else {
                    continue;
                };
                let value =
                    attached.or_else(|| (takes(name) == Takes::Value).then(&mut value).flatten());
                line.options.push(Given { name, value });
            } else if bytes.len() > 1 && bytes[0] == b'-' {
                line.options.extend(bundle(&bytes[1..], value));
            } else {
                line.operands.push(word);
            }
        }
        line.end = line.words.len();
        Ok(line)
    }

    /// What criu is told to do: its first word that is no option.
    pub fn command(&self) -> Option<&str> {
        self.operands.first()?.to_str()
    }

    /// The last option lacks its value. Nothing may be put behind it, and criu says what is wrong.
    pub fn incomplete(&self) -> bool {
        self.incomplete
    }

    /// Whether an option is given.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|given| given.name == name)
    }

    /// The value of an option; the last one counts.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.values(name).last()
    }

    /// All values of an option, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        self.options
            .iter()
            .filter(move |given| given.name == name)
            .filter_map(|given| given.value.as_deref())
    }

    /// Our own options, without `--restow-`.
    pub fn ours(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.ours
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_os_str()))
    }

    /// Puts what criu's configuration files say before what the command line says.
    #[must_use]
    pub fn with_defaults(mut self, defaults: Vec<Self>) -> Self {
        let mut options: Vec<Given> = defaults.into_iter().flat_map(|line| line.options).collect();
        options.append(&mut self.options);
        Self { options, ..self }
    }

    /// criu's words with further options behind all others, so that they count.
    pub fn with(&self, more: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        let mut words = self.words.clone();
        words.splice(self.end..self.end, more);
        words
    }
}

/// Short options written together; the first that takes a value takes the rest, or the next word.
fn bundle(mut rest: &[u8], next: impl FnOnce() -> Option<OsString>) -> Vec<Given> {
    let mut found = Vec::new();
    while let Some((letter, after)) = rest.split_first() {
        rest = after;
        let Some((_, name)) = SHORT.iter().find(|(short, _)| short == letter) else {
            continue;
        };
        let kind = takes(name);
        let attached = (kind != Takes::Nothing && !after.is_empty())
            .then(|| OsString::from_vec(after.to_vec()));
        let taken = attached.is_some();
        let value = match kind {
            Takes::Value if !taken => {
                found.push(Given {
                    name,
                    value: next(),
                });
                return found;
            }
            _ => attached,
        };
        found.push(Given { name, value });
        if taken {
            return found;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> CommandLine {
        CommandLine::parse(words.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn every_spelling_of_getopt_is_understood() {
        for words in [
            &["restore", "-D", "img", "-d"][..],
            &["restore", "-dDimg"],
            &["-d", "--images-dir", "img", "restore"],
            &["--images-dir=img", "restore", "--restore-d"],
            &[
                "restore",
                "-v4",
                "-dvvvv",
                "-D",
                "first",
                "--images=img",
                "--",
            ],
        ] {
            let line = parse(words);
            assert_eq!(line.command(), Some("restore"), "{words:?}");
            assert_eq!(line.value("images-dir"), Some("img".as_ref()), "{words:?}");
            assert!(line.has("restore-detached"), "{words:?}");
            assert_eq!(line.with([]), words, "{words:?}");
        }
    }

    #[test]
    fn an_optional_value_is_never_the_next_word() {
        let line = parse(&["--manage-cgroups", "ignore", "-v", "dump"]);
        assert!(line.has("manage-cgroups") && line.value("manage-cgroups").is_none());
        assert_eq!(line.command(), Some("ignore"));
        let line = parse(&["--manage-cgroups=ignore"]);
        assert_eq!(line.value("manage-cgroups"), Some("ignore".as_ref()));
    }

    #[test]
    fn a_value_that_looks_like_an_option_or_a_command_is_none() {
        let line = parse(&["-o", "dump", "--pidfile", "-d", "restore"]);
        assert_eq!(line.command(), Some("restore"));
        assert_eq!(line.value("log-file"), Some("dump".as_ref()));
        assert!(!line.has("restore-detached"));
    }

    #[test]
    fn ours_are_taken_out_and_further_ones_go_before_the_double_dash() {
        let line = parse(&[
            "restore",
            "--restow-set",
            "cgroup-files=ignore",
            "--exec-cmd",
            "--restow-map=/a=/b",
            "--",
            "cmd",
            "--restow-set",
        ]);
        let ours: Vec<_> = line.ours().collect();
        assert_eq!(
            ours,
            [
                ("set", "cgroup-files=ignore".as_ref()),
                ("map", "/a=/b".as_ref())
            ]
        );
        assert_eq!(
            line.with(["-D".into(), "x".into()]),
            [
                "restore",
                "--exec-cmd",
                "-D",
                "x",
                "--",
                "cmd",
                "--restow-set"
            ]
        );
        let error = CommandLine::parse(["--restow-set".into()]).unwrap_err();
        assert_eq!(error, "--restow-set needs a value");
    }

    #[test]
    fn a_missing_value_is_for_criu_to_tell() {
        for words in [
            &["restore", "-D"][..],
            &["restore", "--images-dir"],
            &["-dt"],
        ] {
            assert!(parse(words).incomplete(), "{words:?}");
        }
        assert!(!parse(&["restore", "-D", "x"]).incomplete());
    }

    #[test]
    fn what_is_unknown_or_ambiguous_is_kept_and_means_nothing() {
        let line = parse(&["--restore", "--no-such=1", "-q", "dump"]);
        assert_eq!(line.with([]), ["--restore", "--no-such=1", "-q", "dump"]);
        assert_eq!(line.command(), Some("dump"));
    }

    #[test]
    fn a_configuration_file_comes_before_the_command_line() {
        let words = config_words(
            "# a comment\nimages-dir /a\n  external \"mnt[/x y]:z\" # more\n\ntcp-established\naction-script \"say \\\"hi\\\"\"\n",
        );
        assert_eq!(
            words,
            [
                "--images-dir",
                "/a",
                "--external",
                "mnt[/x y]:z",
                "--tcp-established",
                "--action-script",
                "say \"hi\""
            ]
        );
        let config = CommandLine::parse(words).unwrap();
        let line = parse(&["dump", "-D", "/b", "--external", "e"]).with_defaults(vec![config]);
        assert_eq!(line.value("images-dir"), Some("/b".as_ref()));
        assert_eq!(
            line.values("external").collect::<Vec<_>>(),
            ["mnt[/x y]:z", "e"]
        );
        assert_eq!(line.with([]), ["dump", "-D", "/b", "--external", "e"]);
    }
}
