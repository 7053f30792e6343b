//! How the restored tasks get into the new container's cgroups.
//!
//! CRIU's own modes each fail somewhere: `soft` puts the tasks back into the old pod's cgroup under runc < 1.2 and writes
//! the old pod's limits; `ignore` loses the cgroup namespace up to CRIU 4.2, so that the container sees the node's
//! whole tree. So the interposer enters the new container's cgroup, unshares the cgroup namespace there when the
//! container had one, and lets CRIU ignore cgroups: every task is born in the right place.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::resolve::Resolver;
use super::sub_cgroups::{self, SubCgroup};
use crate::finding::{Finding, Object, Rule};
use crate::ids::{CgroupPath, HostPath, NsPid};
use crate::policy::{ManageCgroups, Policy};
use crate::source::{CgroupMember, Hierarchy, Source, Task};
use crate::target::Target;

/// A task that belongs into a sub-cgroup of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Which task.
    pub pid: NsPid,
    /// In which hierarchy.
    pub hierarchy: Hierarchy,
    /// Its cgroup, as the node sees it.
    pub cgroup: CgroupPath,
}

/// How tasks get into their cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Let CRIU do it (its `soft` mode) below the new container's cgroup; else the interposer does it and CRIU ignores
    /// cgroups.
    pub by_criu: bool,
    /// Give the container a cgroup namespace of its own whose root is the new container's cgroup.
    pub private_namespace: bool,
    /// The new container's cgroup in each hierarchy.
    pub container: BTreeMap<Hierarchy, CgroupPath>,
    /// The old container's cgroup in each hierarchy, where known.
    pub old_container: BTreeMap<Hierarchy, CgroupPath>,
    /// Tasks that were in sub-cgroups of the container.
    pub placements: Vec<Placement>,
    /// Sub-cgroups that are made for the container, outer ones first.
    pub sub_cgroups: Vec<SubCgroup>,
    /// Threads that were in other cgroups than their process's first one, and stay with it: CRIU moves them also when it is
    /// to ignore cgroups, to paths of the old pod (`criu/cr-restore.c`, `sigreturn_restore`).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub threads: BTreeSet<NsPid>,
    /// Hierarchies taken out of the image where CRIU places the tasks: it has no directory of them by which it could find
    /// the new container's, and leaves the tasks where it is itself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub taken_out: BTreeSet<Hierarchy>,
}

pub(super) fn plan(
    source: &Source,
    target: &Target,
    policy: &Policy,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) -> CgroupPlan {
    let old_container = source.container_cgroups();
    let by_criu = policy.manage_cgroups == ManageCgroups::Soft;
    moves(target, &old_container, findings);
    let placements = if policy.manage_cgroups == ManageCgroups::Auto {
        placements(source, target, &old_container, resolver, findings)
    } else {
        Vec::new()
    };
    let sub_cgroups = if policy.manage_cgroups == ManageCgroups::Auto {
        sub_cgroups::plan(source, target, resolver, &placements, findings)
    } else {
        Vec::new()
    };
    CgroupPlan {
        by_criu,
        private_namespace: source.private_cgroup_namespace,
        container: target.cgroups.clone(),
        old_container,
        placements,
        sub_cgroups,
        threads: match by_criu {
            true => BTreeSet::new(),
            false => threads_elsewhere(source),
        },
        taken_out: match &source.manifest {
            Some(manifest) if by_criu => manifest.cgroup.unrecorded.clone(),
            _ => BTreeSet::new(),
        },
    }
}

/// Says where the container's tasks go. Hierarchies in which it is the same move are told together.
fn moves(
    target: &Target,
    old_container: &BTreeMap<Hierarchy, CgroupPath>,
    findings: &mut Vec<Finding>,
) {
    let mut together: BTreeMap<(&CgroupPath, &CgroupPath), Vec<String>> = BTreeMap::new();
    for (hierarchy, old) in old_container {
        match target.cgroups.get(hierarchy) {
            Some(new) if new != old => {
                let hierarchies = together.entry((old, new)).or_default();
                hierarchies.push(hierarchy.to_string());
            }
            Some(_) => {}
            None if old.is_root() => {}
            None => findings.push(Finding::warning(
                Rule::CgroupPlacement,
                Object::Cgroup { path: old.clone() },
                format!("this node has no hierarchy {hierarchy}"),
            )),
        }
    }
    for ((old, new), hierarchies) in together {
        let hierarchies = hierarchies.join(", ");
        findings.push(Finding::note(
            Rule::CgroupPlacement,
            Object::Cgroup { path: old.clone() },
            format!("tasks go to {new} ({hierarchies}); limits are those of the new pod"),
        ));
    }
}

