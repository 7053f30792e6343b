//! Where a container goes, put together out of what a runtime says and what the node is.
//!
//! The interposer reads it out of CRIU's request; `restow plan` works it out before there is a request, from a bundle
//! ([`of_bundle`]) or a running process ([`of_process`]). All end in [`target`], so that they plan for the same thing.
//!
//! A process tree that shares the mounts of its criu has no runtime; where it goes is where that criu is ([`of_tree`]).

mod cgroups_path;
mod of_bundle;
mod of_process;
mod of_tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::pid_namespace::occupied;
use super::{Bundle, MountInfo, cgroup_mounts, hostname_in, mountinfo};
use crate::ids::{CgroupPath, HostPath, HostPid};
use crate::source::Hierarchy;
use crate::target::{CgroupMount, Target, TargetMount};

pub use of_bundle::{Runtime, of_bundle};
pub use of_process::of_process;
pub use of_tree::{never_soft, of_tree, plan_in_place_of};

/// Something about the new container or the node that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("Cannot read the {what}")]
pub struct Error {
    /// What it is.
    what: String,
    /// Why.
    source: io::Error,
}

impl Error {
    fn of(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self { what, source }
    }
}

/// The file systems of the node, as this process sees them.
#[derive(Debug)]
pub struct Node {
    /// All mounts.
    pub mounts: Vec<MountInfo>,
    /// Those of cgroups.
    pub cgroup_mounts: Vec<CgroupMount>,
}

impl Node {
    /// Reads the node's mounts. The kernel's hierarchies are those in which `cgroups` has a place.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn read(cgroups: &BTreeMap<Hierarchy, CgroupPath>) -> Result<Self, Error> {
        let own = HostPid(nix::unistd::getpid().as_raw());
        let mounts = mountinfo(own).map_err(Error::of("mounts of the node"))?;
        Ok(Self {
            cgroup_mounts: cgroup_mounts(&mounts, cgroups),
            mounts,
        })
    }
}

/// What is said of the new container beside its bundle.
#[derive(Debug, Default)]
pub struct Given {
    /// Its cgroup in each hierarchy, as the node sees it.
    pub cgroups: BTreeMap<Hierarchy, CgroupPath>,
    /// Sources of external mounts.
    pub mounts: Vec<TargetMount>,
    /// Keys of objects that are handed in by descriptor.
    pub inherited: BTreeSet<String>,
    /// The file of the UTS namespace that it joins; `None` when it gets a new one.
    pub uts: Option<PathBuf>,
    /// The file of the network namespace that it joins; `None` when it gets a new one, or has the runtime's.
    pub network: Option<PathBuf>,
}

impl Given {
    /// Takes cgroups that were named instead of entered, where they exist. Without a hierarchy, one is for all.
    pub fn name_cgroups(&mut self, named: &[(Option<Hierarchy>, CgroupPath)], node: &Node) {
        let shown = Target {
            cgroup_mounts: node.cgroup_mounts.clone(),
            ..Target::default()
        };
        for (hierarchy, root) in named {
            for (known, path) in &mut self.cgroups {
                let meant = hierarchy
                    .as_ref()
                    .is_none_or(|hierarchy| hierarchy == known);
                let exists = shown
                    .cgroup_path_on_host(known, root)
                    .is_some_and(|dir| dir.as_path().is_dir());
                if meant && exists {
                    *path = root.clone();
                }
            }
        }
    }
}

/// Where the container goes. What is at the paths in it is looked up later ([`super::facts`]).
///
/// # Errors
/// When a namespace of the new sandbox cannot be looked into.
pub fn target(given: Given, bundle: &Bundle, node: Node) -> Result<Target, Error> {
    let hostname = match &given.uts {
        Some(path) => Some(hostname_of(path)?),
        None => bundle.hostname.clone(),
    };
    let occupied = match bundle.namespaces.get("pid").and_then(Option::as_deref) {
        Some(path) => occupied(path).map_err(Error::of(format!(
            "process namespace of the new pod ({})",
            path.display()
        )))?,
        None => BTreeMap::new(),
    };
    Ok(Target {
        cgroups: given.cgroups,
        cgroup_mounts: node.cgroup_mounts,
        mounts: given.mounts,
        inherited: given.inherited,
        spec_mounts: bundle.mounts.clone(),
        oom_score: bundle.oom_score,
        allowed: bundle.allowed.clone(),
        occupied,
        masked: bundle.masked.clone(),
        read_only_paths: bundle.read_only_paths.clone(),
        read_only_root: bundle.read_only_root,
        hostname,
        network_namespace: given.network.map(HostPath::new),
        ..Target::default()
    })
}

fn hostname_of(namespace: &Path) -> Result<String, Error> {
    File::open(namespace)
        .and_then(|file| hostname_in(&file))
        .map_err(Error::of(format!(
            "host name of the new pod ({})",
            namespace.display()
        )))
}
