//! Where explicit maps put files of the checkpoint.

use super::explicit;
use super::resolve::{Joined, Lookup, Resolved, Resolver};
use crate::ids::{ContainerPath, HostPath};
use crate::policy::maps::Place;
use crate::source::OpenFile;

/// Where an explicit map puts a file in the new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) path: ContainerPath,
    /// Where that is on the node; `None` on the root file system and on what CRIU mounts itself.
    pub(super) lookup: Option<Lookup>,
    /// The map is about where things are, not about this very file: its size is compared.
    pub(super) checked: bool,
    /// On a mount that is not there yet when files are opened.
    pub(super) too_late: bool,
}

impl Resolver<'_> {
    /// Whether an explicit map says where a file is.
    pub(super) fn is_mapped(&self, file: &OpenFile) -> bool {
        self.mapped_file(file).is_some()
    }

    /// What an explicit map says of a file.
    pub(super) fn mapped_file(&self, file: &OpenFile) -> Option<Resolved> {
        let maps = &self.target.maps;
        if maps.is_empty() {
            return None;
        }
        let known = self.source.unreachable(file);
        let path = known.map_or(&file.path, |known| &known.path);
        let inode = known.map(|known| (known.mnt_id, known.ino));
        match maps.file(inode, path) {
            Some((Place::Node(place), said)) => Some(Resolved::MappedOnNode {
                lookup: explicit::lookup(said, place),
            }),
            Some((Place::Container(place), _)) => Some(Resolved::Mapped(self.at(place, false))),
            None if file.external => None,
            None => self.mapped_path(path).map(Resolved::Mapped),
        }
    }

    /// Where an explicit map of paths puts a path of the container.
    pub(super) fn mapped_path(&self, path: &ContainerPath) -> Option<Mapped> {
        let (new, _) = self.target.maps.path(path)?;
        Some(self.at(&new, true))
    }

    /// A path of the new container.
    fn at(&self, path: &ContainerPath, checked: bool) -> Mapped {
        let relative = path.as_path().strip_prefix("/").unwrap_or(path.as_path());
        let above = self
            .mounts
            .values()
            .filter(|joined| path.strip(&joined.mount.mount_point).is_some());
        let joined = above.max_by_key(|joined| joined.mount.mount_point.depth());
        let lookup = match (&self.tree, joined) {
            (Some(_), _) => Some(Lookup::new(&HostPath::new("/"), relative)),
            (None, None) => None,
            (None, Some(joined)) => {
                let rest = path.strip(&joined.mount.mount_point);
                match (rest, &joined.cgroup) {
                    (Some(rest), Some(view)) => view.new_root.as_ref().and_then(|root| {
                        self.target.cgroup_lookup(&view.hierarchy, &root.join(rest))
                    }),
                    (Some(rest), None) => joined.lookup(rest),
                    (None, _) => None,
                }
            }
        };
        let depth = joined.map_or(0, |joined| joined.mount.mount_point.depth());
        let late = self.attached_later(path, depth);
        Mapped {
            path: path.clone(),
            too_late: late.is_some(),
            lookup: late.or(lookup),
            checked,
        }
    }

    /// Where to look for a path that is on a mount only the new pod has, which is attached after files were opened; `depth`
    /// is that of the mount below it.
    fn attached_later(&self, path: &ContainerPath, depth: usize) -> Option<Lookup> {
        let added = self.target.spec_mounts.iter().filter(|spec| {
            let known = |joined: &Joined<'_>| joined.mount.mount_point == spec.destination;
            spec.bind() && spec.destination.depth() > depth && !self.mounts.values().any(known)
        });
        let (spec, rest) = added
            .filter_map(|spec| Some((spec, path.strip(&spec.destination)?)))
            .max_by_key(|(spec, _)| spec.destination.depth())?;
        let mut given = self.target.mounts.iter();
        let given = given.rfind(|given| ContainerPath::new(&given.key) == spec.destination)?;
        Some(Lookup::new(&given.source, rest))
    }
}
