//! `create` and `run` of a container that asks to be restored.
//!
//! ```text
//! create ─▶ prepare the checkpoint ─▶ runtime restore --detach, held back ─▶ mark    state: created
//!                     │                          │
//!                     └──────── undo ◀───────────┴─▶ an error, or with on-failure = start the create that was asked for
//! start  ─▶ runtime resume                                                            state: running
//! ```
//!
//! The restore is done by `create`, not by `start`: only `create` has the container's standard streams and console, its caller
//! waits there for the process number (conmon and containerd's shim watch that process for the exit code), and there it can
//! still fail without a container that has to be taken away. Nothing of the program has run until `start`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use restow::chain;
use restow::checkpoint::{ASKING, Asked, Prepared};
use restow::host::last_words;
use restow::policy::{NodeConfig, OnFailure};
use serde_json::Value;

use super::call::Call;
use super::held::{Held, with_command};
use super::{Setting, fault};
use crate::hold;

/// Where CRIU's logs and ours go, in the bundle.
const WORK: &str = "restow";

/// Options of `create` and `run` that `restore` has too, with and without a value. Of the others, `--preserve-fds` has nothing to say:
/// a restored program has the descriptors that it had.
const KEPT_VALUES: [&str; 2] = ["console-socket", "pid-file"];
const KEPT_FLAGS: [&str; 2] = ["no-pivot", "no-subreaper"];

/// A container that asks to be restored.
#[derive(Debug)]
pub struct Restoring {
    bundle: PathBuf,
    rootfs: PathBuf,
    asked: Result<Asked, String>,
}

impl Restoring {
    /// Looks whether the call makes one.
    #[must_use]
    pub fn of(call: &Call, config: &Result<NodeConfig, String>) -> Option<Self> {
        call.command()
            .filter(|command| ["create", "run"].contains(command))?;
        // What is wrong with the bundle is for the runtime to say.
        let bundle = call.bundle().canonicalize().ok()?;
        let spec = fs::read(bundle.join("config.json")).ok()?;
        // Nearly every container of a node ends here.
        spec.windows(ASKING.len())
            .any(|window| window == ASKING)
            .then_some(())?;
        let spec: Value = serde_json::from_slice(&spec).ok()?;
        let asked = match config {
            Ok(config) => Asked::from_spec(&spec, config)
                .map_err(|error| chain(&error))
                .transpose()?,
            Err(reason) => Err(reason.clone()),
        };
        let rootfs = bundle.join(spec["root"]["path"].as_str().unwrap_or("rootfs"));
        Some(Self {
            bundle,
            rootfs,
            asked,
        })
    }

    /// Restores it.
    pub fn answer(self, call: &Call, setting: &Setting<'_>) -> ExitCode {
        let on_failure = self
            .asked
            .as_ref()
            .map_or(OnFailure::Fail, Asked::on_failure);
        let reason = match self.restore(call, setting) {
            Ok(code) => return ExitCode::from(code),
            Err(reason) => reason,
        };
        if on_failure == OnFailure::Start {
            fault::log(
                call,
                "warning",
                &format!("{reason}; started fresh, as restow.dev/on-failure says"),
            );
            return setting.exec(call);
        }
        fault::tell(call, &reason);
        ExitCode::FAILURE
    }

    fn restore(self, call: &Call, setting: &Setting<'_>) -> Result<u8, String> {
        let asked = self.asked?;
        let id = call
            .container()
            .ok_or("The container has no id")?
            .to_owned();
        if !setting.lib_dir.join("criu").is_file() {
            return Err(format!(
                "The container asks to be restored, and there is no criu of Restow's in {} (lib-dir in the node's configuration)",
                setting.lib_dir.display()
            ));
        }
        let prepared = asked
            .prepare(&self.bundle, &self.rootfs)
            .map_err(|error| chain(&error))?;
        let outcome = Self::start(call, setting, &self.bundle, &prepared, &id);
        let kept = match &outcome {
            // The images have been read.
            Ok(_) => prepared.finish(),
            Err(_) => {
                // A failed restore leaves the runtime's record of it, which would be in the way of the next try.
                let forced = ["delete".into(), "--force".into(), id];
                let mut delete = setting.command(&with_command(call, &forced));
                let _ = delete
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                prepared.undo()
            }
        };
        match (outcome, kept) {
            (Ok(code), Ok(())) => Ok(code),
            (Ok(code), Err(error)) => {
                fault::log(
                    call,
                    "warning",
                    &format!("{}; it is collected later", chain(&error)),
                );
                Ok(code)
            }
            (Err(reason), Ok(())) => Err(reason),
            (Err(reason), Err(error)) => Err(format!("{reason}; then: {}", chain(&error))),
        }
    }

    /// Has the real runtime restore it, and holds it back when it is only to be created.
    fn start(
        call: &Call,
        setting: &Setting<'_>,
        bundle: &Path,
        prepared: &Prepared,
        id: &OsStr,
    ) -> Result<u8, String> {
        let create = call.command() == Some("create");
        let work = bundle.join(WORK);
        fs::create_dir_all(&work)
            .map_err(|error| format!("Cannot make {}: {error}", work.display()))?;
        let words = restore_words(call, bundle, &prepared.image_dir(), &work, id);
        let mut command = setting.command(&with_command(call, &words));
        if create {
            command.env(hold::VARIABLE, "1");
        }
        let status = super::wait::wait(&mut command);
        let status = status
            .map_err(|error| format!("Cannot run {}: {error}", setting.real.path.display()))?;
        let detached = create || call.flag(&["detach", "d"]);
        if status != 0 && detached {
            return Err(format!(
                "Checkpoint {} was not restored: {}",
                prepared.checkpoint(),
                last_words(call, &work)
            ));
        }
        if create {
            Held::mark(call, setting, id)?;
        }
        // Of a container in the foreground it is the program's.
        Ok(status)
    }
}

/// The call of `restore` in place of a `create` or `run`.
fn restore_words(
    call: &Call,
    bundle: &Path,
    images: &Path,
    work: &Path,
    id: &OsStr,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["restore".into(), "--bundle".into(), bundle.into()];
    words.extend([
        "--image-path".into(),
        images.into(),
        "--work-path".into(),
        work.into(),
    ]);
    for name in KEPT_VALUES {
        if let Some(value) = call.option(&[name]) {
            words.extend([format!("--{name}").into(), value.to_owned()]);
        }
    }
    for name in KEPT_FLAGS {
        if call.flag(&[name]) {
            words.push(format!("--{name}").into());
        }
    }
    if call.command() == Some("create") || call.flag(&["detach", "d"]) {
        words.push("--detach".into());
    }
    words.push(id.to_owned());
    words
}

/// Why it was not restored: what Restow wrote last.
fn last_words(call: &Call, work: &Path) -> String {
    let log = work.join("restore.log");
    match (last_words::reason(&log), call.global("log")) {
        (Some(said), _) => said,
        (None, Some(runtime)) => {
            format!("see {} and {}", log.display(), Path::new(runtime).display())
        }
        (None, None) => format!("see {}", log.display()),
    }
}
