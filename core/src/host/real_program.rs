//! Finding the real criu or runtime: the first one in PATH that is not this program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where to look when PATH is not set; what `execvp(3)` uses, with the administrator's directories.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What one of our programs stands before.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// What the real one is called in messages.
    what: &'static str,
    /// The key of the node's configuration that names it.
    key: &'static str,
    /// Names the copies of our program that are already in the chain, as `device:inode` separated by commas. Two copies in
    /// PATH would otherwise find each other for ever.
    seen: &'static str,
}

const CRIU: Kind = Kind {
    what: "criu",
    key: "criu",
    seen: "RESTOW_INTERPOSED",
};
const RUNTIME: Kind = Kind {
    what: "runtime",
    key: "runtime",
    seen: "RESTOW_WRAPPED",
};

/// The real program behind one of ours.
#[derive(Debug)]
pub struct RealProgram {
    /// Where it is.
    pub path: PathBuf,
    /// Another copy of ours has become this process before, and has done the work.
    pub after_another: bool,
    kind: Kind,
    seen: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PATH has none.
    #[error(
        "No {names} found in PATH ({path}) besides Restow's own at {own}; install it, or name it with {key} = \"/path\" in \
         the node's configuration"
    )]
    NotFound {
        /// What was looked for.
        names: String,
        /// The key that can name it.
        key: &'static str,
        /// What was searched.
        path: String,
        /// This program.
        own: PathBuf,
    },
    /// The configured one cannot be run.
    #[error("The configured {what} {path} cannot be run")]
    Configured {
        /// `criu` or `runtime`.
        what: &'static str,
        /// The configured path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `/proc/self/exe` cannot be read.
    #[error("Cannot find out which program this is")]
    Own(#[source] io::Error),
}

impl RealProgram {
    /// The real criu: the configured one, else by scanning PATH.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn criu(configured: Option<&Path>) -> Result<Self, Error> {
        Self::find(CRIU, configured, &["criu"])
    }

    /// The real OCI runtime: the configured one (a path, or a name to be looked for in PATH), else the first of `names` that is
    /// in PATH.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn runtime(configured: Option<&Path>, names: &[&str]) -> Result<Self, Error> {
        match configured.map(|path| (path, path.to_str())) {
            Some((_, Some(name))) if !name.contains('/') => Self::find(RUNTIME, None, &[name]),
            Some((path, _)) => Self::find(RUNTIME, Some(path), names),
            None => Self::find(RUNTIME, None, names),
        }
    }

    fn find(kind: Kind, configured: Option<&Path>, names: &[&str]) -> Result<Self, Error> {
        let own = env::current_exe().map_err(Error::Own)?;
        let own_id = identity(&own).map_err(Error::Own)?;
        let mut seen = env::var(kind.seen).unwrap_or_default();
        let after_another = !seen.is_empty();
        if !seen.split(',').any(|id| id == own_id) {
            seen = if seen.is_empty() {
                own_id
            } else {
                format!("{seen},{own_id}")
            };
        }
        if let Some(path) = configured {
            let unusable = |source| Error::Configured {
                what: kind.what,
                path: path.into(),
                source,
            };
            let id = runnable(path).map_err(unusable)?;
            if seen.split(',').any(|other| other == id) {
                return Err(unusable(io::Error::other(format!(
                    "it is Restow's own {}",
                    kind.what
                ))));
            }
            return Ok(Self {
                path: path.into(),
                after_another,
                kind,
                seen,
            });
        }
        let search = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let found = names.iter().find_map(|name| scan(&search, name, &seen));
        match found {
            Some(path) => Ok(Self {
                path,
                after_another,
                kind,
                seen,
            }),
            None => Err(Error::NotFound {
                names: names.join(" or "),
                key: kind.key,
                path: search.to_string_lossy().into_owned(),
                own,
            }),
        }
    }

    /// Becomes the real program. Returns only on failure.
    pub fn exec(&self, args: &[OsString]) -> io::Error {
        self.exec_with(args, None)
    }

    /// The same with one more variable in the environment.
    pub fn exec_with(&self, args: &[OsString], variable: Option<(&str, &str)>) -> io::Error {
        self.command(args).envs(variable).exec()
    }

    /// The real program with these arguments, of which the first is the name that it is given.
    pub fn command(&self, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.path);
        if let Some((name, rest)) = args.split_first() {
            command.arg0(name).args(rest);
        }
        command.env(self.kind.seen, &self.seen);
        command
    }
}

/// The first program `name` in the directories of `search` that is none of those seen.
fn scan(search: &OsStr, name: &str, seen: &str) -> Option<PathBuf> {
    let mut places = env::split_paths(search).map(|dir| dir.join(name));
    places.find(|path| runnable(path).is_ok_and(|id| !seen.split(',').any(|other| other == id)))
}

/// The identity of an executable file.
fn runnable(path: &Path) -> io::Result<String> {
    let meta = path.metadata()?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::other("it is not an executable file"));
    }
    identity(path)
}

fn identity(path: &Path) -> io::Result<String> {
    let meta = path.metadata()?;
    Ok(format!("{}:{}", meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, mode: u32) -> PathBuf {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join("criu");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn every_copy_already_seen_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let [ours, copy, data, real] = ["a", "b", "c", "d"].map(|name| root.path().join(name));
        let seen = format!(
            "{},{}",
            identity(&program(&ours, 0o755)).unwrap(),
            identity(&program(&copy, 0o755)).unwrap()
        );
        program(&data, 0o644);
        let expected = program(&real, 0o755);
        let search = env::join_paths([&ours, &copy, &data, &real]).unwrap();
        assert_eq!(scan(&search, "criu", &seen).unwrap(), expected);
        let without = env::join_paths([&ours, &copy, &data]).unwrap();
        assert!(scan(&without, "criu", &seen).is_none());
    }
}
