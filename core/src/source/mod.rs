//! What a checkpoint says: the image set and, when it was made through Restow, `source.json`.
//!
//! This is plain data. [`images`] fills it from an image directory, [`manifest`] is the part that only the dump could
//! know. Everything here is untrusted input: it is bounded when read and never used as a path on the node.

mod cgroup_dirs;
mod image_dir;
pub mod images;
pub mod manifest;
pub mod pages;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Holder, Object};
use crate::ids::{CgroupPath, ContainerPath, FileId, MountId, NsPid};
use crate::privileges::ProcessPrivileges;

pub use cgroup_dirs::{CgroupDir, Owner};
pub use manifest::{Manifest, ManifestFile};
pub use sockets::{
    InetSocket, LockMethod, Protocol, Sockets, State, UnixKind, UnixName, UnixSocket,
};

/// A cgroup hierarchy, named as `/proc/<pid>/cgroup` and `cgroup.img` name it: empty for v2, else the controllers
/// (`cpu,cpuacct`, `name=systemd`).
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Hierarchy(pub String);

impl Hierarchy {
    /// The unified (v2) hierarchy.
    pub fn v2() -> Self {
        Self(String::new())
    }

    /// The one of `known` whose controllers are all in a v1 mount's super block options (`rw,cpu,cpuacct`).
    pub fn of_v1_mount<'a>(
        options: &str,
        known: impl IntoIterator<Item = &'a Self>,
    ) -> Option<&'a Self> {
        let options: Vec<&str> = options.split(',').collect();
        let mut known = known.into_iter().filter(|hierarchy| !hierarchy.is_v2());
        known.find(|hierarchy| hierarchy.0.split(',').all(|word| options.contains(&word)))
    }

    /// Whether this is the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_v2() { "cgroup2" } else { &self.0 })
    }
}

/// File system of a mount, as far as the rules tell them apart (`enum fstype` of CRIU's `mnt.proto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsType {
    /// A v1 hierarchy.
    Cgroup,
    /// The unified hierarchy.
    Cgroup2,
    /// An overlay.
    Overlay,
    /// Anything else, by CRIU's number.
    Other(u32),
}

/// A mount of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id, unique in the image set.
    pub id: MountId,
    /// The mount it sits on.
    pub parent: MountId,
    /// Where it sits.
    pub mount_point: ContainerPath,
    /// The part of the file system that is mounted; for cgroups as seen from inside the container.
    pub root: ContainerPath,
    /// Its file system.
    pub fs: FsType,
    /// For a v1 cgroup mount, its super block options, which name its controllers.
    pub options: String,
    /// Nothing can be written there.
    pub read_only: bool,
    /// The key under which the runtime must give a source at restore; `None` for what CRIU mounts by itself.
    pub ext_key: Option<String>,
}

/// An open regular file, directory or symbolic link (CRIU's `REG`), one per open file description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// Its id.
    pub id: FileId,
    /// Its path in the container.
    pub path: ContainerPath,
    /// The mount it was opened on; `None` for external files.
    pub mount: Option<MountId>,
    /// `open(2)` flags, as the kernel numbers them.
    pub flags: i32,
    /// Offset in bytes.
    pub pos: u64,
    /// Size in bytes at dump, which CRIU compares at restore.
    pub size: Option<u64>,
    /// `st_mode` at dump, which CRIU compares at restore.
    pub mode: Option<u32>,
    /// Whether the runtime must hand it in.
    pub external: bool,
}

impl OpenFile {
    /// Opened without write access.
    pub fn read_only(&self) -> bool {
        self.flags & libc::O_ACCMODE == libc::O_RDONLY
    }

    /// Opened for appending.
    pub fn append(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }
}

/// What watches.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum WatchKind {
    /// An inotify instance, whose watches have numbers.
    Inotify,
    /// A fanotify group, whose marks have none.
    Fanotify,
}

