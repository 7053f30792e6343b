//! Established connections: which policy they meet at a dump, what CRIU is told about them, and the lock of the network.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use restow::chain;
use restow::finding::list;
use restow::host::journal::Journal;
use restow::host::network_lock;
use restow::host::socket_table::sockets_of;
use restow::ids::HostPid;
use restow::plan::{self, Plan};
use restow::policy::Tcp;
use restow::source::LockMethod;
use restow::source::images::{self, ImageDir};
use restow::target::Target;

use crate::rpc::Request;

/// Has CRIU take connections along. Those inside the container have to go on whatever becomes of the others, and only the
/// restore can tell them apart.
///
/// # Errors
/// In words, when the policy forbids a connection that the container, which still runs, has.
pub fn prepare(request: &mut Request, init: HostPid, tcp: Tcp) -> Result<(), String> {
    forbid(init, tcp)?;
    request.keep_connections();
    if tcp == Tcp::Close {
        request.skip_connecting();
    }
    Ok(())
}

/// With `tcp=refuse`, whether a connection leads out of the container.
///
/// # Errors
/// In words, when one does, or the connections cannot be read.
pub fn forbid(init: HostPid, tcp: Tcp) -> Result<(), String> {
    if tcp != Tcp::Refuse {
        return Ok(());
    }
    let sockets = sockets_of(init)
        .map_err(|error| format!("The connections of the container cannot be read: {error}"))?;
    let refused = plan::refused(&sockets);
    if refused.is_empty() {
        return Ok(());
    }
    Err(list("The checkpoint is not possible", refused.iter()))
}

/// The new pod's network, locked until criu has put the connections in it together. criu unlocks it before the tree runs, and also
/// when it fails; when it is killed, the relay does.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Locks it, if the plan says so. Where that cannot be, the restore goes on: only a connection with something in its queues
    /// may break, and then the restore fails.
    pub fn by(plan: &Plan, target: &Target, journal: &mut Journal) -> Option<Self> {
        let path = target
            .network_namespace
            .as_ref()
            .filter(|_| plan.sockets.locks_network)?;
        let locked = File::open(path).and_then(|namespace| {
            network_lock::lock(&namespace)?;
            Ok(namespace)
        });
        match locked {
            Ok(namespace) => Some(Self(namespace)),
            Err(error) => {
                journal.line(format_args!(
                    "the new pod's network cannot be locked, and a connection inside the container that has data in its \
                     queues may break: {error}"
                ));
                None
            }
        }
    }

    /// The descriptor that has to stay open.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Unlocks it.
    ///
    /// # Errors
    /// In words.
    pub fn unlock(self) -> Result<(), String> {
        network_lock::unlock(&self.0, LockMethod::IPTABLES, None)
            .map_err(|error| format!("the new pod's network stays locked: {error}"))
    }
}

/// A network namespace that CRIU leaves locked when the tree ends with the dump, though others go on in it: the other containers
/// of the pod. Only connections that are to be kept need that.
#[derive(Debug)]
pub struct LeftLocked(File);

impl LeftLocked {
    /// The one of this dump, if it is so.
    pub fn by(request: &Request, init: HostPid, tcp: Tcp) -> Option<Self> {
        let left = request.external_network() && !request.leaves_running() && tcp != Tcp::Keep;
        let namespace = left.then(|| File::open(format!("/proc/{init}/ns/net")))?;
        // If it cannot be opened, CRIU will say so.
        namespace.ok().map(Self)
    }

    /// The descriptor that has to stay open.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Unlocks it, after the dump that made `images`.
    ///
    /// # Errors
    /// In words.
    pub fn unlock(&self, images: &ImageDir) -> Result<(), String> {
        let (method, run) = images::network_lock(images).map_err(|error| chain(&error))?;
        network_lock::unlock(&self.0, method, run.as_deref())
            .map_err(|error| format!("the pod's network stays locked as CRIU left it: {error}"))
    }
}
