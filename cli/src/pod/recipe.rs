//! `pod.json`: what a container's pod was made from, as CRI was told. It lies in the checkpoint beside `spec.dump`, and only
//! `restow restore` and `restow migrate` read it: a pod that the kubelet makes has its own.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use restow::checkpoint::{Entry, Form};
use restow_cri::api::{
    ContainerConfig, ContainerMetadata, Device, IdMapping, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, SeLinuxOption, SecurityProfile, UserNamespace,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::find::Subject;
use super::node::{Node, call};
use crate::{Failure, input};

/// The file in the checkpoint.
pub const FILE_NAME: &str = "pod.json";

/// Version this code writes; a newer one is refused.
pub const VERSION: u32 = 1;

/// No honest one is larger, in bytes: CRI's messages are not.
const MAX_SIZE: u64 = 16 << 20;

/// What a container's pod was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Format version, see [`VERSION`].
    pub version: u32,
    /// The runtime handler, empty for the node's default.
    pub handler: String,
    /// What `RunPodSandbox` was given.
    pub pod: PodSandboxConfig,
    /// What `CreateContainer` was given.
    pub container: ContainerConfig,
    /// Name of the container's image, to be found by on another node.
    pub image: String,
    /// Files of the pod's own directory that travel along, see [`super::pod_files`].
    #[serde(default)]
    pub files: Vec<super::pod_files::Carried>,
}

impl Recipe {
    /// Asks the node what `subject`'s pod was made from; `None` for a container without a pod.
    ///
    /// # Errors
    /// When the runtime does not tell, or tells what cannot be read.
    pub async fn ask(node: &Node, subject: &Subject) -> Result<Option<Self>, Failure> {
        let Some(pod) = &subject.pod else {
            return Ok(None);
        };
        let status = node.cri.pod_status(&pod.id, true).await.map_err(call)?;
        let pod_info = info(&status.info, "pod")?;
        let handler = status.status.map(|status| status.runtime_handler);
        let status = node
            .cri
            .container_status(&subject.id, true)
            .await
            .map_err(call)?;
        let container_info = info(&status.info, "container")?;
        let image = status.status.and_then(|status| status.image);
        let said = || format!("Read what {} was made from", subject.display());
        Ok(Some(Self {
            version: VERSION,
            handler: handler.unwrap_or_default(),
            pod: from_go(&pod_info["config"], &pod_template()).with_context(said)?,
            container: from_go(&container_info["config"], &container_template())
                .with_context(said)?,
            image: image.map(|image| image.image).unwrap_or_default(),
            files: Vec::new(),
        }))
    }

    /// Reads it out of a checkpoint; `None` when there is none in it.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read(entry: &Entry) -> Result<Option<Self>, Failure> {
        let bytes = match entry.form {
            Form::Directory => of_directory(&entry.path)?,
            Form::Tar | Form::TarZstd | Form::TarGzip => {
                let limits = input::Limits {
                    images: MAX_SIZE,
                    ..input::Limits::default()
                };
                let found = input::read_named(&entry.path, &limits, &[FILE_NAME])
                    .with_context(|| entry.path.display().to_string())?;
                // The topmost: a container may have files of that name, too.
                found
                    .into_iter()
                    .find(|(path, _)| path.trim_start_matches("./") == FILE_NAME)
                    .map(|(_, bytes)| bytes)
            }
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let damaged = || format!("{FILE_NAME} in checkpoint {} is damaged", entry.name);
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(&bytes).with_context(damaged)?;
        if version > VERSION {
            return Err(Failure::Input(anyhow!(
                "{FILE_NAME} in checkpoint {} has version {version}, newer than {VERSION}; update restow",
                entry.name
            )));
        }
        Ok(Some(serde_json::from_slice(&bytes).with_context(damaged)?))
    }

    /// As text, ready to be written.
    ///
    /// # Errors
    /// Never in practice: it is all text and numbers.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        Ok(serde_json::to_vec_pretty(self).context("Write down what the pod was made from")?)
    }
}

fn of_directory(dir: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let path = dir.join(FILE_NAME);
    let file = match input::regular(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::Input(
                anyhow!(error).context(format!("Cannot read {}", path.display())),
            ));
        }
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .with_context(|| format!("Cannot read {}", path.display()))?;
    Ok(Some(bytes))
}

/// containerd's verbose answers have JSON under `info`.
fn info(answer: &std::collections::HashMap<String, String>, what: &str) -> Result<Value, Failure> {
    let text = answer.get("info").ok_or_else(|| {
        Failure::Refused(anyhow!(
            "The runtime does not tell what the {what} was made from; containerd does"
        ))
    })?;
    let value = serde_json::from_str(text);
    Ok(value.with_context(|| format!("Read what the runtime says of the {what}"))?)
}

/// A message out of Go's JSON, which leaves out what is empty. `template` has every field, with one element in each list of messages and
/// something in each message.
fn from_go<T: serde::de::DeserializeOwned>(value: &Value, template: &Value) -> anyhow::Result<T> {
    let complete = complete(value, template);
    serde_json::from_value(complete).context("It is not as CRI has it")
}

