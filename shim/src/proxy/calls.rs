//! The calls that are not only passed on: what is done when one comes, and when its answer does.
//!
//! | call | |
//! |---|---|
//! | `Create` of a container whose spec asks for a restore | held; a [worker](crate::worker) prepares the checkpoint and says what goes to the stock shim, or the refusal that goes to containerd |
//! | its answer, when it failed | held; a worker takes back what was prepared |
//! | `Start` of such a container | passed on; when it failed, the answer is held, a worker clears up, or starts the container afresh where the pod wants that |
//! | `Delete` of such a container | passed on; a worker clears up |
//! | `Checkpoint` | passed on; when it succeeded, a worker publishes the event that the stock shim does not |

use std::io;
use std::path::Path;

use super::Proxy;
use super::jobs::{Job, Then};
use super::link::Way;
use crate::frame::{self, FAILED_PRECONDITION, Header, REQUEST, RESPONSE};
use crate::spec::{asks_for_restore, mentions};
use crate::task::{Call, Request};

/// A container that was made to be restored and has not started yet.
#[derive(Debug)]
pub(super) struct Restore {
    pub(super) id: String,
    /// The `Create` as containerd sent it.
    pub(super) create: Vec<u8>,
}

/// An answer that is looked at.
#[derive(Debug)]
pub(super) enum Watched {
    /// To the `Create` of a restore.
    Create(String),
    /// To the `Start` of a restore, with the request.
    Start(String, Vec<u8>),
    /// To a `Checkpoint` of a container at a path.
    Checkpoint(String, String),
}

/// Whether a frame from containerd is looked at as a whole.
pub(super) fn held_request(restores: bool, header: Header, payload: &[u8]) -> bool {
    header.kind == REQUEST
        && match Call::of(payload) {
            Some(Call::Create | Call::Checkpoint) => true,
            Some(Call::Start | Call::Delete) => restores,
            None => false,
        }
}

/// Whether a frame from the stock shim is.
pub(super) fn held_response(watched: &[(u32, Watched)], header: Header) -> bool {
    header.kind == RESPONSE && watched.iter().any(|(stream, _)| *stream == header.stream)
}

impl Proxy {
    /// A request that was held.
    pub(super) fn requested(&mut self, slot: usize, frame: Vec<u8>) -> io::Result<()> {
        let call = Call::of(frame.get(frame::HEADER..).unwrap_or_default());
        let (Some(call), Some(request), Some(header)) =
            (call, Request::parse(&frame), Header::of(&frame))
        else {
            return self.inject(slot, Way::Up, frame);
        };
        let (id, stream) = (request.id(), header.stream);
        match call {
            Call::Create if asks_for_restore(Path::new(&request.bundle())) => {
                let started = Job::start("prepare", &self.stock, &[&frame]);
                match started {
                    Ok(job) => {
                        let restore = Restore { id, create: frame };
                        self.work(slot, job, Then::Prepared { stream, restore })
                    }
                    Err(error) => {
                        let reason = format!("restow: cannot prepare the restore: {error}");
                        let refusal = frame::failure(stream, FAILED_PRECONDITION, &reason);
                        self.inject(slot, Way::Down, refusal)
                    }
                }
            }
            Call::Start if !request.about_exec() && self.restore(&id).is_some() => {
                self.watch(slot, stream, Watched::Start(id, frame.clone()));
                self.inject(slot, Way::Up, frame)
            }
            Call::Delete if !request.about_exec() => {
                if let Some(at) = self.restore(&id) {
                    let restore = self.restores.swap_remove(at);
                    self.aside("finish", &[&restore.create]);
                }
                self.inject(slot, Way::Up, frame)
            }
            Call::Checkpoint => {
                let path = request.path();
                make_work_directory(&id);
                self.watch(slot, stream, Watched::Checkpoint(id, path));
                self.inject(slot, Way::Up, frame)
            }
            _ => self.inject(slot, Way::Up, frame),
        }
    }

