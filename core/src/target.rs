//! Where a checkpoint goes: the cgroup, mounts and host name of the new container, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{CgroupPath, ContainerPath, HostPath, NsPid};
use crate::plan::Lookup;
use crate::policy::Maps;
use crate::privileges::Allowed;
use crate::source::manifest::InterfaceAddress;
use crate::source::{Hierarchy, Protocol, UnixKind, WatchedObject};

/// Identity of a file: device and inode number, as `stat(2)` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// What is at a path on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFact {
    /// Which object it is.
    pub id: ObjectId,
    /// Size in bytes.
    pub size: u64,
    /// `st_mode`.
    pub mode: u32,
}

/// A mount that the runtime gives CRIU a source for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetMount {
    /// The key in the request (runc and crun use the mount point in the container).
    pub key: String,
    /// Where its content comes from.
    pub source: HostPath,
}

/// A mount that the new container's OCI spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecMount {
    /// Where it shall be.
    pub destination: ContainerPath,
    /// Its options, as the OCI specification spells them.
    pub options: Vec<String>,
    /// The type of its file system; for a bind mount it says nothing.
    pub kind: String,
    /// Whether the runtime makes it out of the container's own cgroups (type `cgroup`).
    pub cgroup: bool,
}

impl SpecMount {
    /// Whether it is read-only; `None` when nothing is said.
    pub fn read_only(&self) -> Option<bool> {
        let mut said = self.options.iter().rev();
        said.find_map(|option| match option.as_str() {
            "ro" | "rro" => Some(true),
            "rw" | "rrw" => Some(false),
            _ => None,
        })
    }

    /// Whether it is a bind mount. The type does not count then (OCI runtime specification, `config.md`, mounts).
    pub fn bind(&self) -> bool {
        self.options
            .iter()
            .any(|option| option == "bind" || option == "rbind")
    }
}

/// A cgroup file system mounted on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Which hierarchy.
    pub hierarchy: Hierarchy,
    /// The cgroup that is mounted.
    pub root: CgroupPath,
    /// Where it is mounted.
    pub mount_point: HostPath,
}

/// The network namespace that the container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetNetwork {
    /// Its addresses, in the order of its interfaces.
    pub addresses: Vec<InterfaceAddress>,
    /// What came of trying the endpoints that [`crate::plan::endpoints`] asked for.
    pub trials: BTreeMap<Endpoint, Trial>,
}

/// A place for a socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// Of an internet socket.
    Inet {
        /// What it speaks.
        protocol: Protocol,
        /// The address to bind it to.
        local: SocketAddr,
        /// The address to connect it to.
        peer: Option<SocketAddr>,
        /// It is to take no IPv4 connections.
        v6only: bool,
    },
    /// An abstract name.
    Abstract {
        /// Kind of the socket; each has names of its own.
        kind: UnixKind,
        /// The name, without the leading zero.
        name: Vec<u8>,
    },
}

/// What came of trying to put a socket at an [`Endpoint`]; error numbers as in `errno(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It can be there.
    Fine,
    /// It cannot be bound.
    NotBound(i32),
    /// It can be bound but not connected.
    NotConnected(i32),
}

