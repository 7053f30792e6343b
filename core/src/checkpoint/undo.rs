//! How a root file system was before a checkpoint's changes were applied to it.
//!
//! Each step is written down before it is made, and what it takes away is copied aside first: a process that is killed in
//! between leaves a journal with which the next one undoes what was done.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::time::{TimeSpec, TimeValLike};
use serde::{Deserialize, Serialize};

use super::tree::{self, Root, attributes, hex_path};
use crate::host::carry::{Attributes, at};
use crate::host::own_dir;

const JOURNAL: &str = "undo.jsonl";
const SAVED: &str = "saved";

/// One step, as it is undone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    /// Nothing was there.
    Made {
        #[serde(with = "hex_path")]
        path: PathBuf,
    },
    /// Something was there, of which a copy has this number.
    Taken {
        #[serde(with = "hex_path")]
        path: PathBuf,
        copy: u64,
    },
    /// A directory had these attributes.
    Changed {
        #[serde(with = "hex_path")]
        path: PathBuf,
        uid: u32,
        gid: u32,
        mode: u32,
        mtime: i64,
        extended: Vec<(String, Vec<u8>)>,
    },
}

/// The journal while changes are made.
#[derive(Debug)]
pub(super) struct Undo {
    journal: File,
    saved: PathBuf,
    copies: u64,
    /// Directories whose attributes are written down.
    noted: BTreeSet<PathBuf>,
}

impl Undo {
    /// Starts one in a directory of our own.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let saved = dir.join(SAVED);
        own_dir::make(&saved, 0o700)?;
        let journal = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join(JOURNAL))?;
        Ok(Self {
            journal,
            saved,
            copies: 0,
            noted: BTreeSet::new(),
        })
    }

    fn write(&mut self, step: &Step) -> io::Result<()> {
        let mut line = serde_json::to_vec(step)?;
        line.push(b'\n');
        self.journal.write_all(&line)
    }

    /// Something is about to be made.
    pub(super) fn making(&mut self, root: &Root, path: &Path) -> io::Result<()> {
        self.changing(root, path.parent().unwrap_or(Path::new("")))?;
        self.write(&Step::Made {
            path: path.to_path_buf(),
        })
    }

    /// Something is about to be removed: a copy is kept.
    pub(super) fn taking(&mut self, root: &Root, path: &Path) -> io::Result<()> {
        self.changing(root, path.parent().unwrap_or(Path::new("")))?;
        let copy = self.copies;
        self.copies += 1;
        let (dir, name) = root.parent(path)?;
        let saved = Root::open(&self.saved)?.directory(Path::new(""))?;
        tree::copy(&dir, name, &saved, &OsString::from(copy.to_string()), 0)?;
        self.write(&Step::Taken {
            path: path.to_path_buf(),
            copy,
        })
    }

    /// A directory is about to get other attributes or other content, which changes its time.
    pub(super) fn changing(&mut self, root: &Root, path: &Path) -> io::Result<()> {
        if !self.noted.insert(path.to_path_buf()) {
            return Ok(());
        }
        let attributes = attributes(&root.object(path)?)?;
        self.write(&Step::Changed {
            path: path.to_path_buf(),
            uid: attributes.uid,
            gid: attributes.gid,
            mode: attributes.mode,
            mtime: attributes.mtime.num_nanoseconds(),
            extended: attributes.extended,
        })
    }
}

/// Makes a root file system what it was, by the journal in `dir`. That there is none is no error. What cannot be undone does
/// not keep the rest from it; the first such fault is returned.
pub(super) fn undo(dir: &Path, rootfs: &Path) -> io::Result<()> {
    let journal = match File::open(dir.join(JOURNAL)) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut steps = Vec::new();
    for line in journal.split(b'\n') {
        // The last line may be cut short: its step was not made.
        let Ok(step) = serde_json::from_slice::<Step>(&line?) else {
            break;
        };
        steps.push(step);
    }
    let root = Root::open(rootfs)?;
    let saved = Root::open(&dir.join(SAVED))?.directory(Path::new(""))?;
    let mut first = None;
    for step in steps.into_iter().rev() {
        let path = match &step {
            Step::Made { path } | Step::Taken { path, .. } | Step::Changed { path, .. } => {
                path.clone()
            }
        };
        if let Err(error) = back(step, &root, &saved).map_err(at(&path)) {
            first.get_or_insert(error);
        }
    }
    first.map_or_else(|| fs::remove_file(dir.join(JOURNAL)), Err)
}

fn back(step: Step, root: &Root, saved: &std::os::fd::OwnedFd) -> io::Result<()> {
    match step {
        Step::Made { path } => match root.parent(&path) {
            Ok((dir, name)) => tree::remove(&dir, name),
            // What it was to be made in is not there, so it was not made.
            Err(error) if tree::is_absent(&error) => Ok(()),
            Err(error) => Err(error),
        },
        Step::Taken { path, copy } => {
            let (dir, name) = root.parent(&path)?;
            tree::remove(&dir, name)?;
            tree::copy(saved, &OsString::from(copy.to_string()), &dir, name, 0)
        }
        Step::Changed {
            path,
            uid,
            gid,
            mode,
            mtime,
            extended,
        } => {
            let directory = root.directory(&path)?;
            // Those that it got in the meantime.
            let now = attributes(&root.object(&path)?)?;
            for (name, _) in now.extended {
                if !extended.iter().any(|(had, _)| *had == name) {
                    xattr::remove_deref(crate::host::carry::again(&directory), name)?;
                }
            }
            Attributes {
                uid,
                gid,
                mode,
                mtime: TimeSpec::nanoseconds(mtime),
                extended,
            }
            .set(&directory)
        }
    }
}