/// Adds the fields that `value` lacks.
fn complete(value: &Value, template: &Value) -> Value {
    match (value, template) {
        // Nothing of it is taken.
        (_, Value::Null) => Value::Null,
        // A map, whose names are anything.
        (Value::Object(_), Value::Object(template)) if template.is_empty() => value.clone(),
        (Value::Object(given), Value::Object(template)) => {
            let given: Map<String, Value> = given
                .iter()
                .map(|(name, value)| (snake(name), value.clone()))
                .collect();
            let fields = template.iter().map(|(name, template)| {
                let value = match given.get(name) {
                    Some(Value::Null) | None => absent(template),
                    Some(value) => complete(value, template),
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        (Value::Array(items), Value::Array(template)) => {
            let Some(template) = template.first() else {
                return value.clone();
            };
            items.iter().map(|item| complete(item, template)).collect()
        }
        _ => value.clone(),
    }
}

/// What stands for a field that is not there.
fn absent(template: &Value) -> Value {
    match template {
        // A message that is not there; a map that is empty.
        Value::Object(fields) if !fields.is_empty() => Value::Null,
        Value::Array(_) => Value::Array(Vec::new()),
        other => other.clone(),
    }
}

/// `uidMappings` and `CDI_devices` are how Go's JSON has them.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && lower {
            out.push('_');
        }
        lower = c.is_ascii_lowercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        userns_options: Some(UserNamespace {
            uids: vec![IdMapping::default()],
            gids: vec![IdMapping::default()],
            ..UserNamespace::default()
        }),
        ..NamespaceOption::default()
    }
}

fn resources() -> LinuxContainerResources {
    LinuxContainerResources {
        hugepage_limits: vec![Default::default()],
        ..LinuxContainerResources::default()
    }
}

fn template<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn pod_template() -> Value {
    template(&PodSandboxConfig {
        metadata: Some(PodSandboxMetadata::default()),
        dns_config: Some(Default::default()),
        port_mappings: vec![PortMapping::default()],
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                selinux_options: Some(SeLinuxOption::default()),
                run_as_user: Some(Int64Value::default()),
                run_as_group: Some(Int64Value::default()),
                seccomp: Some(SecurityProfile::default()),
                apparmor: Some(SecurityProfile::default()),
                ..LinuxSandboxSecurityContext::default()
            }),
            overhead: Some(resources()),
            resources: Some(resources()),
            ..LinuxPodSandboxConfig::default()
        }),
        // Windows has no CRIU.
        ..PodSandboxConfig::default()
    })
}

fn container_template() -> Value {
    template(&ContainerConfig {
        metadata: Some(ContainerMetadata::default()),
        image: Some(ImageSpec::default()),
        envs: vec![KeyValue::default()],
        mounts: vec![Mount {
            uid_mappings: vec![IdMapping::default()],
            gid_mappings: vec![IdMapping::default()],
            image: Some(ImageSpec::default()),
            ..Mount::default()
        }],
        devices: vec![Device::default()],
        cdi_devices: vec![Default::default()],
        linux: Some(LinuxContainerConfig {
            resources: Some(resources()),
            security_context: Some(LinuxContainerSecurityContext {
                capabilities: Some(Default::default()),
                namespace_options: Some(namespaces()),
                selinux_options: Some(SeLinuxOption::default()),
                run_as_user: Some(Int64Value::default()),
                run_as_group: Some(Int64Value::default()),
                seccomp: Some(SecurityProfile::default()),
                apparmor: Some(SecurityProfile::default()),
                ..LinuxContainerSecurityContext::default()
            }),
        }),
        ..ContainerConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_go_leaves_out_is_filled_in_and_what_it_has_is_kept() {
        let pod: PodSandboxConfig = from_go(
            &json!({
                "metadata": {"name": "web", "uid": "u", "namespace": "shop"},
                "labels": {"camelCase": "kept"},
                "linux": {"cgroup_parent": "/kubepods", "security_context": {"namespace_options": {"pid": 1}}},
            }),
            &pod_template(),
        )
        .unwrap();
        let linux = pod.linux.unwrap();
        assert_eq!(pod.metadata.unwrap().name, "web");
        assert_eq!(pod.labels["camelCase"], "kept");
        assert_eq!(linux.cgroup_parent, "/kubepods");
        assert!(linux.resources.is_none());
        let options = linux.security_context.unwrap().namespace_options.unwrap();
        assert_eq!(options.pid, 1);
        assert!(options.userns_options.is_none());
        assert!(pod.port_mappings.is_empty());
    }

    #[test]
    fn names_that_go_spells_otherwise_are_known() {
        let container: ContainerConfig = from_go(
            &json!({
                "mounts": [{"container_path": "/d", "uidMappings": [{"host_id": 5, "length": 1}]}],
                "CDI_devices": [{"name": "vendor.com/gpu=0"}],
                "envs": [{"key": "A"}],
            }),
            &container_template(),
        )
        .unwrap();
        assert_eq!(container.mounts[0].uid_mappings[0].host_id, 5);
        assert_eq!(container.cdi_devices[0].name, "vendor.com/gpu=0");
        assert_eq!(
            (
                container.envs[0].key.as_str(),
                container.envs[0].value.as_str()
            ),
            ("A", "")
        );
    }
}
