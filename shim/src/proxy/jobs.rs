//! Workers: this program once more, for one task that takes time and memory.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::pipe2;

use super::calls::Restore;
use crate::arguments::WORKER;

/// What a worker's words are for.
#[derive(Debug)]
pub(super) enum Then {
    /// They decide over a `Create`.
    Prepared {
        /// The stream that waits for it.
        stream: u32,
        /// The container.
        restore: Restore,
    },
    /// They are, or stand in the way of, this answer.
    Answer(Vec<u8>),
    /// Nobody waits.
    Nothing,
}

/// A worker that runs.
#[derive(Debug)]
pub(super) struct Job {
    output: OwnedFd,
    said: Vec<u8>,
}

impl Job {
    /// Starts a worker: `task` and the parts of its input. It is not in the way of anything: what it reads is there already, and what
    /// it writes is read when it comes.
    ///
    /// # Errors
    /// When no process can be started.
    pub(super) fn start(task: &str, stock: &Path, parts: &[&[u8]]) -> io::Result<Self> {
        let mut input = File::from(memfd_create(c"restow-task", MFdFlags::MFD_CLOEXEC)?);
        for part in parts {
            input.write_all(&(part.len() as u64).to_be_bytes())?;
            input.write_all(part)?;
        }
        input.rewind()?;
        let (output, end) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut words = std::env::args_os();
        let mut command = Command::new("/proc/self/exe");
        // What containerd calls this shim stands before our own word.
        command.args(
            words
                .by_ref()
                .skip(1)
                .take_while(|word| word != crate::arguments::PROXY),
        );
        command.arg(WORKER).arg(task).arg(stock);
        command
            .stdin(input)
            .stdout(end)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            output,
            said: Vec::new(),
        })
    }

    /// Reads what has come; whether that was all.
    pub(super) fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&self.output, &mut buffer) {
                Ok(0) => return true,
                Ok(read) => self.said.extend_from_slice(&buffer[..read]),
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return false,
                Err(_) => return true,
            }
        }
    }

    /// What it wrote.
    pub(super) fn said(self) -> Vec<u8> {
        self.said
    }
}

impl AsFd for Job {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

/// The parts of a worker's input.
///
/// # Errors
/// When it is cut short.
pub(crate) fn parts(mut input: impl Read) -> io::Result<Vec<Vec<u8>>> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let mut rest = &bytes[..];
    let mut parts = Vec::new();
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk().ok_or_else(short)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| short())?;
        let (part, behind) = behind.split_at_checked(length).ok_or_else(short)?;
        parts.push(part.to_vec());
        rest = behind;
    }
    Ok(parts)
}
