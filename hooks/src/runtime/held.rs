//! Containers that were restored by `create` and wait for `start`.
//!
//! To the real runtime such a container is paused (see [`crate::hold`]); to whoever created it, it has been created. A file in the
//! runtime's own directory for the container says so, and goes when the runtime forgets the container. Without it, and for every
//! other container, calls go on as they are.
//!
//! | call | for a container that waits |
//! |---|---|
//! | `state` | `created` instead of `paused` |
//! | `start` | the runtime's `resume` |
//! | `kill` with a signal that ends a program | `KILL`: it would run before another signal reached it |
//! | `delete` | `delete --force`, as for any created container |
//! | `pause`, `resume` | an error |

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use serde_json::Value;

use super::call::Call;
use super::{Setting, fault};

/// The file in the runtime's directory of the container.
const MARK: &str = "restow-created";

/// Signals that end a program which does not expect them, without the prefix and by number (`signal(7)`).
const ENDING: &[&str] = &[
    "TERM", "15", "INT", "2", "QUIT", "3", "HUP", "1", "KILL", "9", "ABRT", "6",
];

/// A container that waits.
#[derive(Debug)]
pub struct Held {
    mark: PathBuf,
    id: OsString,
}

impl Held {
    /// Where the mark of a container is.
    fn at(call: &Call, setting: &Setting<'_>, id: &OsStr) -> Option<Self> {
        let root = call
            .global("root")
            .map_or_else(|| setting.default_root(), PathBuf::from);
        // What is no single name is no id, and the runtime will say so.
        let single = Path::new(id).file_name() == Some(id);
        single.then(|| Self {
            mark: root.join(id).join(MARK),
            id: id.to_owned(),
        })
    }

    /// The container that a call is about, when it waits.
    #[must_use]
    pub fn of(call: &Call, setting: &Setting<'_>) -> Option<Self> {
        let known = ["state", "start", "kill", "delete", "pause", "resume"];
        call.command().filter(|command| known.contains(command))?;
        let id = call.positional(0)?;
        Self::at(call, setting, id).filter(|held| held.mark.exists())
    }

    /// Marks the container that was just restored.
    ///
    /// # Errors
    /// When the runtime does not show it as paused, because criu was not Restow's, or the mark cannot be written.
    pub fn mark(call: &Call, setting: &Setting<'_>, id: &OsStr) -> Result<(), String> {
        let held = Self::at(call, setting, id).ok_or("The container's id is no name")?;
        let state = state(call, setting, &held.id)?;
        if state["status"] != "paused" {
            return Err(format!(
                "The container was restored but not held back (it is {}): is the criu in {} Restow's?",
                state["status"],
                setting.lib_dir.display()
            ));
        }
        fs::write(&held.mark, "")
            .map_err(|error| format!("Cannot write {}: {error}", held.mark.display()))
    }

    /// Does what the call asks.
    pub fn answer(&self, call: &Call, setting: &Setting<'_>) -> ExitCode {
        match call.command() {
            Some("state") => self.tell_state(call, setting),
            Some("start") => {
                let code = setting.run(&with_command(call, &["resume".into(), self.id.clone()]));
                if code == 0 {
                    // Where it stays, `state` still says what the runtime says: it is not paused any more.
                    let _ = fs::remove_file(&self.mark);
                }
                ExitCode::from(code)
            }
            Some("kill") => {
                let signal = call.positional(1).and_then(OsStr::to_str).unwrap_or("TERM");
                if !ends(signal) {
                    return setting.exec(call);
                }
                setting.exec(&with_command(
                    call,
                    &["kill".into(), self.id.clone(), "KILL".into()],
                ))
            }
            Some("delete") => {
                let forced = ["delete".into(), "--force".into(), self.id.clone()];
                setting.exec(&with_command(call, &forced))
            }
            _ => {
                let id = self.id.to_string_lossy();
                fault::tell(
                    call,
                    &format!("Container {id} is restored and waits for start; it has not run yet"),
                );
                ExitCode::FAILURE
            }
        }
    }

    fn tell_state(&self, call: &Call, setting: &Setting<'_>) -> ExitCode {
        let mut state = match state(call, setting, &self.id) {
            Ok(state) => state,
            Err(reason) => {
                fault::tell(call, &reason);
                return ExitCode::FAILURE;
            }
        };
        if state["status"] == "paused" {
            state["status"] = "created".into();
        }
        match writeln!(io::stdout(), "{state:#}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }
}

/// Whether a signal ends a program which does not expect it; runtimes take its name in capitals and in small letters.
fn ends(signal: &str) -> bool {
    let name = signal.to_ascii_uppercase();
    ENDING.contains(&name.strip_prefix("SIG").unwrap_or(&name))
}

/// What the real runtime says about a container.
fn state(call: &Call, setting: &Setting<'_>, id: &OsStr) -> Result<Value, String> {
    let call = with_command(call, &["state".into(), id.to_owned()]);
    let output = setting.command(&call).stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| format!("Cannot run {}: {error}", setting.real.path.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("The runtime's state cannot be understood: {error}"))
}

/// Another command with the same global options.
pub fn with_command(call: &Call, words: &[OsString]) -> Call {
    Call::new([call.globals(), words].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_end_a_program_are_known_in_every_spelling() {
        for signal in ["TERM", "SIGTERM", "sigterm", "15", "Int", "9"] {
            assert!(ends(signal), "{signal}");
        }
        for signal in ["USR1", "SIGCONT", "18", ""] {
            assert!(!ends(signal), "{signal}");
        }
    }
}
