//! What a caller of an OCI runtime asked for, read from its arguments without changing them.
//!
//! runc, crun and youki share one command line: global options, a command, its options, the container's id. Only what is asked
//! about here is looked at; everything else goes on as it is, also what no version of today knows.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Global options that have a value (runc 1.1 to 1.3 `main.go`, crun 1.21 to 1.28 `src/crun.c`, youki `liboci-cli`).
const WITH_VALUE: &[&str] = &[
    "log",
    "log-format",
    "log-level",
    "root",
    "criu",
    "rootless",
    "cgroup-manager",
];

/// The arguments of a runtime, the program's name first.
#[derive(Debug, Clone)]
pub struct Call {
    args: Vec<OsString>,
    /// Where the command is; the number of arguments when there is none.
    command: usize,
}

impl Call {
    /// Finds the command among the arguments.
    #[must_use]
    pub fn new(args: Vec<OsString>) -> Self {
        let mut command = 1;
        while let Some(name) = args.get(command).and_then(|arg| option(arg)) {
            let separate =
                !name.contains(&b'=') && WITH_VALUE.iter().any(|known| known.as_bytes() == name);
            command += if separate { 2 } else { 1 };
        }
        let command = command.min(args.len());
        Self { args, command }
    }

    /// All of them.
    #[must_use]
    pub fn args(&self) -> &[OsString] {
        &self.args
    }

    /// The command: `create`, `restore`, ...
    #[must_use]
    pub fn command(&self) -> Option<&str> {
        self.args.get(self.command)?.to_str()
    }

    /// The value of a global option, named without dashes; of several the last, as for the runtimes.
    #[must_use]
    pub fn global(&self, name: &str) -> Option<&OsStr> {
        value(self.args.get(1..self.command)?, &[name])
    }

    /// The value of an option of the command, by any of its names.
    #[must_use]
    pub fn option(&self, names: &[&str]) -> Option<&OsStr> {
        value(self.args.get(self.command + 1..)?, names)
    }

    /// Whether the command has this option, which has no value.
    #[must_use]
    pub fn flag(&self, names: &[&str]) -> bool {
        let rest = self.args.get(self.command + 1..).unwrap_or_default();
        let mut rest = rest.iter().filter_map(|arg| option(arg));
        rest.any(|given| names.iter().any(|name| name.as_bytes() == given))
    }

    /// The arguments of the command that are no options. Only for commands whose options have no values.
    #[must_use]
    pub fn positional(&self, index: usize) -> Option<&OsStr> {
        let rest = self.args.get(self.command + 1..)?;
        let mut words = rest.iter().filter(|arg| option(arg).is_none());
        words.nth(index).map(OsString::as_os_str)
    }

    /// The container's id: what comes last, when the command has anything.
    #[must_use]
    pub fn container(&self) -> Option<&OsStr> {
        let last = self.args.get(self.command + 1..)?.last()?;
        option(last).is_none().then_some(last)
    }

    /// The bundle: `--bundle`, or the working directory.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.option(&["bundle", "b"])
            .map_or_else(|| ".".into(), PathBuf::from)
    }

    /// Takes an option without value away from the command.
    pub fn remove_flag(&mut self, name: &str) {
        let (command, mut index) = (self.command, 0);
        self.args.retain(|arg| {
            index += 1;
            index <= command + 1 || option(arg) != Some(name.as_bytes())
        });
    }

    /// Gives the program another name.
    pub fn rename(&mut self, name: impl Into<OsString>) {
        match self.args.first_mut() {
            Some(first) => *first = name.into(),
            None => {
                self.args.push(name.into());
                self.command = 1;
            }
        }
    }

    /// The global part of the call, from the program's name on.
    #[must_use]
    pub fn globals(&self) -> &[OsString] {
        self.args.get(..self.command).unwrap_or_default()
    }
}

/// An option without its dashes: the runtimes in Go take one or two.
fn option(arg: &OsStr) -> Option<&[u8]> {
    let name = arg.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

/// The value of the last of these options: `--name value` or `--name=value`.
fn value<'a>(args: &'a [OsString], names: &[&str]) -> Option<&'a OsStr> {
    let mut found = None;
    for (index, arg) in args.iter().enumerate() {
        let Some(given) = option(arg) else { continue };
        for name in names {
            match given.strip_prefix(name.as_bytes()) {
                Some([]) => found = args.get(index + 1).map(OsString::as_os_str).or(found),
                Some([b'=', value @ ..]) => found = Some(OsStr::from_bytes(value)),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        Call::new(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn calls_of_real_callers_are_read() {
        // containerd's shim, conmon for podman, and by hand.
        let shim = call(
            "runc --root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup restore --image-path /i --no-subreaper --detach --bundle /b c1",
        );
        assert_eq!(shim.command(), Some("restore"));
        assert_eq!(
            shim.global("root"),
            Some(OsStr::new("/run/containerd/runc/k8s.io"))
        );
        assert_eq!(shim.global("log-format"), Some(OsStr::new("json")));
        assert_eq!(shim.bundle(), PathBuf::from("/b"));
        assert_eq!(shim.container(), Some(OsStr::new("c1")));
        assert!(shim.flag(&["detach", "d"]));
        let conmon = call(
            "/usr/bin/crun --cgroup-manager=cgroupfs --log-format=json --log=/x/oci-log create --bundle /x/userdata --pid-file /x/pidfile 0123",
        );
        assert_eq!(conmon.command(), Some("create"));
        assert_eq!(conmon.global("log"), Some(OsStr::new("/x/oci-log")));
        assert_eq!(conmon.option(&["pid-file"]), Some(OsStr::new("/x/pidfile")));
        let hand = call("runc -root /r state");
        assert_eq!((hand.command(), hand.container()), (Some("state"), None));
        assert_eq!(call("runc --version").command(), None);
        assert_eq!(call("runc --root").command(), None);
    }

    #[test]
    fn an_option_is_taken_from_the_command_alone() {
        let mut given =
            call("crun --root --no-subreaper restore --no-subreaper -d --no-subreaper c");
        given.remove_flag("no-subreaper");
        let left: Vec<_> = given
            .args()
            .iter()
            .map(|arg| arg.to_str().unwrap())
            .collect();
        assert_eq!(left.join(" "), "crun --root --no-subreaper restore -d c");
    }
}
