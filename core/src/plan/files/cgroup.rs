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

/// What a cgroup file becomes, with what people should know of it; an error says in words why there is nothing it
/// corresponds to.
type Placed = Result<(FilePlan, Option<String>), String>;

impl CgroupFile {
    /// A file that the container saw on one of its mounts.
    pub(super) fn on_own_mount(&self, file: &OpenFile) -> Placed {
        let Self { old, new, .. } = self;
        let path = match (&self.path, &self.lookup, self.fact) {
            (None, Some(lookup), Some(Some(found))) if file.read_only() => {
                let text = format!(
                    "it belongs to {new}, which the new container's mount does not show; it is handed in from the node"
                );
                return Ok((handed_in(file, old, lookup, self.rule, &found), Some(text)));
            }
            (None, ..) if !self.mounted => {
                return Err(format!(
                    "it belongs to {old} in a cgroup hierarchy that this node does not mount"
                ));
            }
            (None, ..) => {
                return Err(format!(
                    "it belongs to {new}, which the new container's mount does not show"
                ));
            }
            (Some(_), _, Some(None)) => return Err(format!("{new} does not exist on this node")),
            // A path that no mount on the node shows could not be looked up; CRIU opens it inside the container.
            (Some(path), ..) => path.clone(),
        };
        // Size and mode of a cgroup file say nothing about its content and differ between kernels.
        // One that was handed to CRIU as external has a path again.
        let edit = FileEdit {
            detach: file.external,
            ..UNCHECKED
        };
        let on_node = self.lookup.as_ref().map(|lookup| lookup.path().to_string());
        let plan = FilePlan {
            new: path,
            old_object: Some(old.to_string()),
            new_object: on_node,
            edit,
            expect: self.fact.flatten().map(|fact| fact.id),
            ..unchanged(file, self.rule)
        };
        Ok((plan, None))
    }

    /// A file on a mount that the container had not got, handed in by whoever started it. The checkpoint is a stranger's word,
    /// so what it gets on the node is bounded: no more than its own cgroup for writing, and nothing of another pod's.
    pub(super) fn on_foreign_mount(&self, file: &OpenFile, target: &Target) -> Placed {
        let Self { old, new, rule, .. } = self;
        // The files of a cgroup above are the same for all that are below it.
        let shared = || {
            let above = new.parent();
            let mut own = target.cgroups.values();
            above.is_some_and(|above| own.any(|container| container.strip(&above).is_some()))
        };
        if !matches!(rule, Rule::CgroupContainer | Rule::CgroupPod) && !shared() {
            return Err(format!("{new} belongs to neither pod"));
        }
        if !file.read_only() && *rule != Rule::CgroupContainer {
            return Err(format!(
                "{new} is not the container's own, and it is open for writing"
            ));
        }
        let (Some(lookup), Some(fact)) = (&self.lookup, self.fact.flatten()) else {
            return Err(format!("{new} does not exist on this node"));
        };
        let text = format!(
            "it is on a mount that the container had not got; {} is handed in instead of {old}",
            lookup.path()
        );
        Ok((handed_in(file, old, lookup, *rule, &fact), Some(text)))
    }
}

/// Tells what a cgroup file becomes. One that has nothing it corresponds to blocks, or becomes inert where that is allowed.
pub(super) fn cgroup_file(
    file: &OpenFile,
    found: &CgroupFile,
    placed: Placed,
    policy: &Policy,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let missing = match placed {
        Ok((plan, said)) => {
            findings.extend(said.map(|text| Finding::note(found.rule, object(), text)));
            return Some(plan);
        }
        Err(missing) => missing,
    };
    if policy.cgroup_files == CgroupFiles::Ignore && file.read_only() {
        findings.push(Finding::warning(
            Rule::CgroupFileGone,
            object(),
            format!("{missing}; the descriptor becomes inert (reads give end of file), as cgroup-files=ignore says"),
        ));
        return Some(inert(file, &found.old.to_string(), Rule::CgroupFileGone));
    }
    let way_out = if file.read_only() {
        "set restow.dev/cgroup-files to ignore to make the descriptor inert, or give the new pod what the old one had"
    } else {
        "it is open for writing, so it cannot be made inert; give the new pod what the old one had"
    };
    findings.push(Finding::blocker(Rule::CgroupFileGone, object(), missing).way_out(way_out));
    None
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
