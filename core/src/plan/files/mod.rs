//! Open files: which path each has in the new container, and which of CRIU's checks still mean something there.

mod cgroup;
mod content;

use std::convert::identity;

use self::cgroup::{CgroupFile, cgroup_file, foreign_file};
use self::content::{beyond, managed_file, mapped_file, volume_file};
use super::resolve::{Lookup, Resolved, Resolver};
use super::{FileEdit, FilePlan};
use crate::finding::{Finding, Object, Rule};
use crate::ids::ContainerPath;
use crate::policy::Policy;
use crate::shares::with_places;
use crate::source::{OpenFile, Source};
use crate::target::{ObjectId, Target};

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
    let files: Vec<&OpenFile> = source.open_files().collect();
    let mut plans: Vec<Option<FilePlan>> = Vec::new();
    plans.resize_with(files.len(), || None);
    let found = with_places(&files, &mut plans, |files, plans| {
        let mut findings = Vec::new();
        for (file, plan) in files.iter().zip(plans) {
            *plan = plan_file(file, source, target, policy, resolver, &mut findings);
        }
        findings
    });
    findings.extend(found.into_iter().flatten());
    #[allow(
        clippy::filter_map_identity,
        reason = "they stay in the memory that they are in, which `flatten` does not see to"
    )]
    plans.into_iter().filter_map(identity).collect()
}

/// What changes about one open file, if something does.
fn plan_file(
    file: &OpenFile,
    source: &Source,
    target: &Target,
    policy: &Policy,
    resolver: &Resolver<'_>,
    findings: &mut Vec<Finding>,
) -> Option<FilePlan> {
    let resolved = resolver.resolve(file);
    let fact = lookup(&resolved).and_then(|lookup| target.fact(&lookup.path()));
    let object = || Object::File {
        path: source
            .unreachable(file)
            .map_or(&file.path, |known| &known.path)
            .clone(),
        holders: source.holders_of(file.id).to_vec(),
    };
    let mounted = || {
        let hierarchy = resolver.hierarchy_of(file);
        hierarchy.is_none_or(|hierarchy| {
            let mut mounts = target.cgroup_mounts.iter();
            mounts.any(|mount| mount.hierarchy == hierarchy)
        })
    };
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
                mounted: mounted(),
            };
            let placed = found.on_own_mount(file);
            cgroup_file(file, &found, placed, policy, object, findings)
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
                mounted: mounted(),
            };
            let placed = found.on_foreign_mount(file, target);
            cgroup_file(file, &found, placed, policy, object, findings)
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
    planned.map(|plan| FilePlan {
        holders: source.holders_of(file.id).to_vec(),
        ..plan
    })
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
