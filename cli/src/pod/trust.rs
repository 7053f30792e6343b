//! What a recorded pod would be given of the node. A checkpoint can come from anywhere, so `restow restore` makes no pod out of one that
//! reaches beyond its own walls, unless it is told to.

use std::path::Path;

use restow_cri::api::{NamespaceMode, NamespaceOption};

use super::identity::Identity;
use super::pod_files;
use super::recipe::Recipe;

/// What a container could change the whole node by; the kubelet makes them read-only in every container that is not privileged.
const KERNEL: [&str; 2] = ["/proc/sys", "/proc/sysrq-trigger"];

/// Everything of the node that `recipe` asks for, in words; empty when it keeps to itself.
#[must_use]
pub fn reach(recipe: &Recipe) -> Vec<String> {
    let mut found = Vec::new();
    let uid = Identity::of(&recipe.pod).uid;
    let pod = recipe.pod.linux.as_ref();
    if let Some(context) = pod.and_then(|linux| linux.security_context.as_ref()) {
        if context.privileged {
            found.push("the pod is privileged".to_owned());
        }
        namespaces(context.namespace_options.as_ref(), &mut found);
    }
    if let Some(parent) = pod.map(|linux| linux.cgroup_parent.as_str())
        && !parent.is_empty()
        && !parent.contains("kubepods")
    {
        found.push(format!("its cgroup is below {parent}"));
    }
    let container = &recipe.container;
    if let Some(context) = container
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
    {
        if context.privileged {
            found.push("the container is privileged".to_owned());
        }
        let added = context.capabilities.iter();
        for capability in added.flat_map(|it| {
            it.add_capabilities
                .iter()
                .chain(&it.add_ambient_capabilities)
        }) {
            found.push(format!("capability {capability} is added"));
        }
        namespaces(context.namespace_options.as_ref(), &mut found);
        let writable = KERNEL
            .iter()
            .filter(|path| !context.readonly_paths.iter().any(|it| it == *path));
        found.extend(writable.map(|path| format!("the node's {path} is writable in it")));
    }
    for mount in &container.mounts {
        let source = Path::new(&mount.host_path);
        let own = pod_files::split(source, &uid).is_some()
            && !source.components().any(|part| part.as_os_str() == "..");
        if !mount.host_path.is_empty() && !own {
            found.push(format!(
                "{} of the node is mounted at {}",
                mount.host_path, mount.container_path
            ));
        }
    }
    for device in &container.devices {
        found.push(format!("it has the node's device {}", device.host_path));
    }
    for device in &container.cdi_devices {
        found.push(format!("it has the CDI device {}", device.name));
    }
    let sandbox_sysctls = pod.iter().flat_map(|linux| linux.sysctls.keys());
    found.extend(sandbox_sysctls.map(|name| format!("sysctl {name} is set")));
    found.sort();
    found.dedup();
    found
}

fn namespaces(options: Option<&NamespaceOption>, found: &mut Vec<String>) {
    let Some(options) = options else { return };
    for (mode, what) in [
        (options.network, "network"),
        (options.pid, "processes"),
        (options.ipc, "IPC"),
    ] {
        if mode == i32::from(NamespaceMode::Node) {
            found.push(format!("it shares the node's {what}"));
        } else if mode == i32::from(NamespaceMode::Target) {
            found.push(format!("it shares another container's {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use restow_cri::api::{
        ContainerConfig, Device, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
        PodSandboxConfig, PodSandboxMetadata,
    };

    use super::*;

    fn mount(host_path: &str) -> Mount {
        Mount {
            container_path: "/x".to_owned(),
            host_path: host_path.to_owned(),
            ..Mount::default()
        }
    }

    #[test]
    fn what_is_of_the_node_is_named_and_what_is_the_pods_is_not() {
        let mut recipe = Recipe {
            version: 1,
            handler: String::new(),
            image: String::new(),
            files: Vec::new(),
            pod: PodSandboxConfig {
                metadata: Some(PodSandboxMetadata {
                    uid: "u1".to_owned(),
                    ..PodSandboxMetadata::default()
                }),
                ..PodSandboxConfig::default()
            },
            container: ContainerConfig {
                mounts: vec![mount("/var/lib/kubelet/pods/u1/etc-hosts")],
                ..ContainerConfig::default()
            },
        };
        assert_eq!(reach(&recipe), Vec::<String>::new());
        recipe.container.mounts = vec![
            mount("/etc"),
            mount("/var/lib/kubelet/pods/u1/../../../../root"),
        ];
        recipe.container.devices = vec![Device {
            host_path: "/dev/sda".to_owned(),
            ..Device::default()
        }];
        recipe.pod.linux = Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                privileged: true,
                namespace_options: Some(NamespaceOption {
                    network: NamespaceMode::Node.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        });
        assert_eq!(
            reach(&recipe),
            [
                "/etc of the node is mounted at /x",
                "/var/lib/kubelet/pods/u1/../../../../root of the node is mounted at /x",
                "it has the node's device /dev/sda",
                "it shares the node's network",
                "the pod is privileged",
            ]
        );
    }
}
