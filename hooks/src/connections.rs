//! Established connections: which policy they meet at a dump, what CRIU is told about them, and the lock of the network.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use restow::chain;
use restow::finding::list;
use restow::host::journal::Journal;
use restow::host::network_lock;
use restow::host::socket_table::{end_repair, sockets_of};
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

/// The network of the pod that is dumped from, which others are in too: its sandbox and other containers.
///
/// CRIU locks it, and leaves it locked when the tree ends with the dump; only connections that are to be kept need that. When criu
/// is killed it stays locked too, around a tree that goes on.
#[derive(Debug)]
pub struct PodNetwork {
    namespace: File,
    left_locked: bool,
}

impl PodNetwork {
    /// The one of this dump, if it is not the container's alone or the node's.
    pub fn of(request: &Request, init: HostPid, tcp: Tcp) -> Option<Self> {
        let external = request.external_network();
        let namespace = external.then(|| File::open(format!("/proc/{init}/ns/net")))?;
        Some(Self {
            // If it cannot be opened, CRIU will say so.
            namespace: namespace.ok()?,
            left_locked: !request.leaves_running() && tcp != Tcp::Keep,
        })
    }

    /// Unlocks it, if the dump that made `images` has left it locked. Returns whether that was so.
    ///
    /// # Errors
    /// In words.
    pub fn dumped(&self, images: &ImageDir) -> Result<bool, String> {
        if self.left_locked {
            let (method, run) = images::network_lock(images).map_err(|error| chain(&error))?;
            self.unlock(method, run.as_deref())?;
        }
        Ok(self.left_locked)
    }

    fn unlock(&self, method: LockMethod, run: Option<&str>) -> Result<(), String> {
        network_lock::unlock(&self.namespace, method, run)
            .map_err(|error| format!("the pod's network stays locked as CRIU left it: {error}"))
    }
}

/// After the death of criu: unlocks the pod's network, and has the connections of the tree below `init`, which goes on, work again.
///
/// # Errors
/// In words.
pub fn recover(network: Option<&PodNetwork>, init: HostPid) -> Result<(), String> {
    let repaired = end_repair(init)
        .map(drop)
        .map_err(|error| format!("connections stay in repair mode: {error}"));
    let unlocked = network.map(|network| network.unlock(LockMethod::IPTABLES, None));
    unlocked.unwrap_or(Ok(())).and(repaired)
}
