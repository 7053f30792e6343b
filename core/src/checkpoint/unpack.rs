//! Bringing a checkpoint into a directory of our own: out of an archive, or from a directory.
//!
//! | where in the checkpoint | what becomes of it |
//! |---|---|
//! | `checkpoint/<file>` | an image |
//! | `<file>.img`, `source.json`, ... at the top, without `checkpoint/` | an image: a plain image directory |
//! | `rootfs-diff.tar`, `deleted.files`, `config.dump`, `spec.dump` | kept beside the images |
//! | `oci-layout` | refused: an image of `ctr checkpoint` or of a registry, whose parts are named by digests |
//! | other files (logs, network, ...) | left out |
//! | links, devices, pipes, sparse files, paths that are absolute or have `..` | refused |
//!
//! This is the layout of containerd's, CRI-O's and podman's archives.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use criu_image::Named;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::statvfs::statvfs;
use nix::unistd::linkat;

use super::settings::Settings;
use super::work::Work;
use crate::archive::tar::{MemberKind, Source, Tar};
use crate::archive::{self, EXPANSION};
use crate::host::carry::{again, at, below, beneath};
use crate::source::images::PARENT;
use crate::source::manifest;

/// What marks a directory or archive as an image of OCI's (image-spec, `image-layout.md`).
const OCI_LAYOUT: &str = "oci-layout";

/// Directory of the images in an archive.
const CHECKPOINT: &str = "checkpoint";

/// What is kept besides images. The specs in it are read for the names of pod and container alone.
pub(super) const ROOTFS_DIFF: &str = "rootfs-diff.tar";
pub(super) const DELETED_FILES: &str = "deleted.files";
pub(super) const DESCRIPTIONS: [&str; 2] = ["spec.dump", "config.dump"];

/// No honest description or list is larger, in bytes.
pub(super) const MAX_DESCRIPTION: u64 = 16 << 20;

/// Where something goes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Image(String),
    Meta(String),
    Nowhere,
}

/// What a file of a checkpoint is, by its path.
fn place(path: &Path) -> io::Result<Place> {
    let parts: Vec<&OsStr> = path.iter().collect();
    let name = |part: &OsStr| {
        part.to_str()
            .map(str::to_owned)
            .ok_or_else(|| io::Error::other("its name is no UTF-8, as those of images are"))
    };
    Ok(match parts.as_slice() {
        [dir, file] if *dir == CHECKPOINT => Place::Image(name(file)?),
        [file] => {
            let name = name(file)?;
            if [ROOTFS_DIFF, DELETED_FILES].contains(&name.as_str())
                || DESCRIPTIONS.contains(&name.as_str())
            {
                Place::Meta(name)
            } else if name == OCI_LAYOUT {
                return Err(io::Error::other(
                    "this is an OCI image, as ctr checkpoint and registries have them, and no archive of a checkpoint; make one with restow \
                     checkpoint, the kubelet, CRI-O or podman, or take the checkpoint out of the image",
                ));
            } else if name == manifest::FILE_NAME || Named::of(&name) != Named::Other {
                Place::Image(name)
            } else {
                Place::Nowhere
            }
        }
        _ => Place::Nowhere,
    })
}

/// Counts what is taken.
struct Bounds<'s> {
    settings: &'s Settings,
    into: PathBuf,
    bytes: u64,
    entries: u64,
}

impl<'s> Bounds<'s> {
    fn new(settings: &'s Settings, work: &Work) -> Self {
        Self {
            settings,
            into: work.path().to_path_buf(),
            bytes: 0,
            entries: 0,
        }
    }

    fn entry(&mut self) -> io::Result<()> {
        self.entries += 1;
        if self.entries > self.settings.max_entries {
            return Err(io::Error::other(format!(
                "it has more than {} entries (max-entries below [checkpoints] in the node's configuration)",
                self.settings.max_entries
            )));
        }
        Ok(())
    }

