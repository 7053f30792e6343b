//! Who listens on a socket, and how its files are reached from here.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};

use crate::{Error, Result};

/// The process that listens on a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process id; `None` when it is in a pid namespace that cannot be seen from here.
    pub pid: Option<i32>,
    /// Its root directory as a path of this process: `/` when both share it, else below `/proc`. `None` when it cannot be reached.
    pub root: Option<PathBuf>,
}

impl Peer {
    /// Asks the kernel who listens on `socket`.
    ///
    /// # Errors
    /// When nobody does.
    pub fn of(socket: &Path) -> Result<Self> {
        let connect = |source| Error::Connect {
            socket: socket.to_owned(),
            source,
        };
        let stream = UnixStream::connect(socket).map_err(connect)?;
        let credentials =
            getsockopt(&stream, sockopt::PeerCredentials).map_err(|errno| connect(errno.into()))?;
        // Those of the process that called listen(2); 0 stands for one in a foreign pid namespace.
        let pid = Some(credentials.pid()).filter(|pid| *pid > 0);
        Ok(Self {
            pid,
            root: pid.and_then(root_of),
        })
    }

    /// A path of this process for an absolute path of the peer; `None` when its files cannot be reached.
    #[must_use]
    pub fn path(&self, inside: &Path) -> Option<PathBuf> {
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        self.root.as_ref().map(|root| root.join(relative))
    }
}

fn root_of(pid: i32) -> Option<PathBuf> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let theirs = fs::metadata(&root).ok()?;
    let ours = fs::metadata("/").ok()?;
    // The same root directory in another mount namespace may have other things mounted below it.
    let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    let same = (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())
        && namespace(&pid.to_string()) == namespace("self");
    Some(if same { PathBuf::from("/") } else { root })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_shares_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let peer = Peer::of(&socket).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        assert_eq!(peer.path(Path::new("/etc")), Some(PathBuf::from("/etc")));
        drop(listener);
        let error = Peer::of(&socket).unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
    }
}
