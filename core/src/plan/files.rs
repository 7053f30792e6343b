//! Open files: which path each has in the new container, and which of CRIU's checks still mean something there.

use std::collections::BTreeSet;

use super::mapped::Mapped;
use super::mounts::processes;
use super::resolve::{Lookup, Resolved, Resolver};
use super::{FileEdit, FilePlan};
use crate::finding::{Finding, Object, Rule};
use crate::ids::{CgroupPath, ContainerPath, NsPid};
use crate::policy::{CgroupFiles, Policy};
use crate::source::{OpenFile, Source};
use crate::target::{FileFact, ObjectId, Target};

/// What an inert descriptor is opened on: reads give end of file.
pub(super) const INERT: &str = "/dev/null";

/// CRIU compares neither size nor mode.
const UNCHECKED: FileEdit = FileEdit {
    drop_size: true,
    drop_mode: true,
    detach: false,
    pos: None,
};

/// More files than this are not handed to CRIU: each takes a descriptor and some twenty bytes of a request that has to
/// fit into a socket's buffer (`net.core.wmem_default`, 212,992 bytes).
const MAX_HANDED: usize = 4096;

/// Whether the files that are handed to CRIU are too many.
pub(super) fn check_handed(files: &[FilePlan], findings: &mut Vec<Finding>) {
    let count = files.iter().filter(|file| file.handed.is_some()).count();
    if count > MAX_HANDED {
        let text = format!(
            "{count} open files would have to be handed in from the node, and no more than {MAX_HANDED} can be; \
             give the new pod the mounts that show them"
        );
        findings.push(Finding::blocker(Rule::Foreign, Object::Checkpoint, text));
    }
}

pub(super) fn lookup(resolved: &Resolved) -> Option<&Lookup> {
    match resolved {
        Resolved::Cgroup { lookup, .. } | Resolved::ForeignCgroup { lookup, .. } => lookup.as_ref(),
        Resolved::Managed { lookup, .. }
        | Resolved::Volume { lookup }
        | Resolved::MappedOnNode { lookup } => Some(lookup),
        Resolved::Mapped(mapped) => mapped.lookup.as_ref(),
        Resolved::Foreign { .. } | Resolved::MountGone | Resolved::Same => None,
    }
}

