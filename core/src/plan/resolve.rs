//! What an open file of the old container corresponds to on the node it is restored on.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::cgroup_map::CgroupMap;
use super::mapped::Mapped;
use super::stacked;
use super::tree::Tree;
use crate::finding::Rule;
use crate::ids::{CgroupPath, ContainerPath, HostPath, MountId};
use crate::source::manifest::CgroupFile;
use crate::source::{FsType, Hierarchy, ManifestFile, Mount, OpenFile, Source};
use crate::target::Target;

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

/// The cgroup that a mount shows, before and after.
pub(super) struct CgroupView {
    pub(super) hierarchy: Hierarchy,
    old_root: CgroupPath,
    /// `None` when the new container has no such mount.
    pub(super) new_root: Option<CgroupPath>,
}

/// One mount of the checkpoint, joined with what the new container has at the same mount point.
pub(super) struct Joined<'a> {
    pub(super) mount: &'a Mount,
    /// `None` for a mount CRIU makes itself, `Some(None)` when the new pod has no source for it.
    pub(super) external: Option<Option<HostPath>>,
    /// Another with the same key is mounted over it.
    pub(super) below: bool,
    /// Runtime or kubelet write what is on it for each pod.
    managed: bool,
    /// Its source is what an explicit map says, with the directory of the node that a pod's must not leave.
    pub(super) mapped: Option<Option<HostPath>>,
    pub(super) cgroup: Option<CgroupView>,
}

impl Joined<'_> {
    /// Where to look for something on the mount, when it has a source.
    pub(super) fn lookup(&self, rest: &Path) -> Option<Lookup> {
        let source = self.external.as_ref()?.as_ref()?;
        let limit = self.mapped.as_ref().and_then(Option::as_ref);
        let limited = limit.and_then(|limit| {
            // Components, because joining nothing would leave a slash behind.
            let below = source.strip(limit)?.components().chain(rest.components());
            Some(Lookup::new(limit, &below.collect::<PathBuf>()))
        });
        Some(limited.unwrap_or_else(|| Lookup::new(source, rest)))
    }
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

/// Mount points whose content the runtime or the kubelet writes anew for each container.
pub(super) const MANAGED: [&str; 6] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/termination-log",
    "/run/.containerenv",
    "/run/secrets",
];

/// Directories below `…/pods/<uid>/volumes/` whose content the kubelet writes.
const MANAGED_VOLUMES: [&str; 4] = [
    "kubernetes.io~projected",
    "kubernetes.io~secret",
    "kubernetes.io~configmap",
    "kubernetes.io~downward-api",
];

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

/// Joins one mount with what the new container has at its mount point.
fn join<'a>(
    source: &Source,
    target: &Target,
    old_cgroups: &BTreeMap<Hierarchy, CgroupPath>,
    maps: &BTreeMap<Hierarchy, CgroupMap>,
    mount: &'a Mount,
    external: Option<Option<HostPath>>,
) -> Joined<'a> {
    let said = target.maps.mount(Some(mount.id), &mount.mount_point);
    let said = said.filter(|_| mount.ext_key.is_some());
    let mapped = said.map(|(_, said)| said.root.clone());
    let external = match said {
        Some((source, _)) => Some(Some(source.clone())),
        None => external,
    };
    let Some((hierarchy, old_root)) = old_cgroup_root(source, old_cgroups, mount) else {
        return Joined {
            mount,
            managed: external
                .as_ref()
                .and_then(Option::as_ref)
                .is_some_and(|source| is_managed(&mount.mount_point, source)),
            external,
            mapped,
            below: false,
            cgroup: None,
        };
    };
    let moved = maps
        .get(&hierarchy)
        .map_or_else(|| old_root.clone(), |map| map.map(&old_root).0);
    // The hierarchy of a mount that is gone still says what its files were.
    let gone = external == Some(None);
    let (external, new_root) = match external {
        // runc (1.1 and 1.3) gives CRIU the cgroups of its own process as sources for the v1 hierarchies, so that the
        // container would see those of the service that runs it. A mount that the runtime made by itself shows what it
        // showed before; one that the spec gave a source for shows that.
        Some(Some(given)) if mapped.is_none() && target.runtime_made_cgroup(&mount.mount_point) => {
            let right = target
                .cgroup_path_on_host(&hierarchy, &moved)
                .unwrap_or(given);
            (Some(Some(right)), Some(moved))
        }
        Some(Some(given)) => {
            let shown = target
                .cgroup_at(&given)
                .filter(|(found, _)| *found == hierarchy);
            (Some(Some(given)), shown.map(|(_, root)| root))
        }
        Some(None) => (Some(None), None),
        None if source.private_cgroup_namespace => (None, target.cgroups.get(&hierarchy).cloned()),
        None => (None, Some(old_root.clone())),
    };
    let cgroup = (gone || new_root.is_some()).then_some(CgroupView {
        hierarchy,
        old_root,
        new_root,
    });
    Joined {
        mount,
        external,
        below: false,
        managed: false,
        mapped,
        cgroup,
    }
}

