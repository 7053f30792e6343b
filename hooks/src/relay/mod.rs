//! The relay between the runtime and the real criu, for one DUMP or RESTORE.
//!
//! ```text
//!             client (runc, crun, podman)            relay                         criu
//!   DUMP'                                              │ ───── request, rewritten ───▶ │
//!                              ◀── NOTIFY pre-dump ─── │ ◀──────── NOTIFY ──────────── │
//!                              ─── reply ────────────▶ │ ───────── reply ────────────▶ │
//!                              ◀── NOTIFY post-dump ── │ ◀──────── NOTIFY ──────────── │  stage sees it first
//!                              ◀── DUMP, success ───── │ ◀──────── result ──────────── │
//!   RESTORE'                   ◀── pre-restore … ───── │                               │
//!                              ◀── setup-namespaces ── │  pid of the restored init     │
//!                              ◀── post-restore ────── │  stage verifies, or vetoes    │
//!                              ◀── pre-resume ──────── │  from post-restore's reply on: bytes only
//!                              ◀── RESTORE, success ── │                               │
//! ```
//!
//! Rules:
//!
//! * Every packet goes on whole, with its descriptors, in both directions, unless a rule below says otherwise.
//! * A notification the client did not ask for (the relay did, for itself) is answered here and not shown to it.
//! * The stage hears of a notification before the client does. Its veto is told to criu as a failed reply; the client
//!   only sees the failed result, with the reason in `cr_errmsg`.
//! * At `query-ext-files` the stage may name external objects; they are added to the client's reply.
//! * Before `post-restore` goes to the client, criu must still be there: a runtime that has seen it lists the container
//!   as running.
//! * The end of one side is passed on as a half-close of the other. Runtimes half-close when they have nothing more to
//!   say and go on reading.
//! * The end of criu is the end of its process, not of its socket: what criu forks inherits the socket, and when criu is
//!   killed its helpers and half-restored tasks hold it open for ever.
//! * criu gone without a result: the client gets a failed one, and what was restored is killed, because criu cannot do
//!   it any more. A tree that already ran is no exception: its runtime has been told that it is not there.
//! * Once `post-restore` is answered, the stage is asked nothing any more: a relay that died then would leave a running
//!   container its runtime does not know. It is told of `pre-resume`, where a container that is to be held back until it is
//!   started gets its cgroup frozen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use restow::host::{End, PidFd};

use crate::rpc::{self, Kind, Notification, Response};
use crate::seqpacket::{Connection, Received};

/// What happens with a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It goes on to the client, or is answered with success when the client did not ask for it.
    Forward,
    /// The same, and the reply to it names these external objects besides the client's own.
    External(Vec<String>),
    /// criu is told that it failed, for this reason.
    Veto(String),
}

/// What Restow does during an operation.
pub trait Stage {
    /// criu has its request, and starts.
    fn begun(&mut self) {}

    /// A notification came from criu; the tree stands still until this returns.
    fn notified(&mut self, notification: &Notification) -> Answer;

    /// criu has the reply to that notification and works on: the time for what nobody has to wait for.
    fn answered(&mut self, script: &str) {
        let _ = script;
    }

    /// Everything is restored, and runs as soon as this returns (`pre-resume`). It cannot be prevented any more; only what may
    /// fail without harm may be done here.
    fn resuming(&mut self) {}

    /// criu is gone without a result; what it was restoring, if anything, must not stay.
    fn abandoned(&mut self);

    /// The result is known and the client is about to hear of it: criu's own result (failure when it gave none), and
    /// the reason of the stage's veto if it made one.
    fn result(&mut self, success: bool, veto: Option<&str>);

    /// After the result, when the operation failed and not by a veto: why, for the client. `end` is how criu ended, when it gave no
    /// result and that can be seen.
    fn explanation(&mut self, died: bool, end: Option<End>) -> Option<String> {
        let _ = (died, end);
        None
    }

    /// criu has ended; nothing uses what was prepared for it any more.
    fn finished(&mut self);
}

/// How the relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// criu gave a result: whether it was success.
    Result(bool),
    /// criu went away without one.
    Abandoned,
}

/// One running relay.
pub struct Relay<'a, S> {
    /// The runtime.
    pub client: &'a Connection,
    /// The real criu.
    pub criu: &'a Connection,
    /// Its process.
    pub criu_process: &'a PidFd,
    /// What the client asked for.
    pub kind: Kind,
    /// Whether the client asked for notifications itself.
    pub client_notified: bool,
    /// What Restow does.
    pub stage: &'a mut S,
}

#[derive(Debug, Default)]
struct State {
    client_ended: bool,
    criu_ended: bool,
    /// criu's result, once it was seen.
    result: Option<bool>,
    /// The stage's reason, once it vetoed.
    veto: Option<String>,
    /// External objects to be added to the client's next reply.
    externals: Vec<String>,
    /// The notification that the stage saw and criu waits at.
    asked: Option<String>,
    /// `post-restore` was answered with success.
    committed: bool,
}

impl State {
    /// A reply for criu with what the stage has to add to it.
    fn complete(&mut self, reply: Vec<u8>) -> Vec<u8> {
        match std::mem::take(&mut self.externals) {
            keys if keys.is_empty() => reply,
            keys => rpc::with_externals(&reply, &keys).unwrap_or(reply),
        }
    }
}

