//! What an installation has done to the node, written down before it is done.
//!
//! Whatever ends an installation half-way, the journal knows every path that may have been touched, how to tell whether it was,
//! and what was there before: the next `install` or `uninstall` goes on from there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::{self, Mark};
use super::root::NodeRoot;
use super::state::Digest;

/// The directory of the journal, as the node has it.
pub const STATE_DIR: &str = "/var/lib/restow";
/// The journal, as the node has it.
pub const JOURNAL: &str = "/var/lib/restow/install.json";
/// The only version of its format so far.
const FORMAT: u32 = 1;

/// The journal of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// The version of Restow that wrote it.
    pub restow: String,
    /// How far it is.
    pub phase: Phase,
    /// Directories that were not there before, the outermost first.
    pub directories: Vec<PathBuf>,
    /// What was put where.
    pub entries: Vec<Entry>,
    /// Services to be told of the configuration, by the names of their systemd units.
    pub services: Vec<String>,
}

/// How far an installation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Some of it may be there, not all.
    Installing,
    /// All of it is there.
    Installed,
    /// Some of it may be gone already.
    Removing,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path, as the node has it.
    pub path: PathBuf,
    /// What it is for, in words.
    pub what: String,
    /// What of ours can be there: while one version replaces another, both.
    pub marks: Vec<Mark>,
    /// The content of the file of somebody else that was there, and is kept beside; `None` when there was nothing.
    pub before: Option<Digest>,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("Cannot read {path}, which says what was installed")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is damaged, or of another version.
    #[error(
        "{path} is no journal of an installation that this version of Restow knows; the paths in it are what was installed"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Option<serde_json::Error>,
    },
}

impl Journal {
    /// An empty one.
    #[must_use]
    pub fn new(phase: Phase) -> Self {
        Self {
            format: FORMAT,
            restow: env!("CARGO_PKG_VERSION").to_owned(),
            phase,
            directories: Vec::new(),
            entries: Vec::new(),
            services: Vec::new(),
        }
    }

    /// That of the node; `None` when nothing is installed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(node: &NodeRoot) -> Result<Option<Self>, Error> {
        let text = node
            .text(Path::new(JOURNAL))
            .map_err(|source| Error::Read {
                path: JOURNAL.into(),
                source,
            })?;
        let Some(text) = text else { return Ok(None) };
        let wrong = |source| Error::Format {
            path: JOURNAL.into(),
            source,
        };
        let journal: Self = serde_json::from_str(&text).map_err(|error| wrong(Some(error)))?;
        if journal.format != FORMAT {
            return Err(wrong(None));
        }
        Ok(Some(journal))
    }

    /// The entry for a path.
    #[must_use]
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// Writes it as a whole, so that there is always the old one or the new one. Its directory must be there.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays then.
    pub fn write(&self, node: &NodeRoot) -> io::Result<()> {
        let path = node.place(Path::new(JOURNAL), true)?;
        let new = change::unfinished(&path);
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_directory_of(&path)
    }

    /// Removes it, and its directory when nothing else is in it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(node: &NodeRoot) -> io::Result<()> {
        let path = node.place(Path::new(JOURNAL), true)?;
        remove_file(&change::unfinished(&path))?;
        remove_file(&path)?;
        remove_directory(&node.place(Path::new(STATE_DIR), true)?)
    }
}

/// Has the kernel write the directory of `path`, so that a new name survives a loss of power.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Removes a file or link that may have gone already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory that may have gone already; one with something in it stays.
pub(super) fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
