//! Running a program inside a node, as `nsenter` does, but in the node's cgroups too.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::state::NodeState;

/// Runs `program` in the node `id` and returns its exit code (128 + signal when a signal ended it).
///
/// It gets `env`, or this process's environment when that is absent. Must be called by a process with a single thread: the kernel moves no other into a mount namespace.
pub fn enter(id: &str, program: &[OsString], env: Option<&[(&str, OsString)]>) -> Result<i32> {
    let [program, args @ ..] = program else {
        bail!("No program to run in node {id} was given")
    };
    let node = NodeState::load(id)?;
    let init = node.init()?;
    if !init.is_alive() {
        bail!(
            "Node {id} is not running any more: `cargo xtask node gc` removes what is left of it"
        );
    }
    let namespaces = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ]
    .map(|(name, flag)| {
        let path = format!("/proc/{}/ns/{name}", init.pid);
        File::open(&path)
            .with_context(|| format!("Open {path}"))
            .map(|file| (name, file, flag))
    });
    // The cgroups are entered by paths of the host, so before its mount namespace is left.
    node.cgroups.enter_system()?;
    for namespace in namespaces {
        let (name, file, flag) = namespace?;
        setns(file, flag).with_context(|| format!("Enter the {name} namespace of node {id}"))?;
    }
    let mut command = Command::new(program);
    command.args(args).current_dir("/");
    if let Some(env) = env {
        command
            .env_clear()
            .envs(env.iter().map(|(name, value)| (*name, value)));
    }
    let status = command
        .status()
        .with_context(|| format!("Start {} in node {id}", program.display()))?;
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}