/// Where something happened.
struct Ready {
    criu: bool,
    criu_process: bool,
    client: bool,
}

impl<S: Stage> Relay<'_, S> {
    /// Relays until criu has closed its side.
    ///
    /// # Errors
    /// When waiting for the sockets fails; what can fail because one side died is dealt with, not returned.
    pub fn run(mut self) -> io::Result<Outcome> {
        let mut state = State::default();
        self.stage.begun();
        while !state.criu_ended {
            let ready = self.wait(&state)?;
            // criu's words first: its result must not be lost behind a dead client or its own end.
            if ready.criu {
                self.criu_speaks(&mut state);
            } else if ready.criu_process {
                state.criu_ended = true;
            } else if ready.client {
                self.client_speaks(&mut state);
            }
        }
        if state.result.is_none() {
            self.abandoned(&state);
        }
        self.client.finish();
        self.stage.finished();
        Ok(state.result.map_or(Outcome::Abandoned, Outcome::Result))
    }

    /// Waits until something happens on a side that has not ended.
    fn wait(&self, state: &State) -> io::Result<Ready> {
        // A half-close can be "read" as well (net/unix/af_unix.c, unix_poll).
        let mut fds = vec![
            PollFd::new(self.criu.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.criu_process.as_fd(), PollFlags::POLLIN),
        ];
        if !state.client_ended {
            fds.push(PollFd::new(self.client.as_fd(), PollFlags::POLLIN));
        }
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        Ok(Ready {
            criu: ready(0),
            criu_process: ready(1),
            client: ready(2),
        })
    }

    fn client_speaks(&mut self, state: &mut State) {
        match self.client.receive() {
            Ok(Received::Message(bytes, fds)) => self.reply(bytes, &fds, state),
            Ok(Received::End) | Err(_) => {
                state.client_ended = true;
                self.criu.finish();
            }
        }
    }

    fn reply(&mut self, reply: Vec<u8>, fds: &[OwnedFd], state: &mut State) {
        // A failed forward means criu is gone, which its own side will show.
        let _ = self.criu.send(&state.complete(reply), &borrow(fds));
        if let Some(script) = state.asked.take() {
            self.stage.answered(&script);
        }
    }

    fn criu_speaks(&mut self, state: &mut State) {
        let (bytes, fds) = match self.criu.receive() {
            Ok(Received::Message(bytes, fds)) => (bytes, fds),
            Ok(Received::End) | Err(_) => {
                state.criu_ended = true;
                return;
            }
        };
        // What cannot be parsed is not ours to judge.
        match Response::parse(&bytes) {
            Ok(Response {
                notification: Some(notification),
                ..
            }) => self.notification(&notification, &bytes, &fds, state),
            Ok(Response { kind, success, .. }) if kind == self.kind => {
                state.result = Some(success);
                self.stage.result(success, state.veto.as_deref());
                let reason = match &state.veto {
                    _ if success => None,
                    Some(reason) => Some(reason.clone()),
                    None => self.stage.explanation(false, None),
                };
                let explained = match reason {
                    Some(reason) => rpc::with_error(&bytes, &reason).unwrap_or(bytes),
                    None => bytes,
                };
                self.to_client(&explained, &fds);
            }
            _ => {
                self.to_client(&bytes, &fds);
            }
        }
    }

    fn notification(
        &mut self,
        notification: &Notification,
        bytes: &[u8],
        fds: &[OwnedFd],
        state: &mut State,
    ) {
        let script = notification.script.as_str();
        if !state.committed && state.veto.is_none() {
            let mut answer = self.stage.notified(notification);
            if answer == Answer::Forward && script == "post-restore" && !self.criu_process.alive() {
                answer = Answer::Veto("criu went away while the restored tree was checked".into());
            }
            match answer {
                Answer::Forward => {}
                Answer::External(keys) => state.externals = keys,
                Answer::Veto(reason) => {
                    state.veto = Some(reason);
                    // If criu is gone, its side shows it next.
                    let _ = self.criu.send(&rpc::notify_reply(false), &[]);
                    return;
                }
            }
        }
        if state.committed && state.veto.is_none() && script == "pre-resume" {
            self.stage.resuming();
        }
        state.committed |= script == "post-restore";
        state.asked = (!state.committed && state.veto.is_none()).then(|| script.to_owned());
        if self.client_notified {
            if !self.to_client(bytes, fds) {
                // Nobody is left to answer; without an answer criu gives up, as it would without us.
                self.criu.finish();
            }
        } else {
            self.reply(rpc::notify_reply(true), &[], state);
        }
    }

    fn to_client(&self, bytes: &[u8], fds: &[OwnedFd]) -> bool {
        self.client.send(bytes, &borrow(fds)).is_ok()
    }

    fn abandoned(&mut self, state: &State) {
        self.stage.abandoned();
        self.stage.result(false, state.veto.as_deref());
        let reason = match &state.veto {
            Some(reason) => Some(reason.clone()),
            None => self.stage.explanation(true, self.criu_process.end()),
        };
        let reason = reason
            .as_deref()
            .unwrap_or("criu ended without a result; its log has its last words");
        self.to_client(&rpc::failure(self.kind, reason), &[]);
    }
}

fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests;
