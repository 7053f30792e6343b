//! What the probe tells about itself.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The account of one process.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Its number: 0 for the parent, then the children.
    pub process: usize,
    /// Its number in its pid namespace.
    pub pid: i32,
    /// How far it has counted.
    pub counter: u64,
    /// Whether its memory still holds what it wrote there.
    pub memory_intact: bool,
    /// The host name it sees.
    pub hostname: String,
    /// Its working directory.
    pub cwd: String,
    /// `/proc/self/cgroup`.
    pub cgroup: String,
    /// `/proc/self/mountinfo`.
    pub mountinfo: String,
    /// The files it holds.
    pub files: Vec<HeldFile>,
    /// The sockets it holds.
    pub sockets: Vec<HeldSocket>,
}

/// A file that a process holds open.
#[derive(Clone, Debug, Deserialize)]
pub struct HeldFile {
    /// Its descriptor.
    pub fd: i32,
    /// The path it was opened by.
    pub opened: String,
    /// Where `/proc/self/fd` points.
    pub link: String,
    /// The inode behind the descriptor; of an inotify instance, the one that it watches.
    pub inode: u64,
    /// The process's parent has the same open file description under the same number.
    #[serde(default)]
    pub shared: bool,
    /// The offset.
    pub offset: u64,
    /// The flags it is open with.
    pub flags: u32,
    /// What reading from its start gives; of an inotify instance, `events` or `no events` since the last report.
    pub content: Option<String>,
    /// The error that reading gives.
    pub errno: Option<i32>,
}

/// A socket that a process holds.
#[derive(Clone, Debug, Deserialize)]
pub struct HeldSocket {
    /// Its descriptor; of a pair, the listener's.
    pub fd: i32,
    /// What it was asked for as, `KIND:ADDRESS`.
    pub opened: String,
    /// The address it is bound to; of a pair, the client's.
    pub local: String,
    /// The address it is connected to; of a pair, the client's.
    pub peer: Option<String>,
    /// What came of trying it: the answer, `end of file`, or `errno N`.
    pub said: String,
}

impl Report {
    /// Reads a report.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("Read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("Understand {}", path.display()))
    }

    /// Its line of `/proc/self/cgroup` for version 2.
    #[must_use]
    pub fn cgroup_v2(&self) -> &str {
        self.cgroup
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or_default()
    }

    /// The file that was opened as `path`.
    pub fn file(&self, path: &str) -> Result<&HeldFile> {
        let found = self.files.iter().find(|file| file.opened == path);
        found.with_context(|| format!("Process {} does not hold {path} any more", self.process))
    }

    /// The socket that was asked for as `wanted`, or whose `KIND:ADDRESS` starts so.
    pub fn socket(&self, wanted: &str) -> Result<&HeldSocket> {
        let mut sockets = self.sockets.iter();
        let found = sockets.find(|socket| socket.opened.starts_with(wanted));
        found.with_context(|| format!("Process {} does not hold {wanted} any more", self.process))
    }
}
