//! Who opens and reads a file, asked of the kernel at the moment it happens.
//!
//! fanotify's permission events hold the process until they are answered. That matters here: Restow's program becomes the real CRIU
//! by exec, under the same process number, so who it was can only be told while it waits.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::AT_FDCWD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The programs that opened or read a watched file.
    pub programs: BTreeSet<String>,
    /// What was in the side directory when a watched file was first opened: name, length, whether it is a regular file.
    pub beside: Vec<(PathBuf, u64, bool)>,
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

impl Watch {
    /// Watches `files`, and looks into the directory `beside` when one of them is first opened.
    pub fn start(files: &[PathBuf], beside: PathBuf) -> Result<Self> {
        let group = Fanotify::init(
            InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK,
            EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC,
        )
        .context(
            "Start fanotify (CAP_SYS_ADMIN and CONFIG_FANOTIFY_ACCESS_PERMISSIONS are needed)",
        )?;
        for file in files {
            let events = MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_ACCESS_PERM;
            group
                .mark(MarkFlags::FAN_MARK_ADD, events, AT_FDCWD, Some(file))
                .with_context(|| format!("Watch {}", file.display()))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Ok(Self {
            stop,
            thread: thread::spawn(move || watch(&group, &beside, &told)),
        })
    }

    /// Ends the watch.
    pub fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("The watch panicked"))?
    }
}

fn watch(group: &Fanotify, beside: &Path, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(group.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(20u8)).context("Wait for fanotify")? == 0 {
            continue;
        }
        for event in group.read_events().context("Read fanotify's events")? {
            if seen.programs.is_empty() {
                seen.beside = list(beside);
            }
            let program = fs::read_link(format!("/proc/{}/exe", event.pid()));
            seen.programs.insert(program.map_or_else(
                |error| format!("({error})"),
                |path| path.display().to_string(),
            ));
            let file = event.fd().context("fanotify's queue ran over")?;
            group
                .write_response(FanotifyResponse::new(file, Response::FAN_ALLOW))
                .context("Answer fanotify")?;
        }
    }
    Ok(seen)
}

fn list(dir: &Path) -> Vec<(PathBuf, u64, bool)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Of the entry itself, not of what a link leads to.
        let Ok(data) = entry.metadata() else { continue };
        if data.is_dir() {
            found.extend(list(&entry.path()));
        } else {
            found.push((entry.path(), data.len(), data.is_file()));
        }
    }
    found
}
