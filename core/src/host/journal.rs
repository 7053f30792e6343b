//! What operators read: `restow.log` beside CRIU's log, and a line in CRIU's log itself where a runtime quotes it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::SystemTime;

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use serde::Serialize;

use super::last_words::MARK;

use crate::observed::Observations;
use crate::plan::Plan;
use crate::verify::Verdict;

/// Name of our log in the work directory.
pub const LOG: &str = "restow.log";

/// Name of the plan in the work directory.
pub const PLAN: &str = "restow-plan.json";

/// Name of what the verification saw, in the work directory.
pub const VERIFIED: &str = "restow-verified.json";

/// Writes to the logs of one operation. Logging never fails an operation: where nothing can be written, nothing is.
#[derive(Debug)]
pub struct Journal {
    work_dir: OwnedFd,
    log: Option<File>,
    criu_log: String,
    /// What every line is about: `restore web-1[4711]`.
    label: String,
}

impl Journal {
    /// Opens the log in `work_dir`, appending to what earlier operations wrote. `criu_log` is the name of CRIU's, `label`
    /// says what the lines are about.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn open(work_dir: &OwnedFd, criu_log: &str, label: &str) -> io::Result<Self> {
        let work_dir = work_dir.try_clone()?;
        let log = append(&work_dir, LOG);
        Ok(Self {
            work_dir,
            log,
            criu_log: criu_log.to_owned(),
            label: label.to_owned(),
        })
    }

    /// The numbers of the descriptors it writes through.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let log = self.log.as_ref().map(AsRawFd::as_raw_fd);
        [Some(self.work_dir.as_raw_fd()), log]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Writes the plan beside the logs, also one that is not carried out.
    pub fn plan(&mut self, plan: &Plan) {
        self.attach_json(PLAN, plan);
    }

    /// Writes beside the logs what the verification saw.
    pub fn observations(&mut self, seen: &Observations) {
        self.attach_json(VERIFIED, seen);
    }

    fn attach_json(&mut self, name: &str, value: &impl Serialize) {
        let written = replace_with(self.work_dir.as_fd(), name, |file| {
            Ok(serde_json::to_writer_pretty(file, value)?)
        });
        if let Err(error) = written {
            self.line(format_args!("{name} cannot be written: {error}"));
        }
    }

    /// Removes a file beside the logs, if there is one.
    pub fn detach(&self, name: &str) {
        let _ = unlinkat(&self.work_dir, name, UnlinkatFlags::NoRemoveDir);
    }

    /// A second one for the same logs.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn try_clone(&self) -> io::Result<Self> {
        Self::open(&self.work_dir, &self.criu_log, &self.label)
    }

    /// One line, with the time.
    pub fn line(&mut self, text: impl std::fmt::Display) {
        let Some(log) = &mut self.log else { return };
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        // One write, so that lines of two processes do not mix.
        let _ = log.write_all(format!("{now} {} {text}\n", self.label).as_bytes());
    }

    /// How the verification of the restored `what` ended: each mismatch, or how much was compared.
    ///
    /// # Errors
    /// In words, the reason for a veto.
    pub fn judge(&mut self, what: &str, verdict: &Verdict) -> Result<(), String> {
        let compared = verdict.judge(what, |mismatch| self.line(mismatch))?;
        self.line(format_args!(
            "verified: {compared} comparisons with /proc, all as planned"
        ));
        Ok(())
    }

    /// Why CRIU is stopped where it asks whether to go on.
    pub fn veto(&mut self, reason: &str) {
        self.line(format_args!("vetoed: {reason}"));
    }

    /// CRIU's log, for reading, and its path.
    ///
    /// # Errors
    /// When it cannot be opened, or is no file.
    pub fn criu_log(&self) -> io::Result<(File, PathBuf)> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let log = openat(&self.work_dir, self.criu_log.as_str(), flags, Mode::empty())?;
        let log = File::from(log);
        if !log.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let dir = std::fs::read_link(format!("/proc/self/fd/{}", self.work_dir.as_raw_fd()))?;
        Ok((log, dir.join(&self.criu_log)))
    }

    /// Why Restow refused the operation: also at the end of CRIU's log, in CRIU's form. runc (>= 1.3) and crun (>= 1.28) show
    /// lines with `Error` from there, and show no `cr_errmsg`.
    pub fn refusal(&mut self, text: &str) {
        self.line(format_args!("refused: {text}"));
        self.in_criu_log(text);
    }

    /// Why CRIU failed, likewise.
    pub fn failure(&mut self, text: &str) {
        self.line(format_args!("failed: {text}"));
        self.in_criu_log(text);
    }

    fn in_criu_log(&self, text: &str) {
        if let Some(mut log) = append(&self.work_dir, &self.criu_log) {
            let _ = log.write_all(format!("{MARK}{text}\n").as_bytes());
        }
    }
}

fn append(dir: &OwnedFd, name: &str) -> Option<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir.as_fd(), name, flags, Mode::from_bits_truncate(0o600))
        .ok()
        .map(File::from)
}

/// Writes a file in `dir` so that it is there whole or not at all.
///
/// # Errors
/// When the directory cannot be written.
pub fn replace(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_with(dir, name, |file| file.write_all(bytes))
}

/// The same, with the content as it comes: a plan of many files is much larger than what it is made from.
fn replace_with(
    dir: BorrowedFd<'_>,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = format!(".{name}.{}", std::process::id());
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(
        dir,
        temporary.as_str(),
        flags,
        Mode::from_bits_truncate(0o600),
    )?;
    let mut file = BufWriter::new(File::from(file));
    let written = write(&mut file)
        .and_then(|()| file.flush())
        .and_then(|()| Ok(renameat(dir, temporary.as_str(), dir, name)?));
    if written.is_err() {
        let _ = unlinkat(dir, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_in_both_logs_after_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("restore.log"), "(00.1) criu was here\n").unwrap();
        let mut journal = Journal::open(
            &File::open(dir.path()).unwrap().into(),
            "restore.log",
            "restore c[1]",
        )
        .unwrap();
        journal.line("plan: 2 files");
        journal.refusal("mount /data is in use");
        let ours = std::fs::read_to_string(dir.path().join(LOG)).unwrap();
        assert!(
            ours.contains("Z restore c[1] plan: 2 files\n")
                && ours.contains("refused: mount /data is in use\n"),
            "{ours}"
        );
        let criu = std::fs::read_to_string(dir.path().join("restore.log")).unwrap();
        assert_eq!(
            criu,
            "(00.1) criu was here\nError (restow): mount /data is in use\n"
        );
    }

    #[test]
    fn a_directory_that_cannot_be_written_stops_nothing() {
        let mut journal = Journal::open(
            &File::open("/proc/self").unwrap().into(),
            "restore.log",
            "restore c[1]",
        )
        .unwrap();
        journal.line("unheard");
        journal.refusal("unheard");
    }
}
