//! What a path of a process tree without a container corresponds to.
//!
//! Such a tree shares the mount namespace of the criu that dumps it and of the one that restores it: the images have no
//! mounts, and a path is opened as it stands. So the mount that a path was on is found in what the dump recorded (or, in
//! a checkpoint without `source.json`, among the mounts here), and the place of a cgroup is looked for among the cgroup
//! mounts here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::cgroup_map::CgroupMap;
use super::resolve::{Lookup, MANAGED, Resolved, current_version};
use crate::finding::Rule;
use crate::ids::{CgroupPath, ContainerPath, HostPath, MountId};
use crate::source::manifest::ManifestMount;
use crate::source::{Hierarchy, Source};
use crate::target::{CgroupMount, Target};

/// File systems whose files are the kernel's, and of which CRIU alone knows what a path will mean.
const KERNEL: [&str; 12] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "debugfs",
    "devpts",
    "efivarfs",
    "mqueue",
    "nsfs",
    "proc",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// A cgroup file system where the tree was.
struct OldCgroup {
    mount_point: ContainerPath,
    hierarchy: Hierarchy,
    root: CgroupPath,
}

/// Any other mount where the tree was.
struct OldMount {
    mount_point: ContainerPath,
    kernel: bool,
}

enum Old {
    Cgroup(OldCgroup),
    Mount(OldMount),
}

impl Old {
    fn mount_point(&self) -> &ContainerPath {
        match self {
            Self::Cgroup(cgroup) => &cgroup.mount_point,
            Self::Mount(mount) => &mount.mount_point,
        }
    }
}

/// The mounts that the tree saw, and what is here instead.
pub(super) struct Tree<'a> {
    old: Vec<Old>,
    ids: BTreeSet<MountId>,
    source: &'a Source,
    target: &'a Target,
}

impl<'a> Tree<'a> {
    /// `None` when the tree has mounts of its own.
    pub(super) fn of(source: &'a Source, target: &'a Target) -> Option<Self> {
        if !source.shares_mounts {
            return None;
        }
        let recorded = source.manifest.as_ref().map(|manifest| &manifest.mounts);
        let hierarchies: Vec<Hierarchy> = source.container_cgroups().into_keys().collect();
        let old = match recorded {
            Some(mounts) => mounts
                .iter()
                .map(|mount| recorded_mount(mount, &hierarchies))
                .collect(),
            None => mounts_here(target),
        };
        let ids = recorded.into_iter().flatten().map(|mount| mount.mnt_id);
        Some(Self {
            old,
            ids: ids.collect(),
            source,
            target,
        })
    }

    /// Whether the tree could see a mount with this id.
    pub(super) fn saw(&self, id: MountId) -> bool {
        self.ids.contains(&id)
    }

    /// What `path` corresponds to.
    pub(super) fn resolve(
        &self,
        path: &ContainerPath,
        maps: &BTreeMap<Hierarchy, CgroupMap>,
    ) -> Resolved {
        // Of several at one place, the last hides the others; `max_by_key` takes the last.
        let above = self
            .old
            .iter()
            .filter_map(|old| Some((old, path.strip(old.mount_point())?)))
            .max_by_key(|(old, _)| old.mount_point().depth());
        match above {
            Some((Old::Cgroup(mount), rest)) => {
                self.resolve_cgroup(mount, rest, maps.get(&mount.hierarchy))
            }
            Some((Old::Mount(mount), rest)) if !mount.kernel => {
                self.resolve_file(mount, path, rest)
            }
            _ => Resolved::Same,
        }
    }

    fn resolve_file(&self, mount: &OldMount, path: &ContainerPath, rest: &Path) -> Resolved {
        let whole = |path: &ContainerPath| {
            let relative = path.as_path().strip_prefix("/").unwrap_or(path.as_path());
            Lookup::new(&HostPath::new("/"), relative)
        };
        let current = current_version(rest);
        let here = self
            .target
            .mount_points
            .contains(&HostPath::new(path.as_path()));
        let managed = MANAGED.contains(&path.to_string().as_str())
            && (here || mount.mount_point == *path)
            || current != rest;
        if managed {
            let path = mount.mount_point.join(current);
            let lookup = whole(&path);
            return Resolved::Managed { path, lookup };
        }
        // What is in the root file system is CRIU's to compare; what was on another mount may be missing here altogether.
        if mount.mount_point.as_path() == Path::new("/") {
            return Resolved::Same;
        }
        Resolved::Volume {
            lookup: whole(path),
        }
    }

    fn resolve_cgroup(&self, mount: &OldCgroup, rest: &Path, map: Option<&CgroupMap>) -> Resolved {
        let hierarchy = &mount.hierarchy;
        let old = mount.root.join(rest);
        let (new, rule) = match map {
            Some(map) => map.map(&old),
            None => (old.clone(), Rule::CgroupShared),
        };
        // A path from the root of a cgroup namespace and one from the real root are not the same cgroup.
        let comparable = rule != Rule::CgroupShared
            || self
                .source
                .namespace_root(hierarchy)
                .is_none_or(|namespaced| {
                    namespaced == self.target.namespace_roots.contains(hierarchy)
                });
        let place = self
            .place(hierarchy, &mount.mount_point, &new)
            .filter(|_| comparable);
        Resolved::Cgroup {
            old,
            rule,
            path: place
                .as_ref()
                .map(|lookup| ContainerPath::new(lookup.path().as_path())),
            lookup: place,
            new,
        }
    }

    /// Where a cgroup or a file in one is here, at the same mount point if possible.
    fn place(
        &self,
        hierarchy: &Hierarchy,
        mount_point: &ContainerPath,
        path: &CgroupPath,
    ) -> Option<Lookup> {
        let mounts = self.target.cgroup_mounts.iter();
        let same = mounts
            .filter(|mount| mount.hierarchy == *hierarchy)
            .find(|mount| mount.mount_point.as_path() == mount_point.as_path())
            .and_then(|mount| Some(Lookup::new(&mount.mount_point, path.strip(&mount.root)?)));
        same.or_else(|| self.target.cgroup_lookup(hierarchy, path))
    }
}

fn recorded_mount(mount: &ManifestMount, hierarchies: &[Hierarchy]) -> Old {
    let hierarchy = match mount.fs_type.as_str() {
        "cgroup2" => Some(Hierarchy::v2()),
        "cgroup" => Hierarchy::of_v1_mount(&mount.options, hierarchies).cloned(),
        _ => None,
    };
    let mount_point = mount.mount_point.clone();
    let root = CgroupPath::new(&mount.root);
    match hierarchy {
        // One from above the cgroup namespace of the dump shows paths that cannot be told.
        Some(hierarchy) if !root.climbs() => Old::Cgroup(OldCgroup {
            mount_point,
            hierarchy,
            root,
        }),
        _ => Old::Mount(OldMount {
            mount_point,
            kernel: mount.fs_type.starts_with("cgroup") || KERNEL.contains(&mount.fs_type.as_str()),
        }),
    }
}

/// The best guess for a tree of which nothing was recorded: cgroups were mounted where they are here.
fn mounts_here(target: &Target) -> Vec<Old> {
    let cgroup = |mount: &CgroupMount| {
        Old::Cgroup(OldCgroup {
            mount_point: ContainerPath::new(mount.mount_point.as_path()),
            hierarchy: mount.hierarchy.clone(),
            root: mount.root.clone(),
        })
    };
    let root = Old::Mount(OldMount {
        mount_point: ContainerPath::new("/"),
        kernel: false,
    });
    let cgroups = target.cgroup_mounts.iter().map(cgroup);
    std::iter::once(root).chain(cgroups).collect()
}
