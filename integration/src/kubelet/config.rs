//! What the kubelet asks the runtime for when it makes a container.

use std::collections::HashMap;

use anyhow::Result;
use restow_cri::api::security_profile::ProfileType;
use restow_cri::api::{
    Capability, ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount, NamespaceMode, NamespaceOption,
    SecurityProfile,
};
use serde_json::Value;

use super::NotInPods;
use crate::pod::ContainerOptions;
use crate::spec::{Bind, CgroupNamespace, MASKED, READONLY};

/// The configuration of a container of `image` that runs `command`, for suites that say the rest themselves: its log has its name, and it
/// has process numbers of its own, as the kubelet gives a container.
#[must_use]
pub fn plain_container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

/// The node's shell and programs as mounts of a container.
#[must_use]
pub fn programs_of_node() -> Vec<Mount> {
    let mount = |(host, container): (&str, &str)| Mount {
        container_path: container.to_owned(),
        host_path: host.to_owned(),
        readonly: true,
        ..Mount::default()
    };
    [
        ("/usr", "/usr"),
        ("/usr/bin", "/bin"),
        ("/usr/lib", "/lib"),
        ("/usr/lib64", "/lib64"),
    ]
    .map(mount)
    .into()
}

/// The configuration of a container of `image` with these arguments and mounts.
pub(crate) fn container_config(
    options: &ContainerOptions,
    image: &str,
    args: &[String],
    binds: &[Bind],
    labels: HashMap<String, String>,
) -> Result<ContainerConfig> {
    if !options.left_open.is_empty() {
        return Err(NotInPods("files that its caller left open to it").into());
    }
    if !options.mounts.is_empty() {
        return Err(NotInPods("mounts that are no volumes").into());
    }
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: options.name.clone(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        }),
        command: args[..1].to_vec(),
        args: args[1..].to_vec(),
        working_dir: "/".to_owned(),
        envs: options
            .environment
            .iter()
            .filter_map(|text| text.split_once('='))
            .map(|(key, value)| KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
            })
            .collect(),
        mounts: binds
            .iter()
            .map(|bind| Mount {
                container_path: bind.target.clone(),
                host_path: bind.source.clone(),
                readonly: bind.readonly,
                ..Mount::default()
            })
            .collect(),
        labels,
        log_path: format!("{}/0.log", options.name),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(options)?),
            security_context: Some(security(options)),
        }),
        ..ContainerConfig::default()
    })
}

/// `linux.resources` of an OCI spec, as CRI has them.
fn resources(options: &ContainerOptions) -> Result<LinuxContainerResources> {
    if options.resources.get("pids").is_some() {
        // The kubelet writes it to the pod's cgroup.
        return Err(NotInPods("a container with a limit of processes of its own").into());
    }
    let number = |path: &str| options.resources.pointer(path).and_then(Value::as_i64);
    let unified = options.resources["unified"].as_object();
    let unified = unified.into_iter().flatten().map(|(file, value)| {
        let value = value.as_str().unwrap_or_default();
        (file.clone(), value.to_owned())
    });
    Ok(LinuxContainerResources {
        unified: unified.collect(),
        cpu_period: number("/cpu/period").unwrap_or(0),
        cpu_quota: number("/cpu/quota").unwrap_or(0),
        cpu_shares: number("/cpu/shares").unwrap_or(0),
        memory_limit_in_bytes: number("/memory/limit").unwrap_or(0),
        oom_score_adj: options.oom_score.map_or(0, i64::from),
        ..LinuxContainerResources::default()
    })
}

fn security(options: &ContainerOptions) -> LinuxContainerSecurityContext {
    // The node's cgroup namespace is what privileged containers get, and no others.
    let privileged = options.privileged || options.cgroup_namespace == CgroupNamespace::Host;
    let pid = if options.share_processes {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    let owned = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect();
    let profile = if options.hardened {
        ProfileType::RuntimeDefault
    } else {
        ProfileType::Unconfined
    };
    LinuxContainerSecurityContext {
        privileged,
        namespace_options: Some(NamespaceOption {
            network: NamespaceMode::Pod.into(),
            pid: pid.into(),
            ipc: NamespaceMode::Pod.into(),
            ..NamespaceOption::default()
        }),
        readonly_rootfs: options.hardened,
        no_new_privs: options.hardened,
        capabilities: options.hardened.then(|| Capability {
            add_capabilities: vec!["KILL".to_owned()],
            drop_capabilities: vec!["ALL".to_owned()],
            ..Capability::default()
        }),
        masked_paths: if privileged {
            Vec::new()
        } else {
            owned(MASKED)
        },
        readonly_paths: if privileged {
            Vec::new()
        } else {
            owned(READONLY)
        },
        seccomp: Some(SecurityProfile {
            profile_type: profile.into(),
            ..SecurityProfile::default()
        }),
        ..LinuxContainerSecurityContext::default()
    }
}
