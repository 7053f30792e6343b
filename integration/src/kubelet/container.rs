//! A container that containerd has the care of.

use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use restow_cri::api::{ContainerConfig, ContainerState, ImageSpec, PodSandboxConfig};
use restow_cri::{CheckpointOptions, ContainerId, PodId};

use super::{Kubelet, PATIENCE, Sandbox};
use crate::container::Checkpoint;
use crate::engine::Mode;
use crate::suite::Suite;

/// The annotation that asks for a restore.
const RESTORE_FROM: &str = "restow.dev/restore-from";

/// A container of a pod, made or about to be made.
#[derive(Debug)]
pub(crate) struct Managed {
    kubelet: Rc<Kubelet>,
    mode: Mode,
    pod: PodId,
    pod_config: PodSandboxConfig,
    config: ContainerConfig,
    /// Nothing while the runtime has not been asked for it.
    id: Option<ContainerId>,
}

impl Managed {
    /// One of `sandbox`; `annotations` are the pod's.
    pub(crate) fn new(
        sandbox: &Sandbox,
        mode: Mode,
        config: ContainerConfig,
        annotations: &[(String, String)],
    ) -> Self {
        let mut pod_config = sandbox.config.clone();
        pod_config.annotations.extend(annotations.iter().cloned());
        Self {
            kubelet: Rc::clone(&sandbox.kubelet),
            mode,
            pod: sandbox.id.clone(),
            pod_config,
            config,
            id: None,
        }
    }

    /// The sandbox itself.
    pub(crate) fn sandbox(sandbox: &Sandbox, mode: Mode) -> Self {
        let mut this = Self::new(sandbox, mode, ContainerConfig::default(), &[]);
        this.id = Some(sandbox.container());
        this
    }

    /// Its id, when it has been made.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_ref().map(ContainerId::as_str)
    }

    fn made(&self) -> Result<&ContainerId> {
        self.id
            .as_ref()
            .context("The container has not been made yet")
    }

    /// Asks the runtime for it, with `checkpoint` as what it is to be restored from.
    pub(crate) fn create(&mut self, checkpoint: Option<&Checkpoint>) -> Result<String> {
        if let Some(checkpoint) = checkpoint {
            self.ask_for_restore(checkpoint);
        }
        let cri = self.kubelet.cri();
        let call = cri.create_container(&self.pod, &self.config, &self.pod_config);
        let id = self.kubelet.call(call)?;
        Ok(self.id.insert(id).0.clone())
    }

    /// Restow takes the pod's word for it; containerd 2.1 alone takes the archive for an image.
    fn ask_for_restore(&mut self, checkpoint: &Checkpoint) {
        match self.mode {
            Mode::Restow => {
                let name = checkpoint.name().to_owned();
                self.pod_config
                    .annotations
                    .insert(RESTORE_FROM.to_owned(), name);
            }
            Mode::Stock => {
                self.config.image = Some(ImageSpec {
                    image: checkpoint.archive(),
                    ..ImageSpec::default()
                });
            }
        }
    }

    fn suite(&self) -> Suite {
        self.kubelet.containerd().node().state().suite
    }

    /// Lets it run.
    pub(crate) fn start(&self) -> Result<()> {
        self.kubelet
            .call(self.kubelet.cri().start_container(self.made()?))
    }

    /// Checkpoints it and lets it go on: by the kubelet's own call where there is one, else by containerd's.
    pub(crate) fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<()> {
        let id = self.made()?;
        if self.suite() == Suite::Stable {
            let options = CheckpointOptions {
                image_path: checkpoint.images.clone(),
                work_path: checkpoint.work.clone(),
                ..CheckpointOptions::default()
            };
            let call = self.kubelet.api().checkpoint(id, &options);
            return self.kubelet.call(call).map(drop);
        }
        let archive = checkpoint.archive();
        let cri = self.kubelet.cri();
        let call = cri.checkpoint_container(id, Path::new(&archive), None);
        self.kubelet.call(call)
    }

    /// Sends its first process a signal.
    pub(crate) fn signal(&self, number: u32) -> Result<()> {
        self.kubelet
            .call(self.kubelet.api().kill(self.made()?, number, false))
    }

    /// Runs a program in it. A sandbox is no container for CRI, but one for containerd.
    pub(crate) fn exec(&self, program: &[&str]) -> Result<String> {
        let id = self.made()?;
        if id.as_str() != self.pod.as_str() {
            return self.kubelet.exec(id, program);
        }
        let exec = ["tasks", "exec", "--exec-id", "suite", id.as_str()];
        self.kubelet.containerd().ctr(&[&exec, program].concat())
    }

    /// Its exit code, once it has ended.
    pub(crate) fn exit_code(&self) -> Result<Option<i32>> {
        let Some(id) = &self.id else {
            return Ok(None);
        };
        let call = self.kubelet.cri().container_status(id, false);
        let status = self.kubelet.call(call)?.status;
        let status = status.with_context(|| format!("Container {id} has no state"))?;
        let ended = status.state == i32::from(ContainerState::ContainerExited);
        Ok(ended.then_some(status.exit_code))
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self) -> Result<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(code) = self.exit_code()? {
                return Ok(code);
            }
            if Instant::now() > deadline {
                bail!("Container {} does not end", self.made()?);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it at once.
    pub(crate) fn stop(&self) -> Result<()> {
        let cri = self.kubelet.cri();
        self.kubelet
            .call(cri.stop_container(self.made()?, Duration::ZERO))
    }

    /// Removes all that the runtime has of it.
    pub(crate) fn remove(&self) -> Result<()> {
        let Some(id) = &self.id else {
            return Ok(());
        };
        self.stop()?;
        self.kubelet.call(self.kubelet.cri().remove_container(id))
    }
}
