//! Programs of other projects that are needed here, in versions that are pinned: the pinned compiler may not build a later one.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cargo::{cargo, check};

/// Where the program of the crate `name` is, built from crates.io when it is not in the cache yet (minutes).
pub(crate) fn installed(name: &str, version: &str) -> Result<PathBuf> {
    let dir = cache()?.join("tools").join(format!("{name}-{version}"));
    let program = dir.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("building {name} {version}, once");
    let build = dir.join("build");
    let mut command = cargo();
    // Where this workspace goes it has no business.
    command.env("CARGO_TARGET_DIR", &build);
    command.args(["install", "--quiet", "--locked", "--version", version]);
    check(command.arg("--root").arg(&dir).arg(name), "cargo install")?;
    fs::remove_dir_all(&build).with_context(|| format!("Remove {}", build.display()))?;
    Ok(program)
}

/// What is kept between runs, beside the nodes' root file systems (`integration/src/root.rs`).
fn cache() -> Result<PathBuf> {
    let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = from("RESTOW_CACHE") {
        return Ok(dir.into());
    }
    let base = from("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(from("HOME")?).join(".cache")));
    Ok(base
        .context("Neither RESTOW_CACHE, XDG_CACHE_HOME nor HOME is set: set RESTOW_CACHE")?
        .join("restow"))
}
