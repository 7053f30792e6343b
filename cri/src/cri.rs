//! The container runtime interface.

use std::path::Path;
use std::time::Duration;

use tonic::transport::Channel;

use crate::api::image_service_client::ImageServiceClient;
use crate::api::runtime_service_client::RuntimeServiceClient;
use crate::api::{
    CheckpointContainerRequest, Container, ContainerConfig, ContainerFilter,
    ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest, Image, ImageSpec,
    ImageStatusRequest, ListContainersRequest, ListPodSandboxRequest, PodSandbox, PodSandboxConfig,
    PodSandboxFilter, PodSandboxStatusRequest, PodSandboxStatusResponse, RemoveContainerRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StatusRequest,
    StatusResponse, StopContainerRequest, StopPodSandboxRequest, VersionRequest, VersionResponse,
};
use crate::error::Named;
use crate::socket::{self, MAX_MESSAGE};
use crate::{ContainerId, PodId, Result};

/// A client of the container runtime interface. A clone shares the connection.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects to a runtime's socket, for example `/run/containerd/containerd.sock`.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::over(socket::connect(socket.as_ref()).await?))
    }

    /// A client over a connection that is there already.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        }
    }

    /// All calls about pods and containers.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// All calls about images.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    /// Which runtime this is.
    ///
    /// # Errors
    /// As every call: when the runtime does not answer or refuses.
    pub async fn version(&self) -> Result<VersionResponse> {
        let request = VersionRequest {
            version: "v1".to_owned(),
        };
        let answer = self.runtime().version(request).await;
        answer.named("Version", "the runtime")
    }

    /// The runtime's state. With `verbose` the answer's `info` has, under `config`, JSON with its configuration.
    ///
    /// # Errors
    /// As every call.
    pub async fn status(&self, verbose: bool) -> Result<StatusResponse> {
        let answer = self.runtime().status(StatusRequest { verbose }).await;
        answer.named("Status", "the runtime")
    }

    /// The pods, those that have ended included.
    ///
    /// # Errors
    /// As every call.
    pub async fn pods(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
        let request = ListPodSandboxRequest { filter };
        let answer = self.runtime().list_pod_sandbox(request).await;
        Ok(answer.named("ListPodSandbox", "all pods")?.items)
    }

    /// The containers, those that have ended included.
    ///
    /// # Errors
    /// As every call.
    pub async fn containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>> {
        let request = ListContainersRequest { filter };
        let answer = self.runtime().list_containers(request).await;
        Ok(answer.named("ListContainers", "all containers")?.containers)
    }

    /// A pod's state. With `verbose` the answer's `info` has, under `info`, JSON with the configuration it was made from.
    ///
    /// # Errors
    /// As every call.
    pub async fn pod_status(&self, id: &PodId, verbose: bool) -> Result<PodSandboxStatusResponse> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.0.clone(),
            verbose,
        };
        let answer = self.runtime().pod_sandbox_status(request).await;
        answer.named("PodSandboxStatus", id.as_str())
    }

    /// A container's state. With `verbose` the answer's `info` has, under `info`, JSON with its configuration.
    ///
    /// # Errors
    /// As every call.
    pub async fn container_status(
        &self,
        id: &ContainerId,
        verbose: bool,
    ) -> Result<ContainerStatusResponse> {
        let request = ContainerStatusRequest {
            container_id: id.0.clone(),
            verbose,
        };
        let answer = self.runtime().container_status(request).await;
        answer.named("ContainerStatus", id.as_str())
    }

    /// Makes a pod. An empty `handler` is the default runtime.
    ///
    /// # Errors
    /// As every call.
    pub async fn run_pod(&self, config: &PodSandboxConfig, handler: &str) -> Result<PodId> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let name = config.metadata.as_ref().map(|pod| pod.name.as_str());
        let answer = self.runtime().run_pod_sandbox(request).await;
        let answer = answer.named("RunPodSandbox", name.unwrap_or_default())?;
        Ok(PodId(answer.pod_sandbox_id))
    }

    /// Ends a pod's containers and gives its network back. No error when that is done already.
    ///
    /// # Errors
    /// As every call.
    pub async fn stop_pod(&self, id: &PodId) -> Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.0.clone(),
        };
        let answer = self.runtime().stop_pod_sandbox(request).await;
        answer.named("StopPodSandbox", id.as_str()).map(drop)
    }

    /// Removes a pod with its containers. No error when there is none.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove_pod(&self, id: &PodId) -> Result<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.0.clone(),
        };
        let answer = self.runtime().remove_pod_sandbox(request).await;
        answer.named("RemovePodSandbox", id.as_str()).map(drop)
    }

    /// Makes a container in a pod; nothing of it runs yet.
    ///
    /// # Errors
    /// As every call.
    pub async fn create_container(
        &self,
        pod: &PodId,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<ContainerId> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.0.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        let name = config.metadata.as_ref().map(|it| it.name.as_str());
        let answer = self.runtime().create_container(request).await;
        let answer = answer.named("CreateContainer", name.unwrap_or_default())?;
        Ok(ContainerId(answer.container_id))
    }

    /// Lets a made container run.
    ///
    /// # Errors
    /// As every call.
    pub async fn start_container(&self, id: &ContainerId) -> Result<()> {
        let request = StartContainerRequest {
            container_id: id.0.clone(),
        };
        let answer = self.runtime().start_container(request).await;
        answer.named("StartContainer", id.as_str()).map(drop)
    }

    /// Ends a container: its stop signal first, SIGKILL after `patience`, which counts in whole seconds; at once when it is zero.
    ///
    /// # Errors
    /// As every call.
    pub async fn stop_container(&self, id: &ContainerId, patience: Duration) -> Result<()> {
        let request = StopContainerRequest {
            container_id: id.0.clone(),
            timeout: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        };
        let answer = self.runtime().stop_container(request).await;
        answer.named("StopContainer", id.as_str()).map(drop)
    }

    /// Removes a container, a running one as well. No error when there is none.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let request = RemoveContainerRequest {
            container_id: id.0.clone(),
        };
        let answer = self.runtime().remove_container(request).await;
        answer.named("RemoveContainer", id.as_str()).map(drop)
    }

    /// Checkpoints a container into an archive at `location`, a path of the runtime. It goes on running.
    ///
    /// # Errors
    /// As every call; [`crate::Error::is_unimplemented`] with containerd before 2.0.
    pub async fn checkpoint_container(
        &self,
        id: &ContainerId,
        location: &Path,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let seconds = timeout.map_or(0, |timeout| timeout.as_secs());
        let request = CheckpointContainerRequest {
            container_id: id.0.clone(),
            location: location.to_string_lossy().into_owned(),
            // Zero is the runtime's own limit.
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let answer = self.runtime().checkpoint_container(request).await;
        answer.named("CheckpointContainer", id.as_str()).map(drop)
    }

    /// An image that the runtime has; `None` when it has not got it.
    ///
    /// # Errors
    /// As every call.
    pub async fn image(&self, name: &str) -> Result<Option<Image>> {
        let request = ImageStatusRequest {
            image: Some(ImageSpec {
                image: name.to_owned(),
                ..ImageSpec::default()
            }),
            verbose: false,
        };
        let answer = self.images().image_status(request).await;
        Ok(answer.named("ImageStatus", name)?.image)
    }
}
