//! What an open file of the old container corresponds to on the node it is restored on.

mod joined;
mod managed;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use self::joined::{CgroupView, join};
use super::cgroup_map::CgroupMap;
use super::mapped::Mapped;
use super::stacked;
use super::tree::Tree;
use crate::finding::Rule;
use crate::ids::{CgroupPath, ContainerPath, HostPath, MountId};
use crate::source::manifest::CgroupFile;
use crate::source::{FsType, Hierarchy, ManifestFile, Mount, OpenFile, Source};
use crate::target::Target;

pub(super) use self::joined::Joined;
pub(super) use self::managed::{MANAGED, current_version};

/// A path to look up on the node: `rest` below `root`, links resolved inside `root` only (what is below may belong to a
/// pod).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lookup {
    /// A path that the runtime or the node itself named.
    pub root: HostPath,
    /// The rest, from the checkpoint.
    #[serde(serialize_with = "lossy")]
    pub rest: PathBuf,
}

/// JSON has no other text than UTF-8.
fn lossy<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

impl Lookup {
    pub(super) fn new(root: &HostPath, rest: &Path) -> Self {
        Self {
            root: root.clone(),
            rest: rest.to_path_buf(),
        }
    }

    /// The whole path, as [`Target::files`] is keyed.
    pub fn path(&self) -> HostPath {
        self.root.join(&self.rest)
    }

    /// What two are compared by: bytes, so that what is in one directory is together.
    fn key(&self) -> (&HostPath, &[u8]) {
        (&self.root, self.rest.as_os_str().as_bytes())
    }
}

impl PartialEq for Lookup {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Lookup {}

impl PartialOrd for Lookup {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lookup {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// What a file of the checkpoint corresponds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    /// A cgroup's file (or the cgroup's directory).
    Cgroup {
        old: CgroupPath,
        new: CgroupPath,
        rule: Rule,
        /// Where the new container sees it; `None` when its mount does not reach that far.
        path: Option<ContainerPath>,
        lookup: Option<Lookup>,
    },
    /// A file that runtime or kubelet write for each pod.
    Managed {
        /// Where the new container sees it.
        path: ContainerPath,
        lookup: Lookup,
    },
    /// A file on another mount whose source the runtime gives.
    Volume { lookup: Lookup },
    /// A cgroup's file (or the cgroup's directory) on a mount that the container had not got.
    ForeignCgroup {
        old: CgroupPath,
        new: CgroupPath,
        rule: Rule,
        lookup: Option<Lookup>,
    },
    /// Any other file on a mount that the container had not got.
    Foreign {
        /// Its path as the old node showed it.
        path: ContainerPath,
    },
    /// A file on a mount that the new pod has not got.
    MountGone,
    /// A file that an explicit map puts at another path of the container.
    Mapped(Mapped),
    /// A file that an explicit map has opened on the node.
    MappedOnNode { lookup: Lookup },
    /// Everything else: the root file system and what CRIU mounts itself. The path is the same in the new container.
    Same,
}

/// Joins source and target once, then answers for each file.
pub(super) struct Resolver<'a> {
    pub(super) mounts: BTreeMap<MountId, Joined<'a>>,
    maps: BTreeMap<Hierarchy, CgroupMap>,
    /// For a tree without mounts of its own.
    pub(super) tree: Option<Tree<'a>>,
    pub(super) source: &'a Source,
    pub(super) target: &'a Target,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(source: &'a Source, target: &'a Target) -> Self {
        let old = source.container_cgroups();
        let maps: BTreeMap<_, _> = old
            .iter()
            .filter_map(|(hierarchy, path)| {
                let new = target.cgroups.get(hierarchy)?;
                let map = if source.is_namespace_root(hierarchy, path) {
                    CgroupMap::of_namespace(new)
                } else {
                    CgroupMap::new(path, new)
                };
                Some((hierarchy.clone(), map.explicit(&target.maps)))
            })
            .collect();
        let mut given = stacked::sources(&source.mounts, target);
        let mounts = source
            .mounts
            .iter()
            .map(|mount| {
                let given = given.remove(&mount.id);
                let below = given.as_ref().is_some_and(|given| given.below);
                let external = given.map(|given| given.source);
                let joined = join(source, target, &old, &maps, mount, external);
                (mount.id, Joined { below, ..joined })
            })
            .collect();
        Self {
            mounts,
            maps,
            tree: Tree::of(source, target),
            source,
            target,
        }
    }

    pub(super) fn map(&self, hierarchy: &Hierarchy) -> Option<&CgroupMap> {
        self.maps.get(hierarchy)
    }

    /// The hierarchy of a cgroup file.
    pub(super) fn hierarchy_of(&self, file: &OpenFile) -> Option<Hierarchy> {
        let joined = self.mount_of(file.mount?, &file.path)?;
        joined.cgroup.as_ref().map(|view| view.hierarchy.clone())
    }

    /// Whether a file is one of a cgroup, which has a finding of its own when it is gone.
    pub(super) fn is_cgroup_file(&self, file: &OpenFile) -> bool {
        matches!(self.resolve(file), Resolved::Cgroup { .. })
    }

