//! Mounts that only the new pod has.

use std::collections::BTreeSet;
use std::path::Path;

use super::resolve::Lookup;
use super::{AddedMount, explicit};
use crate::finding::{Finding, Object, Rule};
use crate::ids::{ContainerPath, HostPath};
use crate::source::Source;
use crate::target::{SpecMount, Target};

/// File systems that can be made anew for a container that exists already. Of the others a runtime makes, `proc` and
/// `cgroup` belong to namespaces that a process has to be born in.
const FRESH: [&str; 4] = ["devpts", "mqueue", "sysfs", "tmpfs"];

/// Mounts of the new container's spec at places where the old one had no mount, and for bind mounts the source that the
/// runtime gives for them. Its request has more (devices, masked files), which are no mounts of the pod's.
fn only_new<'a>(
    source: &'a Source,
    target: &'a Target,
) -> impl Iterator<Item = (&'a SpecMount, Option<&'a HostPath>)> {
    let old = source.mounts.iter().map(|mount| &mount.mount_point);
    let known: BTreeSet<&ContainerPath> = old.collect();
    let new = target.spec_mounts.iter();
    new.filter(move |mount| !known.contains(&mount.destination))
        .filter_map(|mount| {
            if !mount.bind() {
                return Some((mount, None));
            }
            if let Some((source, _)) = target.maps.mount(None, &mount.destination) {
                return Some((mount, Some(source)));
            }
            let mut given = target.mounts.iter();
            let given = given.rfind(|given| ContainerPath::new(&given.key) == mount.destination)?;
            Some((mount, Some(&given.source)))
        })
}

/// Where they come from.
pub(super) fn sources(source: &Source, target: &Target) -> Vec<Lookup> {
    let given = only_new(source, target).filter_map(|(spec, given)| {
        let place = given?;
        let said = target.maps.mount(None, &spec.destination);
        Some(match said {
            Some((_, said)) => explicit::lookup(said, place),
            None => Lookup::new(place, Path::new("")),
        })
    });
    given.collect()
}

pub(super) fn plan(
    source: &Source,
    target: &Target,
    findings: &mut Vec<Finding>,
) -> Vec<AddedMount> {
    let mut added: Vec<AddedMount> = Vec::new();
    for (spec, given) in only_new(source, target) {
        let mount_point = &spec.destination;
        let object = || Object::Mount {
            mount_point: mount_point.clone(),
            mnt_id: None,
        };
        let hidden = source
            .mounts
            .iter()
            .find(|old| old.mount_point.strip(mount_point).is_some());
        if let Some(hidden) = hidden {
            let text = format!(
                "only the new pod has it, and it is not attached: it would hide the mount {} that the container uses",
                hidden.mount_point
            );
            findings.push(Finding::warning(Rule::MountAdded, object(), text));
            continue;
        }
        if let Some(option) = spec.options.iter().find(|option| is_id_mapped(option)) {
            let text = format!(
                "only the new pod has it, and it is not attached: {option} is not supported"
            );
            let way = "give the new pod a mount without it";
            findings.push(Finding::blocker(Rule::MountAdded, object(), text).way_out(way));
            continue;
        }
        let planned = match given {
            Some(from) => bind(target, spec, from, object, findings),
            None => fresh(spec, object, findings),
        };
        added.extend(planned);
    }
    // Outer mounts first; those at one place stay in the order of the spec.
    added.sort_by_key(|mount| mount.mount_point.depth());
    added
}

fn is_id_mapped(option: &str) -> bool {
    let word = option.split('=').next().unwrap_or_default();
    matches!(word, "idmap" | "ridmap")
}

fn bind(
    target: &Target,
    spec: &SpecMount,
    from: &HostPath,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<AddedMount> {
    let fact = target.fact(from);
    if fact == Some(None) {
        let text = format!("only the new pod has it, and its source {from} does not exist");
        findings.push(Finding::blocker(Rule::MountAdded, object(), text));
        return None;
    }
    let text =
        format!("only the new pod has it; it is attached from {from} before the container runs");
    findings.push(Finding::note(Rule::MountAdded, object(), text));
    let mapped = target.maps.mount(None, &spec.destination).is_some();
    Some(AddedMount {
        mount_point: spec.destination.clone(),
        source: from.clone(),
        rule: if mapped { Rule::Map } else { Rule::MountAdded },
        fresh: None,
        options: spec.options.clone(),
        expect: fact.flatten().map(|fact| fact.id),
    })
}

fn fresh(
    spec: &SpecMount,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<AddedMount> {
    let kind = &spec.kind;
    if !FRESH.contains(&kind.as_str()) {
        let text = format!(
            "only the new pod has it, and it is not attached: a file system of type {kind} is not made for a container that exists"
        );
        findings.push(Finding::warning(Rule::MountAdded, object(), text));
        return None;
    }
    let text =
        format!("only the new pod has it; a fresh {kind} is attached before the container runs");
    findings.push(Finding::note(Rule::MountAdded, object(), text));
    Some(AddedMount {
        mount_point: spec.destination.clone(),
        source: HostPath::new(kind),
        rule: Rule::MountAdded,
        fresh: Some(kind.clone()),
        options: spec.options.clone(),
        expect: None,
    })
}
