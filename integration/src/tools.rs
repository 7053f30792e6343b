//! Programs of this workspace that go into nodes, built when they are first needed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

/// The probe, linked statically so that it runs in an otherwise empty root file system.
pub fn probe() -> Result<PathBuf> {
    static PROBE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&PROBE, "RESTOW_PROBE_PROGRAM", || {
        linked_statically("restow-probe")
    })
}

/// The program that holds one of each kind of object, linked statically as well.
pub fn zoo() -> Result<PathBuf> {
    static ZOO: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&ZOO, "RESTOW_ZOO_PROGRAM", || {
        linked_statically("restow-zoo")
    })
}

/// The program that has the one thing on which a checkpoint or restore fails, linked statically as well.
pub fn snag() -> Result<PathBuf> {
    static SNAG: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&SNAG, "RESTOW_SNAG_PROGRAM", || {
        linked_statically("restow-snag")
    })
}

fn linked_statically(package: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    // With a target named, the flags do not reach build scripts and macros, and have their own place in the target directory.
    command.args([
        "--package",
        package,
        "--bin",
        package,
        "--target",
        "host-tuple",
    ]);
    executable(&mut command)
}

/// The interposer: the program named `criu` that goes before the real one.
pub fn interposer() -> Result<PathBuf> {
    static INTERPOSER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&INTERPOSER, "RESTOW_CRIU_PROGRAM", || {
        executable(cargo().args(["--package", "restow-hooks", "--bin", "criu"]))
    })
}

/// The OCI runtime that stands before runc and crun.
pub fn runtime() -> Result<PathBuf> {
    static RUNTIME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&RUNTIME, "RESTOW_RUNTIME_PROGRAM", || {
        executable(cargo().args(["--package", "restow-hooks", "--bin", "restow-runtime"]))
    })
}

/// The shim.
pub fn shim() -> Result<PathBuf> {
    static SHIM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&SHIM, "RESTOW_SHIM_PROGRAM", || {
        executable(cargo().args([
            "--package",
            "restow-shim",
            "--bin",
            "containerd-shim-restow-v2",
        ]))
    })
}

/// The command `restow`.
pub fn restow() -> Result<PathBuf> {
    static RESTOW: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&RESTOW, "RESTOW_PROGRAM", || {
        executable(cargo().args(["--package", "restow-cli", "--bin", "restow"]))
    })
}

/// Restow's Debian package, of programs that are built as the suite's own for nodes are.
pub fn package() -> Result<PathBuf> {
    static PACKAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&PACKAGE, "RESTOW_PACKAGE", || made("deb"))
}

/// The directory with the programs that a node gets, built in the same way.
pub fn programs() -> Result<PathBuf> {
    static PROGRAMS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&PROGRAMS, "RESTOW_PROGRAMS", || made("dist"))
}

/// What a command of `cargo xtask` makes and prints the place of.
fn made(task: &str) -> Result<PathBuf> {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command
        .args(["xtask", task, "--profile", "dev"])
        .output()
        .with_context(|| format!("Start cargo xtask {task}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("cargo xtask {task} failed:\n{}", errors.trim());
    }
    let text = String::from_utf8(output.stdout).context("Read where it is")?;
    Ok(PathBuf::from(text.trim_end()))
}

/// The test programs of this crate with these names, with their names.
pub fn tests(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(names.iter().flat_map(|name| ["--test", name]));
    let built = executables(&mut command)?;
    Ok(built
        .into_iter()
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            let program = PathBuf::from(message["executable"].as_str()?);
            let test = message["profile"]["test"] == true;
            test.then_some((name, program))
        })
        .collect())
}

fn once(
    cell: &OnceLock<Result<PathBuf, String>>,
    variable: &str,
    build: impl FnOnce() -> Result<PathBuf>,
) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    cell.get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn cargo() -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--message-format=json-render-diagnostics"]);
    command
}

/// Runs a build and picks the program from cargo's account of it.
fn executable(command: &mut Command) -> Result<PathBuf> {
    let built = executables(command)?;
    built
        .iter()
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .context("cargo built no program")
}

/// Runs a build and returns cargo's messages about what it built.
fn executables(command: &mut Command) -> Result<Vec<serde_json::Value>> {
    let output = command.output().context("Start cargo")?;
    if !output.status.success() {
        bail!(
            "cargo could not build a program for the nodes:\n{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let messages = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    Ok(messages
        .filter(|message| message["executable"].is_string())
        .collect())
}
