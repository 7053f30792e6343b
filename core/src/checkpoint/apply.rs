//! Applying what a container changed in its root file system: `rootfs-diff.tar`, with what it deleted.
//!
//! | entry | what is done |
//! |---|---|
//! | directory | made, or given the attributes |
//! | file, symbolic link, named pipe | takes the place of what is there |
//! | hard link | to a file below the root, never through a symbolic link |
//! | `.wh.<name>`, character device 0/0 | `<name>` is removed, as it was before |
//! | `.wh..wh..opq` | everything that the directory had before is removed |
//! | other devices, sparse files, paths with `..` or absolute ones | refused |
//!
//! `deleted.files`, a JSON list of paths, is podman's and CRI-O's way to say what was deleted. No link of the root file system
//! is followed and no mount in it is entered.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{linkat, symlinkat};

use super::rights::Rights;
use super::tree::{self, Root, is_dir, is_link, set_on_link};
use super::undo::Undo;
use super::unpack::MAX_DESCRIPTION;
use crate::archive::tar::{Member, MemberKind, Source, Tar};
use crate::archive::{self, EXPANSION};
use crate::host::carry::{Attributes, again, at, below, beneath, fill, is_carried};

/// The OCI image specification's words for what was deleted (`layer.md`, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A root file system while it is changed.
pub(super) struct Apply<'a> {
    root: Root,
    undo: &'a mut Undo,
    rights: &'a Rights,
    max_entries: u64,
    entries: u64,
    /// What came with these changes: deletions mean what was there before.
    made: BTreeSet<PathBuf>,
    /// Attributes of directories, set when nothing is put into them any more.
    directories: Vec<(PathBuf, Attributes)>,
}