/// Where a checkpoint goes.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The new container's cgroup in each hierarchy, as the node sees it.
    pub cgroups: BTreeMap<Hierarchy, CgroupPath>,
    /// Cgroup file systems on the node.
    pub cgroup_mounts: Vec<CgroupMount>,
    /// Hierarchies whose `/` is not the real root, but the root of the cgroup namespace in which criu runs.
    pub namespace_roots: BTreeSet<Hierarchy>,
    /// Mount points that criu sees, for a tree that shares its mounts.
    pub mount_points: BTreeSet<HostPath>,
    /// External mounts of the request.
    pub mounts: Vec<TargetMount>,
    /// Explicit maps, which win over what the rules say.
    pub maps: Maps,
    /// Hierarchies in which an explicit map says where the container goes, not the runtime.
    pub placed_by_map: BTreeSet<Hierarchy>,
    /// Keys of the objects that the runtime hands in by descriptor.
    pub inherited: BTreeSet<String>,
    /// Mounts of the new container's spec.
    pub spec_mounts: Vec<SpecMount>,
    /// The OOM score adjustment that the new container's spec asks for.
    pub oom_score: Option<i32>,
    /// What the new container's spec allows its processes; `None` where there is no spec.
    pub allowed: Option<Allowed>,
    /// Ids that are taken in the process namespace that the container joins, each with the name of who has it.
    pub occupied: BTreeMap<NsPid, String>,
    /// Paths that the new container's spec hides from it (`linux.maskedPaths`).
    pub masked: Vec<ContainerPath>,
    /// Paths that the new container's spec makes read-only (`linux.readonlyPaths`).
    pub read_only_paths: Vec<ContainerPath>,
    /// The new container's root file system is read-only.
    pub read_only_root: bool,
    /// Host name of the new sandbox, when the container gets it from there.
    pub hostname: Option<String>,
    /// The file of the network namespace that the container joins; `None` when it gets a new one, or has the runtime's.
    pub network_namespace: Option<HostPath>,
    /// What is there; `None` when nobody has looked.
    pub network: Option<TargetNetwork>,
    /// What is at the paths that [`crate::plan::Questions::files`] asked for; `None` for a path where nothing is.
    pub files: BTreeMap<HostPath, Option<FileFact>>,
    /// Of the directories that [`crate::plan::Questions::directories`] asked for, whether they are empty.
    pub empty: BTreeMap<HostPath, bool>,
    /// Those of them into which the checkpoint's content has been unpacked.
    pub unpacked: BTreeSet<HostPath>,
    /// What a watch on each of the paths that [`crate::plan::Questions::watches`] asked for would watch; `None` where nothing
    /// is.
    pub watched: BTreeMap<HostPath, Option<WatchedObject>>,
}

impl Target {
    /// The source the runtime gives for an external mount; of several, the last, as CRIU has it.
    pub fn mount(&self, key: &str) -> Option<&TargetMount> {
        self.mounts.iter().rfind(|mount| mount.key == key)
    }

    /// Where to look for a cgroup or a file in one, without leaving the cgroup file system; `None` when no mount on the
    /// node shows it.
    pub fn cgroup_lookup(&self, hierarchy: &Hierarchy, path: &CgroupPath) -> Option<Lookup> {
        self.cgroup_mounts
            .iter()
            .filter(|mount| mount.hierarchy == *hierarchy)
            .filter_map(|mount| path.strip(&mount.root).map(|rest| (mount, rest)))
            .max_by_key(|(mount, _)| mount.root.depth())
            .map(|(mount, rest)| Lookup {
                root: mount.mount_point.clone(),
                rest: rest.to_path_buf(),
            })
    }

    /// The path on the node of a cgroup or of a file in one; `None` when no mount on the node shows it.
    pub fn cgroup_path_on_host(
        &self,
        hierarchy: &Hierarchy,
        path: &CgroupPath,
    ) -> Option<HostPath> {
        self.cgroup_lookup(hierarchy, path)
            .map(|lookup| lookup.path())
    }

    /// The cgroup that a path on the node shows, when it is below a cgroup file system.
    pub fn cgroup_at(&self, path: &HostPath) -> Option<(Hierarchy, CgroupPath)> {
        self.cgroup_mounts
            .iter()
            .filter_map(|mount| path.strip(&mount.mount_point).map(|rest| (mount, rest)))
            .max_by_key(|(mount, _)| mount.mount_point.depth())
            .map(|(mount, rest)| (mount.hierarchy.clone(), mount.root.join(rest)))
    }

    /// Whether a cgroup mount at this place is the runtime's own work, not a source that the spec names.
    pub fn runtime_made_cgroup(&self, mount_point: &ContainerPath) -> bool {
        let mut made = self.spec_mounts.iter().filter(|mount| mount.cgroup);
        made.any(|mount| mount_point.strip(&mount.destination).is_some())
    }

    /// What the lookups found at `path`: outer `None` when nobody looked.
    pub fn fact(&self, path: &HostPath) -> Option<Option<FileFact>> {
        self.files.get(path).copied()
    }
}
