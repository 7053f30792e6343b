//! The directory in which one checkpoint is unpacked for one container.
//!
//! ```text
//! <unpack>/<pid>.<n>/            0711, root's
//!     .lock                      held while a process works on it
//!     images/                    what CRIU reads
//!     meta/                      rootfs-diff.tar, deleted.files, spec.dump, config.dump
//!     state.json                 for which bundle
//!     undo.jsonl, saved/         how the root file system was
//! ```
//!
//! It is needed from the container's creation to its start, which may be the business of several processes. So it stays when
//! none holds the lock, as long as its bundle is there, and is collected by a later restore otherwise.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, failed};
use super::unpack::is_roots;
use crate::host::own_dir::{self, OwnDir};

const STATE: &str = "state.json";

/// Images and what else is of the container's.
pub(super) const IMAGES: &str = "images";
pub(super) const META: &str = "meta";

/// For whom it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The checkpoint, as it was asked for.
    pub(super) checkpoint: String,
    /// The container's bundle.
    pub(super) bundle: PathBuf,
    /// Device and inode number of the bundle: another container may get a bundle of this name.
    pub(super) bundle_id: (u64, u64),
    /// Its root file system.
    pub(super) rootfs: PathBuf,
}

impl State {
    fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(STATE)).ok()?).ok()
    }

    /// Whether the bundle is there.
    fn is_current(&self) -> bool {
        id_of(&self.bundle).is_ok_and(|id| id == self.bundle_id)
    }
}

pub(super) fn id_of(path: &Path) -> std::io::Result<(u64, u64)> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// A directory that this process works on.
#[derive(Debug)]
pub(super) struct Work(OwnDir);

impl Work {
    /// Makes one below `root`, and removes those that nobody needs any more.
    pub(super) fn new(root: &Path) -> Result<Self, Error> {
        ours(root)?;
        let kept = |dir: &Path| State::read(dir).is_some_and(|state| state.is_current());
        // As a staging directory: a user namespace's root must be able to walk through.
        let dir = OwnDir::new(root, 0o711, kept)?;
        for name in [IMAGES, META] {
            let path = dir.path().join(name);
            own_dir::make(&path, 0o711).map_err(failed("make", &path))?;
        }
        Ok(Self(dir))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn images(&self) -> PathBuf {
        self.path().join(IMAGES)
    }

    pub(super) fn meta(&self) -> PathBuf {
        self.path().join(META)
    }

    /// Says for whom it is. From here on it is kept as long as the bundle is there.
    pub(super) fn belongs(&self, state: &State) -> Result<(), Error> {
        let path = self.path().join(STATE);
        let text = serde_json::to_vec(state).unwrap_or_default();
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        file.and_then(|mut file| file.write_all(&text))
            .map_err(failed("write", &path))
    }

    /// Removes it.
    pub(super) fn remove(self) -> Result<(), Error> {
        Ok(self.0.remove()?)
    }
}

/// What is checked must not be changed by others: they could not even put a directory of theirs in its place.
fn ours(root: &Path) -> Result<(), Error> {
    match fs::metadata(root) {
        Ok(meta) if is_roots(&meta) => Ok(()),
        Ok(meta) => Err(Error::NotOurs {
            path: root.to_path_buf(),
            owner: meta.uid(),
            mode: meta.mode() & 0o7777,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("read", root)(error)),
    }
}

/// The directory that was made for a bundle, if there is one.
pub(super) fn of_bundle(root: &Path, bundle: &Path) -> Option<(PathBuf, State)> {
    let id = id_of(bundle).ok()?;
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), State::read(&entry.path())?)))
        .find(|(_, state)| state.bundle_id == id)
}
