//! What can go wrong in the shim's own part.

use std::io;
use std::path::PathBuf;

/// An error of the shim's own; those of the stock shim are passed on as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no stock shim.
    #[error(
        "No containerd-shim-runc-v2 was found ({searched}); install containerd's, or name it with stock-shim = \"/path\" in the \
         node's configuration"
    )]
    NoStockShim {
        /// Where it was looked for.
        searched: String,
    },
    /// The configured stock shim is this program.
    #[error(
        "stock-shim in the node's configuration names {0}, which is Restow's own shim; it has to be containerd's"
    )]
    StockIsOwn(PathBuf),
    /// The node's configuration cannot be used.
    #[error("The node's configuration cannot be used")]
    Config(#[from] restow::policy::Error),
    /// The stock shim cannot be run.
    #[error("Cannot run the stock shim {path}")]
    Stock {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stock shim said something that is no reply to `start`.
    #[error("The stock shim's reply to start is none that is known: {0:?}")]
    Reply(String),
    /// An address that no socket of ours can stand beside.
    #[error("No socket can be made beside the stock shim's address {0}")]
    Address(String),
    /// Something that the operating system refused.
    #[error("Cannot {attempt}")]
    System {
        /// What was to be done.
        attempt: String,
        /// Why not.
        source: io::Error,
    },
    /// The stock shim gave no answer, or not what was asked for.
    #[error("The stock shim answered {call} wrongly: {reason}")]
    Call {
        /// The call.
        call: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Names what was to be done when it fails.
pub(crate) trait Attempt<T> {
    /// The error of doing `attempt`, given as in "Cannot …".
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::System {
            attempt: attempt(),
            source: source.into(),
        })
    }
}
