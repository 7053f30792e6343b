//! `restow-runtime`: an OCI runtime that is the real one with Restow's `criu` first in its PATH.
//!
//! ```text
//! podman ─ conmon ┐
//! CRI-O  ─ conmon ┼─▶ restow-runtime ── exec ──▶ crun | runc ──▶ criu (ours) ──▶ criu
//! Docker, by hand ┘        │
//!                          ├ argv untouched, PATH set
//!                          └ create of a container that asks to be restored: restore, held back until start
//! ```
//!
//! For all but such containers it is a process image for well under a millisecond and then gone: the real runtime has its process
//! number, its parent and its descriptors. Its name says which runtime that is (`restow-runc`, `restow-crun`), else the node's
//! configuration (`runtime = ...`), else it is the first of crun and runc in PATH.
//!
//! * [`call`]: the arguments.
//! * [`restore`]: a container that is restored instead of started; [`held`]: until it is started.
//! * [`wait`]: standing in for the real runtime where something is left to do after it.
//! * [`fault`]: what callers get to hear.

pub mod call;
pub mod fault;
pub mod held;
pub mod restore;
pub mod wait;

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use restow::chain;
use restow::host::real_program::{DEFAULT_PATH, RealProgram};
use restow::policy::NodeConfig;

use self::call::Call;
use self::held::Held;
use self::restore::Restoring;
use crate::node_config;

/// Exit status when there is no runtime to run; what a shell uses for "command not found".
const NOT_FOUND: u8 = 127;

/// The runtimes that are looked for when nothing names one.
const KNOWN: [&str; 2] = ["crun", "runc"];

/// The real runtime, and what it is called with.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The real runtime.
    pub real: &'a RealProgram,
    /// Where Restow's `criu` is, if it is anywhere.
    pub lib_dir: PathBuf,
}

impl Setting<'_> {
    /// A call of the real runtime, with our `criu` first in its PATH.
    #[must_use]
    pub fn command(&self, call: &Call) -> Command {
        let mut call = call.clone();
        adapt(&mut call, self.real);
        let mut command = self.real.command(call.args());
        if let Some(path) = search_path(&self.lib_dir) {
            command.env("PATH", path);
        }
        command
    }

    /// Becomes the real runtime. Returns only when that failed.
    pub fn exec(&self, call: &Call) -> ExitCode {
        let error = self.command(call).exec();
        fault::tell(
            call,
            &format!("Cannot run {}: {error}", self.real.path.display()),
        );
        ExitCode::from(NOT_FOUND)
    }

    /// Runs the real runtime and returns its exit status.
    pub fn run(&self, call: &Call) -> u8 {
        wait::wait(&mut self.command(call)).unwrap_or_else(|error| {
            fault::tell(
                call,
                &format!("Cannot run {}: {error}", self.real.path.display()),
            );
            NOT_FOUND
        })
    }

    /// Where the real runtime keeps its records unless it is told otherwise (as root; runc `main.go`, crun `src/libcrun/status.c`).
    #[must_use]
    pub fn default_root(&self) -> PathBuf {
        Path::new("/run").join(self.real.path.file_name().unwrap_or_default())
    }
}

/// Runs as an OCI runtime with these arguments (the program's name first). Returns only when something failed, or when more was
/// to be done than to become the real one.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let call = Call::new(args);
    let config = node_config().map_err(|error| chain(&error));
    // One that cannot be read concerns those who asked for Restow alone.
    let usable = config.clone().unwrap_or_default();
    let real = match find(&call, &usable) {
        Ok(real) => real,
        Err(reason) => {
            fault::tell(&call, &reason);
            return ExitCode::from(NOT_FOUND);
        }
    };
    let setting = Setting {
        real: &real,
        lib_dir: lib_dir(&usable),
    };
    if let Some(held) = Held::of(&call, &setting) {
        return held.answer(&call, &setting);
    }
    match Restoring::of(&call, &config) {
        Some(restoring) => restoring.answer(&call, &setting),
        None => setting.exec(&call),
    }
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
fn search_path(lib_dir: &Path) -> Option<OsString> {
    lib_dir.join("criu").is_file().then_some(())?;
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    if dirs.first().is_some_and(|first| first == lib_dir) {
        return None;
    }
    dirs.insert(0, lib_dir.to_path_buf());
    env::join_paths(dirs).ok()
}

/// Where Restow's `criu` should be: as the configuration says, or beside this program.
fn lib_dir(config: &NodeConfig) -> PathBuf {
    let beside = || Some(env::current_exe().ok()?.parent()?.to_path_buf());
    config.lib_dir.clone().or_else(beside).unwrap_or_default()
}
