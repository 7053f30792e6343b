//! The restored tree compared with the plan, after everything is in place and before anything runs.
//!
//! Every mismatch is a blocker: the interposer vetoes the restore, CRIU kills the tree, and nothing of the old pod's
//! state has been used by a running program.

mod sockets;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::finding::{self, Finding, Holder, Object, Rule};
use crate::ids::{CgroupPath, ContainerPath, HostPath, HostPid, MountId, NsPid};
use crate::plan::{FilePlan, Plan, WatchPlan};
use crate::source::{Hierarchy, WatchKind, WatchedObject};
use crate::target::ObjectId;

pub use sockets::{InetLine, UnixLine};

/// What [`verify`] asks about a restored tree; [`crate::host::RestoredTree`] answers from `/proc`.
pub trait Restored {
    /// The processes, by their id inside the container.
    fn tasks(&self) -> &BTreeMap<NsPid, HostPid>;
    /// What a descriptor refers to, and how.
    ///
    /// # Errors
    /// When there is no such descriptor or process.
    fn descriptor(&self, pid: HostPid, fd: u32) -> io::Result<Descriptor>;
    /// How two descriptors' open file descriptions compare, in an order that has no other meaning; equal when they share
    /// one. `None` when the kernel cannot tell (`kcmp(2)`).
    fn compare(&self, a: (HostPid, u32), b: (HostPid, u32)) -> Option<Ordering>;
    /// What the watches of an inotify descriptor watch, by watch descriptor, or the inode marks of a fanotify descriptor, in
    /// no order.
    ///
    /// # Errors
    /// When there is no such descriptor or process.
    fn watches(&self, pid: HostPid, fd: u32) -> io::Result<BTreeMap<u32, WatchedObject>>;
    /// What the network namespace knows of a TCP or UDP socket; `None` when it is neither bound nor connected.
    ///
    /// # Errors
    /// When there is no such descriptor or process, or it is no socket.
    fn inet_socket(&self, pid: HostPid, fd: u32) -> io::Result<Option<InetLine>>;
    /// The same of a unix socket.
    ///
    /// # Errors
    /// As [`Restored::inet_socket`].
    fn unix_socket(&self, pid: HostPid, fd: u32) -> io::Result<Option<UnixLine>>;
    /// A process's cgroups, as the node sees them.
    ///
    /// # Errors
    /// When there is no such process.
    fn cgroups(&self, pid: HostPid) -> io::Result<BTreeMap<Hierarchy, CgroupPath>>;
    /// Which object is at a mount point.
    ///
    /// # Errors
    /// When nothing is there.
    fn mount_point(&self, path: &ContainerPath) -> io::Result<ObjectId>;
    /// A process's OOM score adjustment.
    ///
    /// # Errors
    /// When there is no such process.
    fn oom_score(&self, pid: HostPid) -> io::Result<i32>;
    /// Whether the container's root file system is read-only.
    ///
    /// # Errors
    /// When the container is gone.
    fn read_only_root(&self) -> io::Result<bool>;
    /// Whether the container's cgroup namespace is another than the node's.
    ///
    /// # Errors
    /// When the container is gone.
    fn own_cgroup_namespace(&self) -> io::Result<bool>;
    /// The container's host name.
    ///
    /// # Errors
    /// When the container is gone.
    fn hostname(&self) -> io::Result<String>;
}

/// A restored descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The object it refers to.
    #[serde(flatten)]
    pub id: ObjectId,
    /// The device's number, when the object is a device.
    pub rdev: Option<u64>,
    /// Its offset, in bytes.
    pub pos: u64,
    /// Its `open(2)` flags.
    pub flags: i32,
}

/// `/dev/null`, as `st_rdev` gives it (`Documentation/admin-guide/devices.txt` of the kernel).
const NULL_DEVICE: u64 = libc::makedev(1, 3);

/// Flags of a descriptor that say what can be done with it. Of the others the kernel keeps some only for show, and CRIU
/// masks `O_TMPFILE`, which takes `O_DIRECTORY` along.
const KEPT_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DIRECT
    | libc::O_PATH;

/// What [`verify`] compared, and what was not as planned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Number of comparisons made.
    pub compared: usize,
    /// What differs, as blockers.
    pub mismatches: Vec<Finding>,
}

impl Verdict {
    /// How much was compared; `what` was restored, and each mismatch is told first.
    ///
    /// # Errors
    /// In words, the reason for a veto: something is not as planned.
    pub fn judge(&self, what: &str, tell: impl FnMut(&Finding)) -> Result<usize, String> {
        self.mismatches.iter().for_each(tell);
        if self.mismatches.is_empty() {
            return Ok(self.compared);
        }
        let what = format!("The restored {what} is not as planned, and was stopped before it ran");
        Err(finding::list(&what, self.mismatches.iter()))
    }

