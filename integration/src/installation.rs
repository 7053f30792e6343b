//! A node onto which Restow comes by its own command, as on any node of a user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::engine::{self, Engine, checked};
use crate::journey::{Arrival, Journey, Verdict};
use crate::node::Node;
use crate::pod::{ContainerOptions, Pod, PodOptions};
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

/// Moves a container that asks for Restow, and tells how it arrived.
///
/// # Errors
/// When it does not arrive right.
pub fn moves(engine: &Engine) -> Result<String> {
    let mut options = ContainerOptions::new(1)
        .open("all:r:0:/sys/fs/cgroup/cgroup.events")
        .open("all:r:0:/etc/hosts");
    options
        .annotations
        .push(("restow.dev/enabled".to_owned(), "true".to_owned()));
    let verdict = Journey::new(options).run(engine, |arrival: &mut Arrival| {
        arrival.check_placement()?;
        arrival.check_progress()?;
        let inode = arrival.cgroup_inode("cgroup.events")?;
        arrival.check_file("/sys/fs/cgroup/cgroup.events", inode)?;
        Ok("it is in pod B with pod B's files".to_owned())
    })?;
    match verdict {
        Verdict::Right(text) => Ok(text),
        Verdict::Wrong(text) => {
            bail!("The container does not move: {text}")
        }
    }
}

/// A container that does not ask for Restow runs, and ends when it is told to.
///
/// # Errors
/// When it does not.
pub fn others_go_on(engine: &Engine) -> Result<()> {
    let pod = Pod::start(engine, &PodOptions::new("not-asked"))?;
    let mut container = pod.container(&ContainerOptions::new(1))?;
    container
        .start()
        .context("A container that does not ask for Restow does not start")?;
    container.reports()?;
    pod.remove(vec![container])
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
    answers(&restow(node, &["doctor", "--json"])?)
}

/// The same for a call that was made already.
///
/// # Errors
/// When it printed no JSON.
pub fn answers(output: &Output) -> Result<(Option<i32>, Vec<String>)> {
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
    complaints_of(doctor(node)?)
}

/// The same for answers that were given already.
///
/// # Errors
/// As [`complaints`].
pub fn complaints_of((code, mut lines): (Option<i32>, Vec<String>)) -> Result<Vec<String>> {
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

/// What is on a node, by path.
pub type Snapshot = BTreeMap<PathBuf, String>;

/// Everything on a node that an installation could leave behind or take away: each path with its kind, owner, permissions, size
/// and time, and the content where configuration is.
///
/// # Errors
/// When something cannot be looked at.
pub fn snapshot(node: &Node) -> Result<Snapshot> {
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

/// What was there before the installation, with all that has come since it was done.
#[must_use]
pub fn with_the_rest(before: &Snapshot, now: &Snapshot, installed: &Snapshot) -> Snapshot {
    let mut expected = before.clone();
    for (path, text) in now {
        if installed.get(path) != Some(text) {
            expected.insert(path.clone(), text.clone());
        }
    }
    expected
}

/// What differs between two snapshots.
#[must_use]
pub fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
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
