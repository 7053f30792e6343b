//! Calls of our own to a ttrpc service, one after the other on a connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use criu_image::wire::Message;

use crate::frame::{self, HEADER, Header};

/// A connection.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    /// Clients number their streams oddly.
    stream: u32,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection broke, or nothing came in time.
    #[error("There was no answer to {method}")]
    Connection {
        /// The call.
        method: String,
        /// Why.
        source: io::Error,
    },
    /// The service says that it failed.
    #[error("{message}")]
    Status {
        /// gRPC's code.
        code: i32,
        /// The service's words.
        message: String,
    },
}

impl Client {
    /// Connects. `patience` is how long one call may take; `None` is for ever, for calls that run a runtime.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path, patience: Option<Duration>) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(patience)?;
        socket.set_write_timeout(patience)?;
        Ok(Self { socket, stream: 1 })
    }

    /// Makes a call and returns its answer's payload.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: &Message<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let stream = self.stream;
        self.stream += 2;
        let answer = self
            .exchange(
                &frame::request(stream, service, method, &payload.encode()),
                stream,
            )
            .map_err(|source| Failure::Connection {
                method: method.into(),
                source,
            })?;
        frame::outcome(&answer).map_err(|(code, message)| Failure::Status { code, message })
    }

    fn exchange(&mut self, request: &[u8], stream: u32) -> io::Result<Vec<u8>> {
        self.socket.write_all(request)?;
        loop {
            let mut bytes = [0; HEADER];
            self.socket.read_exact(&mut bytes)?;
            let header = Header::parse(&bytes);
            if header.length > frame::LONGEST {
                return Err(io::Error::other("the answer is too long"));
            }
            let mut frame = bytes.to_vec();
            frame.resize(HEADER + header.length, 0);
            self.socket.read_exact(&mut frame[HEADER..])?;
            if header.stream == stream && header.kind == frame::RESPONSE {
                return Ok(frame);
            }
        }
    }
}

/// The process number of the shim that listens at `path`, by its own word (`Connect` of the task service).
///
/// # Errors
/// When it does not answer, or not with a number.
pub fn shim_pid(path: &Path, id: &str) -> Result<i32, Failure> {
    let patience = Duration::from_secs(10);
    let lost = |source| Failure::Connection {
        method: "Connect".into(),
        source,
    };
    let mut client = Client::connect(path, Some(patience)).map_err(lost)?;
    let mut request = Message::default();
    request.set_bytes(1, id);
    let mut last = None;
    for service in ["containerd.task.v3.Task", "containerd.task.v2.Task"] {
        match client.call(service, "Connect", &request) {
            Ok(answer) => {
                let pid = Message::parse(&answer)
                    .ok()
                    .and_then(|answer| answer.i32(1));
                return pid
                    .filter(|pid| *pid > 1)
                    .ok_or_else(|| lost(io::Error::other("the answer names no process")));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| lost(io::Error::other("nothing was asked"))))
}
