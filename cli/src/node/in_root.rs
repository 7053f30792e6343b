//! Programs of the node, run with the node's root directory as theirs.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use restow::host::real_program::DEFAULT_PATH;

use super::root::NodeRoot;

/// Arguments of the hidden command that becomes a program of another root.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The root directory.
    pub root: PathBuf,
    /// The program, as the node has it, and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub program: Vec<OsString>,
}

/// Becomes the program. Returns only when it cannot.
pub fn run(args: &Args) -> io::Error {
    let enter = || -> io::Result<()> {
        nix::unistd::chroot(&args.root)?;
        Ok(nix::unistd::chdir("/")?)
    };
    match (enter(), args.program.split_first()) {
        (Err(error), _) => error,
        (Ok(()), Some((program, rest))) => Command::new(program).args(rest).exec(),
        (Ok(()), None) => io::Error::from(io::ErrorKind::InvalidInput),
    }
}

/// A call of a program of the node.
#[must_use]
pub fn command(node: &NodeRoot, program: &Path) -> Command {
    let mut command = if node.is_own() {
        Command::new(program)
    } else {
        let mut command = Command::new("/proc/self/exe");
        command.arg("in-root").arg(node.path()).arg(program);
        command
    };
    command.env("PATH", DEFAULT_PATH).stdin(Stdio::null());
    command
}

/// Where a program of the node is, as the node has it; `None` when it has none.
#[must_use]
pub fn find(node: &NodeRoot, name: &str) -> Option<PathBuf> {
    let mut found = DEFAULT_PATH.split(':').map(|dir| Path::new(dir).join(name));
    found.find(|path| {
        use std::os::unix::fs::PermissionsExt;
        let place = node.place(path, true).ok();
        place.is_some_and(|place| {
            place
                .metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
    })
}
