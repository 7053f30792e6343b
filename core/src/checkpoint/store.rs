//! The roots below which a node's checkpoints are.
//!
//! ```text
//! <root>/<namespace>/<name>             a directory: images in it, or below checkpoint/
//! <root>/<namespace>/<name>.tar[.zst|.gz]
//! <flat root>/<name>.tar[.zst|.gz]      whose it is, the archive says itself
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;

use super::error::{Error, failed};
use super::incoming::{self, Form, INCOMING, Incoming};
use super::name::{CheckpointName, Namespace, without_ending};
use super::settings::Settings;
use super::unpack::is_roots;
use crate::host::carry::{again, beneath};
use crate::policy::NodeConfig;

/// The checkpoints of a node.
#[derive(Debug, Clone)]
pub struct Store {
    settings: Settings,
}

/// A checkpoint in the store.
#[derive(Debug)]
pub struct Entry {
    /// Its name, with the namespace that its directory says.
    pub name: CheckpointName,
    /// Where it is.
    pub path: PathBuf,
    /// How it is kept.
    pub form: Form,
    /// When it was last changed.
    pub modified: SystemTime,
    /// It, whatever has its name by now.
    object: OwnedFd,
}

impl Entry {
    /// The namespace of the directory it is in; `None` in a flat root, where only the checkpoint itself says it.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.name.namespace()
    }

    /// Its size in bytes, as it is kept.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn size(&self) -> io::Result<u64> {
        fn sum(dir: &Path) -> io::Result<u64> {
            let mut bytes = 0;
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let meta = entry.metadata()?;
                bytes += if meta.is_dir() {
                    sum(&entry.path())?
                } else {
                    meta.len()
                };
            }
            Ok(bytes)
        }
        match self.form {
            Form::Directory => sum(Path::new(&again(&self.object))),
            _ => Ok(File::open(again(&self.object))?.metadata()?.len()),
        }
    }

    /// The archive.
    pub(super) fn file(&self) -> Result<File, Error> {
        File::open(again(&self.object)).map_err(failed("open", &self.path))
    }

    /// The directory.
    pub(super) fn directory(&self) -> Result<OwnedFd, Error> {
        Ok(self.file()?.into())
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn about(&self) -> Result<super::About, Error> {
        super::About::read(self)
    }
}

impl Store {
    /// The store that the node's configuration describes.
    #[must_use]
    pub fn open(config: &NodeConfig) -> Self {
        Self::with(config.checkpoints.clone())
    }

    pub(super) fn with(settings: Settings) -> Self {
        Self { settings }
    }

    /// The checkpoint of this name. Without a namespace in the name it is `namespace`'s.
    ///
    /// # Errors
    /// When there is none, or others than root could change it.
    pub fn find(&self, name: &CheckpointName, namespace: &Namespace) -> Result<Entry, Error> {
        let wanted = name.namespace().unwrap_or(namespace);
        let mut looked = Vec::new();
        for root in &self.settings.roots {
            let dir = root.join(wanted.as_str());
            looked.push(dir.display().to_string());
            let Some(root) = open_root(root)? else {
                continue;
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let opened = beneath(root.as_fd(), Path::new(wanted.as_str()), flags);
            let Some(opened) = ours(opened, &dir)? else {
                continue;
            };
            if let Some(entry) = in_directory(&opened, &dir, name.name(), Some(wanted))? {
                return Ok(entry);
            }
        }
        for root in &self.settings.flat_roots {
            looked.push(root.display().to_string());
            let Some(opened) = open_root(root)? else {
                continue;
            };
            if let Some(entry) = in_directory(&opened, root, name.name(), None)? {
                return Ok(entry);
            }
        }
        Err(Error::NotFound {
            name: name.clone(),
            looked: looked.join(", "),
        })
    }

    /// All checkpoints, by root, namespace and name. One that cannot be used is an error of its own.
    ///
    /// # Errors
    /// When a root cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Entry, Error>>, Error> {
        let mut all = Vec::new();
        for root in &self.settings.roots {
            let Some(opened) = open_root(root)? else {
                continue;
            };
            for name in names(&opened).map_err(failed("list", root))? {
                let Ok(namespace) = Namespace::new(&name) else {
                    continue;
                };
                let dir = root.join(&name);
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                match ours(beneath(opened.as_fd(), Path::new(&name), flags), &dir) {
                    Ok(Some(opened)) => list_directory(&opened, &dir, Some(&namespace), &mut all)?,
                    Ok(None) => {}
                    Err(error) => all.push(Err(error)),
                }
            }
        }
        for root in &self.settings.flat_roots {
            let Some(opened) = open_root(root)? else {
                continue;
            };
            list_directory(&opened, root, None, &mut all)?;
        }
        Ok(all)
    }

