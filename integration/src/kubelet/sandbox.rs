//! A pod's sandbox, and what the kubelet tells about the pod.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use restow_cri::api::{
    DnsConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata,
};
use restow_cri::{ContainerId, PodId};

use super::Kubelet;
use crate::containerd::{Shim, handler};
use crate::engine::Mode;
use crate::stack::Runtime;

/// A running sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Who made it.
    pub(crate) kubelet: Rc<Kubelet>,
    /// Its id.
    pub(crate) id: PodId,
    /// What it was made from.
    pub(crate) config: PodSandboxConfig,
}

/// What a sandbox is made from.
pub(crate) struct SandboxInput<'a> {
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) cgroup_parent: &'a str,
    pub(crate) log_directory: &'a str,
    pub(crate) annotations: &'a [(String, String)],
}

impl Sandbox {
    /// Makes one below the shim that the mode wants.
    pub(crate) fn run(
        kubelet: &Rc<Kubelet>,
        runtime: Runtime,
        mode: Mode,
        input: &SandboxInput<'_>,
    ) -> Result<Self> {
        let shim = match mode {
            Mode::Stock => Shim::Stock,
            Mode::Restow => Shim::Restow,
        };
        let config = config(input);
        let call = kubelet.cri().run_pod(&config, handler(runtime, shim));
        let id = kubelet.call(call)?;
        Ok(Self {
            kubelet: Rc::clone(kubelet),
            id,
            config,
        })
    }

    /// Its addresses, IPv4 and IPv6.
    pub(crate) fn addresses(&self) -> Result<[String; 2]> {
        let status = self
            .kubelet
            .call(self.kubelet.cri().pod_status(&self.id, false))?;
        let network = status
            .status
            .and_then(|status| status.network)
            .with_context(|| format!("The pod {} has no network", self.id))?;
        let Some(v6) = network.additional_ips.first() else {
            bail!("The pod {} has no second address", self.id);
        };
        Ok([network.ip, v6.ip.clone()])
    }

    /// Its id as that of the container that it is.
    pub(crate) fn container(&self) -> ContainerId {
        ContainerId(self.id.0.clone())
    }

    /// Ends and removes it, with all that is in it.
    pub(crate) fn remove(&self) -> Result<()> {
        self.kubelet.call(self.kubelet.cri().stop_pod(&self.id))?;
        self.kubelet.call(self.kubelet.cri().remove_pod(&self.id))
    }
}

fn config(input: &SandboxInput<'_>) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: input.name.to_owned(),
            uid: input.uid.to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: input.name.to_owned(),
        log_directory: input.log_directory.to_owned(),
        dns_config: Some(DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            // Another length for another name, so that resolv.conf differs in length.
            searches: vec![
                "default.svc.cluster.local".to_owned(),
                format!("{}.local", input.name),
            ],
            options: vec!["ndots:5".to_owned()],
        }),
        labels: labels(input.name, input.uid),
        annotations: input.annotations.iter().cloned().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent.to_owned(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: NamespaceMode::Pod.into(),
                    pid: NamespaceMode::Container.into(),
                    ipc: NamespaceMode::Pod.into(),
                    ..NamespaceOption::default()
                }),
                // As the kubelet says of a pod that has a privileged container; the others are not made so by it.
                privileged: true,
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

/// The configuration of a pod with this name, uid and cgroup, for suites that make their containers themselves.
#[must_use]
pub fn pod_config(name: &str, uid: &str, cgroup_parent: &str) -> PodSandboxConfig {
    config(&SandboxInput {
        name,
        uid,
        cgroup_parent,
        log_directory: &format!("/var/log/pods/default_{name}_{uid}"),
        annotations: &[],
    })
}

/// What the kubelet labels a pod and its containers with.
pub(crate) fn labels(name: &str, uid: &str) -> HashMap<String, String> {
    [
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", uid),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}