    fn check(&mut self, object: impl FnOnce() -> Object, wrong: Option<String>) {
        self.compared += 1;
        if let Some(text) = wrong {
            self.mismatches
                .push(Finding::blocker(Rule::Verify, object(), text));
        }
    }
}

/// Compares the tree with the plan.
pub fn verify(plan: &Plan, tree: &impl Restored) -> Verdict {
    let mut verdict = Verdict::default();
    for file in &plan.files {
        descriptors(file, tree, &mut verdict);
    }
    sharing(&plan.files, tree, &mut verdict);
    for watch in &plan.watches {
        watched(watch, tree, &mut verdict);
    }
    sockets::sockets(&plan.sockets, tree, &mut verdict);
    for mount in &plan.mounts {
        let (at, id) = (&mount.mount_point, Some(mount.mnt_id));
        mount_point(at, id, &mount.source, mount.expect, tree, &mut verdict);
    }
    for mount in &plan.added_mounts {
        mount_point(
            &mount.mount_point,
            None,
            &mount.source,
            mount.expect,
            tree,
            &mut verdict,
        );
    }
    if plan.read_only_root {
        let wrong = match tree.read_only_root() {
            Ok(true) => None,
            Ok(false) => Some("it is writable and must not be".to_owned()),
            Err(error) => Some(format!("it cannot be looked at: {error}")),
        };
        let mount_point = ContainerPath::new("/");
        verdict.check(
            || Object::Mount {
                mount_point,
                mnt_id: None,
            },
            wrong,
        );
    }
    for score in &plan.oom_scores {
        // A process that is not there is told with its cgroups.
        let Some(pid) = tree.tasks().get(&score.pid) else {
            continue;
        };
        let wrong = match tree.oom_score(*pid) {
            Ok(found) if found == score.new => None,
            Ok(found) => Some(format!(
                "its OOM score adjustment is {found} and should be {}",
                score.new
            )),
            Err(error) => Some(format!("its OOM score adjustment cannot be read: {error}")),
        };
        verdict.check(|| Object::Process { pid: score.pid }, wrong);
    }
    cgroups(plan, tree, &mut verdict);
    if let Some(hostname) = &plan.hostname {
        let wrong = match tree.hostname() {
            Ok(found) if found == hostname.new => None,
            Ok(found) => Some(format!("it is {found} and should be {}", hostname.new)),
            Err(error) => Some(format!("it cannot be read: {error}")),
        };
        verdict.check(|| Object::Hostname, wrong);
    }
    verdict
}

fn descriptors(file: &FilePlan, tree: &impl Restored, verdict: &mut Verdict) {
    for holder in &file.holders {
        let wrong = match tree.tasks().get(&holder.pid) {
            None => Some(format!("process {} is not there", holder.pid)),
            Some(pid) => match tree.descriptor(*pid, holder.fd) {
                Ok(found) => differs(file, &found),
                Err(error) => Some(format!("it cannot be looked at: {error}")),
            },
        };
        verdict.check(|| object(file, &[*holder]), wrong);
    }
}

/// Descriptors share what they shared before, and of the files that are handed to CRIU no two descriptions have become
/// one. (What CRIU opens by path it opens once for each.)
fn sharing(files: &[FilePlan], tree: &impl Restored, verdict: &mut Verdict) {
    let of = |holder: &Holder| tree.tasks().get(&holder.pid).map(|pid| (*pid, holder.fd));
    // In the order of `compare`, for each object.
    let mut handed: BTreeMap<Option<ObjectId>, Vec<Holder>> = BTreeMap::new();
    for file in files {
        let Some((first, others)) = file.holders.split_first() else {
            continue;
        };
        let compare = |other: &Holder| tree.compare(of(other)?, of(first)?);
        for holder in others {
            let wrong = compare(holder)
                .filter(|order| order.is_ne())
                .map(|_| format!("it does not share its offset with {first} any more"));
            verdict.check(|| object(file, &[*holder]), wrong);
        }
        if file.handed.is_none() {
            continue;
        }
        let known = handed.entry(file.expect).or_default();
        let found = known.binary_search_by(|other| compare(other).unwrap_or(Ordering::Less));
        let wrong = found.ok().map(|at| {
            let other = known[at];
            format!("it shares its offset with {other} and did not before")
        });
        if let Err(at) = found {
            known.insert(at, *first);
        }
        verdict.check(|| object(file, &file.holders), wrong);
    }
}

fn object(file: &FilePlan, holders: &[Holder]) -> Object {
    Object::File {
        path: file.new.clone(),
        holders: holders.to_vec(),
    }
}

