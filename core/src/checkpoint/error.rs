//! What can go wrong with a checkpoint on the node.

use std::io;
use std::path::{Path, PathBuf};

use super::name::{CheckpointName, NameError, Namespace};
use crate::host::own_dir::{self, Failed};
use crate::policy;
use crate::source::images as source_images;

/// Why a checkpoint cannot be found, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An annotation or the node's configuration.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// What was asked for is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No root has it.
    #[error("There is no checkpoint {name} on this node; looked for {looked}")]
    NotFound {
        /// The name.
        name: CheckpointName,
        /// The places, for reading.
        looked: String,
    },
    /// One of that name is there.
    #[error(
        "There is a checkpoint {name} already, {path}; remove it first, or choose another name"
    )]
    Exists {
        /// The name.
        name: CheckpointName,
        /// Where it is.
        path: PathBuf,
    },
    /// It belongs to others.
    #[error(
        "Checkpoint {name} is one of namespace {of} and may not be used in namespace {wanted}; a node allows it with \
         `cross-namespace = true` below [checkpoints] in its configuration"
    )]
    OtherNamespace {
        /// The name as it was asked for.
        name: CheckpointName,
        /// Whose it is.
        of: String,
        /// Whose pod asks.
        wanted: Namespace,
    },
    /// Nothing says whose it is.
    #[error(
        "Nothing says which namespace checkpoint {name} ({path}) belongs to: put it into a directory of that namespace below \
         a root of the node's checkpoints"
    )]
    NoNamespace {
        /// The name as it was asked for.
        name: CheckpointName,
        /// Where it is.
        path: PathBuf,
    },
    /// An annotation for the whole pod met a container that it cannot mean.
    #[error(
        "Checkpoint {name} is one of container {of}, this container is {container}: say which container is restored from it \
         with the annotation restow.dev/restore-from.<container>"
    )]
    OtherContainer {
        /// The name as it was asked for.
        name: CheckpointName,
        /// The container in the checkpoint.
        of: String,
        /// The container that is created.
        container: String,
    },
    /// Others than root could change a directory that is relied on.
    #[error(
        "{path} can be changed by others than its owner root (owner {owner}, mode {mode:04o}): checkpoints are not read from it"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner's id.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// Something in the checkpoint that is not taken.
    #[error("Checkpoint {path} is refused: {what}")]
    Refused {
        /// The archive or directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Its images cannot be used.
    #[error("Checkpoint {path} cannot be used")]
    Images {
        /// The archive or directory.
        path: PathBuf,
        /// Why.
        source: Box<source_images::Error>,
    },
    /// The changes of the root file system cannot be applied.
    #[error(
        "The changes of the root file system in checkpoint {path} cannot be applied to {rootfs}: {what}"
    )]
    Rootfs {
        /// The archive or directory.
        path: PathBuf,
        /// Where they were to be applied.
        rootfs: PathBuf,
        /// Why.
        what: String,
    },
    /// Something on the node.
    #[error(transparent)]
    Io(#[from] Failed),
}

/// For `map_err`.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| own_dir::failed(action, path)(source).into()
}

/// For `map_err`, where an [`io::Error`] says what is wrong with the checkpoint itself.
pub(super) fn refused(path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::Refused {
        path: path.to_path_buf(),
        what: error.to_string(),
    }
}
