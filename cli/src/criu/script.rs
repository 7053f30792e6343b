//! The action script: this program, started by criu at each stage, tells the companion and waits for its answer.
//!
//! criu runs a script by its path alone, without a shell and without arguments (`criu/action-scripts.c`), and says the
//! rest in the environment; so does the way to the companion.

use std::env;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::ExitCode;

/// In criu's environment: the abstract address of the companion's socket.
pub(super) const VARIABLE: &str = "RESTOW_COMPANION";

/// criu's own: the stage, and the first process of the tree.
const ACTION: &str = "CRTOOLS_SCRIPT_ACTION";
const INIT: &str = "CRTOOLS_INIT_PID";

/// Stages at which the companion has to have its say: without it criu must not go on.
const DECIDING: [&str; 2] = ["post-dump", "post-restore"];

/// What the companion answers when all is well.
pub(super) const WELL: &str = "well";

/// The stage at which criu has started this process as its action script, when it has.
pub fn stage() -> Option<(String, String)> {
    let alone = env::args_os().len() == 1;
    alone
        .then(|| Some((env::var(VARIABLE).ok()?, env::var(ACTION).ok()?)))
        .flatten()
}

/// Runs as the action script.
pub fn run(companion: &str, action: &str) -> ExitCode {
    match ask(companion, action) {
        Ok(answer) if answer == WELL => ExitCode::SUCCESS,
        Ok(answer) => {
            eprintln!("Error (restow): {answer}");
            ExitCode::FAILURE
        }
        // It may have done all it had to.
        Err(_) if !DECIDING.contains(&action) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error (restow): Restow's companion process is gone: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(companion: &str, action: &str) -> std::io::Result<String> {
    let address = SocketAddr::from_abstract_name(companion)?;
    let mut stream = UnixStream::connect_addr(&address)?;
    let init = env::var(INIT).unwrap_or_default();
    writeln!(stream, "{action} {init}")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(std::io::Error::other("it gave no answer"));
    }
    Ok(answer)
}