/// An inotify watch, or a fanotify mark on an inode. (CRIU keeps marks on mounts with their mounts.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Which of them.
    pub kind: WatchKind,
    /// The inotify instance or fanotify group, by its id.
    pub instance: FileId,
    /// Its watch descriptor; of a mark, its place in the image.
    pub wd: u32,
    /// The path that CRIU opens at restore; `None` when it has only a file handle.
    pub path: Option<ContainerPath>,
    /// The mount the path is on.
    pub mount: Option<MountId>,
    /// The watched object at dump, as the kernel's inotify shows it.
    pub object: WatchedObject,
}

impl Watch {
    /// What a finding about it is about.
    pub fn object(&self, path: Option<ContainerPath>, holders: Vec<Holder>) -> Object {
        match self.kind {
            WatchKind::Inotify => Object::Watch {
                wd: self.wd,
                path,
                holders,
            },
            WatchKind::Fanotify => Object::Mark { path, holders },
        }
    }
}

/// What a watch watches: super block and inode number as `/proc/<pid>/fdinfo` shows them, which on an overlay may differ
/// from what `stat(2)` says.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct WatchedObject {
    /// Device of the super block, as the kernel numbers devices internally (12 bits major, 20 bits minor).
    pub sdev: u32,
    /// Inode number.
    pub ino: u64,
}

/// A process of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id in the container's pid namespace.
    pub pid: NsPid,
    /// Index of its cgroup set in [`Source::cgroup_sets`].
    pub cgroup_set: Option<u32>,
}

/// A task's place in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMember {
    /// Where the task was, from the root of the cgroup namespace in which CRIU ran.
    pub path: CgroupPath,
    /// The root of the container's cgroup namespace, when it had one of its own.
    pub namespace_root: Option<CgroupPath>,
}

/// A task's places in all hierarchies.
pub type CgroupSet = BTreeMap<Hierarchy, CgroupMember>;

/// A UTS namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UtsNamespace {
    /// Its id in the image set: `utsns-<id>.img`.
    pub id: u32,
    /// Its host name.
    pub name: String,
}

/// Everything a checkpoint says.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Processes, the container's init first.
    pub tasks: Vec<Task>,
    /// Ids of all processes and threads, in the container's pid namespace.
    pub ids: BTreeSet<NsPid>,
    /// What processes may do.
    pub privileges: BTreeMap<NsPid, ProcessPrivileges>,
    /// OOM score adjustments of processes.
    pub oom_scores: BTreeMap<NsPid, i32>,
    /// Mounts of the init's mount namespace, in the order of the image (parents first).
    pub mounts: Vec<Mount>,
    /// Open files by id.
    pub files: BTreeMap<FileId, OpenFile>,
    /// Who holds an open file, by id; sorted.
    pub holders: BTreeMap<FileId, Vec<Holder>>,
    /// Watches, in the order of the image.
    pub watches: Vec<Watch>,
    /// Mounts that have a fanotify mark.
    pub marked_mounts: BTreeMap<MountId, FileId>,
    /// Who holds an inotify instance or a fanotify group, by id; sorted.
    pub watchers: BTreeMap<FileId, Vec<Holder>>,
    /// Sockets.
    pub sockets: Sockets,
    /// Files in use without a descriptor (executables, mappings, working and root directories), and by which processes.
    pub in_use: BTreeMap<FileId, BTreeSet<NsPid>>,
    /// There are locks or leases on files to be taken again.
    pub file_locks: bool,
    /// Files that CRIU finds elsewhere than by their path (unlinked ones); their path is left alone.
    pub remapped: BTreeSet<FileId>,
    /// Cgroup sets by id.
    pub cgroup_sets: BTreeMap<u32, CgroupSet>,
    /// Indices of the cgroup sets of threads that are in another than their process's first one, by process.
    pub thread_sets: BTreeMap<NsPid, BTreeMap<NsPid, u32>>,
    /// Cgroups at the dump, outer ones first; none when CRIU was told to ignore cgroups.
    pub cgroup_dirs: BTreeMap<Hierarchy, Vec<CgroupDir>>,
    /// The init's UTS namespace, when the image set has one.
    pub uts: Option<UtsNamespace>,
    /// Whether CRIU saw the init in a cgroup namespace other than its own.
    pub private_cgroup_namespace: bool,
    /// The tree was in the mount namespace of the criu that dumped it: a process tree without a container. The images
    /// have no mounts then, and paths are those that criu itself sees.
    pub shares_mounts: bool,
    /// What only the dump could know.
    pub manifest: Option<Manifest>,
    /// There is a `source.json`, but of another dump.
    pub foreign_manifest: bool,
}

