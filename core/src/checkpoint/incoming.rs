//! Putting a checkpoint into the store: whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::error::{Error, failed};
use super::name::{CheckpointName, ENDINGS, Namespace};
use crate::host::own_dir::{self, OwnDir, lock_root};

/// Below a root, where checkpoints are written. No namespace has such a name.
pub(super) const INCOMING: &str = ".incoming";

/// How a checkpoint is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A directory, with images in it or in `checkpoint/` below it.
    Directory,
    /// A tar archive.
    Tar,
    /// A tar archive, compressed with zstd.
    TarZstd,
    /// A tar archive, compressed with gzip.
    TarGzip,
}

impl Form {
    /// What stands behind the name.
    #[must_use]
    pub fn ending(self) -> &'static str {
        match self {
            Self::Directory => "",
            Self::Tar => ".tar",
            Self::TarZstd => ".tar.zst",
            Self::TarGzip => ".tar.gz",
        }
    }
}

/// A checkpoint on its way into the store. Dropped, nothing is left of it; of a process that died, the next collects it.
#[derive(Debug)]
pub struct Incoming {
    dir: Option<OwnDir>,
    root: PathBuf,
    namespace: Namespace,
    name: String,
    form: Form,
}

impl Incoming {
    pub(super) fn new(
        root: &Path,
        namespace: Namespace,
        name: &CheckpointName,
        form: Form,
    ) -> Result<Self, Error> {
        let dir = OwnDir::new(&root.join(INCOMING), 0o700, |_| false)?;
        let incoming = Self {
            root: root.to_path_buf(),
            namespace,
            name: name.name().to_owned(),
            form,
            dir: Some(dir),
        };
        if form == Form::Directory {
            let path = incoming.path();
            own_dir::make(&path, 0o700).map_err(failed("make", &path))?;
        }
        Ok(incoming)
    }

    /// Where it has to be written: a directory that is there, or an archive that is not there yet.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let dir = self.dir.as_ref().map_or(Path::new(""), OwnDir::path);
        dir.join(format!("content{}", self.form.ending()))
    }

    /// Puts it under its name, once it is on the disk; one of the same name, in whatever form, is replaced if that is
    /// wanted. Returns where it is.
    ///
    /// # Errors
    /// When one of the same name is there and must not be replaced, or the file system fails.
    pub fn commit(mut self, replace: bool) -> Result<PathBuf, Error> {
        let content = self.path();
        sync(&content).map_err(failed("write", &content))?;
        let namespace = self.root.join(self.namespace.as_str());
        match own_dir::make(&namespace, 0o700) {
            Ok(()) => sync(&self.root).map_err(failed("write", &self.root))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", &namespace)(error)),
        }
        let _changing = lock_root(&namespace)?;
        let at = namespace.join(format!("{}{}", self.name, self.form.ending()));
        let others: Vec<PathBuf> = forms(&namespace, &self.name).collect();
        if let Some(other) = others.first()
            && !replace
        {
            return Err(Error::Exists {
                name: CheckpointName::within(self.namespace.clone(), &self.name)?,
                path: other.clone(),
            });
        }
        // What was there is then in our own directory, and goes with it.
        let flags = if at.symlink_metadata().is_ok() {
            RenameFlags::RENAME_EXCHANGE
        } else {
            RenameFlags::RENAME_NOREPLACE
        };
        renameat2(AT_FDCWD, &content, AT_FDCWD, &at, flags)
            .map_err(|errno| failed("make", &at)(errno.into()))?;
        for other in others.iter().filter(|other| **other != at) {
            remove(other)?;
        }
        File::open(&namespace)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("write", &namespace))?;
        if let Some(dir) = self.dir.take() {
            dir.remove()?;
        }
        Ok(at)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take() {
            // What is left is collected by the next.
            let _ = dir.remove();
        }
    }
}

/// What has this name in a namespace's directory.
fn forms(namespace: &Path, name: &str) -> impl Iterator<Item = PathBuf> {
    let endings = std::iter::once("").chain(ENDINGS);
    endings
        .map(move |ending| namespace.join(format!("{name}{ending}")))
        .filter(|path| path.symlink_metadata().is_ok())
}

/// Removes what has a name, whatever it is.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.map_err(failed("remove", path))
}

/// Waits until a file, or a directory with all in it, is on the disk.
fn sync(path: &Path) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            sync(&entry?.path())?;
        }
    } else if !meta.is_file() {
        return Ok(());
    }
    File::open(path)?.sync_all()
}
