//! What takes time and memory, in a process of its own that ends: this program with [`WORKER`](crate::arguments::WORKER) as its action.
//!
//! | task | input | |
//! |---|---|---|
//! | `prepare` | a `Create` | the checkpoint is found, checked and unpacked, the root file system's changes are applied |
//! | `undo` | the `Create` | it failed: takes that back |
//! | `failed` | the `Create`, the `Start`, its answer | the restore failed: takes it back, and starts the container afresh where the pod wants that |
//! | `finish` | the `Create` | the container runs, or is gone: removes the images |
//! | `publish` | id and path | tells containerd that there is a checkpoint |
//!
//! The answer, on standard output: `u` and a frame for the stock shim, which restores; `p` and a frame for the stock shim, which does not;
//! `d` and a frame for containerd.

mod event;
mod fresh;
mod mounts;
mod why;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use restow::checkpoint::{Asked, Prepared};
use restow::policy::{NodeConfig, OnFailure};
use serde_json::Value;

use crate::arguments::Arguments;
use crate::error::{Attempt, Error};
use crate::frame::{self, FAILED_PRECONDITION, Header};
use crate::log::{self, Level};
use crate::proxy::parts;
use crate::settings::{Settings, config_path};
use crate::task::Request;
use mounts::Mounted;

/// Does a task.
///
/// # Errors
/// When the input is not as the proxy makes it.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let wrong = || io::Error::other("it is started by the proxy only");
    let attempt = || "do a worker's task".to_owned();
    let [task, stock] = &arguments.rest[..] else {
        return Err(wrong()).attempt(attempt);
    };
    let parts = parts(io::stdin()).attempt(attempt)?;
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let said = match (task.to_str(), &parts[..]) {
        (Some("prepare"), [create]) => {
            let (word, frame) = prepare(create);
            Some([&[word][..], &frame].concat())
        }
        (Some("undo"), [create]) => {
            undo(create);
            None
        }
        (Some("failed"), [create, start, answer]) => {
            let frame = failed(create, start, answer, Path::new(stock));
            Some([b"d", &frame[..]].concat())
        }
        (Some("finish"), [create]) => {
            finish(create);
            None
        }
        (Some("publish"), [id, path]) => {
            event::checkpointed(arguments, id, path);
            None
        }
        _ => return Err(wrong()).attempt(attempt),
    };
    if let Some(said) = said {
        io::stdout().write_all(&said).attempt(attempt)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A container that is to be made.
struct Container<'a> {
    id: String,
    bundle: PathBuf,
    create: Request<'a>,
}

impl<'a> Container<'a> {
    fn of(create: &'a [u8]) -> Result<Self, String> {
        let create = Request::parse(create).ok_or("The request cannot be understood")?;
        Ok(Self {
            id: create.id(),
            bundle: create.bundle().into(),
            create,
        })
    }

    fn spec(&self) -> Result<Value, String> {
        let path = self.bundle.join("config.json");
        let bytes =
            fs::read(&path).map_err(|error| format!("Cannot read {}: {error}", path.display()))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| format!("{} is no OCI spec: {error}", path.display()))
    }

    /// What its spec asks for.
    fn asked(&self) -> Result<Option<Asked>, String> {
        let config = config()?;
        Asked::from_spec(&self.spec()?, &config).map_err(|error| restow::chain(&error))
    }

    /// Where the stock shim mounts its root file system; without mounts, where the spec has it.
    fn rootfs(&self) -> Result<PathBuf, String> {
        if self.create.rootfs().is_empty()
            && let Some(path) = self.spec()?["root"]["path"].as_str()
        {
            return Ok(self.bundle.join(path));
        }
        Ok(self.bundle.join("rootfs"))
    }

    /// Its root file system, mounted for this process alone: the stock shim does it for all only at `Create`.
    fn mounted(&self) -> Result<Mounted, String> {
        Mounted::new(&self.create.rootfs(), &self.rootfs()?)
    }

    /// Why its restore failed: the runtime's words, and what the logs say that older runtimes do not quote.
    fn with_cause(&self, reason: String) -> String {
        match why::cause(&self.bundle, &self.id) {
            Some(cause) if !reason.contains(&cause) => format!("{reason}: {cause}"),
            _ => reason,
        }
    }

    fn log(&self, level: Level, text: &str) {
        log::line(Path::new("."), level, &self.id, text);
    }
}

fn config() -> Result<NodeConfig, String> {
    NodeConfig::read(&config_path()).map_err(|error| restow::chain(&error))
}

/// Prepares a restore, and says what goes where instead of the `Create`.
fn prepare(frame: &[u8]) -> (u8, Vec<u8>) {
    let stream = Header::of(frame).map_or(0, |header| header.stream);
    let refuse = |reason: &str| {
        let reason = format!("restow: {reason}");
        (b'd', frame::failure(stream, FAILED_PRECONDITION, &reason))
    };
    let container = match Container::of(frame) {
        Ok(container) => container,
        Err(reason) => return refuse(&reason),
    };
    let asked = match container.asked() {
        Ok(Some(asked)) => asked,
        // The word is in the spec, but asks this container for nothing.
        Ok(None) => return (b'p', frame.to_vec()),
        Err(reason) => return refuse(&reason),
    };
    match prepared(&container, &asked) {
        Ok(images) => {
            container.log(
                Level::Info,
                &format!("will be restored from checkpoint {}", asked.name()),
            );
            (b'u', container.create.with_checkpoint(&images))
        }
        Err(reason) if asked.on_failure() == OnFailure::Start => {
            container.log(Level::Warning, &afresh(&asked, &reason));
            (b'p', frame.to_vec())
        }
        Err(reason) => {
            container.log(Level::Error, &reason);
            refuse(&reason)
        }
    }
}