/// Which cgroup of which hierarchy a cgroup mount showed in the old container; `None` for other mounts.
fn old_cgroup_root(
    source: &Source,
    old_cgroups: &BTreeMap<Hierarchy, CgroupPath>,
    mount: &Mount,
) -> Option<(Hierarchy, CgroupPath)> {
    let hierarchy = match mount.fs {
        FsType::Cgroup2 => Hierarchy::v2(),
        FsType::Cgroup => Hierarchy::of_v1_mount(&mount.options, old_cgroups.keys())?.clone(),
        FsType::Overlay | FsType::Other(_) => return None,
    };
    // The real root of the mount is only in the manifest: CRIU writes `/` for a mount of the container's own cgroup
    // namespace (criu/filesystems.c, cgroup_parse), and there the real one is the namespace's root.
    let recorded = source.manifest.as_ref().and_then(|manifest| {
        let mut mounts = manifest.mounts.iter();
        mounts
            .find(|recorded| recorded.mnt_id == mount.id)
            .map(|recorded| CgroupPath::new(&recorded.root))
            .filter(|root| !root.climbs())
    });
    let root = recorded.unwrap_or_else(|| match old_cgroups.get(&hierarchy) {
        Some(container) if mount.root.is_root() && source.private_cgroup_namespace => {
            container.clone()
        }
        _ => CgroupPath::new(mount.root.as_path()),
    });
    Some((hierarchy, root))
}

fn is_managed(mount_point: &ContainerPath, source: &HostPath) -> bool {
    let source = source.to_string();
    MANAGED
        .iter()
        .any(|managed| mount_point.as_path() == Path::new(managed))
        || MANAGED_VOLUMES
            .iter()
            .any(|volume| source.contains(&format!("/volumes/{volume}/")))
        || is_termination_log(&source)
        || is_of_containers_storage(&source)
}

/// What podman and CRI-O write for a container into its `…/overlay-containers/<id>/userdata` (containers/storage), wherever
/// the container has it: `hosts`, `resolv.conf`, `hostname`, `.containerenv`, `run/secrets`, `secrets`.
fn is_of_containers_storage(source: &str) -> bool {
    const WRITTEN: [&str; 6] = [
        "hosts",
        "resolv.conf",
        "hostname",
        ".containerenv",
        "secrets",
        "run",
    ];
    let storage = source.split_once("-containers/");
    let file = storage.and_then(|(_, rest)| rest.split_once("/userdata/"));
    file.is_some_and(|(id, file)| {
        let first = file.split('/').next().unwrap_or_default();
        !id.contains('/') && WRITTEN.contains(&first)
    })
}

/// The kubelet writes each version of a projected volume into a directory named after the time, `..2024_05_06_07_08_09.1`,
/// and lets the link `..data` lead to the newest (`pkg/volume/util/atomic_writer.go`). A name in the image has the
/// directory of the old pod; in the new one the link leads to the same file.
pub(super) fn current_version(rest: &Path) -> PathBuf {
    let mut parts = rest.components();
    let version = parts.next().filter(|first| {
        let name = first.as_os_str().to_string_lossy();
        name.strip_prefix("..")
            .is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()))
    });
    match version {
        Some(_) => std::iter::once(Component::Normal("..data".as_ref()))
            .chain(parts)
            .collect(),
        None => rest.to_path_buf(),
    }
}

/// The kubelet's `…/pods/<uid>/containers/<name>/<8 hexadecimal digits>`, whatever `terminationMessagePath` says.
fn is_termination_log(source: &str) -> bool {
    let Some((_, pod)) = source.split_once("/pods/") else {
        return false;
    };
    let parts: Vec<&str> = pod.split('/').collect();
    matches!(parts[..], [_, "containers", _, file] if file.len() == 8 && file.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_a_projected_volume_becomes_the_newest() {
        let current = |path: &str| current_version(Path::new(path)).display().to_string();
        assert_eq!(
            current("..2024_05_06_07_08_09.123456/token"),
            "..data/token"
        );
        assert_eq!(current("..2024_05_06_07_08_09.123456"), "..data");
        for path in ["token", "..data/token", "dir/..2024_05/x", "", "..x/y"] {
            assert_eq!(current(path), path);
        }
    }

    #[test]
    fn the_kubelets_files_are_known_by_where_they_come_from() {
        let etc = ContainerPath::new("/etc/hosts");
        let data = ContainerPath::new("/data");
        assert!(is_managed(&etc, &HostPath::new("/anything")));
        assert!(is_managed(
            &data,
            &HostPath::new("/var/lib/kubelet/pods/u/containers/web/0a1b2c3d")
        ));
        assert!(is_managed(
            &data,
            &HostPath::new("/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/key")
        ));
        for written in ["hosts", "run/secrets", "secrets/key"] {
            let userdata = "/run/containers/storage/overlay-containers/0a1b/userdata";
            let source = HostPath::new(format!("{userdata}/{written}"));
            assert!(is_managed(&data, &source), "{source}");
        }
        for other in [
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/data",
            "/run/containers/storage/overlay-containers/0a1b/userdata/shm",
            "/srv/userdata/hosts",
        ] {
            assert!(!is_managed(&data, &HostPath::new(other)), "{other}");
        }
    }
}