/// Cgroups that are made for the container, as paths on the node: its own, which the runtime makes, and those of its
/// tasks below it.
pub(super) fn to_make(
    source: &Source,
    target: &Target,
    policy: &Policy,
    resolver: &Resolver<'_>,
) -> BTreeSet<HostPath> {
    let own = target
        .cgroups
        .iter()
        .filter(|(hierarchy, _)| !target.placed_by_map.contains(hierarchy));
    let mut made: BTreeSet<HostPath> = own
        .filter_map(|(hierarchy, path)| target.cgroup_path_on_host(hierarchy, path))
        .collect();
    for sub in plan(source, target, policy, resolver, &mut Vec::new()).sub_cgroups {
        let container = target.cgroups.get(&sub.hierarchy);
        let mut below = Some(sub.cgroup);
        while let Some(path) = below
            .filter(|path| container.is_some_and(|own| path != own && path.strip(own).is_some()))
        {
            made.extend(target.cgroup_path_on_host(&sub.hierarchy, &path));
            below = path.parent();
        }
    }
    made
}

/// Tasks that were below the container's cgroup go to the same place below the new one.
fn placements(
    source: &Source,
    target: &Target,
    old_container: &BTreeMap<Hierarchy, CgroupPath>,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<Placement> {
    let mut placements = Vec::new();
    for task in &source.tasks {
        let Some(set) = task.cgroup_set.and_then(|id| source.cgroup_sets.get(&id)) else {
            continue;
        };
        for (hierarchy, member) in set {
            let (Some(old), Some(new)) =
                (old_container.get(hierarchy), target.cgroups.get(hierarchy))
            else {
                continue;
            };
            if member.path == *old {
                continue;
            }
            let real_root = old.is_root() && !source.is_namespace_root(hierarchy, old);
            if member.path.strip(old).is_none() || real_root {
                findings.push(Finding::warning(
                    Rule::CgroupPlacement,
                    Object::Process { pid: task.pid },
                    format!("it was in {} ({hierarchy}), outside the container's cgroup; it goes to {new}", member.path),
                ));
                continue;
            }
            let Some(map) = resolver.map(hierarchy) else {
                continue;
            };
            let cgroup = map.map(&member.path).0;
            placements.push(Placement {
                pid: task.pid,
                hierarchy: hierarchy.clone(),
                cgroup,
            });
        }
        threads(source, task, set, findings);
    }
    placements
}

fn threads_elsewhere(source: &Source) -> BTreeSet<NsPid> {
    let threads = source.thread_sets.values().flat_map(BTreeMap::keys);
    threads.copied().collect()
}

/// Warns of threads in other cgroups than their process's first one: a process goes with all its threads.
fn threads(
    source: &Source,
    task: &Task,
    set: &BTreeMap<Hierarchy, CgroupMember>,
    findings: &mut Vec<Finding>,
) {
    let elsewhere = source.thread_sets.get(&task.pid).into_iter().flatten();
    let mut by_cgroup: BTreeMap<(&Hierarchy, &CgroupPath), Vec<NsPid>> = BTreeMap::new();
    for (thread, id) in elsewhere {
        for (hierarchy, member) in source.cgroup_sets.get(id).into_iter().flatten() {
            let first = set.get(hierarchy).map(|member| &member.path);
            if first != Some(&member.path) {
                let threads = by_cgroup.entry((hierarchy, &member.path)).or_default();
                threads.push(*thread);
            }
        }
    }
    findings.extend(by_cgroup.into_iter().map(|((hierarchy, path), threads)| {
        let more = match threads.len() {
            1 => String::new(),
            many => format!(" and {} more", many - 1),
        };
        let text = format!(
            "its thread {}{more} was in {path} ({hierarchy}), and goes where the process goes",
            threads[0]
        );
        Finding::warning(Rule::CgroupPlacement, Object::Process { pid: task.pid }, text).way_out(
            "Have the program make its threaded cgroups again (cgroup.type, cgroup.threads) when it is told that it moved",
        )
    }));
}