impl<'a> Apply<'a> {
    pub(super) fn new(
        rootfs: &Path,
        undo: &'a mut Undo,
        rights: &'a Rights,
        max_entries: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            root: Root::open(rootfs)?,
            undo,
            rights,
            max_entries,
            entries: 0,
            made: BTreeSet::new(),
            directories: Vec::new(),
        })
    }

    /// Applies an archive.
    pub(super) fn archive(&mut self, file: File) -> io::Result<()> {
        let mut tar = archive::open(file, EXPANSION)?;
        while let Some(member) = tar.next_member()? {
            self.count()?;
            let shown = PathBuf::from(OsStr::from_bytes(&member.path));
            let path = below(&member.path)?;
            self.entry(&path, &member, &mut tar).map_err(at(&shown))?;
        }
        Ok(())
    }

    /// Removes what a list names.
    pub(super) fn deleted(&mut self, file: File) -> io::Result<()> {
        let mut bytes = Vec::new();
        file.take(MAX_DESCRIPTION).read_to_end(&mut bytes)?;
        // Written by Go, which writes no list for an empty one.
        let paths: Option<Vec<String>> = serde_json::from_slice(&bytes)?;
        for path in paths.unwrap_or_default() {
            self.count()?;
            // They are the container's, so they start with a slash.
            let inside = below(path.trim_start_matches('/').as_bytes())?;
            self.remove_old(&inside).map_err(at(Path::new(&path)))?;
        }
        Ok(())
    }

    /// Sets what had to wait. The root's own attributes come last.
    pub(super) fn finish(self) -> io::Result<()> {
        for (path, attributes) in self.directories.iter().rev() {
            let directory = self.root.directory(path).map_err(at(path))?;
            attributes.set(&directory).map_err(at(path))?;
        }
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        self.entries += 1;
        if self.entries > self.max_entries {
            return Err(io::Error::other(format!(
                "there are more than {} changes (max-entries below [checkpoints] in the node's configuration)",
                self.max_entries
            )));
        }
        Ok(())
    }

    fn entry<R: Source>(
        &mut self,
        path: &Path,
        member: &Member,
        tar: &mut Tar<R>,
    ) -> io::Result<()> {
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new(""));
        if name == OPAQUE {
            return self.remove_all_old(parent);
        }
        if let Some(deleted) = name.strip_prefix(WHITEOUT) {
            let deleted = PathBuf::from(OsString::from_vec(deleted.to_vec()));
            if below(deleted.as_os_str().as_bytes())?.components().count() != 1 {
                return Err(io::Error::other("it names nothing that can be deleted"));
            }
            return self.remove_old(&parent.join(deleted));
        }
        if member.kind == MemberKind::CharDevice && member.device == (0, 0) {
            return self.remove_old(path);
        }
        let attributes = self.attributes(member)?;
        if name.is_empty() {
            if member.kind != MemberKind::Directory {
                return Err(io::Error::other("the root is no directory in it"));
            }
            self.undo.changing(&self.root, path)?;
            self.directories.push((path.to_path_buf(), attributes));
            return Ok(());
        }
        self.parents(parent)?;
        match member.kind {
            MemberKind::Directory => self.directory(path, attributes),
            MemberKind::File => {
                self.replace(path)?;
                let (dir, name) = self.root.parent(path)?;
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let file = File::from(beneath(dir.as_fd(), Path::new(name), flags)?);
                fill(&file, &mut tar.content())?;
                attributes.set(&file.into())
            }
            MemberKind::Symlink => {
                self.replace(path)?;
                let (dir, name) = self.root.parent(path)?;
                symlinkat(OsStr::from_bytes(&member.link), &dir, name)?;
                set_on_link(&dir, name, &attributes)
            }
            MemberKind::Link => {
                let to = below(&member.link)?;
                let object = self.root.object(&to).map_err(at(&to))?;
                if to == path {
                    return Err(io::Error::other("it is a link to itself"));
                }
                self.replace(path)?;
                let (dir, name) = self.root.parent(path)?;
                Ok(linkat(&object, "", &dir, name, AtFlags::AT_EMPTY_PATH)?)
            }
            MemberKind::Fifo => {
                self.replace(path)?;
                let (dir, name) = self.root.parent(path)?;
                mknodat(&dir, name, SFlag::S_IFIFO, Mode::S_IRUSR, 0)?;
                let made = beneath(dir.as_fd(), Path::new(name), OFlag::O_PATH)?;
                attributes.set_by_path(&made)
            }
            kind => Err(io::Error::other(format!(
                "it is {kind}, which is not put into a container"
            ))),
        }
    }

    /// Attributes as they may be set.
    fn attributes(&self, member: &Member) -> io::Result<Attributes> {
        let Some((uid, gid)) = member.owner else {
            return Err(io::Error::other(
                "its owner is no number of a user and a group",
            ));
        };
        let mode = member
            .mode
            .ok_or_else(|| io::Error::other("its permissions are no number"))?;
        let mut extended = Vec::new();
        for (name, value) in &member.attributes {
            // Others are the node's, or need rights that the content must not have by itself.
            if let Some(name) = std::str::from_utf8(name)
                .ok()
                .filter(|name| is_carried(name))
            {
                extended.push((name.to_owned(), value.clone()));
            }
        }
        if member.kind == MemberKind::File {
            let names = extended.iter().map(|(name, _)| name.as_str());
            self.rights
                .allow((uid, gid), mode, names)
                .map_err(io::Error::other)?;
        }
        let (seconds, nanoseconds) = member.mtime;
        Ok(Attributes {
            uid,
            gid,
            mode,
            mtime: TimeSpec::new(seconds, nanoseconds.into()),
            extended,
        })
    }

    fn directory(&mut self, path: &Path, attributes: Attributes) -> io::Result<()> {
        match self.root.look(path)? {
            Some(stat) if is_dir(&stat) => self.undo.changing(&self.root, path)?,
            _ => {
                self.replace(path)?;
                let (dir, name) = self.root.parent(path)?;
                mkdirat(&dir, name, Mode::S_IRWXU)?;
            }
        }
        self.made.insert(path.to_path_buf());
        self.directories.push((path.to_path_buf(), attributes));
        Ok(())
    }

    /// Makes way for what is about to be made.
    fn replace(&mut self, path: &Path) -> io::Result<()> {
        if self.root.look(path)?.is_some() {
            self.take_away(path)?;
        }
        self.undo.making(&self.root, path)?;
        self.made.insert(path.to_path_buf());
        Ok(())
    }

    fn take_away(&mut self, path: &Path) -> io::Result<()> {
        self.undo.taking(&self.root, path)?;
        let (dir, name) = self.root.parent(path)?;
        tree::remove(&dir, name)
    }

    /// Makes the directories above what is not there, as a list of changes may leave them out.
    fn parents(&mut self, parent: &Path) -> io::Result<()> {
        match self.root.look(parent)? {
            Some(stat) if is_dir(&stat) => return Ok(()),
            Some(_) => return Err(through(parent)),
            None => {}
        }
        self.parents(parent.parent().unwrap_or(Path::new("")))?;
        self.undo.making(&self.root, parent)?;
        let (dir, name) = self.root.parent(parent)?;
        mkdirat(&dir, name, Mode::from_bits_truncate(0o755))?;
        self.made.insert(parent.to_path_buf());
        Ok(())
    }

    /// Removes what was there before, but nothing that came with these changes.
    fn remove_old(&mut self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() {
            return Err(io::Error::other("the root cannot be deleted"));
        }
        self.no_link_above(path)?;
        match self.root.look(path)? {
            None => Ok(()),
            Some(_) if !self.has_new(path) => self.take_away(path),
            Some(stat) if is_dir(&stat) => self.remove_all_old(path),
            Some(_) => Ok(()),
        }
    }

    /// A link in the place of a directory is no way to what is behind it.
    fn no_link_above(&self, path: &Path) -> io::Result<()> {
        for above in path.ancestors().skip(1) {
            if self.root.look(above)?.is_some_and(|stat| is_link(&stat)) {
                return Err(through(above));
            }
        }
        Ok(())
    }

    /// Whether something that came with these changes is at a path or below it.
    fn has_new(&self, path: &Path) -> bool {
        let mut from = self.made.range(path.to_path_buf()..);
        from.next().is_some_and(|made| made.starts_with(path))
    }

    fn remove_all_old(&mut self, directory: &Path) -> io::Result<()> {
        self.no_link_above(directory)?;
        match self.root.look(directory)? {
            Some(stat) if is_dir(&stat) => {}
            Some(stat) if is_link(&stat) => return Err(through(directory)),
            _ => return Ok(()),
        }
        let opened = self.root.directory(directory)?;
        for entry in fs::read_dir(again(&opened))? {
            self.remove_old(&directory.join(entry?.file_name()))?;
        }
        Ok(())
    }
}

fn through(part: &Path) -> io::Error {
    io::Error::other(format!(
        "{} on the way to it is no directory, and links are not followed",
        part.display()
    ))
}
