//! Starts the relay and becomes the real criu.
//!
//! ```text
//!   this process      fork ─▶ wait for the socket ─▶ enter the cgroup ─▶ exec: the real criu loads ──▶ reads its request
//!   the relay                 makes the socket pair ─▶ stand alone ─▶ complete the request ─▶ send it ──┘
//! ```
//!
//! criu takes longer to load than anything here takes, and reads its request only then. So what does not have to be done by the process that
//! becomes criu is done by the relay meanwhile: at a dump, looking at the tree. When that says no, the client is told, and criu
//! finds that there is no request; it has done nothing by then.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use restow::host::PidFd;
use restow::host::journal::Journal;
use restow::host::real_program::RealProgram;

use crate::failure::Explained;
use crate::helper;
use crate::operation::Operation;
use crate::relay::{Relay, Stage};
use crate::restore::Restore;
use crate::rpc;
use crate::seqpacket::Connection;

/// What is done where while an operation is started.
pub trait Launched: Stage {
    /// Descriptors that it goes on using in the relay.
    fn descriptors(&self) -> Vec<RawFd>;

    /// In the relay, before criu gets its request.
    ///
    /// # Errors
    /// In words, when the operation is not possible: criu gets none.
    fn complete(&mut self, operation: &mut Operation) -> Result<(), String>;

    /// In the process that becomes criu.
    ///
    /// # Errors
    /// In words.
    fn enter(&self) -> Result<(), String>;
}

/// Starts the relay and becomes the real criu. An error means that nothing was started; when it returns otherwise, the
/// relay has told the client what went wrong.
///
/// # Errors
/// In words. The stage was told that it is finished.
pub fn launch<S: Launched>(
    args: &[OsString],
    real: &RealProgram,
    operation: &mut Operation,
    journal: Journal,
    mut stage: S,
) -> Result<(), String> {
    // This process: it keeps its number when it becomes criu.
    let criu_process = match PidFd::open(nix::unistd::getpid().as_raw()) {
        Ok(process) => process,
        Err(error) => {
            stage.finished();
            return Err(format!("This process cannot be watched: {error}"));
        }
    };
    let mut keep = operation.descriptors();
    keep.extend(journal.descriptors());
    keep.extend(stage.descriptors());
    keep.push(criu_process.as_fd().as_raw_fd());
    let relay_cgroup = Restore::relay_cgroup(operation.peer.pid);
    let criu = helper::start(relay_cgroup.as_ref().map(AsFd::as_fd), &keep, |criu| {
        relay(&criu, &criu_process, operation, journal, &mut stage);
    });
    let criu = match criu {
        Ok(criu) => criu,
        Err(error) => {
            stage.finished();
            return Err(format!("The relay process cannot be started: {error}"));
        }
    };
    let failed = match stage.enter() {
        Ok(()) => match operation.client.become_other(&criu) {
            Ok(()) => format!("{} cannot be run: {}", real.path.display(), real.exec(args)),
            Err(error) => format!("The socket cannot be passed on: {error}"),
        },
        Err(reason) => reason,
    };
    operation.journal.refusal(&failed);
    // From here the relay takes this process for criu.
    if let Ok(connection) = Connection::new(criu) {
        let _ = connection.send(&rpc::failure(operation.kind, &failed), &[]);
    }
    Ok(())
}

/// What the relay process does, from its birth to its end.
fn relay<S: Launched>(
    criu: &Connection,
    criu_process: &PidFd,
    operation: &mut Operation,
    journal: Journal,
    stage: &mut S,
) {
    if let Err(reason) = stage.complete(operation) {
        operation.refuse(&reason);
        stage.finished();
        return;
    }
    let mut stage = Explained::new(stage, operation, journal);
    let client_notified = operation.request.notifies();
    operation.directories.renumber(&mut operation.request);
    operation.request.notify();
    // If it cannot be sent, criu reads the end and leaves, and the relay says so.
    let _ = criu.send(&operation.request.clone().encode(), &[]);
    let _ = Relay {
        client: &operation.client,
        criu,
        criu_process,
        kind: operation.kind,
        client_notified,
        stage: &mut stage,
    }
    .run();
}
