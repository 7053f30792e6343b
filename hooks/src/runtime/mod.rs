//! `restow-runtime`: an OCI runtime that is the real one with Restow's `criu` first in its PATH.
//!
//! ```text
//! podman ─ conmon ┐
//! CRI-O  ─ conmon ┼─▶ restow-runtime ── exec ──▶ crun | runc ──▶ criu (ours) ──▶ criu
//! Docker, by hand ┘        │
//!                          └ argv untouched, PATH set
//! ```
//!
//! It is a process image for well under a millisecond and then gone: the real runtime has its process number, its parent and
//! its descriptors. Its name says which runtime that is (`restow-runc`, `restow-crun`), else the node's configuration
//! (`runtime = ...`), else it is the first of crun and runc in PATH.
//!
//! * [`call`]: the arguments.
//! * [`fault`]: what callers get to hear.

pub mod call;
pub mod fault;

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use restow::chain;
use restow::host::real_program::{DEFAULT_PATH, RealProgram};
use restow::policy::NodeConfig;

use self::call::Call;
use crate::node_config;

/// Exit status when there is no runtime to run; what a shell uses for "command not found".
const NOT_FOUND: u8 = 127;

/// The runtimes that are looked for when nothing names one.
const KNOWN: [&str; 2] = ["crun", "runc"];

/// Runs as an OCI runtime with these arguments (the program's name first). Returns only when something failed.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let mut call = Call::new(args);
    // One that cannot be read concerns those who asked for Restow; the interposer tells them.
    let config = node_config().unwrap_or_default();
    let real = match find(&call, &config) {
        Ok(real) => real,
        Err(reason) => {
            fault::tell(&call, &reason);
            return ExitCode::from(NOT_FOUND);
        }
    };
    adapt(&mut call, &real);
    let mut command = real.command(call.args());
    if let Some(path) = search_path(&config) {
        command.env("PATH", path);
    }
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    fault::tell(
        &call,
        &format!("Cannot run {}: {error}", real.path.display()),
    );
    ExitCode::from(NOT_FOUND)
}

/// The real runtime.
fn find(call: &Call, config: &NodeConfig) -> Result<RealProgram, String> {
    let own = call.args().first().map(Path::new).and_then(Path::file_name);
    let named = own
        .and_then(OsStr::to_str)
        .and_then(|name| name.strip_prefix("restow-"));
    let real = match named.filter(|name| KNOWN.contains(name)) {
        Some(name) => {
            // The configuration says where this one is, not that it is another.
            let there = config
                .runtime
                .as_deref()
                .filter(|path| path.file_name() == Some(OsStr::new(name)));
            RealProgram::runtime(there, &[name])
        }
        None => RealProgram::runtime(config.runtime.as_deref(), &KNOWN),
    };
    real.map_err(|error| chain(&error))
}

/// Takes away what the real runtime would refuse though it needs no telling, and gives it its own name.
///
/// containerd 2.1 and later call `restore --no-subreaper`, of which crun (up to 1.28) knows nothing and exits with 64; it never
/// makes itself a subreaper.
fn adapt(call: &mut Call, real: &RealProgram) {
    let name = real
        .path
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    if name.starts_with("crun") && call.command() == Some("restore") {
        call.remove_flag("no-subreaper");
    }
    // What the runtime keeps and looks for by its own name, it has to find; so has the interposer.
    call.rename(&real.path);
}

/// PATH with the directory of our `criu` first; `None` when there is none, or it is first already.
fn search_path(config: &NodeConfig) -> Option<OsString> {
    let dir = lib_dir(config)?;
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    if dirs.first() == Some(&dir) {
        return None;
    }
    dirs.insert(0, dir);
    env::join_paths(dirs).ok()
}

/// Where Restow's `criu` is: as the configuration says, or beside this program.
fn lib_dir(config: &NodeConfig) -> Option<PathBuf> {
    let dir = match &config.lib_dir {
        Some(dir) => dir.clone(),
        None => env::current_exe().ok()?.parent()?.to_path_buf(),
    };
    dir.join("criu").is_file().then_some(dir)
}
