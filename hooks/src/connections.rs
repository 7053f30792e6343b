//! Established connections at a dump: which policy they meet, and what CRIU is told about them.

use restow::finding::list;
use restow::host::socket_table::sockets_of;
use restow::ids::HostPid;
use restow::plan;
use restow::policy::Tcp;

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