    /// The mount a file is really on.
    pub(super) fn mount_id_of(&self, file: &OpenFile) -> Option<MountId> {
        match self.source.unreachable(file) {
            Some(known) => Some(known.mnt_id),
            None => self
                .mount_of(file.mount?, &file.path)
                .map(|joined| joined.mount.id),
        }
    }

    /// One mount of the checkpoint.
    pub(super) fn joined(&self, id: MountId) -> Option<&Joined<'a>> {
        self.mounts.get(&id)
    }

    pub(super) fn resolve(&self, file: &OpenFile) -> Resolved {
        let name = file
            .path
            .as_path()
            .strip_prefix("/")
            .unwrap_or(file.path.as_path());
        // What is handed in by this name is looked up by it; nothing about it changes.
        if name
            .to_str()
            .is_some_and(|name| self.target.inherited.contains(name))
        {
            return Resolved::Same;
        }
        if let Some(mapped) = self.mapped_file(file) {
            return mapped;
        }
        if !file.external {
            return self.resolve_path(file.mount, &file.path);
        }
        match self.source.unreachable(file) {
            Some(known) if self.saw(known.mnt_id) => {
                self.resolve_path(Some(known.mnt_id), &known.path)
            }
            Some(known) => self.resolve_foreign(known),
            None => Resolved::Same,
        }
    }

    /// The cgroup or file in one that an open file was.
    pub(super) fn old_cgroup(&self, file: &OpenFile) -> Option<CgroupPath> {
        match self.source.unreachable(file) {
            Some(known) if !self.saw(known.mnt_id) => {
                known.cgroup.as_ref().map(|cgroup| cgroup.path.clone())
            }
            known => {
                let mount = known.map_or(file.mount, |known| Some(known.mnt_id));
                let path = known.map_or(&file.path, |known| &known.path);
                match self.resolve_path(mount, path) {
                    Resolved::Cgroup { old, .. } => Some(old),
                    _ => None,
                }
            }
        }
    }

    fn resolve_foreign(&self, known: &ManifestFile) -> Resolved {
        let of_cgroup = known.cgroup.as_ref();
        let Some(CgroupFile { hierarchy, path }) = of_cgroup.filter(|file| !file.path.climbs())
        else {
            return Resolved::Foreign {
                path: known.path.clone(),
            };
        };
        let (new, rule) = match self.maps.get(hierarchy) {
            Some(map) => map.map(path),
            None => (path.clone(), Rule::CgroupShared),
        };
        Resolved::ForeignCgroup {
            old: path.clone(),
            lookup: self.target.cgroup_lookup(hierarchy, &new),
            new,
            rule,
        }
    }

    fn saw(&self, mount: MountId) -> bool {
        match &self.tree {
            Some(tree) => tree.saw(mount),
            None => self.mounts.contains_key(&mount),
        }
    }

    /// What a path on a mount corresponds to.
    pub(super) fn resolve_path(&self, mount: Option<MountId>, path: &ContainerPath) -> Resolved {
        if let Some(tree) = &self.tree {
            return tree.resolve(path, &self.maps);
        }
        let Some(joined) = mount.and_then(|id| self.mount_of(id, path)) else {
            return Resolved::Same;
        };
        let Some(rest) = path.strip(&joined.mount.mount_point) else {
            return Resolved::Same;
        };
        if let Some(view) = &joined.cgroup {
            return self.resolve_cgroup(view, joined.mount, rest);
        }
        match &joined.external {
            None => Resolved::Same,
            Some(None) => Resolved::MountGone,
            Some(Some(source)) if joined.managed => {
                let rest = current_version(rest);
                let path = joined.mount.mount_point.join(&rest);
                Resolved::Managed {
                    path,
                    lookup: Lookup::new(source, &rest),
                }
            }
            Some(Some(source)) => Resolved::Volume {
                lookup: joined
                    .lookup(rest)
                    .unwrap_or_else(|| Lookup::new(source, rest)),
            },
        }
    }

    /// The mount a path is on. Where the image names an overlay, the deepest mount above the path counts: when device
    /// numbers do not match (a bind mount from an overlay, btrfs), CRIU writes the id of any overlay on which the path
    /// leads to the file, usually the root's (`criu/files.c`, `fixup_overlayfs`). At restore it opens by path alone.
    fn mount_of(&self, id: MountId, path: &ContainerPath) -> Option<&Joined<'a>> {
        let joined = self.mounts.get(&id)?;
        if joined.mount.fs != FsType::Overlay {
            return Some(joined);
        }
        let above = self
            .mounts
            .values()
            .filter(|joined| path.strip(&joined.mount.mount_point).is_some());
        above.max_by_key(|joined| joined.mount.mount_point.depth())
    }

    fn resolve_cgroup(&self, view: &CgroupView, mount: &Mount, rest: &Path) -> Resolved {
        let old = view.old_root.join(rest);
        let (new, rule) = match self.maps.get(&view.hierarchy) {
            Some(map) => map.map(&old),
            None => (old.clone(), Rule::CgroupShared),
        };
        let root = view.new_root.as_ref();
        let path = root
            .and_then(|root| new.strip(root))
            .map(|rest| mount.mount_point.join(rest));
        let lookup = self.target.cgroup_lookup(&view.hierarchy, &new);
        Resolved::Cgroup {
            old,
            new,
            rule,
            path,
            lookup,
        }
    }
}
