//! From facts to a plan, without a system call.
//!
//! ```text
//! Source ┐                         ┌ file edits ──┐
//! Target ├─ Questions ─ plan() ──▶ │ mount edits  ├─▶ stage
//! Policy ┘                         │ host names   │
//!                                  │ cgroup       ├─▶ interposer
//!                                  │ expectations ├─▶ verify
//!                                  └ findings ────┴─▶ people
//! ```
//!
//! What is at a path on the node is a fact like any other: [`Questions`] names the paths, an edge looks (see
//! [`crate::host::facts`]), and [`plan`] takes the answers in the [`Target`]. So the same function serves the interposer,
//! `restow plan` and the tests.

mod access;
mod added;
mod addresses;
mod carry;
mod cgroup_map;
mod connections;
mod explicit;
mod files;
mod identity;
mod mapped;
mod masks;
mod mounts;
mod placement;
mod privileges;
mod questions;
mod resolve;
mod sockets;
mod stacked;
mod sub_cgroups;
mod tree;
mod watches;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use carry::is_empty_dir;
pub use connections::{Connections, refused};
pub use explicit::place_container;
pub use identity::OomScore;
pub use placement::{CgroupPlan, Placement};
pub use questions::Questions;
pub use resolve::Lookup;
pub use sockets::{SocketAction, SocketPlace, SocketPlan, SocketsPlan, UnixPlan, endpoints};
pub use sub_cgroups::SubCgroup;

use crate::finding::{Finding, Holder, Object, Rule, Severity};
use crate::ids::{ContainerPath, FileId, HostPath, MountId};
use crate::policy::{self, Policy};
use crate::source::manifest::CarriedVolume;
use crate::source::{Source, WatchKind, WatchedObject};
use crate::target::{ObjectId, Target};
use resolve::Resolver;

/// What changes about one open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePlan {
    /// Which.
    pub id: FileId,
    /// Its path in the old container.
    pub old: ContainerPath,
    /// Its path in the new one.
    pub new: ContainerPath,
    /// What `old` named: the path outside the container, where it says more than `old` itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_object: Option<String>,
    /// What `new` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_object: Option<String>,
    /// Why.
    pub rule: Rule,
    /// What is edited in the image.
    pub edit: FileEdit,
    /// Where on the node it is opened for CRIU, when CRIU is not to open it by its path in the container.
    ///
    /// Only a path goes into the restore that way (`O_PATH`): CRIU opens it anew with the recorded flags, once for each open
    /// file description, so that flags, offset and sharing are what they were (`criu/files-reg.c`, `open_path`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed: Option<Lookup>,
    /// `open(2)` flags, which stay.
    pub flags: i32,
    /// Offset in the checkpoint, in bytes.
    pub pos: u64,
    /// It is a regular file.
    pub regular: bool,
    /// The object that each of its descriptors must be after the restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<ObjectId>,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

impl FilePlan {
    /// The key under which it is handed to CRIU. One for each open file description: CRIU closes a descriptor once it has
    /// stored it (`criu/files.c`, `inherit_fd_move_to_fdstore`).
    pub fn key(&self) -> Option<String> {
        self.handed
            .as_ref()
            .map(|_| format!("restow[{:x}]", self.id.0))
    }

    /// Whether it is open for writing.
    pub fn writable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY && self.flags & libc::O_PATH == 0
    }

    /// Whether its descriptors are made inert.
    pub fn inert(&self) -> bool {
        self.edit.detach && self.new.as_path() == Path::new(files::INERT)
    }
}

/// Edits of a file's record in `files.img`; the default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileEdit {
    /// CRIU does not compare the size.
    pub drop_size: bool,
    /// CRIU does not compare the mode.
    pub drop_mode: bool,
    /// The file is opened on no mount in particular (`/dev/null` instead of what it was).
    pub detach: bool,
    /// Another offset, in bytes.
    pub pos: Option<u64>,
}

