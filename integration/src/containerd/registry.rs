//! A registry of images on a node's loopback: a real one, Debian's `docker-registry`.
//!
//! containerd's own restore (2.1 to 2.3) pulls the image that a checkpoint is based on even when the node has it
//! (`container_checkpoint_linux.go`, `CRImportCheckpoint`); and a node that a checkpoint was copied to has to get the image somewhere.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Containerd, Image};
use crate::programs;

/// Where it listens, by TCP alone: the node's own loopback. Names of its images begin with it.
pub const REGISTRY: &str = "127.0.0.1:5000";
/// Where it keeps its images.
pub const REGISTRY_IMAGES: &str = "/var/lib/registry";

const PROGRAM: &str = "/opt/docker-registry";
const LOG: &str = "/var/log/registry.log";
/// It starts within a second where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry on a node, which ends with it.
#[derive(Debug)]
pub struct Registry(Child);

impl Registry {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not; what it logged is in the error.
    pub fn start(containerd: &Containerd) -> Result<Self> {
        containerd.install(&programs::registry()?, PROGRAM)?;
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {REGISTRY_IMAGES}}}}}\n\
             http: {{addr: '{REGISTRY}'}}\n"
        );
        containerd.write("/etc/registry.yml", &config)?;
        let mut command = containerd.node().command("sh");
        let script = format!("exec {PROGRAM} serve /etc/registry.yml >{LOG} 2>&1");
        let child = command.args(["-c", &script]).stdin(Stdio::null()).spawn();
        let mut this = Self(child.context("Start the registry")?);
        let deadline = Instant::now() + PATIENCE;
        let (host, port) = REGISTRY
            .split_once(':')
            .context("The registry has no port")?;
        let connect = format!("exec 3<>/dev/tcp/{host}/{port}");
        while containerd.run("bash", &["-c", &connect]).is_err() {
            if this.0.try_wait()?.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(containerd.node().path(LOG)).unwrap_or_default();
                bail!("The registry does not answer; its log: {}", log.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(this)
    }

    /// The same with an image in it, which containerd has as well.
    ///
    /// # Errors
    /// When either does not take it.
    pub fn with_image(containerd: &Containerd, image: &Image) -> Result<Self> {
        let this = Self::start(containerd)?;
        containerd.import(image)?;
        this.push(containerd, image.name())?;
        Ok(this)
    }

    /// Pushes an image that containerd has under the registry's name.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn push(&self, containerd: &Containerd, name: &str) -> Result<()> {
        let push = ["images", "push", "--plain-http", name];
        containerd.ctr(&push).map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // The node ends what runs in it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
