//! A node by its socket: its files, its store, its clients.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use restow::checkpoint::Store;
use restow::policy::{NODE_CONFIG, NodeConfig};
use restow_cri::{Containerd, Cri, Peer};

use crate::Failure;

/// A node whose containerd answers. Its files are reached through the root directory of whoever listens on the socket, so that it can
/// have another root than this process, as a node in a container has.
#[derive(Debug)]
pub struct Node {
    socket: PathBuf,
    root: PathBuf,
    /// The checkpoints on it.
    pub store: Store,
    /// Its container runtime interface.
    pub cri: Cri,
}

impl Node {
    /// Connects.
    ///
    /// # Errors
    /// When nothing listens on `socket`, its files cannot be reached from here, or its configuration is wrong.
    pub async fn open(socket: &Path) -> Result<Self, Failure> {
        let peer = Peer::of(socket).map_err(|error| unreachable(socket, error))?;
        let Some(root) = peer.root else {
            return Err(Failure::Input(anyhow!(
                "The files of the node behind {} cannot be reached from here: who listens there is in a pid namespace that this \
                 process does not see; run this on the node itself, as root",
                socket.display()
            )));
        };
        let config = config(&root)?;
        let cri = Cri::connect(socket)
            .await
            .map_err(|error| unreachable(socket, error))?;
        Ok(Self {
            store: store(&root, config),
            cri,
            socket: socket.to_owned(),
            root,
        })
    }

    /// Its socket, as a path of this process.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A path of this process for a path of the node.
    #[must_use]
    pub fn outside(&self, inside: &Path) -> PathBuf {
        outside(&self.root, inside)
    }

    /// A path of the node for a path of this process below the node's root.
    #[must_use]
    pub fn inside(&self, outside: &Path) -> PathBuf {
        match outside.strip_prefix(&self.root) {
            Ok(relative) => Path::new("/").join(relative),
            Err(_) => outside.to_owned(),
        }
    }

    /// A client of containerd's API in one of its namespaces.
    ///
    /// # Errors
    /// When containerd does not answer any more.
    pub async fn containerd(&self, namespace: &str) -> Result<Containerd, Failure> {
        Containerd::connect(&self.socket, namespace)
            .await
            .map_err(|error| unreachable(&self.socket, error))
    }
}

/// The checkpoints of the node behind `socket`, or of this one.
///
/// # Errors
/// As [`Node::open`].
pub fn store_of(socket: Option<&Path>) -> Result<Store, Failure> {
    let root = match socket {
        None => PathBuf::from("/"),
        Some(socket) => {
            let peer = Peer::of(socket).map_err(|error| unreachable(socket, error))?;
            peer.root.ok_or_else(|| {
                anyhow!(
                    "The files of the node behind {} cannot be reached from here",
                    socket.display()
                )
            })?
        }
    };
    let config = config(&root)?;
    Ok(store(&root, config))
}

fn outside(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// `RESTOW_CONFIG` is about the node that this process is on.
fn config(root: &Path) -> Result<NodeConfig, Failure> {
    let named = std::env::var_os("RESTOW_CONFIG").filter(|_| root == Path::new("/"));
    let path = named.map_or_else(|| outside(root, Path::new(NODE_CONFIG)), PathBuf::from);
    NodeConfig::read(&path).map_err(|error| Failure::Input(error.into()))
}

fn store(root: &Path, mut config: NodeConfig) -> Store {
    let checkpoints = &mut config.checkpoints;
    for dir in checkpoints
        .roots
        .iter_mut()
        .chain(&mut checkpoints.flat_roots)
    {
        *dir = outside(root, dir);
    }
    Store::open(&config)
}

/// An error of the connection, with what to do about it.
fn unreachable(socket: &Path, error: restow_cri::Error) -> Failure {
    let way_out = match &error {
        restow_cri::Error::Connect { source, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => "; run this as root",
            _ => "; --socket says where containerd listens",
        },
        _ => "",
    };
    let said = anyhow::Error::from(error);
    let text = format!("{said:#}{way_out}");
    Failure::Input(anyhow!(text).context(format!("No node behind {}", socket.display())))
}

/// A failed call as a failure of what was to be done.
pub(super) fn call(error: restow_cri::Error) -> Failure {
    Failure::Refused(error.into())
}

/// What of the store failed.
pub(super) fn kept(error: restow::checkpoint::Error) -> Failure {
    Failure::Refused(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_another_root_is_found_from_here() {
        let root = Path::new("/proc/7/root");
        let path = outside(root, Path::new("/var/lib"));
        assert_eq!(path, Path::new("/proc/7/root/var/lib"));
        assert_eq!(
            outside(Path::new("/"), Path::new("/var")),
            Path::new("/var")
        );
    }
}
