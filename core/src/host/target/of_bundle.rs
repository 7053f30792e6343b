//! What a runtime will say of a container that does not exist yet, worked out from its bundle.
//!
//! What is given to CRIU differs between runtimes, but not in what matters: the keys of both are predicted, and those that
//! the checkpoint does not ask for have no effect.

use std::path::Path;

use super::cgroups_path::cgroup_of;
use super::{Error, Given, Node};
use crate::host::{Bundle, cgroups};
use crate::ids::{ContainerPath, HostPath, HostPid};
use crate::source::Hierarchy;
use crate::target::{Target, TargetMount};

/// A program that makes containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// The one in Go.
    Runc,
    /// The one in C.
    Crun,
}

/// What the runtime will say of the container in `dir`, were it restored by a process in the cgroups of this one.
///
/// # Errors
/// When `config.json` or `/proc` cannot be read.
pub fn of_bundle(dir: &Path, runtime: Runtime) -> Result<(Given, Bundle, Node), Error> {
    let what = || format!("bundle {}", dir.display());
    let dir = dir.canonicalize().map_err(Error::of(what()))?;
    let bundle = Bundle::read(&dir, false)
        .map_err(Error::of(what()))?
        .unwrap_or_default()
        .resolved();
    let own = HostPid(nix::unistd::getpid().as_raw());
    let mut places = cgroups(own).map_err(Error::of("cgroups of this process"))?;
    let node = Node::read(&places)?;
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    for (hierarchy, path) in &mut places {
        let mut mounted = node.cgroup_mounts.iter();
        // A runtime leaves a hierarchy alone that is not mounted.
        if mounted.any(|mount| mount.hierarchy == *hierarchy) {
            let asked = bundle.cgroups_path.as_deref();
            *path = cgroup_of(asked, &id, runtime, hierarchy.is_v2(), path);
        }
    }
    let joined = |kind| bundle.namespaces.get(kind).cloned().flatten();
    let mut given = Given {
        cgroups: places,
        uts: joined("uts"),
        network: joined("network"),
        ..Given::default()
    };
    given.mounts = external_mounts(&bundle, &given, &node);
    Ok((given, bundle, node))
}

fn external_mounts(bundle: &Bundle, given: &Given, node: &Node) -> Vec<TargetMount> {
    let mut mounts = v1_cgroups(bundle, given, node);
    mounts.extend(bundle.binds.iter().cloned());
    let null = || HostPath::new("/dev/null");
    let mount = |key: &ContainerPath, source: HostPath| TargetMount {
        key: key.to_string(),
        source,
    };
    if !bundle.masked.is_empty() {
        // runc's key for all masked files.
        mounts.push(mount(&ContainerPath::new("/dev/null"), null()));
    }
    // crun's keys. What is masked is in /proc and /sys, which have the same files everywhere; of directories no source that a
    // runtime gives is of use.
    let files = bundle.masked.iter().filter(|path| !path.as_path().is_dir());
    mounts.extend(files.map(|path| mount(path, null())));
    let devices = bundle.devices.iter();
    mounts.extend(devices.map(|path| mount(path, HostPath::new(path.as_path()))));
    mounts
}

/// A v1 hierarchy is a bind mount each, below the place that the spec names.
fn v1_cgroups(bundle: &Bundle, given: &Given, node: &Node) -> Vec<TargetMount> {
    let shown = Target {
        cgroup_mounts: node.cgroup_mounts.clone(),
        ..Target::default()
    };
    let v1 = node
        .cgroup_mounts
        .iter()
        .filter(|mount| !mount.hierarchy.is_v2());
    let source =
        |hierarchy: &Hierarchy| shown.cgroup_path_on_host(hierarchy, given.cgroups.get(hierarchy)?);
    let made = bundle.mounts.iter().filter(|mount| mount.cgroup);
    made.flat_map(|made| {
        v1.clone().filter_map(|mount| {
            Some(TargetMount {
                key: made.destination.join(mount.mount_point.name()).to_string(),
                source: source(&mount.hierarchy)?,
            })
        })
    })
    .collect()
}
