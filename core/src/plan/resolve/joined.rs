//! A mount of the checkpoint, joined with what the new container has in its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Lookup;
use super::managed::is_managed;
use crate::ids::{CgroupPath, HostPath};
use crate::plan::cgroup_map::CgroupMap;
use crate::source::{FsType, Hierarchy, Mount, Source};
use crate::target::Target;

/// The cgroup that a mount shows, before and after.
pub(in crate::plan) struct CgroupView {
    pub(in crate::plan) hierarchy: Hierarchy,
    pub(super) old_root: CgroupPath,
    /// `None` when the new container has no such mount.
    pub(in crate::plan) new_root: Option<CgroupPath>,
}

/// One mount of the checkpoint, joined with what the new container has at the same mount point.
pub(in crate::plan) struct Joined<'a> {
    pub(in crate::plan) mount: &'a Mount,
    /// `None` for a mount CRIU makes itself, `Some(None)` when the new pod has no source for it.
    pub(in crate::plan) external: Option<Option<HostPath>>,
    /// Another with the same key is mounted over it.
    pub(in crate::plan) below: bool,
    /// Runtime or kubelet write what is on it for each pod.
    pub(super) managed: bool,
    /// Its source is what an explicit map says, with the directory of the node that a pod's must not leave.
    pub(in crate::plan) mapped: Option<Option<HostPath>>,
    pub(in crate::plan) cgroup: Option<CgroupView>,
}

impl Joined<'_> {
    /// Where to look for something on the mount, when it has a source.
    pub(in crate::plan) fn lookup(&self, rest: &Path) -> Option<Lookup> {
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

/// Joins one mount with what the new container has at its mount point.
pub(super) fn join<'a>(
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
