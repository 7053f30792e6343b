//! Where a process tree goes that shares the mounts of the criu that restores it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use super::Error;
use crate::chain;
use crate::host::{MountInfo, cgroup_mounts, facts, namespace_roots, parse, within};
use crate::ids::{CgroupPath, HostPath, HostPid};
use crate::plan::Plan;
use crate::policy::{ManageCgroups, Policy};
use crate::source::{Hierarchy, Source};
use crate::target::Target;

/// Where such a tree goes when criu is in `cgroups` and sees `mounts`, which have to be this process's.
pub fn of_tree(cgroups: BTreeMap<Hierarchy, CgroupPath>, mounts: &[MountInfo]) -> Target {
    let cgroup_mounts = cgroup_mounts(mounts, &cgroups);
    let mount_points = mounts.iter().map(|mount| HostPath::new(&mount.mount_point));
    Target {
        namespace_roots: namespace_roots(&cgroup_mounts),
        mount_points: mount_points.collect(),
        cgroups,
        cgroup_mounts,
        ..Target::default()
    }
}

/// Plans as `restow criu restore` does that the process `pid` starts. Everything is looked at from there; this process must
/// have one thread.
///
/// # Errors
/// When the process is gone, its namespaces cannot be entered, or what is there cannot be looked at.
pub fn plan_in_place_of(pid: HostPid, source: &Source, policy: &Policy) -> Result<Plan, Error> {
    let of = |what: &str| Error::of(format!("{what} of process {pid}"));
    // Cgroups are told as the reader's cgroup namespace has them, mounts as those of the process at the time of the opening
    // (`kernel/cgroup/cgroup.c`, `proc_cgroup_show`; `fs/proc_namespace.c`, `mounts_open_common`).
    let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
    let mut cgroups = open("cgroup").map_err(of("cgroups"))?;
    let mut mounts = open("mountinfo").map_err(of("mounts"))?;
    let policy = Policy {
        manage_cgroups: never_soft(policy.manage_cgroups),
        ..policy.clone()
    };
    let work = || {
        let mut text = String::new();
        cgroups.read_to_string(&mut text)?;
        let mut seen = Vec::new();
        mounts.read_to_end(&mut seen)?;
        let seen = parse::mountinfo(&seen).map_err(|line| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("mountinfo: line {line}"),
            )
        })?;
        let mut target = of_tree(parse::cgroups(&text), &seen);
        let plan = facts::plan(source, &mut target, &policy)
            .map_err(|error| io::Error::other(chain(&error)))?;
        serde_json::to_vec(&plan).map_err(io::Error::from)
    };
    within::place_of(pid, work)
        .and_then(|plan| serde_json::from_slice(&plan).map_err(io::Error::from))
        .map_err(of("surroundings"))
}

/// The setting for a tree that goes to where criu is, so that cgroups are not criu's business.
pub fn never_soft(asked: ManageCgroups) -> ManageCgroups {
    match asked {
        ManageCgroups::Soft => ManageCgroups::Auto,
        other => other,
    }
}
