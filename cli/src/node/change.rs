//! What an installation wants to be at one path of the node.

use std::path::{Path, PathBuf};

use super::state::{Digest, State};

/// One thing that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path, as the node has it.
    pub path: PathBuf,
    /// What is to be there.
    pub wanted: Wanted,
    /// What it is for, in words.
    pub what: String,
}

/// What is to be at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A copy of a program of this process's root.
    Program {
        /// Where it is copied from.
        from: PathBuf,
        /// Its content.
        digest: Digest,
    },
    /// A file of ours.
    File(String),
    /// A link of ours.
    Link(PathBuf),
    /// Somebody else's file, with our part in it.
    Edited {
        /// The whole text without our part.
        base: String,
        /// The whole text with it.
        text: String,
    },
}

/// Permission bits of programs.
pub const PROGRAM_MODE: u32 = 0o755;
/// Permission bits of configuration files.
pub const FILE_MODE: u32 = 0o644;

impl Change {
    /// Whether what is at the path now is what is wanted.
    #[must_use]
    pub fn is_done(&self, now: &State) -> bool {
        match (&self.wanted, now) {
            (Wanted::Program { digest, .. }, State::File { digest: now, mode }) => {
                digest == now && *mode == PROGRAM_MODE
            }
            (Wanted::File(text), State::File { digest, mode }) => {
                Digest::of(text.as_bytes()) == *digest && *mode == FILE_MODE
            }
            // Its permissions are its owner's matter.
            (Wanted::Edited { text, .. }, State::File { digest, .. }) => {
                Digest::of(text.as_bytes()) == *digest
            }
            (Wanted::Link(target), State::Link { target: now }) => target == now,
            _ => false,
        }
    }

    /// Whether it changes somebody else's file.
    #[must_use]
    pub fn is_edit(&self) -> bool {
        matches!(self.wanted, Wanted::Edited { .. })
    }

    /// How the journal knows later that what is there is ours.
    #[must_use]
    pub fn mark(&self) -> Mark {
        match &self.wanted {
            Wanted::Program { digest, .. } => Mark::Content(digest.clone()),
            Wanted::File(text) | Wanted::Edited { text, .. } => {
                Mark::Content(Digest::of(text.as_bytes()))
            }
            Wanted::Link(target) => Mark::Link(target.clone()),
        }
    }
}

/// What something of ours is known by.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// A file with this content.
    Content(Digest),
    /// A link to there.
    Link(PathBuf),
}

impl Mark {
    /// Whether `state` is it.
    #[must_use]
    pub fn is(&self, state: &State) -> bool {
        match (self, state) {
            (Self::Content(digest), State::File { digest: now, .. }) => digest == now,
            (Self::Link(target), State::Link { target: now }) => target == now,
            _ => false,
        }
    }
}

/// A name beside `path`, for what is not complete yet (`.restow-new-NAME`).
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    beside(path, ".restow-new-", "")
}

/// A name beside `path`, for what was there before (`NAME.before-restow`). Programs that read all files with an ending in the
/// directory do not read it.
#[must_use]
pub fn kept(path: &Path) -> PathBuf {
    beside(path, "", ".before-restow")
}

fn beside(path: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(after);
    path.with_file_name(name)
}