    /// Starts putting a checkpoint into the first root, which is made when it is not there. The name's namespace, if it has
    /// one, wins over `namespace`.
    ///
    /// # Errors
    /// When there is no root, or it cannot be written.
    pub fn incoming(
        &self,
        name: &CheckpointName,
        namespace: &Namespace,
        form: Form,
    ) -> Result<Incoming, Error> {
        let Some(root) = self.settings.roots.first() else {
            let roots = Path::new("roots below [checkpoints] in the node's configuration");
            let none = io::Error::other("no root is named there");
            return Err(failed("put a checkpoint into", roots)(none));
        };
        make_root(root).map_err(failed("make", root))?;
        open_root(root)?;
        let namespace = name.namespace().unwrap_or(namespace).clone();
        Incoming::new(root, namespace, name, form)
    }

    /// Copies an archive or a directory into the store; returns where it is then.
    ///
    /// # Errors
    /// As [`Self::incoming`] and [`Incoming::commit`], or when it cannot be copied.
    pub fn put(
        &self,
        name: &CheckpointName,
        namespace: &Namespace,
        from: &Path,
        replace: bool,
    ) -> Result<PathBuf, Error> {
        let meta = from.metadata().map_err(failed("read", from))?;
        let form = if meta.is_dir() {
            Form::Directory
        } else {
            form_of_archive(from).map_err(failed("read", from))?
        };
        let incoming = self.incoming(name, namespace, form)?;
        copy(from, &incoming.path(), meta.is_dir()).map_err(failed("copy", from))?;
        incoming.commit(replace)
    }

    /// Removes the checkpoint of this name, in whatever form it is kept; found as by [`Self::find`]. Returns where it was.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn remove(&self, name: &CheckpointName, namespace: &Namespace) -> Result<PathBuf, Error> {
        let entry = self.find(name, namespace)?;
        // First out of its place, so that nobody finds half of it.
        match (entry.form, entry.path.parent()) {
            (Form::Directory, Some(dir)) => {
                let root = dir.parent().unwrap_or(dir);
                let own =
                    crate::host::own_dir::OwnDir::new(&root.join(INCOMING), 0o700, |_| false)?;
                let away = own.path().join("removed");
                fs::rename(&entry.path, &away).map_err(failed("remove", &entry.path))?;
                own.remove()?;
            }
            _ => incoming::remove(&entry.path)?,
        }
        Ok(entry.path)
    }
}

fn make_root(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(root)
}

/// A root; `None` when it is not there. It may be a link, as the node's configuration says where it is.
fn open_root(root: &Path) -> Result<Option<OwnedFd>, Error> {
    let opened = File::open(root).map(OwnedFd::from);
    ours(opened, root)
}

/// A directory that only root can write; `None` when there is none.
fn ours(opened: io::Result<OwnedFd>, path: &Path) -> Result<Option<OwnedFd>, Error> {
    let fd = match opened {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A file or a link lies there, which is no namespace's directory.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            return Ok(None);
        }
        Err(error) => return Err(failed("open", path)(error)),
    };
    let file = File::from(fd);
    let meta = file.metadata().map_err(failed("read", path))?;
    if is_roots(&meta) {
        Ok(Some(file.into()))
    } else {
        Err(Error::NotOurs {
            path: path.to_path_buf(),
            owner: meta.uid(),
            mode: meta.mode() & 0o7777,
        })
    }
}

fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(again(dir))? {
        // What is no text is no name.
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn list_directory(
    opened: &OwnedFd,
    dir: &Path,
    namespace: Option<&Namespace>,
    all: &mut Vec<Result<Entry, Error>>,
) -> Result<(), Error> {
    for file in names(opened).map_err(failed("list", dir))? {
        let name = without_ending(&file).unwrap_or(&file);
        if name.parse::<CheckpointName>().is_err() {
            continue;
        }
        match entry(opened, dir, &file, name, namespace) {
            Ok(Some(entry)) => all.push(Ok(entry)),
            // Not a checkpoint's.
            Ok(None) => {}
            Err(error) => all.push(Err(error)),
        }
    }
    Ok(())
}

/// The checkpoint of this name in a directory: unpacked or as an archive.
fn in_directory(
    opened: &OwnedFd,
    dir: &Path,
    name: &str,
    namespace: Option<&Namespace>,
) -> Result<Option<Entry>, Error> {
    for ending in std::iter::once("").chain(super::name::ENDINGS) {
        if let Some(entry) = entry(opened, dir, &format!("{name}{ending}"), name, namespace)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// The checkpoint that a directory or an archive of this name is, if it is one.
fn entry(
    opened: &OwnedFd,
    dir: &Path,
    file: &str,
    name: &str,
    namespace: Option<&Namespace>,
) -> Result<Option<Entry>, Error> {
    let path = dir.join(file);
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let object = match beneath(opened.as_fd(), Path::new(file), flags) {
        Ok(fd) => File::from(fd),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(Error::Refused {
                path,
                what: "it is a link, and links are not followed".into(),
            });
        }
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let meta = object.metadata().map_err(failed("read", &path))?;
    let archive = without_ending(file).is_some();
    if !(meta.is_dir() && !archive || meta.is_file() && archive) {
        return Ok(None);
    }
    if !is_roots(&meta) {
        return Err(Error::NotOurs {
            path,
            owner: meta.uid(),
            mode: meta.mode() & 0o7777,
        });
    }
    let form = if meta.is_dir() {
        Form::Directory
    } else if file.ends_with("zst") {
        Form::TarZstd
    } else if file.ends_with("gz") {
        Form::TarGzip
    } else {
        Form::Tar
    };
    let parsed: CheckpointName = name.parse()?;
    Ok(Some(Entry {
        name: match namespace {
            Some(namespace) => CheckpointName::within(namespace.clone(), name)?,
            None => parsed,
        },
        path,
        form,
        modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        object: object.into(),
    }))
}

/// By its first bytes, whatever it is called.
fn form_of_archive(path: &Path) -> io::Result<Form> {
    use io::Read;
    let mut start = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut start)?;
    if start.starts_with(crate::archive::ZSTD) {
        Ok(Form::TarZstd)
    } else if start.starts_with(crate::archive::GZIP) {
        Ok(Form::TarGzip)
    } else if crate::archive::is_archive(&start) {
        Ok(Form::Tar)
    } else {
        Err(io::Error::other("it is no tar archive"))
    }
}

/// Copies a file, or a directory of files and directories.
fn copy(from: &Path, to: &Path, is_dir: bool) -> io::Result<()> {
    if !is_dir {
        // Its permissions stay behind.
        return io::copy(&mut File::open(from)?, &mut new_file(to)?).map(drop);
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            crate::host::own_dir::make(&to, 0o700)?;
            copy(&entry.path(), &to, true)?;
        } else if kind.is_file() {
            copy(&entry.path(), &to, false)?;
        } else {
            return Err(io::Error::other(format!(
                "{} is a link, a device, a pipe or a socket; a checkpoint has files and directories alone",
                entry.path().display()
            )));
        }
    }
    Ok(())
}

fn new_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
