//! What a recorded pod would be given of the node. A checkpoint can come from anywhere, so `restow restore` makes no pod out of one that
//! reaches beyond its own walls, unless it is told to.

use std::ffi::OsStr;
use std::path::{Component, Path};

use restow_cri::api::{NamespaceMode, NamespaceOption};

use super::identity::Identity;
use super::pod_files;
use super::recipe::Recipe;

/// What a container could change the whole node by; the kubelet makes them read-only in every container that is not privileged.
const KERNEL: [&str; 2] = ["/proc/sys", "/proc/sysrq-trigger"];

/// A path in `recipe` that leads somewhere else than it looks like, whose pod is made under no circumstances: files are made at these paths,
/// and removed again with all that is below.
#[must_use]
pub fn crooked_path(recipe: &Recipe) -> Option<&str> {
    let plain = |path: &Path| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_)))
    };
    let absolute =
        |path: &str| path.is_empty() || Path::new(path).strip_prefix("/").is_ok_and(plain);
    let sources = recipe.container.mounts.iter().map(|mount| &mount.host_path);
    let crooked = sources
        .chain([&recipe.pod.log_directory])
        .find(|path| !absolute(path));
    let log = &recipe.container.log_path;
    crooked
        .or_else(|| (!plain(Path::new(log))).then_some(log))
        .map(String::as_str)
}

/// Everything of the node that `recipe` asks for, in words; empty when it keeps to itself.
#[must_use]
pub fn reach(recipe: &Recipe) -> Vec<String> {
    let mut found = Vec::new();
    let Identity {
        name,
        namespace,
        uid,
    } = Identity::of(&recipe.pod);
    let logs = &recipe.pod.log_directory;
    // Wherever the kubelet has the logs of all pods.
    let own_logs = format!("{namespace}_{name}_{uid}");
    if !logs.is_empty() && Path::new(logs).file_name() != Some(OsStr::new(&own_logs)) {
        found.push(format!("its logs are written to {logs}"));
    }
    let pod = recipe.pod.linux.as_ref();
    if let Some(context) = pod.and_then(|linux| linux.security_context.as_ref()) {
        if context.privileged {
            found.push("the pod is privileged".to_owned());
        }
        namespaces(context.namespace_options.as_ref(), &mut found);
    }
    if let Some(parent) = pod.map(|linux| linux.cgroup_parent.as_str())
        && !parent.is_empty()
        && (!parent.contains("kubepods") || parent.split('/').any(|part| part == ".."))
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
    for port in recipe
        .pod
        .port_mappings
        .iter()
        .filter(|it| it.host_port != 0)
    {
        found.push(format!("port {} of the node leads into it", port.host_port));
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
        PodSandboxConfig, PodSandboxMetadata, PortMapping,
    };

    use super::*;

    fn mount(host_path: &str) -> Mount {
        Mount {
            container_path: "/x".to_owned(),
            host_path: host_path.to_owned(),
            ..Mount::default()
        }
    }

    fn recipe() -> Recipe {
        Recipe {
            version: 1,
            handler: String::new(),
            image: String::new(),
            files: Vec::new(),
            pod: PodSandboxConfig {
                metadata: Some(PodSandboxMetadata {
                    name: "web".to_owned(),
                    namespace: "shop".to_owned(),
                    uid: "u1".to_owned(),
                    ..PodSandboxMetadata::default()
                }),
                log_directory: "/var/log/pods/shop_web_u1".to_owned(),
                ..PodSandboxConfig::default()
            },
            container: ContainerConfig {
                mounts: vec![mount("/var/lib/kubelet/pods/u1/etc-hosts")],
                log_path: "app/0.log".to_owned(),
                ..ContainerConfig::default()
            },
        }
    }

    #[test]
    fn logs_and_cgroups_are_the_pods_own() {
        let mut recipe = recipe();
        recipe.pod.log_directory = "/etc/cron.d".to_owned();
        recipe.pod.linux = Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/../system.slice".to_owned(),
            ..LinuxPodSandboxConfig::default()
        });
        assert_eq!(
            reach(&recipe),
            [
                "its cgroup is below /kubepods/../system.slice",
                "its logs are written to /etc/cron.d",
            ]
        );
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_found() {
        assert_eq!(crooked_path(&recipe()), None);
        for path in ["/var/log/pods/new/..", "var/log", "/.."] {
            let mut logs = recipe();
            logs.pod.log_directory = path.to_owned();
            assert_eq!(crooked_path(&logs), Some(path));
        }
        for path in [
            "/etc/cron.d/app",
            "../../../../etc/cron.d/app",
            "app/../../x",
        ] {
            let mut log = recipe();
            log.container.log_path = path.to_owned();
            assert_eq!(crooked_path(&log), Some(path));
        }
        let path = "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/x/../../../../../root";
        let mut source = recipe();
        source.container.mounts.push(mount(path));
        assert_eq!(crooked_path(&source), Some(path));
    }

    #[test]
    fn what_is_of_the_node_is_named_and_what_is_the_pods_is_not() {
        let mut recipe = recipe();
        assert_eq!(reach(&recipe), Vec::<String>::new());
        recipe.container.mounts = vec![
            mount("/etc"),
            mount("/var/lib/kubelet/pods/u1/../../../../root"),
        ];
        recipe.pod.port_mappings = [22, 0]
            .map(|host_port| PortMapping {
                container_port: 80,
                host_port,
                ..PortMapping::default()
            })
            .into();
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
                "port 22 of the node leads into it",
                "the pod is privileged",
            ]
        );
    }
}
