//! What a name on the command line stands for: a container of a pod (`POD/CONTAINER`), or a container by its id or the beginning of it.

use std::path::Path;

use anyhow::anyhow;
use restow::checkpoint::Namespace;
use restow_cri::api::{Container as CriContainer, ContainerState, PodSandbox, PodSandboxState};
use restow_cri::containerd_client::services::v1::Container;
use restow_cri::{ContainerId, K8S_NAMESPACE, PodId};

use super::node::{Node, call};
use crate::Failure;

/// The label by which containerd's CRI plugin tells pods' sandboxes from containers.
const KIND: &str = "io.cri-containerd.kind";

/// A container.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its id.
    pub id: ContainerId,
    /// containerd's record of it.
    pub record: Container,
    /// containerd's namespace that it is in.
    pub containerd_namespace: String,
    /// Its pod, if it has one.
    pub pod: Option<OfPod>,
}

/// A container's place in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfPod {
    /// The sandbox's id.
    pub id: PodId,
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The container's name in it.
    pub container: String,
}

impl Subject {
    /// As people name it.
    #[must_use]
    pub fn display(&self) -> String {
        match &self.pod {
            Some(pod) => format!("{}/{} ({})", pod.name, pod.container, pod.namespace),
            None => self.id.to_string(),
        }
    }

    /// Whose checkpoint it makes.
    ///
    /// # Errors
    /// When the pod's namespace is no name.
    pub fn namespace(&self) -> Result<Namespace, Failure> {
        match &self.pod {
            Some(pod) => {
                Namespace::new(&pod.namespace).map_err(|error| Failure::Refused(error.into()))
            }
            None => Ok(Namespace::node()),
        }
    }

    /// Where the shim keeps its bundle, as a path of the node.
    #[must_use]
    pub fn bundle(&self) -> std::path::PathBuf {
        Path::new("/run/containerd/io.containerd.runtime.v2.task")
            .join(&self.containerd_namespace)
            .join(self.id.as_str())
    }
}

/// Finds `what` on `node`. `namespace` is the pod's, or containerd's for a container without a pod.
///
/// # Errors
/// When there is none, or several.
pub async fn find(node: &Node, what: &str, namespace: Option<&str>) -> Result<Subject, Failure> {
    match what.split_once('/') {
        Some((pod, container)) => in_pod(node, pod, container, namespace).await,
        None => by_id(node, what, namespace).await,
    }
}

async fn in_pod(
    node: &Node,
    pod: &str,
    container: &str,
    namespace: Option<&str>,
) -> Result<Subject, Failure> {
    let pods = node.cri.pods(None).await.map_err(call)?;
    let containers = node.cri.containers(None).await.map_err(call)?;
    let of_pod = pick(&pods, &containers, pod, container, namespace)?;
    let (id, of_pod) = of_pod;
    subject(node, id, K8S_NAMESPACE, Some(of_pod)).await
}

/// The container meant, out of all.
fn pick(
    pods: &[PodSandbox],
    containers: &[CriContainer],
    pod: &str,
    container: &str,
    namespace: Option<&str>,
) -> Result<(ContainerId, OfPod), Failure> {
    let ready = |it: &&PodSandbox| it.state() == PodSandboxState::SandboxReady;
    let named: Vec<&PodSandbox> = pods
        .iter()
        .filter(ready)
        .filter(|it| {
            it.metadata.as_ref().is_some_and(|meta| {
                meta.name == pod && namespace.is_none_or(|wanted| meta.namespace == wanted)
            })
        })
        .collect();
    let place = namespace.map_or_else(String::new, |namespace| {
        format!(" in namespace {namespace}")
    });
    let found = match named.as_slice() {
        [] => {
            return Err(Failure::Input(anyhow!(
                "There is no running pod {pod}{place}"
            )));
        }
        [one] => *one,
        several => {
            let namespaces: Vec<&str> = several
                .iter()
                .filter_map(|it| Some(it.metadata.as_ref()?.namespace.as_str()))
                .collect();
            return Err(Failure::Usage(anyhow!(
                "There are pods {pod} in several places ({}); say which with --namespace, or use the container's id",
                namespaces.join(", ")
            )));
        }
    };
    let running: Vec<&CriContainer> = containers
        .iter()
        .filter(|it| it.pod_sandbox_id == found.id)
        .filter(|it| it.state() == ContainerState::ContainerRunning)
        .collect();
    let name = |it: &CriContainer| it.metadata.as_ref().map(|meta| meta.name.clone());
    let Some(it) = running
        .iter()
        .find(|it| name(it).as_deref() == Some(container))
    else {
        let names: Vec<String> = running.iter().filter_map(|it| name(it)).collect();
        let has = if names.is_empty() {
            "it has none that runs".to_owned()
        } else {
            format!("it has {}", names.join(", "))
        };
        return Err(Failure::Input(anyhow!(
            "No container {container} runs in pod {pod}{place}: {has}"
        )));
    };
    let of_pod = OfPod {
        id: PodId(found.id.clone()),
        name: pod.to_owned(),
        namespace: found
            .metadata
            .as_ref()
            .map(|meta| meta.namespace.clone())
            .unwrap_or_default(),
        container: container.to_owned(),
    };
    Ok((ContainerId(it.id.clone()), of_pod))
}

