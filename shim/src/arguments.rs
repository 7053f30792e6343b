//! The command line, as containerd gives it: flags of Go's `flag` package, then an action.
//!
//! Everything is handed to the stock shim as it came. What is read here is only what the proxy needs to know.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What the program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make sure that a shim serves this container, and say where.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Our own: be the proxy.
    Proxy,
    /// Our own: do one task for the proxy.
    Worker,
    /// `-v`, `-info`, or something of later versions: the stock shim's business.
    Other,
}

/// The word that makes this program the proxy. containerd never says it.
pub const PROXY: &str = "restow-proxy";

/// The word that makes this program a worker.
pub const WORKER: &str = "restow-worker";

/// Flags that have no value (`pkg/shim/shim.go` of containerd, `parseFlags`).
const SWITCHES: [&[u8]; 4] = [b"debug", b"v", b"version", b"info"];

/// A command line.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// All of it, the program's name first.
    pub all: Vec<OsString>,
    /// What to do.
    pub action: Action,
    /// containerd's namespace of the container.
    pub namespace: OsString,
    /// The container's id.
    pub id: OsString,
    /// containerd's own socket.
    pub address: OsString,
    /// The container's bundle, where it is not the working directory.
    pub bundle: OsString,
    /// What stands behind the action.
    pub rest: Vec<OsString>,
}

impl Arguments {
    /// Reads a command line as Go's `flag` does: `-name value`, `-name=value`, one dash or two, up to the first word that is no flag.
    #[must_use]
    pub fn parse(all: Vec<OsString>) -> Self {
        let mut arguments = Self {
            action: Action::Other,
            namespace: OsString::new(),
            id: OsString::new(),
            address: OsString::new(),
            bundle: OsString::new(),
            rest: Vec::new(),
            all,
        };
        let mut question = false;
        let mut words = arguments.all.iter().skip(1);
        let action = loop {
            let Some(word) = words.next() else {
                break None;
            };
            let Some(flag) = word.as_bytes().strip_prefix(b"-") else {
                break Some(word);
            };
            let flag = flag.strip_prefix(b"-").unwrap_or(flag);
            if flag.is_empty() {
                break words.next();
            }
            let (name, value) = match flag.iter().position(|byte| *byte == b'=') {
                Some(at) => (&flag[..at], Some(&flag[at + 1..])),
                None => (flag, None),
            };
            if SWITCHES.contains(&name) {
                // Of `-v` and `-info`, whatever the action.
                question |= name != b"debug";
                continue;
            }
            let value = match value {
                Some(value) => OsStr::from_bytes(value).to_owned(),
                None => words.next().cloned().unwrap_or_default(),
            };
            match name {
                b"namespace" => arguments.namespace = value,
                b"id" => arguments.id = value,
                b"address" => arguments.address = value,
                b"bundle" => arguments.bundle = value,
                _ => {}
            }
        };
        arguments.action = match action.map(|word| word.as_bytes()) {
            _ if question => Action::Other,
            Some(b"start") => Action::Start,
            Some(b"delete") => Action::Delete,
            Some(word) if word == PROXY.as_bytes() => Action::Proxy,
            Some(word) if word == WORKER.as_bytes() => Action::Worker,
            _ => Action::Other,
        };
        arguments.rest = words.cloned().collect();
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Arguments {
        Arguments::parse(
            std::iter::once("shim")
                .chain(words.iter().copied())
                .map(OsString::from)
                .collect(),
        )
    }

    #[test]
    fn containerds_command_lines_are_understood() {
        let start = parse(&[
            "-namespace",
            "k8s.io",
            "-address",
            "/run/containerd/containerd.sock",
            "-publish-binary",
            "/usr/bin/containerd",
            "-id",
            "web",
            "-debug",
            "start",
        ]);
        assert_eq!(start.action, Action::Start);
        assert_eq!(
            (start.namespace, start.id),
            ("k8s.io".into(), OsString::from("web"))
        );
        let delete = parse(&[
            "--namespace=default",
            "-id=start",
            "-bundle",
            "/b",
            "delete",
        ]);
        assert_eq!(delete.action, Action::Delete);
        assert_eq!((delete.id, delete.bundle), ("start".into(), "/b".into()));
    }

    #[test]
    fn questions_are_the_stock_shims() {
        for words in [
            &["-v"][..],
            &["-info"],
            &["-info", "start"],
            &[],
            &["-id", "a", "unknown"],
        ] {
            assert_eq!(parse(words).action, Action::Other, "{words:?}");
        }
    }

    #[test]
    fn words_behind_the_action_are_kept() {
        let proxy = parse(&["-id", "a", PROXY, "x", "-y"]);
        assert_eq!(proxy.action, Action::Proxy);
        assert_eq!(proxy.rest, [OsString::from("x"), OsString::from("-y")]);
    }
}
