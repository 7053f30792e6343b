//! A new identity for an old pod: plain data in, plain data out.

use restow_cri::api::{ContainerConfig, PodSandboxConfig};

use super::recipe::Recipe;

/// Who a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
}

impl Identity {
    /// The one a pod was made with.
    #[must_use]
    pub fn of(pod: &PodSandboxConfig) -> Self {
        let meta = pod.metadata.clone().unwrap_or_default();
        Self {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
        }
    }
}

/// Kubernetes' labels and annotations that name a pod.
const NAME: &str = "io.kubernetes.pod.name";
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// The same pod as another: names, uid, and every path in which they stand.
#[must_use]
pub fn renamed(recipe: &Recipe, new: &Identity) -> Recipe {
    let old = Identity::of(&recipe.pod);
    let mut made = recipe.clone();
    pod(&mut made.pod, &old, new);
    container(&mut made.container, &old, new);
    made
}

fn pod(pod: &mut PodSandboxConfig, old: &Identity, new: &Identity) {
    if let Some(meta) = &mut pod.metadata {
        meta.name.clone_from(&new.name);
        meta.namespace.clone_from(&new.namespace);
        meta.uid.clone_from(&new.uid);
        meta.attempt = 0;
    }
    // A host name that the pod's specification sets is another than the pod's name, and stays.
    if pod.hostname == old.name {
        pod.hostname.clone_from(&new.name);
    }
    // /var/log/pods/<namespace>_<name>_<uid>
    let log = format!("{}_{}_{}", old.namespace, old.name, old.uid);
    let new_log = format!("{}_{}_{}", new.namespace, new.name, new.uid);
    pod.log_directory = with_uid(&pod.log_directory.replace(&log, &new_log), old, new);
    if let Some(linux) = &mut pod.linux {
        linux.cgroup_parent = cgroup(&linux.cgroup_parent, old, new);
    }
    names(&mut pod.labels, old, new);
    names(&mut pod.annotations, old, new);
}

fn container(container: &mut ContainerConfig, old: &Identity, new: &Identity) {
    if let Some(meta) = &mut container.metadata {
        meta.attempt = 0;
    }
    for mount in &mut container.mounts {
        mount.host_path = with_uid(&mount.host_path, old, new);
    }
    names(&mut container.labels, old, new);
    names(&mut container.annotations, old, new);
}

fn names(labels: &mut std::collections::HashMap<String, String>, old: &Identity, new: &Identity) {
    for (label, value) in labels {
        match label.as_str() {
            NAME => value.clone_from(&new.name),
            NAMESPACE => value.clone_from(&new.namespace),
            _ => *value = with_uid(value, old, new),
        }
    }
}

fn with_uid(text: &str, old: &Identity, new: &Identity) -> String {
    // An empty one would be found everywhere.
    if old.uid.is_empty() {
        return text.to_owned();
    }
    text.replace(&old.uid, &new.uid)
}

/// `/kubepods/burstable/pod<uid>`, or with systemd `kubepods-burstable-pod<uid with underscores>.slice`.
fn cgroup(parent: &str, old: &Identity, new: &Identity) -> String {
    if old.uid.is_empty() {
        return parent.to_owned();
    }
    let systemd = |uid: &str| uid.replace('-', "_");
    with_uid(parent, old, new).replace(&systemd(&old.uid), &systemd(&new.uid))
}

/// A uid that no pod has had.
///
/// # Errors
/// When the kernel gives none.
pub fn fresh_uid() -> std::io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use restow_cri::api::{LinuxPodSandboxConfig, Mount, PodSandboxMetadata};

    use super::*;

    const OLD: &str = "0c4d-11";
    const NEW: &str = "7e5f-22";

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
                    uid: OLD.to_owned(),
                    attempt: 3,
                }),
                hostname: "web".to_owned(),
                log_directory: format!("/var/log/pods/shop_web_{OLD}"),
                labels: [
                    (NAME.to_owned(), "web".to_owned()),
                    ("io.kubernetes.pod.uid".to_owned(), OLD.to_owned()),
                    ("app".to_owned(), "web".to_owned()),
                ]
                .into(),
                linux: Some(LinuxPodSandboxConfig {
                    cgroup_parent: format!("/kubepods/burstable/pod{OLD}"),
                    ..LinuxPodSandboxConfig::default()
                }),
                ..PodSandboxConfig::default()
            },
            container: ContainerConfig {
                mounts: vec![Mount {
                    host_path: format!("/var/lib/kubelet/pods/{OLD}/etc-hosts"),
                    ..Mount::default()
                }],
                ..ContainerConfig::default()
            },
        }
    }

    fn new() -> Identity {
        Identity {
            name: "web-2".to_owned(),
            namespace: "shop".to_owned(),
            uid: NEW.to_owned(),
        }
    }

    #[test]
    fn nothing_of_the_old_uid_is_left() {
        let made = renamed(&recipe(), &new());
        let text = serde_json::to_string(&made).unwrap();
        assert!(!text.contains(OLD), "{text}");
        assert_eq!(
            made.pod.log_directory,
            format!("/var/log/pods/shop_web-2_{NEW}")
        );
        assert_eq!(made.pod.hostname, "web-2");
        assert_eq!(made.pod.labels[NAME], "web-2");
        // Only names are changed, not words that look alike.
        assert_eq!(made.pod.labels["app"], "web");
        assert_eq!(Identity::of(&made.pod), new());
    }

    #[test]
    fn systemds_spelling_follows() {
        let (old, new) = (Identity::of(&recipe().pod), new());
        let parent = cgroup("kubepods-burstable-pod0c4d_11.slice", &old, &new);
        assert_eq!(parent, "kubepods-burstable-pod7e5f_22.slice");
    }

    #[test]
    fn a_host_name_of_its_own_stays() {
        let mut recipe = recipe();
        recipe.pod.hostname = "db-0".to_owned();
        assert_eq!(renamed(&recipe, &new()).pod.hostname, "db-0");
    }
}
