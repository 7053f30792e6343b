//! Files of cgroups, and what was open on mounts that the container had not got, where they mostly come from.

use super::{INERT, UNCHECKED, handed, inert, unchanged};
use crate::finding::{Finding, Object, Rule};
use crate::ids::{CgroupPath, ContainerPath};
use crate::plan::resolve::Lookup;
use crate::plan::{FileEdit, FilePlan};
use crate::policy::{CgroupFiles, Policy};
use crate::source::OpenFile;
use crate::target::{FileFact, Target};

/// A cgroup file with what is known of it on the new side.
pub(super) struct CgroupFile {
    pub(super) old: CgroupPath,
    pub(super) new: CgroupPath,
    pub(super) rule: Rule,
    pub(super) path: Option<ContainerPath>,
    pub(super) lookup: Option<Lookup>,
    pub(super) fact: Option<Option<FileFact>>,
    /// The node mounts its hierarchy.
    pub(super) mounted: bool,
}

pub(super) fn cgroup_file(
    file: &OpenFile,
    found: CgroupFile,
    policy: &Policy,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let CgroupFile {
        old,
        new,
        rule,
        path,
        lookup,
        fact,
        mounted,
    } = found;
    if let (None, Some(lookup), Some(Some(found))) = (&path, &lookup, fact)
        && file.read_only()
    {
        let text = format!(
            "it belongs to {new}, which the new container's mount does not show; it is handed in from the node"
        );
        findings.push(Finding::note(rule, object(), text));
        return Some(handed_in(file, &old, lookup, rule, &found));
    }
    let missing = match (&path, fact) {
        (None, _) if !mounted => Some(format!(
            "it belongs to {old} in a cgroup hierarchy that this node does not mount"
        )),
        (None, _) => Some(format!(
            "it belongs to {new}, which the new container's mount does not show"
        )),
        (_, Some(None)) => Some(format!("{new} does not exist on this node")),
        // A path that no mount on the node shows could not be looked up; CRIU opens it inside the container.
        (Some(_), _) => None,
    };
    let base = FilePlan {
        old_object: Some(old.to_string()),
        new_object: lookup.map(|lookup| lookup.path().to_string()),
        ..unchanged(file, rule)
    };
    let Some(missing) = missing else {
        // Size and mode of a cgroup file say nothing about its content and differ between kernels.
        // One that was handed to CRIU as external has a path again.
        let edit = FileEdit {
            detach: file.external,
            ..UNCHECKED
        };
        return Some(FilePlan {
            new: path?,
            edit,
            expect: fact.flatten().map(|fact| fact.id),
            ..base
        });
    };
    cgroup_file_gone(file, &old, &missing, policy, object, findings)
}

/// A cgroup file that has nothing it corresponds to.
fn cgroup_file_gone(
    file: &OpenFile,
    old: &CgroupPath,
    missing: &str,
    policy: &Policy,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    if policy.cgroup_files == CgroupFiles::Ignore && file.read_only() {
        findings.push(Finding::warning(
            Rule::CgroupFileGone,
            object(),
            format!("{missing}; the descriptor becomes inert (reads give end of file), as cgroup-files=ignore says"),
        ));
        return Some(inert(file, &old.to_string(), Rule::CgroupFileGone));
    }
    let way_out = if file.read_only() {
        "set restow.dev/cgroup-files to ignore to make the descriptor inert, or give the new pod what the old one had"
    } else {
        "it is open for writing, so it cannot be made inert; give the new pod what the old one had"
    };
    findings.push(Finding::blocker(Rule::CgroupFileGone, object(), missing).way_out(way_out));
    None
}

/// A cgroup file on a mount that the container had not got, handed in by whoever started it. The checkpoint is a
/// stranger's word, so what it gets on the node is bounded: no more than its own cgroup for writing, and nothing of
/// another pod's.
pub(super) fn foreign_cgroup_file(
    file: &OpenFile,
    found: CgroupFile,
    target: &Target,
    policy: &Policy,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let CgroupFile {
        old,
        new,
        rule,
        lookup,
        fact,
        ..
    } = found;
    // The files of a cgroup above are the same for all that are below it.
    let shared = || {
        let above = new.parent();
        let mut own = target.cgroups.values();
        above.is_some_and(|above| own.any(|container| container.strip(&above).is_some()))
    };
    let refused = if !matches!(rule, Rule::CgroupContainer | Rule::CgroupPod) && !shared() {
        Some(format!("{new} belongs to neither pod"))
    } else if !file.read_only() && rule != Rule::CgroupContainer {
        Some(format!(
            "{new} is not the container's own, and it is open for writing"
        ))
    } else {
        None
    };
    let there = lookup.zip(fact.flatten());
    let missing = refused.or_else(|| {
        let gone = there.is_none();
        gone.then(|| format!("{new} does not exist on this node"))
    });
    if let Some(missing) = missing {
        return cgroup_file_gone(file, &old, &missing, policy, object, findings);
    }
    let (lookup, fact) = there?;
    let text = format!(
        "it is on a mount that the container had not got; {} is handed in instead of {old}",
        lookup.path()
    );
    findings.push(Finding::note(rule, object(), text));
    Some(handed_in(file, &old, &lookup, rule, &fact))
}

/// A cgroup file that is opened on the node, since the new container sees it nowhere.
fn handed_in(
    file: &OpenFile,
    old: &CgroupPath,
    lookup: &Lookup,
    rule: Rule,
    found: &FileFact,
) -> FilePlan {
    FilePlan {
        old_object: Some(old.to_string()),
        ..handed(file, lookup, rule, UNCHECKED, Some(found.id))
    }
}

/// A file on a mount that the container had not got: handed in by whoever started it. The path is the old node's and a
/// stranger's word, so it is never opened here.
pub(super) fn foreign_file(
    file: &OpenFile,
    path: &ContainerPath,
    policy: &Policy,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let text = "it is on a mount that the container had not got";
    if *path != ContainerPath::new(INERT) {
        if policy.cgroup_files != CgroupFiles::Ignore || !file.read_only() {
            let text = format!(
                "{text}, so there is nothing it corresponds to; close it before the checkpoint"
            );
            findings.push(Finding::blocker(Rule::Foreign, object(), text));
            return None;
        }
        let text = format!(
            "{text}; the descriptor becomes inert (reads give end of file), as cgroup-files=ignore says"
        );
        findings.push(Finding::warning(Rule::Foreign, object(), text));
    }
    Some(inert(file, &path.to_string(), Rule::Foreign))
}
