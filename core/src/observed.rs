//! What [`crate::verify`] saw of a restored tree, kept so that it can be compared with a plan that was made elsewhere.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::ids::{CgroupPath, ContainerPath, HostPid, NsPid};
use crate::plan::SocketPlace;
use crate::source::{Hierarchy, WatchedObject};
use crate::target::ObjectId;
use crate::verify::{Descriptor, InetLine, Restored, UnixLine};

/// What was found, each only where somebody asked and there was an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observations {
    /// Descriptors.
    pub descriptors: Vec<SeenDescriptor>,
    /// Watches.
    pub watches: Vec<SeenWatch>,
    /// TCP and UDP sockets.
    pub sockets: Vec<SeenSocket>,
    /// What is at the mount points.
    pub mounts: BTreeMap<ContainerPath, ObjectId>,
    /// The processes' cgroups, by their ids in the container.
    pub cgroups: BTreeMap<NsPid, BTreeMap<Hierarchy, CgroupPath>>,
    /// The root file system is read-only.
    pub read_only_root: Option<bool>,
    /// The cgroup namespace is another than the node's.
    pub own_cgroup_namespace: Option<bool>,
    /// The host name.
    pub hostname: Option<String>,
}

/// A descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenDescriptor {
    /// The process, by its id in the container.
    pub pid: NsPid,
    /// Its number.
    pub fd: u32,
    /// What it is.
    #[serde(flatten)]
    pub found: Descriptor,
}

/// A TCP or UDP socket of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenSocket {
    /// The process, by its id in the container.
    pub pid: NsPid,
    /// The descriptor's number.
    pub fd: u32,
    /// Its addresses; `None` when it is neither bound nor connected.
    pub found: Option<SocketPlace>,
}

/// A watch of an inotify descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenWatch {
    /// The process, by its id in the container.
    pub pid: NsPid,
    /// The inotify descriptor's number.
    pub fd: u32,
    /// The watch descriptor.
    pub wd: u32,
    /// What it watches.
    #[serde(flatten)]
    pub found: WatchedObject,
}

/// A restored tree that notes the answers it gives.
#[derive(Debug)]
pub struct Observed<'a, T> {
    tree: &'a T,
    names: BTreeMap<HostPid, NsPid>,
    seen: RefCell<Observations>,
}

impl<'a, T: Restored> Observed<'a, T> {
    /// Watches what is asked about `tree`.
    pub fn new(tree: &'a T) -> Self {
        let tasks = tree.tasks().iter();
        Self {
            tree,
            names: tasks.map(|(ns_pid, pid)| (*pid, *ns_pid)).collect(),
            seen: RefCell::default(),
        }
    }

    /// What was seen.
    pub fn into_observations(self) -> Observations {
        self.seen.into_inner()
    }

    fn note(&self, pid: HostPid, note: impl FnOnce(&mut Observations, NsPid)) {
        if let Some(name) = self.names.get(&pid) {
            note(&mut self.seen.borrow_mut(), *name);
        }
    }
}

impl<T: Restored> Restored for Observed<'_, T> {
    fn tasks(&self) -> &BTreeMap<NsPid, HostPid> {
        self.tree.tasks()
    }

    fn descriptor(&self, pid: HostPid, fd: u32) -> io::Result<Descriptor> {
        let found = self.tree.descriptor(pid, fd)?;
        self.note(pid, |seen, pid| {
            seen.descriptors.push(SeenDescriptor { pid, fd, found });
        });
        Ok(found)
    }

    fn compare(&self, a: (HostPid, u32), b: (HostPid, u32)) -> Option<Ordering> {
        self.tree.compare(a, b)
    }

    fn watches(&self, pid: HostPid, fd: u32) -> io::Result<BTreeMap<u32, WatchedObject>> {
        let watches = self.tree.watches(pid, fd)?;
        self.note(pid, |seen, pid| {
            let known = |old: &SeenWatch| old.pid == pid && old.fd == fd;
            if !seen.watches.last().is_some_and(known) {
                let new = watches.iter();
                seen.watches.extend(new.map(|(wd, found)| SeenWatch {
                    pid,
                    fd,
                    wd: *wd,
                    found: *found,
                }));
            }
        });
        Ok(watches)
    }

    fn inet_socket(&self, pid: HostPid, fd: u32) -> io::Result<Option<InetLine>> {
        let found = self.tree.inet_socket(pid, fd)?;
        self.note(pid, |seen, pid| {
            let found = found.map(|InetLine { local, peer, .. }| SocketPlace { local, peer });
            seen.sockets.push(SeenSocket { pid, fd, found });
        });
        Ok(found)
    }

    fn unix_socket(&self, pid: HostPid, fd: u32) -> io::Result<Option<UnixLine>> {
        self.tree.unix_socket(pid, fd)
    }

    fn oom_score(&self, pid: HostPid) -> io::Result<i32> {
        self.tree.oom_score(pid)
    }

    fn cgroups(&self, pid: HostPid) -> io::Result<BTreeMap<Hierarchy, CgroupPath>> {
        let cgroups = self.tree.cgroups(pid)?;
        self.note(pid, |seen, pid| {
            seen.cgroups.insert(pid, cgroups.clone());
        });
        Ok(cgroups)
    }

    fn mount_point(&self, path: &ContainerPath) -> io::Result<ObjectId> {
        let found = self.tree.mount_point(path)?;
        self.seen.borrow_mut().mounts.insert(path.clone(), found);
        Ok(found)
    }

    fn read_only_root(&self) -> io::Result<bool> {
        let found = self.tree.read_only_root()?;
        self.seen.borrow_mut().read_only_root = Some(found);
        Ok(found)
    }

    fn own_cgroup_namespace(&self) -> io::Result<bool> {
        let found = self.tree.own_cgroup_namespace()?;
        self.seen.borrow_mut().own_cgroup_namespace = Some(found);
        Ok(found)
    }

    fn hostname(&self) -> io::Result<String> {
        let found = self.tree.hostname()?;
        self.seen.borrow_mut().hostname = Some(found.clone());
        Ok(found)
    }
}