pub(super) fn plan(
    source: &Source,
    target: &Target,
    policy: &Policy,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<FilePlan> {
    // Growing would move all of them again and again, and hold two copies meanwhile.
    let mut plans = Vec::with_capacity(source.files.len());
    for file in source.files.values() {
        // CRIU restores an unlinked file from the image at its old path; there is nothing to look up.
        if source.remapped.contains(&file.id) {
            continue;
        }
        let resolved = resolver.resolve(file);
        let fact = lookup(&resolved).and_then(|lookup| target.fact(&lookup.path()));
        let object = || Object::File {
            path: source
                .unreachable(file)
                .map_or(&file.path, |known| &known.path)
                .clone(),
            holders: source.holders_of(file.id).to_vec(),
        };
        let hierarchy = resolver.hierarchy_of(file);
        let mounted = hierarchy.is_none_or(|hierarchy| {
            let mut mounts = target.cgroup_mounts.iter();
            mounts.any(|mount| mount.hierarchy == hierarchy)
        });
        let planned = match resolved {
            Resolved::Cgroup {
                old,
                new,
                rule,
                path,
                lookup,
            } => {
                let found = CgroupFile {
                    old,
                    new,
                    rule,
                    path,
                    lookup,
                    fact,
                    mounted,
                };
                cgroup_file(file, found, policy, object, findings)
            }
            Resolved::Managed { path, lookup } => {
                let planned = managed_file(file, &lookup, fact, object, findings);
                planned.map(|plan| FilePlan { new: path, ..plan })
            }
            Resolved::Volume { lookup } => {
                let users = source.in_use.get(&file.id);
                volume_file(file, users, &lookup, fact, object, findings)
            }
            Resolved::ForeignCgroup {
                old,
                new,
                rule,
                lookup,
            } => {
                let found = CgroupFile {
                    old,
                    new,
                    rule,
                    path: None,
                    lookup,
                    fact,
                    mounted,
                };
                foreign_cgroup_file(file, found, target, policy, object, findings)
            }
            Resolved::Foreign { path } => foreign_file(file, &path, policy, object, findings),
            Resolved::Mapped(mapped) => mapped_file(file, mapped, fact, object, findings),
            Resolved::MappedOnNode { lookup } => match fact.flatten() {
                Some(found) => {
                    let edit = FileEdit {
                        pos: beyond(file, &found),
                        ..UNCHECKED
                    };
                    Some(handed(file, &lookup, Rule::Map, edit, Some(found.id)))
                }
                None => {
                    let text = format!("a map gives it {}, which does not exist", lookup.path());
                    findings.push(Finding::blocker(Rule::Map, object(), text));
                    None
                }
            },
            // Its mount is a finding of its own, which names this file.
            Resolved::MountGone | Resolved::Same => None,
        };
        plans.extend(planned.map(|plan| FilePlan {
            holders: source.holders_of(file.id).to_vec(),
            ..plan
        }));
    }
    plans
}

/// A cgroup file with what is known of it on the new side.
struct CgroupFile {
    old: CgroupPath,
    new: CgroupPath,
    rule: Rule,
    path: Option<ContainerPath>,
    lookup: Option<Lookup>,
    fact: Option<Option<FileFact>>,
    /// The node mounts its hierarchy.
    mounted: bool,
}

fn cgroup_file(
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
        return Some(FilePlan {
            old_object: Some(old.to_string()),
            ..handed(file, lookup, rule, UNCHECKED, Some(found.id))
        });
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
fn foreign_cgroup_file(
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
    Some(FilePlan {
        old_object: Some(old.to_string()),
        ..handed(file, &lookup, rule, UNCHECKED, Some(fact.id))
    })
}

/// A file on a mount that the container had not got: handed in by whoever started it. The path is the old node's and a
/// stranger's word, so it is never opened here.
fn foreign_file(
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

fn managed_file(
    file: &OpenFile,
    lookup: &Lookup,
    fact: Option<Option<FileFact>>,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let mut edit = UNCHECKED;
    let mut expect = None;
    match fact {
        Some(None) => {
            findings.push(Finding::blocker(
                Rule::RuntimeManaged,
                object(),
                format!(
                    "{} does not exist in the new pod; the program holds it open",
                    lookup.path()
                ),
            ));
            return None;
        }
        Some(Some(found)) => {
            expect = Some(found.id);
            // An offset behind the end reads as end of file for ever; for appending the kernel ignores it.
            if is_regular(Some(found.mode)) && file.pos > found.size && !file.append() {
                edit.pos = Some(found.size);
                findings.push(Finding::note(
                    Rule::RuntimeManaged,
                    object(),
                    format!(
                        "offset {} lies behind the end of the new pod's file and becomes {}",
                        file.pos, found.size
                    ),
                ));
            }
        }
        None => {}
    }
    Some(follow(file, lookup, Rule::RuntimeManaged, edit, expect))
}

/// Where the offset of a file goes that lies behind the end: there it would read as end of file for ever. For appending the
/// kernel ignores it.
fn beyond(file: &OpenFile, found: &FileFact) -> Option<u64> {
    let clamped = is_regular(Some(found.mode)) && file.pos > found.size && !file.append();
    clamped.then_some(found.size)
}

/// A file at the place in the container that an explicit map says.
fn mapped_file(
    file: &OpenFile,
    mapped: Mapped,
    fact: Option<Option<FileFact>>,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let path = &mapped.path;
    let size = file
        .size
        .filter(|_| mapped.checked && is_regular(file.mode));
    let wrong = match fact {
        // A descriptor of a regular file can be handed in.
        _ if mapped.too_late && !is_regular(file.mode) => Some(format!(
            "a map gives it {path}, on a mount that only the new pod has, which is attached when files are open already"
        )),
        Some(None) => Some(format!("a map gives it {path}, where nothing is")),
        Some(Some(found)) => size.filter(|size| *size != found.size).map(|size| {
            format!(
                "a map gives it {path}, which has {} bytes; it had {size} when the checkpoint was made",
                found.size
            )
        }),
        None => None,
    };
    if let Some(text) = wrong {
        findings.push(Finding::blocker(Rule::Map, object(), text));
        return None;
    }
    let found = fact.flatten();
    let directory = is_directory(file.mode);
    let edit = FileEdit {
        drop_size: !mapped.checked || directory,
        drop_mode: !mapped.checked,
        // One that was handed to CRIU as external has a path again.
        detach: file.external,
        pos: found
            .filter(|_| !mapped.checked)
            .and_then(|found| beyond(file, &found)),
    };
    let on_node = mapped.lookup.as_ref().map(Lookup::path);
    Some(FilePlan {
        new: mapped.path,
        new_object: on_node.map(|path| path.to_string()),
        edit,
        handed: mapped.lookup.filter(|_| mapped.too_late),
        expect: found.map(|found| found.id),
        ..unchanged(file, Rule::Map)
    })
}

fn volume_file(
    file: &OpenFile,
    users: Option<&BTreeSet<NsPid>>,
    lookup: &Lookup,
    fact: Option<Option<FileFact>>,
    object: impl Fn() -> Object,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let path = lookup.path();
    let mut edit = FileEdit::default();
    let mut differs = |text: String| {
        let used = users.map_or_else(String::new, |users| {
            let users = processes(users);
            format!(" (in use by {users} as working directory, executable or mapping)")
        });
        let text =
            format!("{text}{used}; the new pod's volume must have the content of the old one");
        findings.push(Finding::blocker(Rule::Volume, object(), text));
    };
    let expect = match fact {
        Some(None) => {
            differs(format!("{path} does not exist"));
            return None;
        }
        Some(Some(found)) => {
            let other = file.size.filter(|size| *size != found.size);
            match other {
                // The size of a directory depends on the file system, not on what is in it.
                Some(_) if is_directory(file.mode) => edit.drop_size = true,
                Some(size) if is_regular(file.mode) => {
                    if !file.append() || users.is_some() {
                        differs(of_other_size(&path.to_string(), size, found.size));
                        return None;
                    }
                    edit.drop_size = true;
                    // For writing the kernel ignores the offset; behind the end it would read as end of file for ever.
                    let readable = file.flags & libc::O_ACCMODE == libc::O_RDWR;
                    edit.pos = Some(found.size).filter(|end| readable && file.pos > *end);
                    let mut text = format!(
                        "{}; it is only appended to, which goes on at its end",
                        of_other_size(&path.to_string(), size, found.size)
                    );
                    if let Some(end) = edit.pos {
                        text += &format!(", and the offset {} becomes {end}", file.pos);
                    }
                    findings.push(Finding::note(Rule::Volume, object(), text));
                }
                _ => {}
            }
            Some(found.id)
        }
        None => None,
    };
    Some(follow(file, lookup, Rule::Volume, edit, expect))
}

/// In words, how a file differs from what it was at the checkpoint.
fn of_other_size(path: &str, old: u64, new: u64) -> String {
    let how = if new > old { "longer" } else { "shorter" };
    format!("{path} has {new} bytes and had {old} when the checkpoint was made, so it is {how}")
}

/// A file that keeps its path and is whatever the new pod has there.
fn follow(
    file: &OpenFile,
    lookup: &Lookup,
    rule: Rule,
    edit: FileEdit,
    expect: Option<ObjectId>,
) -> FilePlan {
    FilePlan {
        new_object: Some(lookup.path().to_string()),
        edit,
        expect,
        ..unchanged(file, rule)
    }
}

/// A file that is opened on the node and handed to CRIU. Which checks of CRIU's stay is for the caller to say.
fn handed(
    file: &OpenFile,
    lookup: &Lookup,
    rule: Rule,
    edit: FileEdit,
    expect: Option<ObjectId>,
) -> FilePlan {
    let on_node = lookup.path();
    FilePlan {
        new: ContainerPath::new(on_node.as_path()),
        new_object: Some(on_node.to_string()),
        edit,
        handed: Some(lookup.clone()),
        expect,
        ..unchanged(file, rule)
    }
}

/// A file whose descriptors become inert.
fn inert(file: &OpenFile, old_object: &str, rule: Rule) -> FilePlan {
    FilePlan {
        new: ContainerPath::new(INERT),
        old_object: Some(old_object.to_owned()),
        edit: FileEdit {
            detach: true,
            pos: Some(0),
            ..UNCHECKED
        },
        ..unchanged(file, rule)
    }
}

/// A file of which nothing is known and nothing is changed yet. Who holds it is filled in by [`plan`].
fn unchanged(file: &OpenFile, rule: Rule) -> FilePlan {
    FilePlan {
        id: file.id,
        old: file.path.clone(),
        new: file.path.clone(),
        old_object: None,
        new_object: None,
        rule,
        flags: file.flags,
        pos: file.pos,
        regular: is_regular(file.mode),
        edit: FileEdit::default(),
        handed: None,
        expect: None,
        holders: Vec::new(),
    }
}

fn is_regular(mode: Option<u32>) -> bool {
    mode.is_some_and(|mode| mode & libc::S_IFMT == libc::S_IFREG)
}

fn is_directory(mode: Option<u32>) -> bool {
    mode.is_some_and(|mode| mode & libc::S_IFMT == libc::S_IFDIR)
}
