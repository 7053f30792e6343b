//! Paths that the new pod's spec hides from the container (`linux.maskedPaths`).
//!
//! CRIU re-creates the masks of the checkpoint, with two gaps. crun 1.28 lays a directory of the node over masked
//! directories and does not name it at a restore, so that the mount would be dropped as one that the new pod has not got;
//! and a container that had no masks (a privileged one) would have none in a pod that asks for them.

use super::mounts::RestoredMounts;
use crate::finding::{Finding, Object, Rule};
use crate::ids::ContainerPath;
use crate::source::Source;
use crate::target::Target;

/// The paths that have to be masked before the container runs.
pub(super) fn plan(
    source: &Source,
    target: &Target,
    restored: &RestoredMounts<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<ContainerPath> {
    let missing = target.masked.iter().filter(|path| !restored.has(path));
    missing
        .map(|path| {
            let old = source
                .mounts
                .iter()
                .find(|mount| mount.mount_point == *path);
            let object = Object::Mount {
                mount_point: path.clone(),
                mnt_id: old.map(|mount| mount.id),
            };
            if old.is_some() {
                // It comes back, so that nobody need be warned that it is gone.
                findings
                    .retain(|finding| finding.rule != Rule::MountGone || finding.object != object);
            }
            let text =
                "the new pod masks it; it is masked before the container runs, if it is there";
            findings.push(Finding::note(Rule::Masked, object, text));
            path.clone()
        })
        .collect()
}
