//! Mounts: joined by mount point, never matched by id or by where they came from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::resolve::{Lookup, Resolver};
use super::{MountPlan, added};
use crate::finding::{Finding, Object, Rule};
use crate::ids::{ContainerPath, MountId, NsPid};
use crate::source::{Mount, Source};
use crate::target::Target;

/// More users than this of a missing mount are counted, not listed.
const LISTED_USERS: usize = 5;

/// The mounts that CRIU re-creates.
pub(super) struct RestoredMounts<'a>(BTreeMap<&'a ContainerPath, &'a Mount>);

impl<'a> RestoredMounts<'a> {
    pub(super) fn of(source: &'a Source, resolver: &Resolver<'_>, dropped: &[MountId]) -> Self {
        let restored = source.mounts.iter().filter(|mount| {
            let joined = resolver.joined(mount.id);
            let given = joined.is_none_or(|joined| !matches!(joined.external, Some(None)));
            given && !dropped.contains(&mount.id)
        });
        // Of several at one place the last is on top.
        Self(restored.map(|mount| (&mount.mount_point, mount)).collect())
    }

    /// Whether one is at this place.
    pub(super) fn has(&self, mount_point: &ContainerPath) -> bool {
        self.0.contains_key(mount_point)
    }

    /// At each place the one that is seen there.
    pub(super) fn topmost(&self) -> impl Iterator<Item = &'a Mount> {
        self.0.values().copied()
    }
}

pub(super) fn lookups(source: &Source, target: &Target, resolver: &Resolver<'_>) -> Vec<Lookup> {
    let joined = source
        .mounts
        .iter()
        .filter_map(|mount| resolver.joined(mount.id)?.lookup(Path::new("")));
    joined.chain(added::sources(source, target)).collect()
}

pub(super) fn plan(
    source: &Source,
    target: &Target,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) -> (Vec<MountPlan>, Vec<MountId>) {
    let mut plans = Vec::new();
    let mut dropped: BTreeSet<MountId> = BTreeSet::new();
    for mount in &source.mounts {
        let joined = resolver.joined(mount.id);
        let external = joined.and_then(|joined| joined.external.as_ref());
        if dropped.contains(&mount.parent) {
            drop_mount(
                source,
                resolver,
                mount,
                "it sat on a mount that the new pod has not got",
                &mut dropped,
                findings,
            );
            continue;
        }
        match (external, mount.ext_key.as_deref()) {
            (Some(Some(found)), Some(key)) => {
                let mapped = joined.is_some_and(|joined| joined.mapped.is_some());
                let fact = target.fact(found);
                if mapped && fact == Some(None) {
                    let object = Object::Mount {
                        mount_point: mount.mount_point.clone(),
                        mnt_id: Some(mount.id),
                    };
                    let text = format!("a map gives it {found}, which does not exist");
                    findings.push(Finding::blocker(Rule::Map, object, text));
                }
                let below = joined.is_some_and(|joined| joined.below);
                plans.push(MountPlan {
                    rule: if mapped { Rule::Map } else { Rule::MountJoined },
                    mnt_id: mount.id,
                    mount_point: mount.mount_point.clone(),
                    key: if below {
                        format!("restow-{}", mount.id)
                    } else {
                        key.to_owned()
                    },
                    below,
                    source: found.clone(),
                    expect: fact.flatten().filter(|_| !below).map(|fact| fact.id),
                });
            }
            (Some(None), _) => drop_mount(
                source,
                resolver,
                mount,
                "the new pod has no such mount",
                &mut dropped,
                findings,
            ),
            _ => {}
        }
    }
    (plans, dropped.into_iter().collect())
}

/// Takes a mount out, unless something uses it.
fn drop_mount(
    source: &Source,
    resolver: &Resolver<'_>,
    mount: &Mount,
    why: &str,
    dropped: &mut BTreeSet<MountId>,
    findings: &mut Vec<Finding>,
) {
    let object = Object::Mount {
        mount_point: mount.mount_point.clone(),
        mnt_id: Some(mount.id),
    };
    let users = users(source, resolver, mount.id);
    if users.is_empty() {
        dropped.insert(mount.id);
        findings.push(Finding::warning(
            Rule::MountGone,
            object,
            format!("{why}; nothing uses it, so it is dropped"),
        ));
    } else {
        let text = format!("{why}, but it is in use by {}", list(&users));
        let way_out =
            "give the new pod this mount, or say where it is with a map (mount:MOUNT_POINT=SOURCE)";
        findings.push(Finding::blocker(Rule::MountGone, object, text).way_out(way_out));
    }
}

/// Who uses files of a mount, in words.
fn users(source: &Source, resolver: &Resolver<'_>, mount: MountId) -> Vec<String> {
    let mut users = Vec::new();
    if let Some(group) = source.marked_mounts.get(&mount) {
        let holders = source.watchers.get(group).into_iter().flatten();
        users.extend(holders.map(|holder| format!("{holder} (a fanotify mark on the mount)")));
    }
    for file in source
        .files
        .values()
        .filter(|file| resolver.mount_id_of(file) == Some(mount) && !resolver.is_mapped(file))
    {
        if !resolver.is_cgroup_file(file) {
            users.extend(
                source
                    .holders_of(file.id)
                    .iter()
                    .map(|holder| format!("{holder} ({})", file.path)),
            );
        }
        if let Some(by) = source.in_use.get(&file.id) {
            users.push(format!(
                "{} as working directory, executable or mapping ({})",
                processes(by),
                file.path
            ));
        }
    }
    users
}

/// Processes in words, no more than are read.
pub(super) fn processes(pids: &BTreeSet<NsPid>) -> String {
    let shown = pids.iter().take(LISTED_USERS).map(ToString::to_string);
    let shown = shown.collect::<Vec<_>>().join(", ");
    let word = if pids.len() == 1 {
        "process"
    } else {
        "processes"
    };
    match pids.len().saturating_sub(LISTED_USERS) {
        0 => format!("{word} {shown}"),
        more => format!("{word} {shown} and {more} more"),
    }
}

fn list(users: &[String]) -> String {
    let shown = users[..users.len().min(LISTED_USERS)].join(", ");
    match users.len().saturating_sub(LISTED_USERS) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
