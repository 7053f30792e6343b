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
    /// The source is about what was written, not about the image.
    output: bool,
}

impl Error {
    pub(crate) fn at(image: &Path, offset: usize, what: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            offset: Some(offset as u64),
            what: what.into(),
            source: None,
            output: false,
        }
    }

    pub(crate) fn io(image: &Path, what: &str, source: io::Error) -> Self {
        Self {
            image: image.into(),
            offset: None,
            what: what.into(),
            source: Some(source),
            output: false,
        }
    }
}

impl Error {
    /// What was made of the image cannot be written.
    pub fn output(image: &Path, source: io::Error) -> Self {
        Self {
            output: true,
            ..Self::io(image, "what it becomes cannot be written", source)
        }
    }

    /// Why the output cannot be written, when the error is about that.
    ///
    /// # Errors
    /// The error itself when it is about the image.
    pub fn into_output(self) -> Result<io::Error, Self> {
        match self {
            Self {
                output: true,
                source: Some(source),
                ..
            } => Ok(source),
            other => Err(other),
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
