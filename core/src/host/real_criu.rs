//! Finding the real criu: the first one in PATH that is not this program.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Names the copies of this program that are already in the chain, as `device:inode` separated by commas. Two copies in
/// PATH would otherwise find each other for ever.
const SEEN: &str = "RESTOW_INTERPOSED";

/// Where to look when PATH is not set; what `execvp(3)` uses, with the administrator's directories.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The real criu.
#[derive(Debug)]
pub struct RealCriu {
    /// Where it is.
    pub path: PathBuf,
    seen: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PATH has none.
    #[error(
        "No criu found in PATH ({path}) besides Restow's own at {own}; install criu, or name it with criu = \"/path\" in \
         the node's configuration"
    )]
    NotFound {
        /// What was searched.
        path: String,
        /// This program.
        own: PathBuf,
    },
    /// The configured one cannot be run.
    #[error("The configured criu {path} cannot be run")]
    Configured {
        /// The configured path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `/proc/self/exe` cannot be read.
    #[error("Cannot find out which program this is")]
    Own(#[source] io::Error),
}

impl RealCriu {
    /// Finds it: the configured one, else by scanning PATH.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn find(configured: Option<&Path>) -> Result<Self, Error> {
        let own = env::current_exe().map_err(Error::Own)?;
        let own_id = identity(&own).map_err(Error::Own)?;
        let mut seen = env::var(SEEN).unwrap_or_default();
        if !seen.split(',').any(|id| id == own_id) {
            seen = if seen.is_empty() {
                own_id
            } else {
                format!("{seen},{own_id}")
            };
        }
        if let Some(path) = configured {
            let id = runnable(path).map_err(|source| Error::Configured {
                path: path.into(),
                source,
            })?;
            if seen.split(',').any(|other| other == id) {
                let source = io::Error::other("it is Restow's own criu");
                return Err(Error::Configured {
                    path: path.into(),
                    source,
                });
            }
            return Ok(Self {
                path: path.into(),
                seen,
            });
        }
        let search = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        Self::scan(&search, &seen).ok_or_else(|| Error::NotFound {
            path: search.to_string_lossy().into_owned(),
            own,
        })
    }

    fn scan(search: &OsString, seen: &str) -> Option<Self> {
        env::split_paths(search)
            .map(|dir| dir.join("criu"))
            .find_map(|path| {
                let id = runnable(&path).ok()?;
                (!seen.split(',').any(|other| other == id)).then(|| Self {
                    path,
                    seen: seen.to_owned(),
                })
            })
    }

    /// Becomes the real criu. Returns only on failure.
    pub fn exec(&self, args: &[OsString]) -> io::Error {
        self.exec_with(args, None)
    }

    /// The same with one more variable in the environment.
    pub fn exec_with(&self, args: &[OsString], variable: Option<(&str, &str)>) -> io::Error {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(&self.path);
        if let Some((name, rest)) = args.split_first() {
            command.arg0(name).args(rest);
        }
        command.envs(variable).env(SEEN, &self.seen).exec()
    }
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
        assert_eq!(RealCriu::scan(&search, &seen).unwrap().path, expected);
        let without = env::join_paths([&ours, &copy, &data]).unwrap();
        assert!(RealCriu::scan(&without, &seen).is_none());
    }
}