async fn by_id(node: &Node, what: &str, namespace: Option<&str>) -> Result<Subject, Failure> {
    let all = node.containerd("default").await?;
    let mut found = Vec::new();
    for place in all.namespaces().await.map_err(call)? {
        // A pod's namespace says nothing about containerd's, in which all pods are.
        if namespace.is_some_and(|wanted| wanted != place && place != K8S_NAMESPACE) {
            continue;
        }
        let client = node.containerd(&place).await?;
        let containers = client.containers(Vec::new()).await.map_err(call)?;
        let meant = containers
            .into_iter()
            .filter(|it| it.id.starts_with(what))
            .filter(|it| it.labels.get(KIND).is_none_or(|kind| kind != "sandbox"));
        found.extend(meant.map(|it| (place.clone(), it)));
    }
    if found.iter().any(|(_, it)| it.id == what) {
        found.retain(|(_, it)| it.id == what);
    }
    match found.as_slice() {
        [] => Err(Failure::Input(anyhow!(
            "There is no container {what} on this node; pods' containers can be named POD/CONTAINER"
        ))),
        [(place, it)] => {
            let id = ContainerId(it.id.clone());
            let of_pod = match it.labels.get(KIND) {
                Some(_) => Some(pod_of(node, &id).await?),
                None => None,
            };
            subject(node, id, place, of_pod).await
        }
        several => {
            let ids: Vec<String> = several
                .iter()
                .map(|(place, it)| format!("{} in {place}", it.id))
                .collect();
            Err(Failure::Usage(anyhow!(
                "{what} is the beginning of several: {}",
                ids.join(", ")
            )))
        }
    }
}

async fn pod_of(node: &Node, id: &ContainerId) -> Result<OfPod, Failure> {
    let containers = node.cri.containers(None).await.map_err(call)?;
    let pods = node.cri.pods(None).await.map_err(call)?;
    let found = containers
        .iter()
        .find(|it| it.id == id.as_str())
        .and_then(|it| {
            let pod = pods.iter().find(|pod| pod.id == it.pod_sandbox_id)?;
            let meta = pod.metadata.as_ref()?;
            Some(OfPod {
                id: PodId(pod.id.clone()),
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                container: it.metadata.as_ref()?.name.clone(),
            })
        });
    found.ok_or_else(|| Failure::Input(anyhow!("Container {id} is of a pod that is gone")))
}

async fn subject(
    node: &Node,
    id: ContainerId,
    namespace: &str,
    pod: Option<OfPod>,
) -> Result<Subject, Failure> {
    let client = node.containerd(namespace).await?;
    Ok(Subject {
        record: client.container(&id).await.map_err(call)?,
        id,
        containerd_namespace: namespace.to_owned(),
        pod,
    })
}

#[cfg(test)]
mod tests {
    use restow_cri::api::{ContainerMetadata, PodSandboxMetadata};

    use super::*;

    fn pod(id: &str, name: &str, namespace: &str) -> PodSandbox {
        PodSandbox {
            id: id.to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                ..PodSandboxMetadata::default()
            }),
            state: PodSandboxState::SandboxReady.into(),
            ..PodSandbox::default()
        }
    }

    fn container(id: &str, pod: &str, name: &str, state: ContainerState) -> CriContainer {
        CriContainer {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                ..ContainerMetadata::default()
            }),
            state: state.into(),
            ..CriContainer::default()
        }
    }

    #[test]
    fn the_running_container_of_the_pod_is_meant() {
        let pods = [pod("1", "web", "shop"), pod("2", "db", "shop")];
        let containers = [
            container("a", "1", "nginx", ContainerState::ContainerExited),
            container("b", "1", "nginx", ContainerState::ContainerRunning),
            container("c", "2", "nginx", ContainerState::ContainerRunning),
        ];
        let (id, of) = pick(&pods, &containers, "web", "nginx", None).unwrap();
        assert_eq!((id.as_str(), of.namespace.as_str()), ("b", "shop"));
    }

    #[test]
    fn what_is_not_there_or_there_twice_is_said_with_what_there_is() {
        let pods = [pod("1", "web", "shop"), pod("2", "web", "test")];
        let containers = [container("a", "2", "php", ContainerState::ContainerRunning)];
        let error = pick(&pods, &containers, "web", "nginx", None).unwrap_err();
        assert!(matches!(error, Failure::Usage(_)));
        assert!(error.text().contains("shop, test"));
        let error = pick(&pods, &containers, "web", "nginx", Some("test")).unwrap_err();
        assert_eq!(
            error.text(),
            "No container nginx runs in pod web in namespace test: it has php"
        );
        let error = pick(&pods, &containers, "www", "nginx", None).unwrap_err();
        assert_eq!(error.text(), "There is no running pod www");
    }
}