/// The line in the log when a container is started instead of restored.
fn afresh(asked: &Asked, reason: &str) -> String {
    format!(
        "starts afresh (restow.dev/on-failure: start), because checkpoint {} cannot be restored: {reason}",
        asked.name()
    )
}

/// Where the images are.
fn prepared(container: &Container<'_>, asked: &Asked) -> Result<String, String> {
    if !container.create.checkpoint().is_empty() {
        return Err(format!(
            "The container is to be restored from checkpoint {} and by containerd from {}: take restow.dev/restore-from away, \
             or the checkpoint image",
            asked.name(),
            container.create.checkpoint()
        ));
    }
    interposed()?;
    let mounted = container.mounted()?;
    let prepared = asked
        .prepare(&container.bundle, mounted.path())
        .map_err(|error| restow::chain(&error))?;
    let images = prepared.image_dir();
    if let Err(reason) = mounted.unmount() {
        // A second mount of the same layers would be undefined.
        let _ = prepared.undo();
        return Err(reason);
    }
    Ok(images.to_string_lossy().into_owned())
}

/// Restores need our criu in the runtime's PATH, which is the stock shim's, which has ours.
fn interposed() -> Result<(), String> {
    let settings = Settings::read().map_err(|error| restow::chain(&error))?;
    let Some(lib) = settings.lib_dir else {
        return Err(
            "Restow's criu is not installed beside the shim, in /usr/lib/restow or /usr/local/lib/restow; install it, or name \
             its directory with lib-dir = \"/path\" in the node's configuration"
                .into(),
        );
    };
    let criu = lib.join("criu");
    if !criu.is_file() {
        return Err(format!(
            "Restow's criu is not at {}; install it there, or name its directory with lib-dir in the node's configuration",
            criu.display()
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).next().as_ref() != Some(&lib) {
        return Err(format!(
            "This pod's shim was started before Restow's criu was in {}; make the pod anew",
            lib.display()
        ));
    }
    Ok(())
}

/// What was prepared for this bundle.
fn found(container: &Container<'_>) -> Option<Prepared> {
    Prepared::of_bundle(&config().ok()?, &container.bundle)
}

/// `Create` failed.
fn undo(create: &[u8]) {
    let Ok(container) = Container::of(create) else {
        return;
    };
    let Some(prepared) = found(&container) else {
        return;
    };
    let undone = container.mounted().and_then(|mounted| {
        prepared
            .undo_at(mounted.path())
            .map_err(|error| restow::chain(&error))
            .and_then(|()| mounted.unmount())
    });
    if let Err(reason) = undone {
        container.log(
            Level::Error,
            &format!("cannot take the restore back: {reason}"),
        );
    }
}

/// The container runs or is gone.
fn finish(create: &[u8]) {
    let Ok(container) = Container::of(create) else {
        return;
    };
    if let Some(prepared) = found(&container)
        && let Err(error) = prepared.finish()
    {
        let reason = restow::chain(&error);
        container.log(
            Level::Warning,
            &format!("cannot remove the checkpoint's images: {reason}"),
        );
    }
}

/// `Start` failed, the root file system is mounted. What containerd is to hear instead.
fn failed(create: &[u8], start: &[u8], answer: &[u8], stock: &Path) -> Vec<u8> {
    let Ok(container) = Container::of(create) else {
        return answer.to_vec();
    };
    let (code, reason) = match frame::outcome(answer) {
        Ok(_) => return answer.to_vec(),
        Err((code, reason)) => (code, container.with_cause(reason)),
    };
    let stream = Header::of(answer).map_or(0, |header| header.stream);
    let answer = frame::failure(stream, code, &reason);
    if let Some(prepared) = found(&container)
        && let Ok(rootfs) = container.rootfs()
        && let Err(error) = prepared.undo_at(&rootfs)
    {
        let text = format!("cannot take the restore back: {}", restow::chain(&error));
        container.log(Level::Error, &text);
        return answer;
    }
    let asked = match container.asked() {
        Ok(Some(asked)) if asked.on_failure() == OnFailure::Start => asked,
        _ => {
            container.log(Level::Error, &format!("the restore failed: {reason}"));
            return answer;
        }
    };
    container.log(Level::Warning, &afresh(&asked, &reason));
    match fresh::start(&container.create, start, stock) {
        Ok(payload) => frame::success(stream, &payload),
        Err(error) => {
            let text = format!(
                "{reason}; then the container could not be started afresh: {}",
                restow::chain(&error)
            );
            frame::failure(stream, frame::INTERNAL, &text)
        }
    }
}
