//! Inotify watches and fanotify marks: each has to watch the new pod's object.
//!
//! CRIU opens a watch's path, when the image has one, and else a file handle, which on the same node leads to the old
//! pod's object and on another nowhere (`criu/fsnotify.c`, `get_mark_path`). A file that is a mount of its own never
//! has a path in the image; the manifest tells which mount it was.

use super::WatchPlan;
use super::files::INERT;
use super::resolve::{Lookup, Resolved, Resolver};
use crate::finding::{Finding, Rule};
use crate::ids::{ContainerPath, MountId};
use crate::policy::{CgroupFiles, Policy};
use crate::source::{Source, Watch};
use crate::target::Target;

pub(super) fn lookups(source: &Source, resolver: &Resolver<'_>) -> Vec<Lookup> {
    let places = source
        .watches
        .iter()
        .filter_map(|watch| place(source, watch));
    places
        .filter_map(|(mount, path)| new_place(resolver, mount, &path).2)
        .collect()
}

pub(super) fn plan(
    source: &Source,
    target: &Target,
    policy: &Policy,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<WatchPlan> {
    let mut plans = Vec::new();
    for watch in &source.watches {
        let holders = source
            .watchers
            .get(&watch.instance)
            .cloned()
            .unwrap_or_default();
        let Some((mount, path)) = place(source, watch) else {
            findings.push(Finding::warning(
                Rule::Watch,
                watch.object(None, holders),
                "the checkpoint has no path for it; it may go on watching an object of the old pod",
            ));
            continue;
        };
        let (new, rule, lookup) = new_place(resolver, mount, &path);
        let object = || watch.object(Some(path.clone()), holders.clone());
        let found = lookup
            .as_ref()
            .and_then(|lookup| target.watched.get(&lookup.path()).copied());
        let planned = WatchPlan {
            kind: watch.kind,
            instance: watch.instance,
            wd: watch.wd,
            old: watch.path.clone(),
            new: new.clone().unwrap_or_else(|| path.clone()),
            mnt_id: mount,
            rule,
            expect: found.flatten(),
            holders: holders.clone(),
        };
        if new.is_some() && found != Some(None) {
            plans.push(planned);
            continue;
        }
        let gone = lookup.map_or_else(|| "nothing".to_owned(), |lookup| lookup.path().to_string());
        let text = format!("what it watches does not exist in the new pod ({gone})");
        if is_cgroup(rule) && policy.cgroup_files == CgroupFiles::Ignore {
            let text = format!("{text}; the watch becomes inert, as cgroup-files=ignore says");
            findings.push(Finding::warning(Rule::CgroupFileGone, object(), text));
            plans.push(WatchPlan {
                // Nothing ever happens there.
                new: ContainerPath::new(INERT),
                rule: Rule::CgroupFileGone,
                ..planned
            });
        } else {
            findings.push(Finding::blocker(rule, object(), text));
        }
    }
    plans
}

/// Where a watch is in the old container.
fn place(source: &Source, watch: &Watch) -> Option<(Option<MountId>, ContainerPath)> {
    match (&watch.path, watch.mount) {
        (Some(path), Some(mount)) => return Some((Some(mount), path.clone())),
        (Some(path), None) if source.shares_mounts => return Some((None, path.clone())),
        _ => {}
    }
    let object = watch.object;
    let recorded = source.manifest.as_ref()?.mounts.iter();
    // st_dev as the C library encodes it, against the kernel's own 12 bits major and 20 bits minor.
    let same = |dev: u64| {
        libc::major(dev) == object.sdev >> 20 && libc::minor(dev) == object.sdev & 0xf_ffff
    };
    let mut mounts = recorded.filter(|mount| mount.ino == object.ino && same(mount.dev));
    mounts.next().map(|mount| {
        let id = (!source.shares_mounts).then_some(mount.mnt_id);
        (id, mount.mount_point.clone())
    })
}

/// Where it is in the new one (`None`: nowhere), under which rule, and where to look on the node.
fn new_place(
    resolver: &Resolver<'_>,
    mount: Option<MountId>,
    path: &ContainerPath,
) -> (Option<ContainerPath>, Rule, Option<Lookup>) {
    if let Some(mapped) = resolver.mapped_path(path) {
        return (Some(mapped.path), Rule::Map, mapped.lookup);
    }
    match resolver.resolve_path(mount, path) {
        Resolved::Cgroup {
            rule, path, lookup, ..
        } => (path, rule, lookup),
        Resolved::Managed { path, lookup } => (Some(path), Rule::RuntimeManaged, Some(lookup)),
        Resolved::Volume { lookup } => (Some(path.clone()), Rule::Volume, Some(lookup)),
        Resolved::MountGone | Resolved::Foreign { .. } | Resolved::ForeignCgroup { .. } => {
            (None, Rule::MountGone, None)
        }
        Resolved::Same | Resolved::Mapped(_) | Resolved::MappedOnNode { .. } => {
            (Some(path.clone()), Rule::Watch, None)
        }
    }
}

fn is_cgroup(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::CgroupContainer | Rule::CgroupPod | Rule::CgroupQos | Rule::CgroupShared
    )
}
