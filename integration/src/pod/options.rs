//! How pods and containers are made.

use std::fmt;

use serde_json::{Value, json};

use crate::cgroup_names::Driver;
use crate::engine::systemd_makes_cgroups;
use crate::spec::{Bind, CgroupNamespace};
/// A pod's quality of service, which decides where its cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Directly below `kubepods`.
    Guaranteed,
    /// Below `kubepods/burstable`.
    Burstable,
    /// Below `kubepods/besteffort`.
    BestEffort,
}

impl Qos {
    /// Its name in cgroups; a guaranteed pod has none.
    #[must_use]
    pub fn class(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

/// How a pod is made.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// Its name, which is also its host name.
    pub name: String,
    /// Its quality of service.
    pub qos: Qos,
    /// The address in its `/etc/hosts`.
    pub address: String,
    /// It has a network: `eth0` with that address and the IPv6 address that goes with it.
    pub network: bool,
    /// How its cgroups are named.
    pub driver: Driver,
}

impl PodOptions {
    /// A burstable pod.
    #[must_use]
    pub fn new(name: &str) -> Self {
        // Another length for another name, so that `/etc/hosts` differs in length.
        Self {
            name: name.to_owned(),
            qos: Qos::Burstable,
            address: format!("10.88.0.{}", 10 + name.len()),
            network: false,
            driver: if systemd_makes_cgroups() {
                Driver::Systemd
            } else {
                Driver::Cgroupfs
            },
        }
    }

    /// The same with a network.
    #[must_use]
    pub fn network(mut self) -> Self {
        self.network = true;
        self
    }

    /// The same with another quality of service.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// The same with cgroups named as systemd does.
    #[must_use]
    pub fn systemd(mut self) -> Self {
        self.driver = Driver::Systemd;
        self
    }
}

/// How a container in a pod is made.
#[derive(Clone, Debug)]
pub struct ContainerOptions {
    /// Its name.
    pub name: String,
    /// What the probe is to do, see its usage.
    pub probe: Vec<String>,
    /// The number of children that the probe makes.
    pub children: usize,
    /// Whose cgroup namespace.
    pub cgroup_namespace: CgroupNamespace,
    /// More bind mounts.
    pub binds: Vec<Bind>,
    /// More mounts, as the OCI specification has them.
    pub mounts: Vec<Value>,
    /// Where volumes of the pod's own are mounted; in each is a file `pod` with the pod's name.
    pub volumes: Vec<String>,
    /// Where volumes of the pod's own are mounted that are empty at first.
    pub empty_volumes: Vec<String>,
    /// Where config maps are mounted; the key `pod` has the pod's name.
    pub config_maps: Vec<String>,
    /// Everything allowed, cgroups writable.
    pub privileged: bool,
    /// Read-only root, hardly a capability, seccomp, no new privileges.
    pub hardened: bool,
    /// The user and group that its process is started as, where no pod manager says it.
    pub user: u32,
    /// More of the environment, `NAME=value`.
    pub environment: Vec<String>,
    /// The OOM score adjustment, when the spec has one.
    pub oom_score: Option<i32>,
    /// It is in the process namespace of the pod's sandbox, as all of the pod's containers.
    pub share_processes: bool,
    /// `linux.resources` of the spec.
    pub resources: Value,
    /// More annotations.
    pub annotations: Vec<(String, String)>,
    /// Whether it asks for Restow where there is Restow.
    pub opt_in: bool,
    /// Files of the node that whoever starts it leaves open to it, from descriptor 3 on.
    pub left_open: Vec<String>,
}

impl ContainerOptions {
    /// A container with a probe that has `children` children.
    #[must_use]
    pub fn new(children: usize) -> Self {
        Self {
            name: "app".to_owned(),
            probe: Vec::new(),
            children,
            cgroup_namespace: CgroupNamespace::Private,
            binds: Vec::new(),
            mounts: Vec::new(),
            volumes: Vec::new(),
            empty_volumes: Vec::new(),
            config_maps: Vec::new(),
            privileged: false,
            hardened: false,
            user: 0,
            environment: Vec::new(),
            oom_score: None,
            share_processes: false,
            resources: json!({}),
            annotations: Vec::new(),
            opt_in: true,
            left_open: Vec::new(),
        }
    }

    /// The same with another name: a pod's containers need different ones.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// The same, without a word about Restow in its spec.
    #[must_use]
    pub fn without_opt_in(mut self) -> Self {
        self.opt_in = false;
        self
    }

    /// The same, with the node's cgroup namespace.
    #[must_use]
    pub fn host_cgroups(mut self) -> Self {
        self.cgroup_namespace = CgroupNamespace::Host;
        self
    }

    /// The same, with the probe told `name value` too.
    #[must_use]
    pub fn probe(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.probe.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// The same, with one more file for the probe to open: `WHO:MODE:OFFSET:PATH`.
    ///
    /// In the path, `{container}`, `{pod}` and `{qos}` stand for the directories of those cgroups where the node mounts version 2, and
    /// `{path}` for the container's cgroup below any mount.
    #[must_use]
    pub fn open(self, what: impl fmt::Display) -> Self {
        self.probe("--open", what)
    }

    /// The same, with one more socket for the probe to hold: `PROCESS:KIND:ADDRESS`, see its usage.
    ///
    /// `{ip4}` and `{ip6}` stand for the addresses of the pod.
    #[must_use]
    pub fn socket(self, what: impl fmt::Display) -> Self {
        self.probe("--socket", what)
    }

    /// The same, with one more annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, with one more file of the node left open to it; `fd` is a mode of the probe's for such a one. The
    /// path is expanded as for [`Self::open`].
    #[must_use]
    pub fn left_open(mut self, path: impl Into<String>) -> Self {
        self.left_open.push(path.into());
        self
    }

    /// The same, with one more bind mount.
    #[must_use]
    pub fn bind(mut self, bind: Bind) -> Self {
        self.binds.push(bind);
        self
    }

    /// The same, with one more mount, as the OCI specification has it.
    #[must_use]
    pub fn mount(mut self, mount: Value) -> Self {
        self.mounts.push(mount);
        self
    }

    /// The same, with one more volume of the pod's own, which goes with the pod.
    #[must_use]
    pub fn volume(mut self, target: impl Into<String>) -> Self {
        self.volumes.push(target.into());
        self
    }

    /// The same, with one more volume of the pod's own, empty at first: [`Pod::empty_volume`] by its number.
    #[must_use]
    pub fn empty_volume(mut self, target: impl Into<String>) -> Self {
        self.empty_volumes.push(target.into());
        self
    }

    /// The same, with one more config map, written as the kubelet does: a directory named after the time, a link `..data` to
    /// it, a link for each key.
    #[must_use]
    pub fn config_map(mut self, target: impl Into<String>) -> Self {
        self.config_maps.push(target.into());
        self
    }

    /// The same, with a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The same, with `linux.resources`.
    #[must_use]
    pub fn resources(mut self, resources: Value) -> Self {
        self.resources = resources;
        self
    }
}