/// What is wrong with a restored descriptor.
fn differs(file: &FilePlan, found: &Descriptor) -> Option<String> {
    if file.inert() {
        return (found.rdev != Some(NULL_DEVICE))
            .then(|| "it should be inert and is not".to_owned());
    }
    if let Some(expected) = file.expect.filter(|expected| *expected != found.id) {
        return Some(format!(
            "it refers to inode {} on device {:#x} and should refer to {} (inode {} on device {:#x})",
            found.id.ino,
            found.id.dev,
            file.new_object.as_deref().unwrap_or("the new file"),
            expected.ino,
            expected.dev
        ));
    }
    if (found.flags ^ file.flags) & KEPT_FLAGS != 0 {
        return Some(format!(
            "it is open with flags {:o} and was with {:o}",
            found.flags, file.flags
        ));
    }
    // How far a directory was read is the file system's own affair, and CRIU does not seek what has only a path.
    let seekable = file.regular && file.flags & libc::O_PATH == 0;
    let pos = file.edit.pos.unwrap_or(file.pos);
    (seekable && found.pos != pos)
        .then(|| format!("its offset is {} and should be {pos}", found.pos))
}

fn watched(watch: &WatchPlan, tree: &impl Restored, verdict: &mut Verdict) {
    let Some(expected) = watch.expect else { return };
    for holder in &watch.holders {
        let found = match tree.tasks().get(&holder.pid) {
            None => Err(io::Error::other(format!(
                "process {} is not there",
                holder.pid
            ))),
            Some(pid) => tree.watches(*pid, holder.fd),
        };
        // Marks have no numbers, so it only counts that one of them is right.
        let of = |watches: BTreeMap<u32, WatchedObject>| match watch.kind {
            WatchKind::Inotify => watches.get(&watch.wd).copied(),
            WatchKind::Fanotify => watches.into_values().find(|found| *found == expected),
        };
        let wrong = match found.map(of) {
            Ok(Some(found)) if found == expected => None,
            Ok(Some(found)) => Some(format!(
                "it watches inode {} and should watch inode {} ({})",
                found.ino, expected.ino, watch.new
            )),
            Ok(None) => Some("the watch is not there".to_owned()),
            Err(error) => Some(format!("it cannot be looked at: {error}")),
        };
        let (path, holders) = (Some(watch.new.clone()), vec![*holder]);
        let object = || match watch.kind {
            WatchKind::Inotify => Object::Watch {
                wd: watch.wd,
                path,
                holders,
            },
            WatchKind::Fanotify => Object::Mark { path, holders },
        };
        verdict.check(object, wrong);
    }
}

fn mount_point(
    at: &ContainerPath,
    mnt_id: Option<MountId>,
    source: &HostPath,
    expected: Option<ObjectId>,
    tree: &impl Restored,
    verdict: &mut Verdict,
) {
    let Some(expected) = expected else { return };
    let wrong = match tree.mount_point(at) {
        Ok(found) if found == expected => None,
        Ok(_) => Some(format!("what is there is not {source}")),
        Err(error) => Some(format!("it cannot be looked at: {error}")),
    };
    verdict.check(
        || Object::Mount {
            mount_point: at.clone(),
            mnt_id,
        },
        wrong,
    );
}

fn cgroups(plan: &Plan, tree: &impl Restored, verdict: &mut Verdict) {
    for (ns_pid, pid) in tree.tasks() {
        let found = match tree.cgroups(*pid) {
            Ok(found) => found,
            Err(error) => {
                verdict.check(
                    || Object::Process { pid: *ns_pid },
                    Some(format!("its cgroups cannot be read: {error}")),
                );
                continue;
            }
        };
        for (hierarchy, container) in &plan.cgroup.container {
            let placed = plan
                .cgroup
                .placements
                .iter()
                .find(|p| p.pid == *ns_pid && p.hierarchy == *hierarchy);
            let expected = placed.map_or(container, |placement| &placement.cgroup);
            let wrong = match found.get(hierarchy) {
                Some(path) if path == expected => None,
                // CRIU put the task where its image says, below the container's cgroup.
                Some(path) if plan.cgroup.by_criu && path.strip(container).is_some() => None,
                Some(path) => Some(format!(
                    "it is in cgroup {path} ({hierarchy}) and should be in {expected}"
                )),
                None => Some(format!("it is in no cgroup of {hierarchy}")),
            };
            verdict.check(|| Object::Process { pid: *ns_pid }, wrong);
        }
    }
    let wrong = match tree.own_cgroup_namespace() {
        Ok(own) if own == plan.cgroup.private_namespace => None,
        Ok(true) => Some("the container has a cgroup namespace of its own and had none".to_owned()),
        Ok(false) => {
            Some("the container has the node's cgroup namespace and had one of its own".to_owned())
        }
        Err(error) => Some(format!("the cgroup namespace cannot be looked at: {error}")),
    };
    let path = plan
        .cgroup
        .container
        .get(&Hierarchy::v2())
        .cloned()
        .unwrap_or_else(|| CgroupPath::new("/"));
    verdict.check(|| Object::Cgroup { path }, wrong);
}
