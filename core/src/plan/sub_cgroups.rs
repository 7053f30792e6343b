//! Cgroups that the container made below its own: they are there again when it runs, with their owners.
//!
//! Their limits are not: what a checkpoint says of limits is never written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::placement::Placement;
use super::resolve::{Resolved, Resolver};
use crate::finding::{Finding, Object, Rule};
use crate::ids::CgroupPath;
use crate::source::{Hierarchy, Owner, Source};
use crate::target::Target;

/// A cgroup that is made below the new container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubCgroup {
    /// In which hierarchy.
    pub hierarchy: Hierarchy,
    /// Its path, as the node sees it.
    pub cgroup: CgroupPath,
    /// Who owns it; `None` leaves it to whoever makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// More than this are not made: a checkpoint is not to fill a node with cgroups.
const MAX: usize = 1000;

/// The cgroups to make, outer ones first.
pub(super) fn plan(
    source: &Source,
    target: &Target,
    resolver: &Resolver<'_>,
    placements: &[Placement],
    findings: &mut Vec<Finding>,
) -> Vec<SubCgroup> {
    let old_container = source.container_cgroups();
    let mut found: BTreeMap<(Hierarchy, CgroupPath), Option<Owner>> = BTreeMap::new();
    for placement in placements {
        found.insert(
            (placement.hierarchy.clone(), placement.cgroup.clone()),
            None,
        );
    }
    for (hierarchy, path) in of_files(source, resolver) {
        found.insert((hierarchy, path), None);
    }
    for (hierarchy, dirs) in &source.cgroup_dirs {
        let (Some(old), Some(map)) = (old_container.get(hierarchy), resolver.map(hierarchy)) else {
            continue;
        };
        // In the root of a hierarchy others have theirs too.
        if old.is_root() {
            continue;
        }
        let below = dirs
            .iter()
            .filter(|dir| dir.path != *old && dir.path.strip(old).is_some());
        found.extend(below.map(|dir| ((hierarchy.clone(), map.map(&dir.path).0), dir.owner)));
    }
    // Only below the container's own, whatever else was said.
    let mut made: Vec<SubCgroup> = found
        .into_iter()
        .filter(|((hierarchy, cgroup), _)| {
            let own = target.cgroups.get(hierarchy);
            own.is_some_and(|own| !own.is_root() && cgroup != own && cgroup.strip(own).is_some())
        })
        .map(|((hierarchy, cgroup), owner)| SubCgroup {
            hierarchy,
            cgroup,
            owner,
        })
        .collect();
    made.sort_by_key(|sub| sub.cgroup.depth());
    if made.len() > MAX {
        let text = format!(
            "the container made {} cgroups below its own, and no more than {MAX} are made again; remove those that are not needed",
            made.len()
        );
        let path = target
            .cgroups
            .get(&made[0].hierarchy)
            .cloned()
            .unwrap_or_else(|| made[0].cgroup.clone());
        findings.push(Finding::blocker(
            Rule::CgroupPlacement,
            Object::Cgroup { path },
            text,
        ));
        made.truncate(MAX);
    }
    made
}

/// The cgroups of open files of the container's own, which a dump that ignored cgroups does not list.
fn of_files(source: &Source, resolver: &Resolver<'_>) -> Vec<(Hierarchy, CgroupPath)> {
    // What CRIU could not look up at the dump may have been removed.
    let known = source.open_files().filter(|file| !file.external);
    known
        .filter_map(|file| match resolver.resolve(file) {
            Resolved::Cgroup {
                new,
                rule: Rule::CgroupContainer,
                ..
            } => {
                let hierarchy = resolver.hierarchy_of(file)?;
                let is_dir = file
                    .mode
                    .is_some_and(|mode| mode & libc::S_IFMT == libc::S_IFDIR);
                Some((hierarchy, if is_dir { new } else { new.parent()? }))
            }
            _ => None,
        })
        .collect()
}
