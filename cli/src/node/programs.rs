//! Restow's programs, and where they go.

use std::io;
use std::path::{Path, PathBuf};

use super::change::{Change, Wanted};
use super::root::NodeRoot;
use super::state::Digest;

/// The program that goes before the real criu.
pub const CRIU: &str = "criu";
/// This command.
pub const RESTOW: &str = "restow";
/// containerd's shim.
pub const SHIM: &str = "containerd-shim-restow-v2";
/// The OCI runtime around runc and crun.
pub const RUNTIME: &str = "restow-runtime";
/// The OCI hooks.
pub const HOOK: &str = "restow-oci-hook";

/// All of them, with what they are for.
const PROGRAMS: &[(&str, &str)] = &[
    (CRIU, "the program before the real criu"),
    (RESTOW, "the command restow"),
    (SHIM, "containerd's shim"),
    (RUNTIME, "the OCI runtime around runc and crun"),
    (HOOK, "the OCI hooks"),
];

/// A place that is searched before `/usr/sbin` by every shell and service.
const IN_PATH: &str = "/usr/local/sbin/criu";

/// Where Restow's programs are on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    prefix: PathBuf,
}

impl Layout {
    /// Below `prefix`: programs in `lib/restow`, where each finds the others beside itself, and the command in `bin`.
    #[must_use]
    pub fn below(prefix: &Path) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The directory of all programs, as the node has it. It is put before PATH to have our criu come first.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.prefix.join("lib/restow")
    }

    /// A program, as the node has it.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// The command in users' PATH, as the node has it.
    #[must_use]
    pub fn command(&self) -> PathBuf {
        self.prefix.join("bin").join(RESTOW)
    }
}

/// The programs that are beside the running `restow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    directory: PathBuf,
    found: Vec<&'static str>,
}

impl Source {
    /// Those in `directory`.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        let found = PROGRAMS.iter().map(|(name, _)| *name);
        Self {
            directory: directory.to_owned(),
            found: found
                .filter(|name| directory.join(name).is_file())
                .collect(),
        }
    }

    /// Whether there is such a program.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        // One program with two names.
        self.found.contains(&name) || (name == HOOK && self.found.contains(&RUNTIME))
    }

    /// The prefix that they are installed below already, by a package; `None` when they have to be copied.
    #[must_use]
    pub fn installed_below(&self) -> Option<&Path> {
        self.directory.strip_prefix("/").ok()?;
        let lib = self.directory.parent()?;
        let named = self.directory.ends_with("lib/restow");
        named.then(|| lib.parent()).flatten()
    }

    /// What has to be there so that they are found at `layout`.
    ///
    /// # Errors
    /// When a program cannot be read.
    pub fn changes(
        &self,
        node: &NodeRoot,
        layout: &Layout,
        runtimes: &[&str],
        in_path: bool,
    ) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let packaged = node.is_own() && self.directory == node.place(&layout.directory(), true)?;
        if !packaged {
            for (name, what) in PROGRAMS {
                if self.found.contains(name) {
                    let from = self.directory.join(name);
                    let digest = Digest::of_file(&from)?;
                    let wanted = Wanted::Program { from, digest };
                    changes.push(change(layout.program(name), wanted, what));
                } else if self.has(name) {
                    changes.push(link(layout.program(name), RUNTIME, what));
                }
            }
            let target = Path::new("../lib/restow").join(RESTOW);
            changes.push(link(layout.command(), target, "the command restow in PATH"));
            if self.has(RUNTIME) {
                for runtime in runtimes {
                    let name = format!("restow-{runtime}");
                    let what = format!("{RUNTIME} with {runtime} as the real runtime");
                    changes.push(link(layout.program(&name), RUNTIME, &what));
                }
            }
        }
        if in_path {
            let target = layout.program(CRIU);
            let what = "our criu before the real one in everybody's PATH";
            changes.push(link(IN_PATH.into(), target, what));
        }
        Ok(changes)
    }
}

fn change(path: PathBuf, wanted: Wanted, what: &str) -> Change {
    Change {
        path,
        wanted,
        what: what.to_owned(),
    }
}

fn link(path: PathBuf, target: impl Into<PathBuf>, what: &str) -> Change {
    change(path, Wanted::Link(target.into()), what)
}
