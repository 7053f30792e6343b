//! What is on disk about running nodes, and how remains of dead ones are collected.
//!
//! Each node has a directory below [`BASE`] with a description and a lock that its supervisor holds for life. A directory whose
//! lock can be had belongs to a supervisor that is gone; the kernel has ended the node's processes with it (they die with their
//! parent), so cgroups and the directory are what is left to remove.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::cgroup::NodeCgroups;
use super::options::CgroupView;
use crate::suite::Suite;

/// Where nodes are recorded.
pub const BASE: &str = "/run/restow-nodes";

/// A process, safe against its number being used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("Process {pid} is gone"))?;
        // The second field is the command in parentheses and may itself hold spaces and parentheses.
        let started = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19))
            .and_then(|field| field.parse().ok())
            .with_context(|| format!("/proc/{pid}/stat is not as expected: {stat:?}"))?;
        Ok(Self { pid, started })
    }

    /// Whether it still exists and has not become a zombie.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
            && fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| {
                !stat
                    .rsplit_once(')')
                    .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
            })
    }

    /// Ends it and waits until it is gone.
    pub fn end(self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.is_alive() {
            // It may go between the question and the signal.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            if Instant::now() > deadline {
                bail!("Process {} does not end", self.pid);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// What is known about a node, on disk and between its owner and its supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// Its name.
    pub id: String,
    /// The suite of its root.
    pub suite: Suite,
    /// How it sees cgroups.
    pub cgroup_view: CgroupView,
    /// The process that takes it down.
    pub supervisor: Process,
    /// Its process 1, once there is one.
    pub init: Option<Process>,
    /// Its cgroups.
    pub cgroups: NodeCgroups,
}

impl NodeState {
    /// The directory of the node `id`.
    #[must_use]
    pub fn dir(id: &str) -> PathBuf {
        Path::new(BASE).join(id)
    }

    /// Reads the description of the node `id`.
    pub fn load(id: &str) -> Result<Self> {
        let path = Self::dir(id).join("state.json");
        let text = fs::read(&path).with_context(|| {
            format!("There is no node {id:?}: `cargo xtask node ls` lists them")
        })?;
        serde_json::from_slice(&text).with_context(|| format!("Read {}", path.display()))
    }

    /// Writes it, all at once.
    pub fn store(&self) -> Result<()> {
        let dir = Self::dir(&self.id);
        let new = dir.join("state.json.new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("Write {}", new.display()))?;
        fs::rename(&new, dir.join("state.json"))
            .with_context(|| format!("Rename {}", new.display()))
    }

    /// Its process 1.
    pub fn init(&self) -> Result<Process> {
        self.init
            .with_context(|| format!("Node {} has not started yet", self.id))
    }
}

/// A node's directory, locked by its supervisor.
#[derive(Debug)]
pub(super) struct Claim {
    dir: PathBuf,
    _lock: File,
}

impl Claim {
    /// Makes the directory of the node `id`, and collects what dead nodes left.
    pub(super) fn new(id: &str) -> Result<Self> {
        fs::create_dir_all(BASE).with_context(|| format!("Create {BASE} (are you root?)"))?;
        let _base = lock_base()?;
        sweep_locked()?;
        let dir = NodeState::dir(id);
        fs::create_dir(&dir).with_context(|| {
            format!("Create {} (is there already a node {id:?}?)", dir.display())
        })?;
        let lock = File::create(dir.join("lock"))
            .with_context(|| format!("Create the lock in {}", dir.display()))?;
        lock.lock()
            .with_context(|| format!("Lock {}", dir.display()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Removes the directory.
    pub(super) fn release(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| format!("Remove {}", self.dir.display()))
    }
}

/// Every node that is running.
pub fn list() -> Result<Vec<NodeState>> {
    let mut nodes: Vec<NodeState> = ids()?
        .iter()
        // One that is going away while we look is not an error.
        .filter_map(|id| NodeState::load(id).ok())
        .filter(|node| node.supervisor.is_alive())
        .collect();
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(nodes)
}

/// Collects what nodes with a dead supervisor left, and names them.
pub fn sweep() -> Result<Vec<String>> {
    if !Path::new(BASE).exists() {
        return Ok(Vec::new());
    }
    let _base = lock_base()?;
    sweep_locked()
}

fn sweep_locked() -> Result<Vec<String>> {
    let mut collected = Vec::new();
    for id in ids()? {
        let dir = NodeState::dir(&id);
        let Ok(lock) = File::open(dir.join("lock")) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        if let Ok(state) = NodeState::load(&id)
            && let Some(init) = state.init
        {
            init.end()
                .with_context(|| format!("Collect the node {id}"))?;
        }
        NodeCgroups::of(&id)?
            .remove()
            .with_context(|| format!("Collect the node {id}"))?;
        fs::remove_dir_all(&dir).with_context(|| format!("Remove {}", dir.display()))?;
        collected.push(id);
    }
    Ok(collected)
}

fn lock_base() -> Result<File> {
    let path = Path::new(BASE).join(".lock");
    let lock = File::create(&path).with_context(|| format!("Create {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("Lock {}", path.display()))?;
    Ok(lock)
}

fn ids() -> Result<Vec<String>> {
    let entries = match fs::read_dir(BASE) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("List {BASE}")),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("List {BASE}"))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            ids.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(ids)
}
