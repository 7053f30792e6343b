//! What the node's configuration says to the shim, and where the programs are that it needs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use restow::policy::{NODE_CONFIG, NodeConfig};

use crate::error::{Attempt, Error};

/// Names another file than [`NODE_CONFIG`].
const CONFIG_VARIABLE: &str = "RESTOW_CONFIG";

/// The program this one stands before.
const STOCK: &str = "containerd-shim-runc-v2";

/// Where packages put shims, for a containerd whose PATH does not have them.
const SHIM_DIRECTORIES: [&str; 4] = [
    "/usr/local/bin",
    "/usr/bin",
    "/opt/containerd/bin",
    "/usr/libexec",
];

/// Where the interposer is looked for, after the directory of this program and `lib` and `restow` near it.
const LIB_DIRECTORIES: [&str; 4] = [
    "/usr/local/lib/restow",
    "/usr/local/lib/restow/bin",
    "/usr/lib/restow",
    "/usr/lib/restow/bin",
];

/// What the shim needs to know.
#[derive(Debug)]
pub struct Settings {
    /// The stock shim.
    pub stock: PathBuf,
    /// The directory with the interposer, the program named `criu` that is to be the first of that name in the runtime's PATH.
    pub lib_dir: Option<PathBuf>,
}

/// Where the node's configuration is.
#[must_use]
pub fn config_path() -> PathBuf {
    env::var_os(CONFIG_VARIABLE).map_or_else(|| PathBuf::from(NODE_CONFIG), PathBuf::from)
}

impl Settings {
    /// Reads the configuration and finds the programs. A configuration that cannot be read is none: what asks for a restore reads it
    /// again and fails on it, and all else goes on.
    ///
    /// # Errors
    /// When there is no stock shim.
    pub fn read() -> Result<Self, Error> {
        let config = NodeConfig::read(&config_path()).unwrap_or_default();
        let own = env::current_exe().attempt(|| "find out which program this is".into())?;
        Ok(Self {
            stock: find_stock(config.stock_shim.as_deref(), &own)?,
            lib_dir: find_lib(config.lib_dir.as_deref(), &own),
        })
    }

    /// The PATH with which the stock shim runs: the interposer's directory, then what was there.
    #[must_use]
    pub fn path(&self) -> Option<OsString> {
        let lib = self.lib_dir.as_deref()?;
        let old = env::var_os("PATH").unwrap_or_default();
        let rest = env::split_paths(&old).filter(|dir| dir != lib && !dir.as_os_str().is_empty());
        env::join_paths(std::iter::once(lib.to_owned()).chain(rest)).ok()
    }

    /// A command that runs the stock shim with these arguments.
    #[must_use]
    pub fn stock_command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(&self.stock);
        command.args(args);
        if let Some(path) = self.path() {
            command.env("PATH", path);
        }
        command
    }

    /// Becomes the stock shim.
    ///
    /// # Errors
    /// When it cannot be run; otherwise this does not return.
    pub fn become_stock(&self, args: &[OsString]) -> Result<ExitCode, Error> {
        let source = self.stock_command(args).exec();
        Err(self.not_run(source))
    }

    /// The error that the stock shim cannot be run.
    #[must_use]
    pub fn not_run(&self, source: std::io::Error) -> Error {
        Error::Stock {
            path: self.stock.clone(),
            source,
        }
    }
}

fn find_stock(configured: Option<&Path>, own: &Path) -> Result<PathBuf, Error> {
    if let Some(path) = configured {
        return match runnable(path) {
            true if same(path, own) => Err(Error::StockIsOwn(path.into())),
            true => Ok(path.into()),
            false => Err(Error::NoStockShim {
                searched: format!("stock-shim = {path:?} is no program"),
            }),
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let beside = own.parent().map(Path::to_owned);
    let mut dirs: Vec<PathBuf> = beside.into_iter().chain(env::split_paths(&path)).collect();
    dirs.extend(SHIM_DIRECTORIES.map(PathBuf::from));
    dirs.iter()
        .map(|dir| dir.join(STOCK))
        .find(|path| runnable(path) && !same(path, own))
        .ok_or_else(|| Error::NoStockShim {
            searched: env::join_paths(&dirs).map_or_else(
                |_| "PATH".into(),
                |dirs| dirs.to_string_lossy().into_owned(),
            ),
        })
}

/// The interposer's directory. One beside this program counts only when it is not a directory of the system's programs, whose criu is
/// the real one.
fn find_lib(configured: Option<&Path>, own: &Path) -> Option<PathBuf> {
    if let Some(dir) = configured {
        return Some(dir.into());
    }
    let beside = own.parent()?;
    let near = beside.parent().map(|dir| dir.join("lib/restow"));
    let beside = (!system_directory(beside)).then(|| beside.to_owned());
    beside
        .into_iter()
        .chain(near)
        .chain(LIB_DIRECTORIES.map(PathBuf::from))
        .find(|dir| runnable(&dir.join("criu")))
}

fn system_directory(dir: &Path) -> bool {
    dir.file_name()
        .is_some_and(|name| name == "bin" || name == "sbin")
        && !dir.parent().is_some_and(|dir| dir.ends_with("restow"))
}

fn runnable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    id(one).is_some() && id(one) == id(other)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn program(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_link_to_ourselves_is_no_stock_shim() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own/containerd-shim-restow-v2");
        program(&own);
        let link = dir.path().join("own").join(STOCK);
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(matches!(
            find_stock(Some(&link), &own),
            Err(Error::StockIsOwn(_))
        ));
        let found = find_stock(None, &own);
        assert!(found.is_err() || found.is_ok_and(|path| path != link));
    }

    #[test]
    fn a_configured_stock_shim_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = find_stock(Some(&dir.path().join("none")), dir.path()).unwrap_err();
        assert!(error.to_string().contains("stock-shim"), "{error}");
    }

    #[test]
    fn the_interposer_is_found_near_the_shim_but_not_among_the_systems_programs() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("usr/bin/containerd-shim-restow-v2");
        program(&own);
        program(&dir.path().join("usr/bin/criu"));
        let near = dir.path().join("usr/lib/restow");
        program(&near.join("criu"));
        assert_eq!(find_lib(None, &own), Some(near));
        let together = dir.path().join("opt/restow/bin");
        program(&together.join("criu"));
        assert_eq!(
            find_lib(None, &together.join("containerd-shim-restow-v2")),
            Some(together)
        );
    }
}
