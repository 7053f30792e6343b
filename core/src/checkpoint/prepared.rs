//! A checkpoint that is ready to be restored as one container.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::undo;
use super::work::{IMAGES, State, Work, of_bundle};
use crate::host::own_dir;
use crate::policy::NodeConfig;

/// A checkpoint that is ready to be restored as one container: checked images, and a root file system with its changes.
///
/// It stays when this value goes, as the runtime restores later, and until the bundle is gone. [`Prepared::of_bundle`] finds it
/// again, also in another process.
#[derive(Debug)]
pub struct Prepared {
    dir: PathBuf,
    state: State,
    /// Held while this process has it.
    _work: Option<Work>,
}

impl Prepared {
    pub(super) fn new(work: Work, state: State) -> Self {
        Self {
            dir: work.path().to_path_buf(),
            state,
            _work: Some(work),
        }
    }

    /// What was prepared for a container earlier and was neither undone nor finished.
    #[must_use]
    pub fn of_bundle(config: &NodeConfig, bundle: &Path) -> Option<Self> {
        let (dir, state) = of_bundle(&config.checkpoints.unpack, bundle)?;
        Some(Self {
            dir,
            state,
            _work: None,
        })
    }

    /// Where the images are: what a runtime gets as `--image-path`. Only root can write there.
    #[must_use]
    pub fn image_dir(&self) -> PathBuf {
        self.dir.join(IMAGES)
    }

    /// The checkpoint's name, as it was asked for.
    #[must_use]
    pub fn checkpoint(&self) -> &str {
        &self.state.checkpoint
    }

    /// The restore has failed or will not be tried: makes the root file system what it was and removes the images.
    ///
    /// # Errors
    /// When something cannot be undone; then it stays, and can be tried again.
    pub fn undo(self) -> Result<(), Error> {
        let rootfs = self.state.rootfs.clone();
        self.undo_at(&rootfs)
    }

    /// As [`Self::undo`], where the root file system is mounted elsewhere by now.
    ///
    /// # Errors
    /// As there.
    pub fn undo_at(self, rootfs: &Path) -> Result<(), Error> {
        undo::undo(&self.dir, rootfs).map_err(|error| Error::Rootfs {
            path: self.state.checkpoint.clone().into(),
            rootfs: rootfs.to_path_buf(),
            what: format!("nor undone again: {error}"),
        })?;
        Ok(own_dir::remove(&self.dir)?)
    }

    /// The container runs: removes the images. Its root file system stays as it is.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn finish(self) -> Result<(), Error> {
        Ok(own_dir::remove(&self.dir)?)
    }
}
