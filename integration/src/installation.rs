//! A node onto which Restow comes by its own command, as on any node of a user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::engine::{self, checked};
use crate::node::Node;
use crate::tools;

/// Where Restow's programs are before they are installed, as a path of the node.
pub const BUILT: &str = "/opt/built";
/// Where `restow install` puts them.
pub const INSTALLED: &str = "/usr/local/lib/restow";

/// Kernel file systems, and what changes while nothing is done.
const LEFT_OUT: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/run",
    "/var/log",
    "/var/lib/containers",
    "/var/lib/kubelet",
    BUILT,
];
/// Below these, the content of files counts too.
const CONFIGURED: &[&str] = &["/etc", "/usr/local", "/var/lib/restow"];

/// Puts Restow's programs onto the node, not installed yet.
///
/// # Errors
/// When one cannot be built or copied.
pub fn bring(node: &Node) -> Result<()> {
    for (name, program) in [
        ("restow", tools::restow()?),
        ("criu", tools::interposer()?),
        ("restow-runtime", tools::runtime()?),
        ("containerd-shim-restow-v2", tools::shim()?),
    ] {
        engine::install(node, &program, &format!("{BUILT}/{name}"))?;
    }
    Ok(())
}

/// Runs the command `restow` that was brought, not the installed one.
///
/// # Errors
/// When it cannot be started.
pub fn restow(node: &Node, args: &[&str]) -> Result<Output> {
    let mut command = node.command(format!("{BUILT}/restow"));
    command.args(args).output().context("Start restow")
}

/// The same for a call that has to succeed, returning what it prints.
///
/// # Errors
/// When it fails, with its words.
pub fn restow_done(node: &Node, args: &[&str]) -> Result<String> {
    checked(&restow(node, args)?, || {
        format!("restow {}", args.join(" "))
    })
}

/// What `restow doctor` answers: its exit code, and each line as `STATUS CHECK TEXT`.
///
/// # Errors
/// When it prints no JSON.
pub fn doctor(node: &Node) -> Result<(Option<i32>, Vec<String>)> {
    let output = restow(node, &["doctor", "--json"])?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "restow doctor prints no JSON; its errors: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for line in report["checks"].as_array().into_iter().flatten() {
        let status = word(line, "status");
        ensure!(
            (status == "ok") == line["fix"].is_null(),
            "What is not right has to have a fix: {line}"
        );
        lines.push(format!(
            "{status} {}: {}",
            word(line, "check"),
            word(line, "text")
        ));
    }
    Ok((output.status.code(), lines))
}

/// The only answer of `restow doctor` that says other than ok, or an error with all of them.
///
/// This machine may not give its nodes CAP_SYS_RESOURCE; that answer is left out.
///
/// # Errors
/// When there are more, or none.
pub fn only_complaint(node: &Node) -> Result<String> {
    let complaints = complaints(node)?;
    match &complaints[..] {
        [one] => Ok(one.clone()),
        other => bail!(
            "Doctor should have one complaint and has {}: {other:#?}",
            other.len()
        ),
    }
}

/// All answers of `restow doctor` that say other than ok, without the one on CAP_SYS_RESOURCE.
///
/// # Errors
/// When its exit code does not fit them.
pub fn complaints(node: &Node) -> Result<Vec<String>> {
    let (code, mut lines) = doctor(node)?;
    let expected = if lines.iter().any(|line| line.starts_with("fail")) {
        5
    } else {
        i32::from(lines.iter().any(|line| line.starts_with("warn")))
    };
    ensure!(
        code == Some(expected),
        "Doctor's exit code is {code:?} with {lines:#?}"
    );
    lines.retain(|line| !line.starts_with("ok") && !line.contains("CAP_SYS_RESOURCE"));
    Ok(lines)
}

/// Everything on a node that an installation could leave behind or take away: each path with its kind, owner, permissions, size
/// and time, and the content where configuration is.
///
/// # Errors
/// When something cannot be looked at.
pub fn snapshot(node: &Node) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    walk(node, Path::new("/"), &mut found)?;
    Ok(found)
}

fn walk(node: &Node, dir: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let place = node.path(dir);
    let entries = fs::read_dir(&place).with_context(|| format!("Read {}", place.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        if LEFT_OUT.iter().any(|left| path == Path::new(left)) {
            continue;
        }
        let meta = entry.path().symlink_metadata()?;
        let mut text = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_symlink() {
            text += &format!(" -> {}", entry.path().read_link()?.display());
        } else if meta.is_file() {
            text += &format!(
                " {} bytes, {}.{}",
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec()
            );
            if CONFIGURED.iter().any(|dir| path.starts_with(dir)) {
                text += &String::from_utf8_lossy(&fs::read(entry.path())?);
            }
        } else if meta.is_dir() {
            walk(node, &path, found)?;
        }
        found.insert(path, text);
    }
    Ok(())
}

/// What differs between two snapshots.
#[must_use]
pub fn differences(
    before: &BTreeMap<PathBuf, String>,
    after: &BTreeMap<PathBuf, String>,
) -> Vec<String> {
    let gone = before
        .iter()
        .filter_map(|(path, was)| match after.get(path) {
            None => Some(format!("{} is gone", path.display())),
            Some(is) if is != was => Some(format!("{} was {was} and is {is}", path.display())),
            Some(_) => None,
        });
    let new = after.keys().filter(|path| !before.contains_key(*path));
    let new = new.map(|path| format!("{} is new", path.display()));
    gone.chain(new).collect()
}