/// What an inotify watch, or a fanotify mark, watches after the restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchPlan {
    /// Which of them.
    pub kind: WatchKind,
    /// The inotify instance or fanotify group, by its id.
    pub instance: FileId,
    /// Its watch descriptor; of a mark, its place in the image.
    pub wd: u32,
    /// Its path in the image, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<ContainerPath>,
    /// The path it gets.
    pub new: ContainerPath,
    /// The mount the path is on, in the checkpoint's numbers; `None` for a tree that has no mounts of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mnt_id: Option<MountId>,
    /// Why.
    pub rule: Rule,
    /// The object it must watch after the restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<WatchedObject>,
    /// Who holds the instance.
    pub holders: Vec<Holder>,
}

/// A mount that is found again at the same mount point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Its id in the checkpoint.
    pub mnt_id: MountId,
    /// Where it is.
    pub mount_point: ContainerPath,
    /// The key by which CRIU asks for its source.
    pub key: String,
    /// Others are stacked on it, so that it cannot be seen and `key` is not the checkpoint's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub below: bool,
    /// The node's path it comes from.
    pub source: HostPath,
    /// Why.
    #[serde(default = "joined")]
    pub rule: Rule,
    /// The object that must be at the mount point after the restore, where the edge could tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<ObjectId>,
}

/// Before there were explicit maps, every mount was joined.
fn joined() -> Rule {
    Rule::MountJoined
}

/// The same for those that only the new pod has.
fn added() -> Rule {
    Rule::MountAdded
}

/// A mount that only the new pod has, attached before the container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedMount {
    /// Where it is in the container.
    pub mount_point: ContainerPath,
    /// The node's path it comes from.
    pub source: HostPath,
    /// Why.
    #[serde(default = "added")]
    pub rule: Rule,
    /// The type of its file system, when that is made for it; its source says nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<String>,
    /// Its options, as the OCI specification spells them.
    pub options: Vec<String>,
    /// The object that must be at the mount point afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<ObjectId>,
}

impl AddedMount {
    /// Whether it has this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|other| other == option)
    }
}

/// A volume whose content comes with the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarryPlan {
    /// Its archive.
    pub volume: CarriedVolume,
    /// The new pod's volume, as a path of the node.
    pub into: HostPath,
}

/// The host name the container has after the restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostnamePlan {
    /// In the checkpoint.
    pub old: String,
    /// After the restore.
    pub new: String,
    /// Its namespace in the image set: `utsns-<namespace>.img`.
    pub namespace: u32,
}

/// Everything that is done to restore a checkpoint in another pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Open files that change or are checked afterwards.
    pub files: Vec<FilePlan>,
    /// Inotify watches.
    pub watches: Vec<WatchPlan>,
    /// Sockets.
    pub sockets: SocketsPlan,
    /// Content that is unpacked before CRIU starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<CarryPlan>,
    /// Mounts whose source the runtime gives.
    pub mounts: Vec<MountPlan>,
    /// Mounts that only the new pod has, in the order in which they are attached.
    pub added_mounts: Vec<AddedMount>,
    /// The root file system must not be writable: criu 4.1 under runc 1.1 restores a read-only one writable.
    pub read_only_root: bool,
    /// Paths that the new pod masks and CRIU does not, masked before the container runs.
    pub masked: Vec<ContainerPath>,
    /// Paths that the new pod has read-only and CRIU does not, made so before the container runs.
    pub read_only_paths: Vec<ContainerPath>,
    /// Mounts that were writable and are read-only in the new pod, made so before the container runs.
    pub read_only_mounts: Vec<ContainerPath>,
    /// Mounts taken out of the image.
    pub dropped_mounts: Vec<MountId>,
    /// Host name; `None` when CRIU restores the old one.
    pub hostname: Option<HostnamePlan>,
    /// OOM scores that change, and those that are 0.
    pub oom_scores: Vec<OomScore>,
    /// How tasks get into their cgroups.
    pub cgroup: CgroupPlan,
    /// What people should know, most severe first.
    pub findings: Vec<Finding>,
}

