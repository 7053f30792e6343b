//! One DUMP or RESTORE that Restow works on: who asked, for which container, with which directories.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use restow::chain;
use restow::host::Bundle;
use restow::host::journal::Journal;

use crate::failure;
use crate::peer::Peer;
use crate::rpc::{self, Kind, Request};
use crate::seqpacket::Connection;

/// The directories of a request, opened anew.
#[derive(Debug)]
pub struct Directories {
    /// The image directory.
    pub images: OwnedFd,
    /// Where logs go.
    pub work: OwnedFd,
    /// The status descriptor, when the client gave one.
    pub status: Option<OwnedFd>,
}

impl Directories {
    /// Opens them out of the client, as CRIU would.
    ///
    /// # Errors
    /// With what could not be opened, in words.
    pub fn open(request: &Request, peer: &Peer) -> Result<Self, String> {
        let dir = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let named = |what: &'static str| {
            move |error: io::Error| format!("The {what} of the request cannot be opened: {error}")
        };
        let images = match (request.images_dir_fd(), request.images_dir()) {
            (Some(fd), _) => peer.descriptor(fd, dir).map_err(named("image directory"))?,
            (None, Some(path)) => {
                OwnedFd::from(File::open(path).map_err(named("image directory"))?)
            }
            (None, None) => return Err("The request names no image directory".into()),
        };
        let work = match request.work_dir_fd() {
            Some(fd) => peer.descriptor(fd, dir).map_err(named("work directory"))?,
            // CRIU's default; it would otherwise follow the images into the staging directory.
            None => images.try_clone().map_err(named("work directory"))?,
        };
        let status = request
            .status_fd()
            .map(|fd| peer.descriptor(fd, OFlag::O_WRONLY))
            .transpose();
        Ok(Self {
            images,
            work,
            status: status.map_err(named("status descriptor"))?,
        })
    }

    /// Puts the new numbers into the request. The relay holds the descriptors under these numbers.
    pub fn renumber(&self, request: &mut Request) {
        request.set_images_dir_fd(self.images.as_raw_fd());
        request.set_work_dir_fd(self.work.as_raw_fd());
        if let Some(status) = &self.status {
            request.set_status_fd(status.as_raw_fd());
        }
    }

    /// Opens the logs.
    ///
    /// # Errors
    /// In words, when descriptors run out.
    pub fn journal(&self, request: &Request, kind: Kind, peer: &Peer) -> Result<Journal, String> {
        let (name, default) = if kind == Kind::DUMP {
            ("dump", "dump.log")
        } else {
            ("restore", "restore.log")
        };
        let label = format!(
            "{name} {}[{}]",
            peer.container().unwrap_or("?"),
            std::process::id()
        );
        let log = request.log_file().unwrap_or(default);
        Journal::open(&self.work, log, &label).map_err(|error| chain(&error))
    }

    /// The numbers of all of them.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let fds = [Some(&self.images), Some(&self.work), self.status.as_ref()];
        fds.into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }
}

/// One operation.
#[derive(Debug)]
pub struct Operation {
    /// DUMP or RESTORE.
    pub kind: Kind,
    /// The connection to the client.
    pub client: Connection,
    /// Who is there.
    pub peer: Peer,
    /// The container's bundle.
    pub bundle: Bundle,
    /// What was asked.
    pub request: Request,
    /// Its directories.
    pub directories: Directories,
    /// Where it is told.
    pub journal: Journal,
}

impl Operation {
    /// The numbers of all its descriptors.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut fds = self.directories.descriptors();
        fds.extend(self.journal.descriptors());
        fds.push(self.client.as_fd().as_raw_fd());
        fds
    }

    /// Refuses the operation: nothing has been started, the client gets a failed result.
    pub fn refuse(&mut self, reason: &str) {
        self.journal.refusal(reason);
        failure::tell_caller(self.kind, &self.peer, reason);
        // A client that is gone needs no answer.
        let _ = self.client.send(&rpc::failure(self.kind, reason), &[]);
    }
}
