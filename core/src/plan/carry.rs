//! Content of volumes that travels in the checkpoint.

use std::collections::BTreeSet;

use super::{CarryPlan, Lookup};
use crate::finding::{Finding, Object, Rule};
use crate::ids::{ContainerPath, HostPath};
use crate::policy::{Policy, Volumes};
use crate::source::Source;
use crate::source::manifest::CarriedVolume;
use crate::target::Target;

/// The directory of the kubelet's in which the volumes that live and die with a pod are: `…/pods/<uid>/volumes/<this>/…`.
const EMPTY_DIR: &str = "/volumes/kubernetes.io~empty-dir/";

/// Whether a bind mount's source is such a volume, whole.
pub(crate) fn is_empty_dir(source: &HostPath) -> bool {
    let text = source.to_string();
    text.split_once(EMPTY_DIR).is_some_and(|(pod, name)| {
        pod.contains("/pods/") && !name.is_empty() && !name.contains('/')
    })
}

/// Where the carried volumes of a checkpoint go, in the order of the checkpoint.
fn destinations<'a>(
    source: &'a Source,
    target: &'a Target,
) -> impl Iterator<Item = (&'a CarriedVolume, Option<&'a HostPath>)> {
    let volumes = source
        .manifest
        .iter()
        .flat_map(|manifest| &manifest.volumes);
    volumes.map(|volume| {
        let given = target.mount(&volume.mount_point.to_string());
        (volume, given.map(|given| &given.source))
    })
}

/// The directories of which [`plan`] wants to know whether they are empty.
pub(super) fn directories(source: &Source, target: &Target) -> BTreeSet<HostPath> {
    let there = destinations(source, target).filter_map(|(_, into)| into.cloned());
    there.filter(is_empty_dir).collect()
}

/// Whether a look-up is of content that is not there yet, but comes with the checkpoint.
pub(super) fn to_come(source: &Source, target: &Target, policy: &Policy, lookup: &Lookup) -> bool {
    policy.volumes == Volumes::Carry
        && !target.unpacked.contains(&lookup.root)
        && !lookup.rest.as_os_str().is_empty()
        && is_empty_dir(&lookup.root)
        && destinations(source, target).any(|(_, into)| into == Some(&lookup.root))
}

pub(super) fn plan(
    source: &Source,
    target: &Target,
    policy: &Policy,
    findings: &mut Vec<Finding>,
) -> Vec<CarryPlan> {
    let mut plans = Vec::new();
    for (volume, into) in destinations(source, target) {
        let object = object(&volume.mount_point);
        if policy.volumes == Volumes::Check {
            let text =
                "its content is in the checkpoint and is not used: restow.dev/volumes is check";
            findings.push(Finding::note(Rule::Carry, object, text));
            continue;
        }
        // A mount that is gone is a finding of its own when it is in use.
        let Some(into) = into else {
            let text = "its content is in the checkpoint, and the new pod has no such mount";
            findings.push(Finding::warning(Rule::Carry, object, text));
            continue;
        };
        if !is_empty_dir(into) {
            let text = format!(
                "its content is in the checkpoint; the new pod has {into} there, which is no emptyDir and is left alone"
            );
            findings.push(Finding::warning(Rule::Carry, object, text));
            continue;
        }
        let unpacked = target.unpacked.contains(into);
        if !unpacked && target.empty.get(into) == Some(&false) {
            let text = format!("its content would have to go to {into}, which is not empty");
            let way = "restore into a fresh pod, or set restow.dev/volumes to check when the content is there already";
            findings.push(Finding::blocker(Rule::Carry, object, text).way_out(way));
            continue;
        }
        let text = format!(
            "its content comes with the checkpoint: {} entries, {} bytes packed, into {into}",
            volume.entries, volume.size
        );
        findings.push(Finding::note(Rule::Carry, object, text));
        plans.push(CarryPlan {
            volume: volume.clone(),
            into: into.clone(),
        });
    }
    if policy.volumes == Volumes::Carry {
        left_behind(source, target, findings);
    }
    plans
}

/// Volumes of the new pod's that are empty because the checkpoint was made without their content.
fn left_behind(source: &Source, target: &Target, findings: &mut Vec<Finding>) {
    let volumes = source
        .manifest
        .iter()
        .flat_map(|manifest| &manifest.volumes);
    let carried: BTreeSet<&ContainerPath> = volumes.map(|volume| &volume.mount_point).collect();
    for mount in &source.mounts {
        let given = mount.ext_key.as_deref().and_then(|key| target.mount(key));
        if given.is_some_and(|given| is_empty_dir(&given.source))
            && !carried.contains(&mount.mount_point)
        {
            let text = "its content is not in the checkpoint; restow.dev/volumes has to be carry when that is made";
            findings.push(Finding::warning(
                Rule::Carry,
                object(&mount.mount_point),
                text,
            ));
        }
    }
}

fn object(mount_point: &ContainerPath) -> Object {
    Object::Mount {
        mount_point: mount_point.clone(),
        mnt_id: None,
    }
}
