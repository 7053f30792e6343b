//! Mounts: joined by mount point, never matched by id or by where they came from.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::MountPlan;
use super::resolve::{Lookup, Resolver};
use crate::finding::{Finding, Object, Rule};
use crate::ids::MountId;
use crate::source::{Mount, Source};
use crate::target::Target;

/// More users than this of a missing mount are counted, not listed.
const LISTED_USERS: usize = 5;

pub(super) fn lookups(source: &Source, resolver: &Resolver<'_>) -> Vec<Lookup> {
    let joined = source
        .mounts
        .iter()
        .filter_map(|mount| resolver.joined(mount.id)?.external.clone()?);
    joined
        .map(|root| Lookup {
            root,
            rest: PathBuf::new(),
        })
        .collect()
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
        let external = resolver
            .joined(mount.id)
            .and_then(|joined| joined.external.as_ref());
        if dropped.contains(&mount.parent) {
            drop_mount(
                source,
                mount,
                "it sat on a mount that the new pod has not got",
                &mut dropped,
                findings,
            );
            continue;
        }
        match (external, mount.ext_key.as_deref()) {
            (Some(Some(found)), Some(key)) => {
                let given = target
                    .mount(key)
                    .map(|given| &given.source)
                    .filter(|given| *given != found);
                if let Some(given) = given {
                    let object = Object::Mount {
                        mount_point: mount.mount_point.clone(),
                        mnt_id: Some(mount.id),
                    };
                    let text = format!(
                        "the runtime gave {given} for it, which is not this container's; it is {found}"
                    );
                    findings.push(Finding::note(Rule::MountJoined, object, text));
                }
                plans.push(MountPlan {
                    mnt_id: mount.id,
                    mount_point: mount.mount_point.clone(),
                    key: key.to_owned(),
                    source: found.clone(),
                    expect: target.fact(found).flatten().map(|fact| fact.id),
                });
            }
            (Some(None), _) => drop_mount(
                source,
                mount,
                "the new pod has no such mount",
                &mut dropped,
                findings,
            ),
            _ => {}
        }
    }
    let known = source
        .mounts
        .iter()
        .map(|mount| &mount.mount_point)
        .collect();
    for added in target.added_mounts(&known) {
        findings.push(Finding::warning(
            Rule::MountAdded,
            Object::Mount { mount_point: added.destination.clone(), mnt_id: None },
            "only the new pod has it, and this version of Restow does not attach it: the container will not see it",
        ));
    }
    (plans, dropped.into_iter().collect())
}

/// Takes a mount out, unless something uses it.
fn drop_mount(
    source: &Source,
    mount: &Mount,
    why: &str,
    dropped: &mut BTreeSet<MountId>,
    findings: &mut Vec<Finding>,
) {
    let object = Object::Mount {
        mount_point: mount.mount_point.clone(),
        mnt_id: Some(mount.id),
    };
    let users = users(source, mount.id);
    if users.is_empty() {
        dropped.insert(mount.id);
        findings.push(Finding::warning(
            Rule::MountGone,
            object,
            format!("{why}; nothing uses it, so it is dropped"),
        ));
    } else {
        let text = format!(
            "{why}, but it is in use by {}; give the new pod this mount",
            list(&users)
        );
        findings.push(Finding::blocker(Rule::MountGone, object, text));
    }
}

/// Who uses files of a mount, in words.
fn users(source: &Source, mount: MountId) -> Vec<String> {
    let mut users = Vec::new();
    for file in source
        .files
        .values()
        .filter(|file| file.mount == Some(mount))
    {
        users.extend(
            source
                .holders_of(file.id)
                .iter()
                .map(|holder| format!("{holder} ({})", file.path)),
        );
        if source.in_use.contains(&file.id) {
            users.push(format!(
                "a working directory, executable or mapping ({})",
                file.path
            ));
        }
    }
    users
}

fn list(users: &[String]) -> String {
    let shown = users[..users.len().min(LISTED_USERS)].join(", ");
    match users.len().saturating_sub(LISTED_USERS) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
