//! What the kubelet does on a node, over the container runtime interface: directories and cgroups of pods, the files that it manages,
//! sandboxes, containers, logs.
//!
//! The kubelet itself has to be told all that by an API server; here the suites tell it. Everything below the socket is real.

mod config;
mod container;
mod sandbox;

use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use restow_cri::api::ExecSyncRequest;
use restow_cri::{ContainerId, Containerd as Api, Cri, K8S_NAMESPACE};
use tokio::runtime::Runtime as Tokio;

use crate::containerd::{Containerd, PAUSE_IMAGE, PROBE_IMAGE};

pub(crate) use config::container_config;
pub use config::{plain_container, programs_of_node};
pub(crate) use container::Managed;
pub use sandbox::pod_config;
pub(crate) use sandbox::{Sandbox, SandboxInput, labels};

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that a container of a pod cannot have, whoever manages it; the scenario that needs it is left out for pods.
#[derive(Debug, thiserror::Error)]
#[error("a pod cannot have {0}")]
pub struct NotInPods(pub &'static str);

/// A kubelet's side of a node's containerd.
#[derive(Debug)]
pub struct Kubelet {
    containerd: Rc<Containerd>,
    tokio: Tokio,
    cri: Cri,
    api: Api,
}

impl Kubelet {
    /// Connects to a containerd, and waits until its images can be used.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn new(containerd: Rc<Containerd>) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("Make a runtime for calls")?;
        let socket = containerd.socket();
        let (cri, api) = tokio.block_on(async {
            let cri = Cri::connect(&socket).await?;
            let api = Api::connect(&socket, K8S_NAMESPACE).await?;
            Ok::<_, restow_cri::Error>((cri, api))
        })?;
        let kubelet = Self {
            containerd,
            tokio,
            cri,
            api,
        };
        for image in [PAUSE_IMAGE, PROBE_IMAGE] {
            kubelet.wait_for_image(image)?;
        }
        Ok(kubelet)
    }

    /// The containerd.
    #[must_use]
    pub fn containerd(&self) -> &Rc<Containerd> {
        &self.containerd
    }

    /// Its container runtime interface; calls are made with [`Self::call`].
    #[must_use]
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// containerd's own interface; calls are made with [`Self::call`].
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Makes a call and waits for its answer.
    ///
    /// # Errors
    /// When it fails.
    pub fn call<T>(&self, call: impl Future<Output = restow_cri::Result<T>>) -> Result<T> {
        Ok(self.tokio.block_on(call)?)
    }

    /// Starts containerd again after ending it with `signal`, and waits until it answers.
    ///
    /// # Errors
    /// When it does not end, or not start.
    pub fn restart_containerd(&self, signal: &str) -> Result<()> {
        self.containerd.restart(signal)?;
        let deadline = Instant::now() + PATIENCE;
        // The first calls on the old connections only show that those have ended.
        loop {
            let cri = self.call(self.cri.version());
            let api = self.call(self.api.version());
            match cri.map(drop).and(api.map(drop)) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Makes a call that has no method of its own, and waits for its answer.
    ///
    /// # Errors
    /// When it fails.
    pub fn request<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        let answer = self.tokio.block_on(call);
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| anyhow!("{}", status.message()))
    }

    /// Makes several calls at once and waits for all answers.
    ///
    /// # Errors
    /// When one fails; the others are waited for all the same.
    pub fn all<T: 'static>(
        &self,
        calls: impl IntoIterator<Item = impl Future<Output = restow_cri::Result<T>> + 'static>,
    ) -> Result<Vec<T>> {
        let set = tokio::task::LocalSet::new();
        let tasks: Vec<_> = calls
            .into_iter()
            .map(|call| set.spawn_local(call))
            .collect();
        let answers = set.block_on(&self.tokio, async {
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(task.await);
            }
            answers
        });
        let mut all = Vec::new();
        for answer in answers {
            all.push(answer.context("A call was broken off")??);
        }
        Ok(all)
    }

    /// Waits until the CRI plugin knows an image that was imported: it is told of it later.
    ///
    /// # Errors
    /// When it never does.
    pub fn wait_for_image(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // Of its two names the one by digest comes last.
        while self
            .call(self.cri.image(name))?
            .is_none_or(|image| image.repo_digests.is_empty())
        {
            if Instant::now() > deadline {
                bail!("containerd's CRI plugin does not find the image {name}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Runs a program in a container and returns its output.
    ///
    /// # Errors
    /// When it cannot be run, or fails.
    pub fn exec(&self, id: &ContainerId, program: &[&str]) -> Result<String> {
        let request = ExecSyncRequest {
            container_id: id.0.clone(),
            cmd: program.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let answer = self
            .tokio
            .block_on(self.cri.runtime().exec_sync(request))
            .with_context(|| format!("Run {program:?} in {id}"))?
            .into_inner();
        if answer.exit_code != 0 {
            bail!(
                "{program:?} ends with {}: {}",
                answer.exit_code,
                String::from_utf8_lossy(&answer.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }
}
