//! Nodes start clean and leave nothing behind, however they end.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_integration::node::{
    self, CgroupView, Node, NodeOptions, NodeState, Process, hierarchies,
};
use restow_integration::suite::Suite;

const RESTOW_NODE: &str = env!("CARGO_BIN_EXE_restow-node");

const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "uts", "ipc", "cgroup"];

/// Everything of a node that could be left behind.
struct Traces {
    id: String,
    supervisor: Process,
    /// Everything that runs in one of its namespaces.
    ///
    /// Noted while it runs: the numbers of namespaces are used again at once, by nodes of other tests.
    processes: Vec<Process>,
}

impl Traces {
    fn of(state: &NodeState) -> Result<Self> {
        let namespaces = namespaces(Path::new(&format!("/proc/{}", state.init()?.pid)));
        ensure!(
            namespaces.len() == NAMESPACES.len(),
            "Node {} does not run",
            state.id
        );
        let mut processes = Vec::new();
        for entry in fs::read_dir("/proc").context("List /proc")?.flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(pid) = pid
                && !self::namespaces(&entry.path()).is_disjoint(&namespaces)
            {
                processes.extend(Process::of(pid));
            }
        }
        Ok(Self {
            id: state.id.clone(),
            supervisor: state.supervisor,
            processes,
        })
    }

    /// What is still there.
    fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for process in self
            .processes
            .iter()
            .chain([&self.supervisor])
            .filter(|process| process.is_alive())
        {
            left.push(format!("process {}", process.pid));
        }
        if NodeState::dir(&self.id).exists() {
            left.push(format!("directory {}", NodeState::dir(&self.id).display()));
        }
        for hierarchy in hierarchies()? {
            let path = hierarchy.mount.join(&self.id);
            if path.exists() {
                left.push(format!("cgroup {}", path.display()));
            }
        }
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").context("Read /proc/self/mountinfo")?;
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&self.id))
                .map(|line| format!("mount {line}")),
        );
        Ok(left)
    }

    /// Waits until nothing is left.
    fn vanish(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.left()?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("Left of node {}: {}", self.id, left.join(", "));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The namespaces of the process with this directory below `/proc`, but for those that the host has too.
fn namespaces(process: &Path) -> BTreeSet<PathBuf> {
    let of = |dir: &Path| -> BTreeSet<PathBuf> {
        NAMESPACES
            .iter()
            .filter_map(|kind| fs::read_link(dir.join("ns").join(kind)).ok())
            .collect()
    };
    &of(process) - &of(Path::new("/proc/self"))
}

fn host_has_version_1() -> Result<bool> {
    Ok(hierarchies()?
        .iter()
        .any(|hierarchy| hierarchy.v1.is_some()))
}

/// Fills a node with things that are hard to get rid of: a daemon, cgroups with tasks in them, mounts.
fn occupy(id: &str) -> Result<()> {
    let script = "mkdir -p /sys/fs/cgroup/deep/deeper /run/m && mount -t tmpfs none /run/m && \
                  (echo 0 > /sys/fs/cgroup/deep/deeper/cgroup.procs; i=0; while :; do i=$((i+1)); done) &";
    let mut command = Command::new(RESTOW_NODE);
    // Not a pipe: the daemon would hold it open.
    command
        .args(["exec", id, "bash", "-c", script])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ensure!(
        command
            .status()
            .context("Start bash in the node")?
            .success(),
        "Cannot occupy the node"
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    let procs = NodeState::load(id)?
        .cgroups
        .v2()
        .join("deep/deeper/cgroup.procs");
    while !fs::read_to_string(&procs).is_ok_and(|text| !text.is_empty()) {
        ensure!(
            Instant::now() < deadline,
            "The daemon in the node does not start"
        );
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[test]
fn a_node_starts_in_less_than_two_seconds_and_is_complete() -> Result<()> {
    for suite in Suite::ALL {
        let started = Instant::now();
        let node = Node::start(&NodeOptions::new(suite))?;
        let took = started.elapsed();
        println!("a {suite} node starts in {} ms", took.as_millis());
        ensure!(
            took < Duration::from_secs(2),
            "The node took {took:?} to start"
        );
        for program in ["containerd", "runc", "crun", "podman", "criu"] {
            let output = node
                .command(program)
                .arg("--version")
                .output()
                .context("Enter the node")?;
            ensure!(
                output.status.success(),
                "{program} does not run in the node"
            );
        }
    }
    Ok(())
}

#[test]
fn a_node_sees_its_own_host_name_processes_network_and_cgroups() -> Result<()> {
    let node = Node::start(&NodeOptions::new(Suite::Stable))?;
    let run = |script: &str| -> Result<String> {
        let output = node
            .command("sh")
            .args(["-c", script])
            .output()
            .context("Enter the node")?;
        ensure!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    assert_eq!(run("cat /proc/sys/kernel/hostname")?, node.id());
    assert_eq!(
        run("ip -o link show | wc -l")?,
        "1",
        "there is the loopback interface alone"
    );
    assert!(
        run("ip -o addr show lo")?.contains("127.0.0.1"),
        "the loopback interface is up"
    );
    assert!(
        run("cat /proc/1/cmdline")?.starts_with("restow-node"),
        "process 1 is ours"
    );
    assert_eq!(run("stat -fc %T /sys/fs/cgroup")?, "cgroup2fs");
    assert_eq!(run("grep ^0:: /proc/self/cgroup")?, "0::/system.slice");
    assert_eq!(run("stat -fc %T /")?, "overlayfs");
    Ok(())
}

#[test]
fn a_hybrid_node_has_version_1_controllers_and_version_2() -> Result<()> {
    if !host_has_version_1()? {
        println!("SKIPPED: this host has no cgroup version 1 hierarchies");
        return Ok(());
    }
    let node = Node::start(&NodeOptions::new(Suite::Stable).hybrid())?;
    assert_eq!(node.state().cgroup_view, CgroupView::Hybrid);
    for file in [
        "pids/system.slice/pids.max",
        "memory/system.slice/memory.limit_in_bytes",
        "unified/cgroup.procs",
    ] {
        let path = node.path("/sys/fs/cgroup").join(file);
        ensure!(path.exists(), "{} is missing", path.display());
    }
    let own = node
        .cgroup_v1_root("pids")
        .context("This host has no pids hierarchy")?;
    ensure!(
        own.ends_with(node.id()),
        "{} is not the node's own cgroup",
        own.display()
    );
    Ok(())
}

#[test]
fn what_a_node_writes_vanishes_with_it() -> Result<()> {
    let node = Node::start(&NodeOptions::new(Suite::Stable))?;
    fs::write(node.path("/etc/written-in-the-node"), "x").context("Write into the node")?;
    node.stop()?;
    let again = Node::start(&NodeOptions::new(Suite::Stable))?;
    ensure!(
        !again.path("/etc/written-in-the-node").exists(),
        "The next node has the file"
    );
    Ok(())
}

#[test]
fn a_dropped_node_leaves_nothing() -> Result<()> {
    let mut kinds = vec![NodeOptions::new(Suite::Stable)];
    if host_has_version_1()? {
        kinds.push(NodeOptions::new(Suite::Testing).hybrid());
    }
    for options in kinds {
        let node = Node::start(&options)?;
        if options.cgroup_view == CgroupView::V2 {
            occupy(node.id())?;
        }
        let traces = Traces::of(node.state())?;
        ensure!(
            traces.left()?.len() > 4,
            "The traces of a running node are not found"
        );
        drop(node);
        let left = traces.left()?;
        ensure!(left.is_empty(), "Left: {}", left.join(", "));
    }
    Ok(())
}

#[test]
fn a_node_that_is_up_stays_until_it_is_taken_down() -> Result<()> {
    let state =
        node::up(&NodeOptions::new(Suite::Stable).named(&format!("up-{}", std::process::id())))?;
    let traces = Traces::of(&state)?;
    ensure!(
        node::list()?.iter().any(|other| other.id == state.id),
        "The node is not listed"
    );
    node::down(&state.id)?;
    traces.vanish()
}

#[test]
fn a_killed_owner_leaves_nothing() -> Result<()> {
    let mut owner = Command::new(RESTOW_NODE)
        .args(["own", "stable"])
        .stdout(Stdio::piped())
        .spawn()
        .context("Start the owner")?;
    let mut id = String::new();
    BufReader::new(owner.stdout.take().context("The owner has no output")?)
        .read_line(&mut id)
        .context("The owner made no node")?;
    let id = id.trim();
    occupy(id)?;
    let traces = Traces::of(&NodeState::load(id)?)?;
    owner.kill().context("Kill the owner")?;
    owner.wait().context("Wait for the owner")?;
    traces.vanish()
}

#[test]
fn what_a_killed_supervisor_leaves_is_collected_by_the_next_start() -> Result<()> {
    let node = Node::start(&NodeOptions::new(Suite::Stable))?;
    occupy(node.id())?;
    let traces = Traces::of(node.state())?;
    node.supervisor().end()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while traces.processes.iter().any(|process| process.is_alive()) {
        ensure!(
            Instant::now() < deadline,
            "The node's processes outlive their supervisor"
        );
        thread::sleep(Duration::from_millis(5));
    }
    let _next = Node::start(&NodeOptions::new(Suite::Stable))?;
    traces.vanish()
}

#[test]
fn a_node_that_is_not_there_is_named() -> Result<()> {
    let output = Command::new(RESTOW_NODE)
        .args(["exec", "there-is-no-such-node", "true"])
        .output()
        .context("Start restow-node")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && text.contains("there-is-no-such-node"),
        "It says {text:?}"
    );
    ensure!(
        text.contains("cargo xtask node ls"),
        "It does not say what to do: {text:?}"
    );
    Ok(())
}
