//! Which cgroup of the old pod corresponds to which of the new one.
//!
//! Three levels move with a pod: its container's cgroup, the pod's and, when the two pods are in different QoS classes,
//! the class's. All above is common to both. A path is mapped by the longest level it lies below.

use std::path::Path;

use crate::finding::Rule;
use crate::ids::CgroupPath;
use crate::policy::Maps;

/// The levels of one container's cgroup path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Levels {
    container: CgroupPath,
    /// What is directly below the pod, where the kubelet's names tell: the container's cgroup or, where the runtime puts the
    /// tasks one level deeper (crun with the systemd driver: `<scope>/container`), the one it was given for the container.
    given: Option<CgroupPath>,
    pod: Option<CgroupPath>,
    qos: Option<CgroupPath>,
}

impl Levels {
    /// Finds the levels by the names the kubelet gives: `…/kubepods/<qos>/pod<uid>/<container>` (cgroupfs driver) or
    /// `…/kubepods-<qos>.slice/kubepods-<qos>-pod<uid>.slice/<runtime>-<container>.scope` (systemd driver). A guaranteed
    /// pod has no QoS level.
    fn of(container: &CgroupPath) -> Self {
        let mut pod = None;
        let mut given = None;
        let mut below = container.clone();
        while let Some(path) = below.parent() {
            if is_pod(&path.name()) {
                given = Some(below);
                pod = Some(path);
                break;
            }
            below = path;
        }
        // Without the kubelet's names (podman pods, plain runc) the directory the container is in stands for the pod.
        let named = pod.is_some();
        let pod = pod.or_else(|| container.parent().filter(|parent| !parent.is_root()));
        let qos = pod
            .as_ref()
            .filter(|_| named)
            .and_then(CgroupPath::parent)
            .filter(|parent| is_qos(&parent.name()));
        Self {
            container: container.clone(),
            given,
            pod,
            qos,
        }
    }
}

fn is_pod(name: &str) -> bool {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice
            .split_once("-pod")
            .filter(|(head, _)| head.starts_with("kubepods"))
            .map(|(_, uid)| uid),
        None => name.strip_prefix("pod"),
    };
    uid.is_some_and(|uid| {
        !uid.is_empty()
            && uid
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    })
}

fn is_qos(name: &str) -> bool {
    matches!(
        name,
        "burstable" | "besteffort" | "kubepods-burstable.slice" | "kubepods-besteffort.slice"
    )
}

/// Maps cgroup paths of one hierarchy from the old pod to the new one.
#[derive(Debug, Clone)]
pub(super) struct CgroupMap {
    /// Old, new and rule; longest old path first.
    pairs: Vec<(CgroupPath, CgroupPath, Rule)>,
    /// What wins over them.
    explicit: Maps,
}

impl CgroupMap {
    /// The map for a container that was in `old` and goes to `new`.
    pub(super) fn new(old: &CgroupPath, new: &CgroupPath) -> Self {
        let mut pairs = Vec::new();
        // A container in the root of a hierarchy has no place of its own there, so there is nothing that moves.
        if !old.is_root() {
            let (from, to) = (Levels::of(old), Levels::of(new));
            pairs.push((from.container, to.container, Rule::CgroupContainer));
            if let (Some(from), Some(to)) = (from.given, to.given) {
                pairs.push((from, to, Rule::CgroupContainer));
            }
            if let (Some(from_pod), Some(to_pod)) = (from.pod, to.pod) {
                let to_parent = to_pod.parent();
                pairs.push((from_pod, to_pod, Rule::CgroupPod));
                if let (Some(from_qos), Some(to_qos)) = (from.qos, to.qos.or(to_parent)) {
                    pairs.push((from_qos, to_qos, Rule::CgroupQos));
                }
            }
        }
        Self {
            pairs,
            explicit: Maps::default(),
        }
    }

    /// The same with explicit maps, which win.
    pub(super) fn explicit(mut self, maps: &Maps) -> Self {
        self.explicit.clone_from(maps);
        self
    }

    /// The map for what was at the root of a cgroup namespace: all that could be seen there was its own, and goes to `new`.
    pub(super) fn of_namespace(new: &CgroupPath) -> Self {
        let root = CgroupPath::new("/");
        Self {
            pairs: vec![(root, new.clone(), Rule::CgroupContainer)],
            explicit: Maps::default(),
        }
    }