impl Source {
    /// Open files that are found again by a path. An unlinked one CRIU restores from the image at its old path; there is nothing to look up.
    pub(crate) fn open_files(&self) -> impl Iterator<Item = &OpenFile> {
        let files = self.files.values();
        files.filter(|file| !self.remapped.contains(&file.id))
    }

    /// The cgroup of the container in each hierarchy: the root of its cgroup namespace where it had one, else where its
    /// init was.
    pub fn container_cgroups(&self) -> BTreeMap<Hierarchy, CgroupPath> {
        let init = self
            .tasks
            .first()
            .and_then(|task| task.cgroup_set)
            .and_then(|id| self.cgroup_sets.get(&id));
        if let Some(set) = init {
            return set
                .iter()
                .map(|(hierarchy, member)| {
                    (
                        hierarchy.clone(),
                        member
                            .namespace_root
                            .as_ref()
                            .unwrap_or(&member.path)
                            .clone(),
                    )
                })
                .collect();
        }
        // CRIU leaves the sets out when every task was in CRIU's own cgroup.
        self.manifest
            .as_ref()
            .map(|manifest| manifest.cgroup.paths.clone())
            .unwrap_or_default()
    }

    /// Whether `/` in a hierarchy was not the real root, but the root of the cgroup namespace in which criu ran; `None`
    /// when nobody recorded it.
    pub fn namespace_root(&self, hierarchy: &Hierarchy) -> Option<bool> {
        let roots = self.manifest.as_ref()?.cgroup.namespace_roots.as_ref()?;
        Some(roots.contains(hierarchy))
    }

    /// Whether `path` is the root of the cgroup namespace that a tree without a container shared with criu. Where nobody
    /// recorded it: on version 2 hardly anything runs in the real root, on version 1 much does.
    pub fn is_namespace_root(&self, hierarchy: &Hierarchy, path: &CgroupPath) -> bool {
        let namespaced = self.namespace_root(hierarchy);
        self.shares_mounts && path.is_root() && namespaced.unwrap_or(hierarchy.is_v2())
    }

    /// What the dump knew of a file that is external in the images.
    pub fn unreachable(&self, file: &OpenFile) -> Option<&ManifestFile> {
        let name = file
            .path
            .as_path()
            .strip_prefix("/")
            .ok()?
            .to_str()
            .filter(|_| file.external)?;
        self.manifest
            .as_ref()?
            .unreachable
            .iter()
            .find(|known| known.key() == name)
    }

    /// Who holds an open file.
    pub fn holders_of(&self, id: FileId) -> &[Holder] {
        self.holders.get(&id).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_mount_is_known_by_its_controllers() {
        let [v2, cpu, systemd] =
            ["", "cpu,cpuacct", "name=systemd"].map(|name| Hierarchy(name.into()));
        let known = [v2, cpu, systemd];
        assert_eq!(
            Hierarchy::of_v1_mount("rw,cpu,cpuacct", &known),
            Some(&known[1])
        );
        assert_eq!(
            Hierarchy::of_v1_mount("rw,xattr,name=systemd", &known),
            Some(&known[2])
        );
        assert_eq!(Hierarchy::of_v1_mount("rw,memory", &known), None);
    }
}
