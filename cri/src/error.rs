//! Why a call gave no answer.

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens there, or it may not be spoken to.
    #[error("Cannot connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The connection cannot be set up.
    #[error("Cannot speak gRPC on {}", socket.display())]
    Transport {
        /// The socket.
        socket: PathBuf,
        /// What tonic said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The other side refused or failed.
    #[error("{call} of {object}: {}", said(status))]
    Call {
        /// The call's name in its service, for example `CheckpointContainer`.
        call: &'static str,
        /// What it was about.
        object: String,
        /// What the other side said.
        status: Box<Status>,
    },
    /// The answer lacks what it must have.
    #[error("{call} of {object}: the answer has no {what}")]
    Missing {
        /// The call's name.
        call: &'static str,
        /// What it was about.
        object: String,
        /// The field.
        what: &'static str,
    },
    /// What was received cannot be written down.
    #[error("Cannot write the content {digest}")]
    Write {
        /// Which content.
        digest: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The message, or the code's name where there is none.
fn said(status: &Status) -> String {
    if status.message().is_empty() {
        format!("{:?}", status.code())
    } else {
        status.message().to_owned()
    }
}

impl Error {
    /// The other side's status code, when it answered.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Call { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// What the other side said, without what was asked; empty when it did not answer.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Call { status, .. } => status.message(),
            _ => "",
        }
    }

    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// Whether the other side has no such call.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(Code::Unimplemented)
    }
}

/// Names the call and its object in an error.
pub(crate) trait Named<T> {
    fn named(self, call: &'static str, object: &str) -> Result<T, Error>;
}

impl<T> Named<T> for Result<tonic::Response<T>, Status> {
    fn named(self, call: &'static str, object: &str) -> Result<T, Error> {
        match self {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Error::Call {
                call,
                object: object.to_owned(),
                status: Box::new(status),
            }),
        }
    }
}
