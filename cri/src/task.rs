//! Running containers.

use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    CheckpointTaskRequest, CreateTaskRequest, GetRequest, KillRequest, PauseTaskRequest,
    ResumeTaskRequest, StartRequest, WaitRequest, WaitResponse,
};
use containerd_client::types::Descriptor;
use containerd_client::types::v1::Process;
use prost::Message;
use prost_types::Any;

use crate::containerd::client;
use crate::error::Named;
use crate::{ContainerId, Containerd, Error, Result};

/// How a task is checkpointed: the options of containerd's runc shims
/// (`containerd/api/types/runc/options/oci.proto`), as far as they are of use here.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CheckpointOptions {
    /// Whether the container ends with the checkpoint.
    #[prost(bool, tag = "1")]
    pub exit: bool,
    /// Whether established TCP connections are dumped.
    #[prost(bool, tag = "2")]
    pub open_tcp: bool,
    /// Whether sockets whose other end is outside are dumped.
    #[prost(bool, tag = "3")]
    pub external_unix_sockets: bool,
    /// Whether a terminal is dumped.
    #[prost(bool, tag = "4")]
    pub terminal: bool,
    /// Whether file locks are dumped.
    #[prost(bool, tag = "5")]
    pub file_locks: bool,
    /// Namespaces that are left out.
    #[prost(string, repeated, tag = "6")]
    pub empty_namespaces: Vec<String>,
    /// How CRIU treats cgroups (`soft`, `full`, `strict`, `ignore`); the runtime's default when empty.
    #[prost(string, tag = "7")]
    pub cgroups_mode: String,
    /// Where the images are written, as containerd's runtime sees it. When empty they become content of containerd.
    #[prost(string, tag = "8")]
    pub image_path: String,
    /// Where CRIU's log is written; a directory that goes with the checkpoint's success when empty.
    #[prost(string, tag = "9")]
    pub work_path: String,
}

impl CheckpointOptions {
    fn to_any(&self) -> Any {
        Any {
            type_url: "containerd.runc.v1.CheckpointOptions".to_owned(),
            value: self.encode_to_vec(),
        }
    }
}

impl Containerd {
    /// Makes what runs a container, on the container's own snapshot and with no standard streams. None of its processes runs before
    /// [`Self::start`].
    ///
    /// # Errors
    /// As every call.
    pub async fn create(&self, id: &ContainerId) -> Result<()> {
        let record = self.container(id).await?;
        let request = MountsRequest {
            snapshotter: record.snapshotter,
            key: record.snapshot_key,
        };
        let answer = client!(self, SnapshotsClient).mounts(request).await;
        let request = CreateTaskRequest {
            container_id: id.0.clone(),
            rootfs: answer.named("Get mounts", id.as_str())?.mounts,
            ..CreateTaskRequest::default()
        };
        let answer = client!(self, TasksClient).create(request).await;
        answer.named("Create", id.as_str()).map(drop)
    }

    /// Lets a container run that was made by [`Self::create`].
    ///
    /// # Errors
    /// As every call.
    pub async fn start(&self, id: &ContainerId) -> Result<()> {
        let request = StartRequest {
            container_id: id.0.clone(),
            exec_id: String::new(),
        };
        let answer = client!(self, TasksClient).start(request).await;
        answer.named("Start", id.as_str()).map(drop)
    }

    /// A container's first process; the error [`Error::is_not_found`] when it does not run.
    ///
    /// # Errors
    /// As every call.
    pub async fn task(&self, id: &ContainerId) -> Result<Process> {
        let request = GetRequest {
            container_id: id.0.clone(),
            exec_id: String::new(),
        };
        let answer = client!(self, TasksClient).get(request).await;
        let answer = answer.named("Get task", id.as_str())?;
        answer.process.ok_or_else(|| Error::Missing {
            call: "Get task",
            object: id.0.clone(),
            what: "process",
        })
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// As every call.
    pub async fn pause(&self, id: &ContainerId) -> Result<()> {
        let request = PauseTaskRequest {
            container_id: id.0.clone(),
        };
        let answer = client!(self, TasksClient).pause(request).await;
        answer.named("Pause", id.as_str())
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// As every call.
    pub async fn resume(&self, id: &ContainerId) -> Result<()> {
        let request = ResumeTaskRequest {
            container_id: id.0.clone(),
        };
        let answer = client!(self, TasksClient).resume(request).await;
        answer.named("Resume", id.as_str())
    }

    /// Sends a signal, by its number, to a container's processes: to all with `all`, else to the first.
    ///
    /// # Errors
    /// As every call.
    pub async fn kill(&self, id: &ContainerId, signal: u32, all: bool) -> Result<()> {
        let request = KillRequest {
            container_id: id.0.clone(),
            exec_id: String::new(),
            signal,
            all,
        };
        let answer = client!(self, TasksClient).kill(request).await;
        answer.named("Kill", id.as_str())
    }

    /// Waits until a container's first process has ended.
    ///
    /// # Errors
    /// As every call.
    pub async fn wait(&self, id: &ContainerId) -> Result<WaitResponse> {
        let request = WaitRequest {
            container_id: id.0.clone(),
            exec_id: String::new(),
        };
        let answer = client!(self, TasksClient).wait(request).await;
        answer.named("Wait", id.as_str())
    }

    /// Checkpoints a container's processes. Without an image path the answer names the content that the images became, else it is
    /// empty.
    ///
    /// # Errors
    /// As every call.
    pub async fn checkpoint(
        &self,
        id: &ContainerId,
        options: &CheckpointOptions,
    ) -> Result<Vec<Descriptor>> {
        let request = CheckpointTaskRequest {
            container_id: id.0.clone(),
            parent_checkpoint: String::new(),
            options: Some(options.to_any()),
        };
        let answer = client!(self, TasksClient).checkpoint(request).await;
        Ok(answer.named("Checkpoint", id.as_str())?.descriptors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_the_numbers_of_the_shim() {
        let options = CheckpointOptions {
            exit: true,
            image_path: "/i".to_owned(),
            work_path: "/w".to_owned(),
            ..CheckpointOptions::default()
        };
        let bytes = [0x08, 1, 0x42, 2, b'/', b'i', 0x4a, 2, b'/', b'w'];
        assert_eq!(options.to_any().value, bytes);
    }
}