    fn file(&mut self, place: &Place, size: u64) -> io::Result<()> {
        /// Of small files there are some thousands at most.
        const LARGE: u64 = 1 << 20;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.settings.max_size() {
            return Err(io::Error::other(format!(
                "unpacked it is larger than {} GiB (max-size-gib below [checkpoints] in the node's configuration)",
                self.settings.max_size_gib
            )));
        }
        if let Place::Meta(name) = place
            && name != ROOTFS_DIFF
            && size > MAX_DESCRIPTION
        {
            return Err(io::Error::other(format!(
                "it has {size} bytes, and at most {MAX_DESCRIPTION} are read"
            )));
        }
        if size > LARGE {
            let room = statvfs(&self.into)?;
            let room = room.blocks_available() * room.fragment_size();
            if size > room {
                return Err(io::Error::other(format!(
                    "it takes {size} bytes, and {} has room for {room}",
                    self.into.display()
                )));
            }
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn target(work: &Work, place: &Place) -> Option<PathBuf> {
    match place {
        Place::Image(name) => Some(work.images().join(name)),
        Place::Meta(name) => Some(work.meta().join(name)),
        Place::Nowhere => None,
    }
}

/// Unpacks an archive.
///
/// # Errors
/// With what is wrong with it, or that there is no room.
pub(super) fn archive(file: File, work: &Work, settings: &Settings) -> io::Result<()> {
    let tar = archive::open(file, EXPANSION)?;
    members(tar, work, settings)
}

pub(super) fn members<R: Source>(
    mut tar: Tar<R>,
    work: &Work,
    settings: &Settings,
) -> io::Result<()> {
    let mut bounds = Bounds::new(settings, work);
    let mut seen = BTreeSet::new();
    while let Some(member) = tar.next_member()? {
        bounds.entry()?;
        let path = below(&member.path)?;
        let shown = PathBuf::from(OsStr::from_bytes(&member.path));
        if path.as_os_str().is_empty() || member.kind == MemberKind::Directory {
            continue;
        }
        let fault = at(&shown);
        if member.kind == MemberKind::Symlink && path.file_name() == Some(OsStr::new(PARENT)) {
            return Err(fault(incremental()));
        }
        if member.kind != MemberKind::File {
            return Err(fault(io::Error::other(format!(
                "it is {}; a checkpoint has files and directories alone",
                member.kind
            ))));
        }
        let place = place(&path).map_err(&fault)?;
        let Some(into) = target(work, &place) else {
            continue;
        };
        if !seen.insert(into.clone()) {
            return Err(fault(io::Error::other("the archive has it twice")));
        }
        bounds.file(&place, member.size).map_err(&fault)?;
        let mut to = create(&into).map_err(&fault)?;
        let copied = io::copy(&mut tar.content(), &mut to).map_err(&fault)?;
        if copied < member.size {
            return Err(fault(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(())
}

fn incremental() -> io::Error {
    io::Error::other(
        "the checkpoint has only the memory that changed since an earlier one (a pre-dump); merge them, or checkpoint without one",
    )
}

/// Takes a directory over. Record images are copied; files with memory are linked when only their owner, root, can write
/// them, and copied otherwise.
///
/// # Errors
/// With what is wrong with it, or that there is no room.
pub(super) fn directory(dir: &OwnedFd, work: &Work, settings: &Settings) -> io::Result<()> {
    let mut bounds = Bounds::new(settings, work);
    let mut nested = None;
    for entry in fs::read_dir(again(dir))? {
        let name = entry?.file_name();
        bounds.entry()?;
        if name == CHECKPOINT {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            nested = Some(
                beneath(dir.as_fd(), Path::new(CHECKPOINT), flags)
                    .map_err(at(Path::new(CHECKPOINT)))?,
            );
            continue;
        }
        take(dir, &name, Path::new(&name), work, &mut bounds)?;
    }
    let Some(nested) = nested else { return Ok(()) };
    for entry in fs::read_dir(again(&nested))? {
        let name = entry?.file_name();
        bounds.entry()?;
        let path = Path::new(CHECKPOINT).join(&name);
        take(&nested, &name, &path, work, &mut bounds)?;
    }
    Ok(())
}

fn take(
    dir: &OwnedFd,
    name: &OsStr,
    path: &Path,
    work: &Work,
    bounds: &mut Bounds<'_>,
) -> io::Result<()> {
    let fault = at(path);
    let looked = beneath(dir.as_fd(), Path::new(name), OFlag::O_PATH).map_err(&fault)?;
    let kind = crate::host::file_fact(&looked)?.mode & libc::S_IFMT;
    if kind == libc::S_IFDIR {
        return Ok(());
    }
    if kind == libc::S_IFLNK && name == PARENT {
        return Err(fault(incremental()));
    }
    if kind != libc::S_IFREG {
        return Err(fault(io::Error::other(
            "it is a link, a device, a pipe or a socket; a checkpoint has files and directories alone",
        )));
    }
    let place = place(path).map_err(&fault)?;
    let Some(into) = target(work, &place) else {
        return Ok(());
    };
    // The object that was looked at, whatever has this name by now.
    let file = File::open(again(&looked)).map_err(&fault)?;
    let meta = file.metadata().map_err(&fault)?;
    bounds.file(&place, meta.len()).map_err(&fault)?;
    let memory = matches!(&place, Place::Image(name) if Named::of(name) == Named::Raw);
    if (memory || place == Place::Meta(ROOTFS_DIFF.into())) && is_roots(&meta) {
        let linked = linkat(
            &looked,
            "",
            nix::fcntl::AT_FDCWD,
            &into,
            AtFlags::AT_EMPTY_PATH,
        );
        if linked.is_ok() {
            return Ok(());
        }
        // On another file system, or of one without links.
    }
    let mut to = create(&into).map_err(&fault)?;
    io::copy(&mut (&file).take(meta.len()), &mut to).map_err(&fault)?;
    Ok(())
}

/// Whether only root, or the user that this process is, can change it.
pub(super) fn is_roots(meta: &fs::Metadata) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    (meta.uid() == 0 || meta.uid() == own) && meta.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_where() {
        let place = |path: &str| place(Path::new(path)).unwrap();
        assert_eq!(
            place("checkpoint/core-1.img"),
            Place::Image("core-1.img".into())
        );
        assert_eq!(
            place("checkpoint/descriptors.json"),
            Place::Image("descriptors.json".into())
        );
        assert_eq!(place("pages-1.img"), Place::Image("pages-1.img".into()));
        assert_eq!(place("spec.dump"), Place::Meta("spec.dump".into()));
        assert_eq!(place("dump.log"), Place::Nowhere);
        assert_eq!(place("volumes/data.tar"), Place::Nowhere);
        assert_eq!(place("rootfs/checkpoint/core-1.img"), Place::Nowhere);
    }
}
