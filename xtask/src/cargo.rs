//! Calls of cargo, and where it leaves what it builds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

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

/// What programs for other machines are built with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Optimised as a whole
    Dist,
    /// As the suite builds its own programs for nodes: quickly, for tests
    Dev,
}

/// The packages with the programs that a node gets: `criu`, `restow-runtime`, `containerd-shim-restow-v2` and `restow`.
pub(crate) const INSTALLED: &[&str] = &["restow-hooks", "restow-shim", "restow-cli"];

/// Builds a program as it is installed and returns where it is.
pub(crate) fn build_dist(package: &str, bin: &str) -> Result<PathBuf> {
    Ok(build_static(Profile::Dist, &[package])?.join(bin))
}

/// Builds the programs of `packages`, linked statically, and returns the directory that they are in.
///
/// Our criu is started twice for each checkpoint and restore on a node, also of containers that do not ask for it, and before every other
/// criu. Finding and relocating libraries would be the larger part of its time.
pub(crate) fn build_static(profile: Profile, packages: &[&str]) -> Result<PathBuf> {
    let host = host()?;
    let (name, dir, more) = match profile {
        Profile::Dist => ("dist", "dist", "relocation-model=static"),
        // As in `integration/src/tools.rs`, whose dependencies are then there already.
        Profile::Dev => ("dev", "debug", "strip=symbols"),
    };
    let mut command = cargo();
    command
        .env(
            "RUSTFLAGS",
            format!("-C target-feature=+crt-static -C {more}"),
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    // With a target named, the flags do not reach build scripts and macros.
    command.args(["build", "--quiet", "--profile", name, "--target", &host]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    check(command.arg("--bins"), "build")?;
    // Beside the directory that xtask itself was built into.
    let own = std::env::current_exe().context("Find the running program")?;
    let target = own
        .parent()
        .and_then(Path::parent)
        .context("xtask is in no target directory")?;
    Ok(target.join(host).join(dir))
}

/// The target that this machine is, as rustc names it.
pub(crate) fn host() -> Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .context("Start rustc")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .context("rustc does not say what this machine is")
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
