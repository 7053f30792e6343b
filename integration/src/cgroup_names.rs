//! How kubelet and runtimes name the cgroups of a pod: the spellings of the two cgroup drivers.

use crate::pod::Qos;

/// Who names a pod's cgroups, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The kubelet: `/kubepods/burstable/pod<uid>/<container>`.
    Cgroupfs,
    /// systemd: `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<container>.scope`.
    Systemd,
}

impl Driver {
    /// The cgroup of a quality of service, below the node's root.
    #[must_use]
    pub fn qos(self, qos: Qos) -> String {
        match (self, qos.class()) {
            (Self::Cgroupfs, None) => "/kubepods".to_owned(),
            (Self::Cgroupfs, Some(class)) => format!("/kubepods/{class}"),
            (Self::Systemd, None) => "/kubepods.slice".to_owned(),
            (Self::Systemd, Some(class)) => format!("/kubepods.slice/kubepods-{class}.slice"),
        }
    }

    /// The cgroup of a pod, below the node's root.
    #[must_use]
    pub fn pod(self, qos: Qos, uid: &str) -> String {
        match self {
            Self::Cgroupfs => format!("{}/pod{uid}", self.qos(qos)),
            Self::Systemd => format!("{}/{}", self.qos(qos), slice(qos, uid)),
        }
    }

    /// The cgroup of a container, below the node's root.
    #[must_use]
    pub fn container(self, qos: Qos, uid: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs => format!("{}/{id}", self.pod(qos, uid)),
            Self::Systemd => format!("{}/cri-containerd-{id}.scope", self.pod(qos, uid)),
        }
    }
}

/// `linux.cgroupsPath` for a runtime that lets systemd make cgroups: slice, prefix and name of the scope.
#[must_use]
pub fn systemd_path(qos: Qos, uid: &str, id: &str) -> String {
    format!("{}:cri-containerd:{id}", slice(qos, uid))
}

/// The name of a pod's slice: a dash separates levels, so the uid has none (kubelet, `pkg/kubelet/cm/cgroup_manager_linux.go`).
fn slice(qos: Qos, uid: &str) -> String {
    let uid = uid.replace('-', "_");
    match qos.class() {
        None => format!("kubepods-pod{uid}.slice"),
        Some(class) => format!("kubepods-{class}-pod{uid}.slice"),
    }
}
