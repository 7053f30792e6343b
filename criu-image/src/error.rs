//! What can be wrong with an image, always with the file, the offset and what was expected.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why an image cannot be used.
#[derive(Debug)]
pub struct Error {
    /// The image.
    pub image: PathBuf,
    /// Where in it, in bytes; absent when it could not be read at all.
    pub offset: Option<u64>,
    /// What was found and what was expected.
    pub what: String,
    source: Option<io::Error>,
}

impl Error {
    pub(crate) fn at(image: &Path, offset: usize, what: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            offset: Some(offset as u64),
            what: what.into(),
            source: None,
        }
    }

    pub(crate) fn io(image: &Path, what: &str, source: io::Error) -> Self {
        Self {
            image: image.into(),
            offset: None,
            what: what.into(),
            source: Some(source),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.image.display())?;
        if let Some(offset) = self.offset {
            write!(f, "at byte {offset}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
