//! The staging directory: edited images beside links to all others.
//!
//! CRIU reads the image set from here. Memory pages (`pages-*.img`) are only ever linked: staging costs the same for
//! 1 MiB and for 1 TiB of memory. The originals are never changed.
//!
//! Links are symbolic and *relative*: restored tasks open `core`, `mm`, `pagemap` and `pages` images after CRIU has
//! switched to the container's root, where an absolute link leads into the container. A relative one is followed from
//! the directory's own descriptor, which is still in the node's mount namespace.

mod edit;
mod sockets;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::host::own_dir::{Failed, OwnDir, failed};
use crate::plan::Plan;
use crate::source::images::{self, ImageDir};

/// Where staging directories are made on a node.
pub const ROOT: &str = "/run/restow/staging";

/// Why staging failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image could not be read or edited.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// Something on the node.
    #[error(transparent)]
    Io(#[from] Failed),
}

/// A staging directory. It goes away with [`Staging::remove`]; one whose process died is collected by the next
/// [`Staging::new`].
#[derive(Debug)]
pub struct Staging(OwnDir);

impl Staging {
    /// Makes an empty staging directory below `root`, and removes those there that nobody uses any more.
    ///
    /// # Errors
    /// When `root` cannot be made or written.
    pub fn new(root: &Path) -> Result<Self, Error> {
        // 0711: a user namespace's root must be able to walk through.
        Ok(Self(OwnDir::new(root, 0o711, |_| false)?))
    }

    /// Fills it: edited images as files, everything else as links.
    ///
    /// # Errors
    /// When an image cannot be edited or the directory cannot be written.
    pub fn fill(&self, images: &ImageDir, plan: &Plan) -> Result<(), Error> {
        let edited = edit::edited_images(images, plan)?;
        let originals = images
            .path()
            .canonicalize()
            .map_err(failed("find", images.path()))?;
        let back = relative(self.path(), &originals);
        for name in images.names()? {
            if edited.contains_key(&name) {
                continue;
            }
            let here = self.path().join(&name);
            let there = if name == images::PARENT {
                parent(&originals, self.path())?
            } else {
                back.join(&name)
            };
            symlink(&there, &here).map_err(failed("link", &here))?;
        }
        self.write(&edited)
    }

    fn write(&self, edited: &BTreeMap<std::ffi::OsString, Vec<u8>>) -> Result<(), Error> {
        for (name, bytes) in edited {
            let path = self.path().join(name);
            let file = File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path);
            file.and_then(|mut file| file.write_all(bytes))
                .map_err(failed("write", &path))?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The lock's descriptor; whoever holds it keeps the directory.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.0.lock()
    }

    /// Removes it.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        Ok(self.0.remove()?)
    }
}

/// Where an image directory's `parent` link (the previous set of an incremental dump) leads, seen from `from`. CRIU
/// wants it relative (`criu/image.c`, `open_parent`).
fn parent(originals: &Path, from: &Path) -> Result<PathBuf, Error> {
    let link = originals.join(images::PARENT);
    let there = link.canonicalize().map_err(failed("follow", &link))?;
    Ok(relative(from, &there))
}

/// The relative path that leads from directory `from` to `to`; both absolute and without links.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let from: Vec<Component<'_>> = from.components().collect();
    let to: Vec<Component<'_>> = to.components().collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - common);
    up.chain(to[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::own_dir::LOCK;

    #[test]
    fn links_lead_from_one_directory_to_the_other() {
        let path = |from: &str, to: &str| {
            relative(Path::new(from), Path::new(to))
                .display()
                .to_string()
        };
        assert_eq!(path("/run/restow/1.0", "/var/img"), "../../../var/img");
        assert_eq!(path("/run/restow/1.0", "/run/img"), "../../img");
        assert_eq!(path("/a", "/a"), "");
    }

    #[test]
    fn no_restore_takes_away_the_directory_of_another() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let staging = Staging::new(root.path()).unwrap();
                        assert!(staging.path().join(LOCK).exists());
                        staging.remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_is_kept_and_an_abandoned_one_collected() {
        let root = tempfile::tempdir().unwrap();
        let used = Staging::new(root.path()).unwrap();
        let left = Staging::new(root.path()).unwrap();
        let left_path = left.path().to_path_buf();
        drop(left);
        let third = Staging::new(root.path()).unwrap();
        assert!(used.path().exists());
        assert!(!left_path.exists() || third.path() == left_path);
        third.remove().unwrap();
        used.remove().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
