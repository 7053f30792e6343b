//! Directories of our own on the node, for one operation each. One whose process died is collected by the next.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Name of the lock inside such a directory; while it is held, the directory is in use.
pub(crate) const LOCK: &str = ".lock";

/// What could not be done with a path of the node.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {action} {path}")]
pub struct Failed {
    /// What was tried.
    action: &'static str,
    /// On which path.
    path: PathBuf,
    /// Why it failed.
    source: io::Error,
}

/// For `map_err`.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failed {
    move |source| Failed {
        action,
        path: path.to_path_buf(),
        source,
    }
}

/// A directory that goes away with [`OwnDir::remove`].
#[derive(Debug)]
pub(crate) struct OwnDir {
    path: PathBuf,
    lock: Flock<File>,
}

impl OwnDir {
    /// Makes an empty one below `root` with this mode, and removes those there whose process is gone and that are not `kept`.
    pub(crate) fn new(
        root: &Path,
        mode: u32,
        kept: impl Fn(&Path) -> bool,
    ) -> Result<Self, Failed> {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(mode)
            .create(root)
            .map_err(failed("make", root))?;
        let root = absolute(root).map_err(failed("find", root))?;
        // Held while a directory is made and locked, so that nobody collects it in between.
        let _making = lock_root(&root)?;
        collect(&root, kept);
        let own = std::process::id();
        for attempt in 0.. {
            let path = root.join(format!("{own}.{attempt}"));
            match DirBuilder::new().mode(mode).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed("make", &path)(error)),
            }
            let lock_path = path.join(LOCK);
            let file = File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&lock_path);
            let file = file.map_err(failed("make", &lock_path))?;
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, errno)| failed("lock", &lock_path)(errno.into()))?;
            return Ok(Self { path, lock });
        }
        unreachable!("attempts do not end")
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The lock's descriptor; whoever holds it keeps the directory.
    pub(crate) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Removes it.
    pub(crate) fn remove(self) -> Result<(), Failed> {
        remove(&self.path)
    }
}

/// The path without links. One that leads through `/proc/<pid>/root` of a process in another mount namespace has none that means the same
/// here, and stays as it is.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino()));
    let wanted = id(path)?;
    match path.canonicalize() {
        Ok(plain) if id(&plain).is_ok_and(|found| found == wanted) => Ok(plain),
        _ => std::path::absolute(path),
    }
}

/// Makes a directory.
pub(crate) fn make(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)
}

/// Removes one by its path.
pub(crate) fn remove(path: &Path) -> Result<(), Failed> {
    // Half removed, it must not be collected by another at the same time.
    let _removing = path.parent().map(lock_root).transpose()?;
    fs::remove_dir_all(path).map_err(failed("remove", path))
}

/// Keeps others from making, collecting and removing below `root`.
pub(crate) fn lock_root(root: &Path) -> Result<Flock<File>, Failed> {
    let directory = File::open(root).map_err(failed("open", root))?;
    Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, errno)| failed("lock", root)(errno.into()))
}

/// The directories below `root` that no process holds; the caller holds the root's lock.
fn unheld(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| {
        let lock = File::open(path.join(LOCK)).ok();
        let held = lock.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        // One without a lock was left in the instant before it got one.
        !matches!(held, Some(Err(_)))
    })
}

/// Removes directories whose users are gone; the caller holds the root's lock. Best effort: what cannot be removed now is
/// tried again next time.
fn collect(root: &Path, kept: impl Fn(&Path) -> bool) {
    for path in unheld(root).filter(|path| !kept(path)) {
        let _ = fs::remove_dir_all(path);
    }
}
