//! Cgroups below the container's that the checkpoint lists: those of its tasks, and those that nobody was in.

use std::collections::BTreeMap;

use criu_image::views::{CgControllerEntry, CgroupDirEntry};
use serde::{Deserialize, Serialize};

use super::Hierarchy;
use crate::ids::CgroupPath;

/// Who owned a cgroup's directory, and who could do what there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Permission bits of its mode.
    pub mode: u32,
    /// User, as CRIU saw it.
    pub uid: u32,
    /// Group, as CRIU saw it.
    pub gid: u32,
}

/// A cgroup that existed at the dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupDir {
    /// Its path from the root of the cgroup namespace in which CRIU ran.
    pub path: CgroupPath,
    /// Who owned it; `None` when CRIU did not record it.
    pub owner: Option<Owner>,
}

/// The cgroups in each hierarchy, outer ones first. The name of an outermost one is its path without the leading slash, that
/// of one in it what is added (`criu/cgroup.c`, `dump_cg_dirs`).
pub(super) fn read(controllers: Vec<CgControllerEntry>) -> BTreeMap<Hierarchy, Vec<CgroupDir>> {
    let mut all = BTreeMap::new();
    for controller in controllers {
        let names: Vec<String> = controller.cnames.iter().map(ToString::to_string).collect();
        let found: &mut Vec<CgroupDir> = all.entry(Hierarchy(names.join(","))).or_default();
        let root = CgroupPath::new("/");
        let mut waiting: Vec<_> = controller
            .dirs
            .into_iter()
            .map(|dir| (root.clone(), dir))
            .collect();
        while let Some((parent, entry)) = waiting.pop() {
            let CgroupDirEntry {
                dir_name,
                children,
                dir_perms,
                ..
            } = entry;
            let path = parent.join(dir_name.to_string().trim_start_matches('/'));
            waiting.extend(children.into_iter().map(|child| (path.clone(), child)));
            found.push(CgroupDir {
                owner: dir_perms.map(|perms| Owner {
                    mode: perms.mode & 0o7777,
                    uid: perms.uid,
                    gid: perms.gid,
                }),
                path,
            });
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_from_the_outermost() {
        let dir = |name: &str, children| CgroupDirEntry {
            dir_name: name.into(),
            children,
            ..CgroupDirEntry::default()
        };
        let controller = CgControllerEntry {
            cnames: vec!["cpu".into(), "cpuacct".into()],
            dirs: vec![dir(
                "pods/x",
                vec![dir("a", vec![dir("b", Vec::new())]), dir("c", Vec::new())],
            )],
            ..CgControllerEntry::default()
        };
        let read = read(vec![controller]);
        let paths: Vec<String> = read[&Hierarchy("cpu,cpuacct".into())]
            .iter()
            .map(|dir| dir.path.to_string())
            .collect();
        assert_eq!(paths, ["/pods/x", "/pods/x/a", "/pods/x/a/b", "/pods/x/c"]);
    }
}
