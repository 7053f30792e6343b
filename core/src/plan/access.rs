//! What the new pod's spec lets the container write: CRIU restores every mount as writable or read-only as it was.
//!
//! A mount that the new pod has read-only is made so before the container runs, and paths below `/proc` and `/sys` that the
//! spec makes read-only (`linux.readonlyPaths`) are made so where the checkpoint has no such mount. What a process holds open
//! for writing on a mount that becomes read-only blocks the restore: the kernel would refuse the change (`EBUSY`), and the
//! new pod's spec does not allow the writing.

use super::mounts::RestoredMounts;
use super::resolve::Resolver;
use crate::finding::{Finding, Object, Rule};
use crate::ids::ContainerPath;
use crate::source::{Mount, OpenFile, Source};
use crate::target::{SpecMount, Target};

/// The mounts that become read-only, outer ones first.
pub(super) fn plan(
    source: &Source,
    target: &Target,
    resolver: &Resolver<'_>,
    restored: &RestoredMounts<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<ContainerPath> {
    let mut plans = Vec::new();
    for mount in restored.topmost() {
        let mut specs = target.spec_mounts.iter();
        let spec = specs.rfind(|spec| spec.destination == mount.mount_point);
        let object = || Object::Mount {
            mount_point: mount.mount_point.clone(),
            mnt_id: Some(mount.id),
        };
        match (mount.read_only, spec.and_then(SpecMount::read_only)) {
            (false, Some(true)) => {
                let text = "it was writable and is read-only in the new pod";
                findings.push(Finding::note(Rule::Access, object(), text));
                writers(source, resolver, mount, findings);
                plans.push(mount.mount_point.clone());
            }
            // Whether the runtime would have made it writable depends on its source too, so nothing is opened up here.
            (true, Some(false)) => {
                let text =
                    "the new pod has it writable; it stays read-only, as it was in the checkpoint";
                findings.push(Finding::warning(Rule::Access, object(), text));
            }
            _ => {}
        }
    }
    plans
}

/// The spec's read-only paths at which the checkpoint has no mount.
pub(super) fn read_only_paths(
    target: &Target,
    restored: &RestoredMounts<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<ContainerPath> {
    let missing = target
        .read_only_paths
        .iter()
        .filter(|path| !restored.has(path));
    missing
        .map(|path| {
            let object = Object::Mount {
                mount_point: path.clone(),
                mnt_id: None,
            };
            let text = "the new pod has it read-only; it is made so before the container runs, if it is there";
            findings.push(Finding::note(Rule::Access, object, text));
            path.clone()
        })
        .collect()
}

fn writers(source: &Source, resolver: &Resolver<'_>, mount: &Mount, findings: &mut Vec<Finding>) {
    let open = source
        .files
        .values()
        .filter(|file| !file.read_only() && holds_mount(file))
        .filter(|file| resolver.mount_id_of(file) == Some(mount.id));
    findings.extend(open.map(|file| {
        let object = Object::File {
            path: file.path.clone(),
            holders: source.holders_of(file.id).to_vec(),
        };
        let text = format!(
            "it is open for writing, and {} is read-only in the new pod; make it writable there, or let the program close the file \
             before the checkpoint",
            mount.mount_point
        );
        Finding::blocker(Rule::Access, object, text)
    }));
}

/// Writing to a device, pipe or socket does not write to the file system it is on.
fn holds_mount(file: &OpenFile) -> bool {
    file.mode
        .is_none_or(|mode| mode & libc::S_IFMT == libc::S_IFREG)
}
