//! Calls of cargo, and where it leaves what it builds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

/// A cargo command in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace());
    command
}

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Builds the programs of `package` (they start each other) and returns where `bin` is.
pub(crate) fn build(package: &str, bin: &str) -> Result<PathBuf> {
    check(
        cargo().args(["build", "--quiet", "--package", package, "--bins"]),
        "build",
    )?;
    // xtask itself was built into the directory in question.
    let own = std::env::current_exe().context("Find the running program")?;
    let path = own.with_file_name(bin);
    if !path.is_file() {
        bail!("cargo built {bin}, but not at {}", path.display());
    }
    Ok(path)
}

/// Builds a program for release and returns where it is.
pub(crate) fn build_release(package: &str, bin: &str) -> Result<PathBuf> {
    check(
        cargo().args([
            "build",
            "--quiet",
            "--release",
            "--package",
            package,
            "--bin",
            bin,
        ]),
        "build",
    )?;
    // Beside the directory that xtask itself was built into.
    let own = std::env::current_exe().context("Find the running program")?;
    let target = own
        .parent()
        .and_then(Path::parent)
        .context("xtask is in no target directory")?;
    Ok(target.join("release").join(bin))
}

/// Runs a command that has to succeed; `what` names it when it does not.
pub(crate) fn check(command: &mut Command, what: &str) -> Result<()> {
    let status = status(command, what)?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Runs a command.
pub(crate) fn status(command: &mut Command, what: &str) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("Start {} for {what}", command.get_program().display()))
}
