//! Checkpoints on a node: a directory of images, or the archive that containerd makes of a pod's container.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::engine::Engine;
use crate::suite::Suite;

/// Checkpoints are where the kubelet keeps them.
const CHECKPOINTS: &str = "/var/lib/kubelet/checkpoints";
/// Checkpoints of pods are where Restow looks for them, by the pod's namespace.
const STORE: &str = "/var/lib/restow/checkpoints/default";

/// CRIU images in a node.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The directory, as a path of the node; there is none where containerd makes an archive.
    pub images: String,
    /// CRIU's logs, as a path of the node.
    pub work: String,
    /// Whether containerd makes an archive of it, [`Self::archive`].
    pub archived: bool,
}

impl Checkpoint {
    /// A place for a new checkpoint.
    pub fn new(engine: &Engine, name: &str) -> Result<Self> {
        let managed = engine.kubelet().is_some();
        let base = if managed { STORE } else { CHECKPOINTS };
        let checkpoint = Self {
            images: format!("{base}/{name}/checkpoint"),
            work: format!("{CHECKPOINTS}/{name}/work"),
            archived: managed && engine.node().state().suite != Suite::Stable,
        };
        // An archive has its name without these beside it.
        let images = if checkpoint.archived {
            base
        } else {
            &checkpoint.images
        };
        for dir in [images, &checkpoint.work] {
            fs::create_dir_all(engine.node().path(dir))
                .with_context(|| format!("Create {dir} in the node"))?;
        }
        Ok(checkpoint)
    }

    /// Its name, by which a pod asks for it: that of the directory that the images are in.
    #[must_use]
    pub fn name(&self) -> &str {
        let mut parts = self.images.rsplit('/');
        parts.nth(1).unwrap_or_default()
    }

    /// The archive that containerd makes of a pod's container, as a path of the node.
    #[must_use]
    pub fn archive(&self) -> String {
        format!("{STORE}/{}.tar", self.name())
    }

    /// One of its images.
    pub fn read(&self, engine: &Engine, image: &str) -> Result<Vec<u8>> {
        if !self.archived {
            let path = engine.node().path(&self.images).join(image);
            return fs::read(&path).with_context(|| format!("Read {}", path.display()));
        }
        let archive = self.archive();
        let mut tar = engine.node().command("tar");
        let image = format!("checkpoint/{image}");
        tar.args(["--extract", "--to-stdout", "--file", &archive, &image]);
        let output = tar.output().context("Start tar")?;
        if !output.status.success() {
            bail!("{image} is not in {archive}");
        }
        Ok(output.stdout)
    }

    /// Takes one of its images out of it.
    pub fn leave_out(&self, engine: &Engine, image: &str) -> Result<()> {
        if !self.archived {
            let path = engine.node().path(&self.images).join(image);
            return fs::remove_file(&path).with_context(|| format!("Remove {}", path.display()));
        }
        let (archive, image) = (self.archive(), format!("checkpoint/{image}"));
        let tar = ["--delete", "--file", &archive, &image];
        engine.run("tar", &tar).map(drop)
    }

    /// Carries it from the node of `from` to that of `to`, as `arrived`.
    pub fn carry(&self, from: &Engine, arrived: &Self, to: &Engine) -> Result<()> {
        let copy = |source: &str, target: &str| {
            let (source, target) = (from.node().path(source), to.node().path(target));
            fs::copy(&source, &target)
                .map(drop)
                .with_context(|| format!("Carry {} to the other node", source.display()))
        };
        if self.archived {
            return copy(&self.archive(), &arrived.archive());
        }
        for entry in fs::read_dir(from.node().path(&self.images))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            copy(
                &format!("{}/{name}", self.images),
                &format!("{}/{name}", arrived.images),
            )?;
        }
        Ok(())
    }
}
