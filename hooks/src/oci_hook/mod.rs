//! `restow-oci-hook`: OCI hooks, and an action script of CRIU.
//!
//! | called as | by | at | it |
//! |---|---|---|---|
//! | `precreate` | podman | run | refuses annotations that cannot be meant; with `--enable` opts the container in |
//! | `createRuntime` | runc, crun | run, and restore under runc | refuses to start a container afresh that asks to be restored |
//! | `poststop` | podman, runc, crun | checkpoint, removal | removes what was prepared for the container |
//! | action script | criu | dump | writes `source.json` where Restow's `criu` is not in the way |
//!
//! Each may be called any number of times for the same thing, and does nothing for a container that asks for nothing.

mod script;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use restow::chain;
use restow::checkpoint::{Asked, Prepared};
use restow::policy::{ANNOTATION_PREFIX, OnFailure};
use serde_json::Value;

use crate::node_config;
use crate::runtime::call::Call;

/// What CRIU calls an action script for (`criu/action-scripts.c`); it gives no arguments.
pub const ACTION: &str = "CRTOOLS_SCRIPT_ACTION";

const USAGE: &str = "usage: restow-oci-hook precreate [--enable] | createRuntime | poststop, with what the OCI runtime \
specification or podman gives a hook on standard input; or without arguments as an action script of CRIU";

/// Runs as a hook with these arguments (the program's name first).
pub fn run(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args
        .iter()
        .skip(1)
        .filter_map(|word| word.to_str())
        .collect();
    let outcome = match (words.as_slice(), std::env::var(ACTION)) {
        ([], Ok(action)) => script::run(&action),
        (["precreate"], _) => precreate(false),
        (["precreate", "--enable"], _) => precreate(true),
        (["createRuntime"], _) => create_runtime(),
        (["poststop"], _) => poststop(),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("restow: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn input() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| format!("Standard input cannot be read: {error}"))?;
    Ok(bytes)
}

/// The spec comes in and goes out again, changed or not.
fn precreate(enable: bool) -> Result<(), String> {
    let given = input()?;
    let mut spec: Value = serde_json::from_slice(&given)
        .map_err(|error| format!("Standard input is no OCI spec: {error}"))?;
    let wanted = enable && opt_in(&mut spec);
    // A configuration that cannot be used is told to containers that ask for something.
    if annotations(&spec).next().is_some() {
        let config = node_config().map_err(|error| chain(&error))?;
        Asked::from_spec(&spec, &config).map_err(|error| chain(&error))?;
    }
    let out = if wanted {
        spec.to_string().into_bytes()
    } else {
        given
    };
    let written = io::stdout().lock().write_all(&out);
    written.map_err(|error| format!("Standard output cannot be written: {error}"))
}

/// Annotations of ours.
fn annotations(spec: &Value) -> impl Iterator<Item = &str> {
    let all = spec["annotations"].as_object().into_iter().flatten();
    all.map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with(ANNOTATION_PREFIX))
}

/// Opts a container in that says nothing itself; whether that was so.
fn opt_in(spec: &mut Value) -> bool {
    if annotations(spec).next().is_some() || !spec.is_object() {
        return false;
    }
    if !spec["annotations"].is_object() {
        spec["annotations"] = Value::Object(serde_json::Map::new());
    }
    spec["annotations"][format!("{ANNOTATION_PREFIX}enabled")] = "true".into();
    true
}

/// The bundle that the state on standard input names.
fn bundle() -> Result<PathBuf, String> {
    let state: Value = serde_json::from_slice(&input()?)
        .map_err(|error| format!("Standard input is no state of a container: {error}"))?;
    let bundle = state["bundle"]
        .as_str()
        .ok_or("The container's state names no bundle")?;
    Ok(PathBuf::from(bundle))
}

/// Where the shim or `restow-runtime` restores a container, no runtime is asked to start it; so one that does is alone.
fn create_runtime() -> Result<(), String> {
    let bundle = bundle()?;
    let spec = std::fs::read(bundle.join("config.json")).map_err(|error| {
        format!(
            "Cannot read {}: {error}",
            bundle.join("config.json").display()
        )
    })?;
    let spec: Value = serde_json::from_slice(&spec).map_err(|error| {
        format!(
            "{} is no OCI spec: {error}",
            bundle.join("config.json").display()
        )
    })?;
    if annotations(&spec).next().is_none() {
        return Ok(());
    }
    let config = node_config().map_err(|error| chain(&error))?;
    let Some(asked) = Asked::from_spec(&spec, &config).map_err(|error| chain(&error))? else {
        return Ok(());
    };
    if asked.on_failure() == OnFailure::Start || is_restore(parent_id()) {
        return Ok(());
    }
    Err(format!(
        "The container asks to be restored from {}, and its runtime would start it afresh: use restow-runtime (podman: --runtime, \
         containers.conf; CRI-O: runtime_path; Docker: --runtime) or containerd's shim of Restow",
        asked.name()
    ))
}

/// Whether this runtime restores: runc calls the hook then too, crun does not.
fn is_restore(runtime: u32) -> bool {
    use std::os::unix::ffi::OsStringExt;
    let args = std::fs::read(format!("/proc/{runtime}/cmdline")).unwrap_or_default();
    let args = args
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    let call = Call::new(args.map(|word| OsString::from_vec(word.to_vec())).collect());
    call.command() == Some("restore")
}

/// The container has ended: nothing reads what was made ready for it any more.
fn poststop() -> Result<(), String> {
    let bundle = bundle()?;
    let config = node_config().unwrap_or_default();
    let bundle = bundle.canonicalize().unwrap_or(bundle);
    match Prepared::of_bundle(&config, Path::new(&bundle)) {
        Some(prepared) => prepared.finish().map_err(|error| chain(&error)),
        None => Ok(()),
    }
}