    /// An answer that was held.
    pub(super) fn answered(&mut self, slot: usize, answer: Vec<u8>) -> io::Result<()> {
        let stream = Header::of(&answer).map_or(0, |header| header.stream);
        let failed = frame::outcome(&answer).is_err();
        match self.unwatch(slot, stream) {
            Some(Watched::Create(id)) if failed => {
                if let Some(at) = self.restore(&id) {
                    let restore = self.restores.swap_remove(at);
                    let job = Job::start("undo", &self.stock, &[&restore.create]);
                    return self.work_or_pass(slot, job, answer);
                }
            }
            Some(Watched::Start(id, start)) => {
                if let Some(at) = self.restore(&id) {
                    let restore = self.restores.swap_remove(at);
                    if failed {
                        let job =
                            Job::start("failed", &self.stock, &[&restore.create, &start, &answer]);
                        return self.work_or_pass(slot, job, answer);
                    }
                    self.aside("finish", &[&restore.create]);
                }
            }
            Some(Watched::Checkpoint(id, path)) if !failed => {
                self.aside("publish", &[id.as_bytes(), path.as_bytes()]);
            }
            _ => {}
        }
        self.inject(slot, Way::Down, answer)
    }

    /// A worker has ended; `said` is what it wrote: `u` and a frame for the stock shim, as a restore; `p` and a frame for the stock
    /// shim, as none; or `d` and a frame for containerd.
    pub(super) fn worked(&mut self, slot: Option<usize>, then: Then, said: &[u8]) {
        let (word, frame) = match said.split_first() {
            Some((word, frame)) if Header::of(frame).is_some() => (*word, frame.to_vec()),
            _ => (0, Vec::new()),
        };
        let (way, frame) = match (then, word) {
            (Then::Nothing, _) => return,
            (Then::Prepared { stream, restore }, b'u') => match slot {
                Some(slot) => {
                    self.watch(slot, stream, Watched::Create(restore.id.clone()));
                    self.restores.push(restore);
                    (Way::Up, frame)
                }
                None => {
                    // containerd is gone, and nobody has seen the container.
                    self.aside("undo", &[&restore.create]);
                    return;
                }
            },
            (Then::Prepared { .. }, b'p') => (Way::Up, frame),
            (Then::Prepared { .. } | Then::Answer(_), b'd') => (Way::Down, frame),
            (Then::Prepared { stream, .. }, _) => {
                let reason = "restow: the process that prepares the restore has ended before its time; nothing was started";
                (
                    Way::Down,
                    frame::failure(stream, FAILED_PRECONDITION, reason),
                )
            }
            (Then::Answer(answer), _) => (Way::Down, answer),
        };
        if let Some(slot) = slot {
            match self.inject(slot, way, frame) {
                Ok(()) => self.settle(slot),
                Err(_) => self.drop_link(slot),
            }
        }
    }

    /// Gives an answer that was held to containerd when a worker has ended, or at once when there is none.
    fn work_or_pass(
        &mut self,
        slot: usize,
        job: io::Result<Job>,
        answer: Vec<u8>,
    ) -> io::Result<()> {
        match job {
            Ok(job) => self.work(slot, job, Then::Answer(answer)),
            Err(_) => self.inject(slot, Way::Down, answer),
        }
    }

    fn restore(&self, id: &str) -> Option<usize> {
        self.restores.iter().position(|restore| restore.id == id)
    }
}

/// crun 1.21 needs the work directory of a checkpoint to be there; the stock shim names one and does not make it. Of containers that are
/// not ours, nothing is made.
fn make_work_directory(id: &str) {
    // Bundles are beside each other, and ours is the working directory.
    let bundle = Path::new("..").join(id);
    if id.contains('/') || !mentions(&bundle, b"restow.dev") {
        return;
    }
    // When it cannot be made, the runtime says so.
    let _ = std::fs::create_dir(bundle.join("work/criu-work"));
}