    /// The new path of `old` and the rule that gave it. What is above the levels stays.
    pub(super) fn map(&self, old: &CgroupPath) -> (CgroupPath, Rule) {
        if let Some((new, _)) = self.explicit.cgroup(old) {
            return (new, Rule::Map);
        }
        self.pairs
            .iter()
            .find_map(|(from, to, rule)| old.strip(from).map(|rest: &Path| (to.join(rest), *rule)))
            .unwrap_or_else(|| (old.clone(), Rule::CgroupShared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(old: &str, new: &str, path: &str) -> (String, Rule) {
        let (path, rule) = CgroupMap::new(&CgroupPath::new(old), &CgroupPath::new(new))
            .map(&CgroupPath::new(path));
        (path.to_string(), rule)
    }

    const OLD: &str = "/kubepods/burstable/pod1b2c-3d/aaa";
    const NEW: &str = "/kubepods/besteffort/pod9f8e-7d/bbb";

    #[test]
    fn each_level_follows_its_own() {
        assert_eq!(
            map(OLD, NEW, "/kubepods/burstable/pod1b2c-3d/aaa/cpu.max"),
            (format!("{NEW}/cpu.max"), Rule::CgroupContainer)
        );
        assert_eq!(
            map(OLD, NEW, "/kubepods/burstable/pod1b2c-3d/memory.max"),
            (
                "/kubepods/besteffort/pod9f8e-7d/memory.max".into(),
                Rule::CgroupPod
            )
        );
        assert_eq!(
            map(OLD, NEW, "/kubepods/burstable/cpu.stat"),
            ("/kubepods/besteffort/cpu.stat".into(), Rule::CgroupQos)
        );
        assert_eq!(
            map(OLD, NEW, "/kubepods/cpu.stat"),
            ("/kubepods/cpu.stat".into(), Rule::CgroupShared)
        );
        assert_eq!(
            map(OLD, NEW, "/system.slice"),
            ("/system.slice".into(), Rule::CgroupShared)
        );
    }

    #[test]
    fn a_guaranteed_pod_has_no_qos_level() {
        assert_eq!(
            map(OLD, "/kubepods/pod9f8e/bbb", "/kubepods/burstable/cpu.stat"),
            ("/kubepods/cpu.stat".into(), Rule::CgroupQos)
        );
        assert_eq!(
            map("/kubepods/pod1b2c/aaa", NEW, "/kubepods/cpu.stat"),
            ("/kubepods/cpu.stat".into(), Rule::CgroupShared)
        );
    }

    #[test]
    fn systemd_spelling_is_understood() {
        let old = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b2c_3d.slice/cri-containerd-aaa.scope";
        let new = "/kubepods.slice/kubepods-pod9f8e_7d.slice/cri-containerd-bbb.scope";
        assert_eq!(
            map(old, new, &format!("{old}/cpu.max")),
            (format!("{new}/cpu.max"), Rule::CgroupContainer)
        );
        assert_eq!(
            map(
                old,
                new,
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b2c_3d.slice/cpu.max"
            ),
            (
                "/kubepods.slice/kubepods-pod9f8e_7d.slice/cpu.max".into(),
                Rule::CgroupPod
            )
        );
        assert_eq!(
            map(old, new, "/kubepods.slice/kubepods-burstable.slice/cpu.max"),
            ("/kubepods.slice/cpu.max".into(), Rule::CgroupQos)
        );
    }

    #[test]
    fn a_scope_whose_tasks_are_one_level_deeper_moves_as_well() {
        let scope = |pod: &str, id: &str| {
            format!("/kubepods.slice/kubepods-pod{pod}.slice/cri-containerd-{id}.scope")
        };
        let (old, new) = (scope("1b2c", "aaa"), scope("9f8e", "bbb"));
        let [old_tasks, new_tasks] = [&old, &new].map(|scope| format!("{scope}/container"));
        // From crun to crun, to runc and from runc.
        for (from, to) in [
            (&old_tasks, &new_tasks),
            (&old_tasks, &new),
            (&old, &new_tasks),
        ] {
            let (path, rule) = map(from, to, &format!("{from}/cpu.max"));
            assert_eq!(
                (path, rule),
                (format!("{to}/cpu.max"), Rule::CgroupContainer)
            );
        }
        assert_eq!(
            map(&old_tasks, &new_tasks, &format!("{old}/cpu.max")),
            (format!("{new}/cpu.max"), Rule::CgroupContainer)
        );
    }

    #[test]
    fn sub_cgroups_of_the_container_come_along() {
        assert_eq!(
            map(OLD, NEW, &format!("{OLD}/init.scope/cpu.stat")).0,
            format!("{NEW}/init.scope/cpu.stat")
        );
    }

    #[test]
    fn without_kubelet_names_the_parent_is_the_pod() {
        assert_eq!(
            map("/demo/a/c1", "/demo/b/c2", "/demo/a/cpu.stat"),
            ("/demo/b/cpu.stat".into(), Rule::CgroupPod)
        );
        assert_eq!(
            map("/c1", "/c2", "/cpu.stat"),
            ("/cpu.stat".into(), Rule::CgroupShared)
        );
    }

    #[test]
    fn a_container_in_the_root_moves_nothing() {
        assert_eq!(
            map("/", NEW, "/cpu.stat"),
            ("/cpu.stat".into(), Rule::CgroupShared)
        );
    }
}
