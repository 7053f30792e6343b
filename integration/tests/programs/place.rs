//! Where servers listen.

use restow_integration::suite::Suite;

use crate::command::Lab;

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a port, on any address of the pod.
    Tcp,
    /// At a path. criu 4.1 asks inet sockets for an option that Linux refuses since 6.16, so that it can dump none of them there.
    Unix,
}

/// The port of [`Place::Tcp`].
pub(crate) const PORT: &str = "8080";
/// The path of [`Place::Unix`].
pub(crate) const SOCKET: &str = "/tmp/served.sock";

impl Place {
    /// What can be moved on a node.
    pub(crate) fn on(lab: &Lab) -> Self {
        match lab.containerd.node().state().suite {
            Suite::Stable => Self::Unix,
            Suite::Testing => Self::Tcp,
        }
    }

    /// As the servers here are told.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Tcp => PORT,
            Self::Unix => SOCKET,
        }
    }
}