impl Plan {
    /// Whether nothing forbids the restore.
    pub fn possible(&self) -> bool {
        !self
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Blocker)
    }

    /// The files that are handed to CRIU, each with its key and place.
    pub fn handed(&self) -> impl Iterator<Item = (String, &Lookup, &FilePlan)> {
        self.files
            .iter()
            .filter_map(|file| Some((file.key()?, file.handed.as_ref()?, file)))
    }

    /// The blockers.
    pub fn blockers(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker)
    }
}

/// Whether what a look-up did not find comes with the checkpoint's content.
pub fn is_carried(source: &Source, target: &Target, policy: &Policy, lookup: &Lookup) -> bool {
    carry::to_come(source, target, policy, lookup)
}

/// Plans the restore.
pub fn plan(source: &Source, target: &Target, policy: &Policy) -> Plan {
    let resolver = Resolver::new(source, target);
    let mut findings = Vec::new();
    if source.foreign_manifest {
        findings.push(Finding::warning(
            Rule::Checkpoint,
            Object::Checkpoint,
            "its source.json is of another dump into the same directory and is not used; the plan rests on CRIU's images alone",
        ));
    } else if source.manifest.is_none() {
        findings.push(Finding::note(
            Rule::Checkpoint,
            Object::Checkpoint,
            "it was made without Restow (no source.json); the plan rests on CRIU's images alone",
        ));
    }
    // First, since much of what follows comes of it.
    let carried = carry::plan(source, target, policy, &mut findings);
    explicit::check(source, target, &resolver, &mut findings);
    let files = files::plan(source, target, policy, &resolver, &mut findings);
    let watches = watches::plan(source, target, policy, &resolver, &mut findings);
    files::check_handed(&files, &mut findings);
    let sockets = sockets::plan(source, target, policy, &resolver, &mut findings);
    let (mounts, dropped_mounts) = mounts::plan(source, target, &resolver, &mut findings);
    let added_mounts = added::plan(source, target, &mut findings);
    let restored = mounts::RestoredMounts::of(source, &resolver, &dropped_mounts);
    let masked = masks::plan(source, target, &restored, &mut findings);
    let read_only_paths = access::read_only_paths(target, &restored, &mut findings);
    let read_only_mounts = access::plan(source, target, &resolver, &restored, &mut findings);
    let oom_scores = identity::oom_scores(source, target, &mut findings);
    identity::check_ids(source, target, &mut findings);
    privileges::check(source, target, policy, &mut findings);
    privileges::check_groups(source, target, &mut findings);
    let hostname = hostname(source, target, policy, &mut findings);
    let cgroup = placement::plan(source, target, policy, &resolver, &mut findings);
    // Stable, so that findings of one severity stay in the order of the objects.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Plan {
        files,
        watches,
        sockets,
        carried,
        mounts,
        added_mounts,
        read_only_root: target.read_only_root,
        masked,
        read_only_paths,
        read_only_mounts,
        oom_scores,
        dropped_mounts,
        hostname,
        cgroup,
        findings,
    }
}

fn hostname(
    source: &Source,
    target: &Target,
    policy: &Policy,
    findings: &mut Vec<Finding>,
) -> Option<HostnamePlan> {
    if policy.hostname == policy::Hostname::Source {
        return None;
    }
    let (uts, new) = (source.uts.as_ref()?, target.hostname.as_ref()?);
    if uts.name != *new {
        findings.push(Finding::note(
            Rule::Hostname,
            Object::Hostname,
            format!("{} becomes {new}", uts.name),
        ));
    }
    Some(HostnamePlan {
        old: uts.name.clone(),
        new: new.clone(),
        namespace: uts.id,
    })
}

#[cfg(test)]
mod tests;
