//! Why CRIU failed, in one sentence that reaches whoever called.
//!
//! Runtimes show different things. runc (>= 1.3) and crun (>= 1.28) quote lines with `Error` from CRIU's log; runc 1.1 says
//! `criu failed: type NOTIFY errno 0` and crun 1.21 `CRIU checkpointing failed -52`, both with the path of the log; none shows
//! `cr_errmsg`. So the sentence goes to all places there are:
//!
//! * the end of CRIU's log, where those that quote find it, and whoever follows the path reads it first;
//! * `cr_errmsg` of the result;
//! * `restow.log`;
//! * the runtime's standard error, which is its caller's: containerd shows the first line of what runc writes at a checkpoint
//!   (`criuError` in its shim), and this is written before runc knows of the failure. At a restore it is the container's, too: then
//!   only where the runtime says its own failure there, which is where it was given no `--log`. Whoever gives one reads that, and
//!   the container's log is not ours to write to.
//!
//! Nothing is done for an operation that succeeds.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use restow::explain::{LOG_AT, Outcome, Report};
use restow::host::journal::Journal;
use restow::host::{End, PidFd, kept};

use crate::operation::Operation;
use crate::peer::Peer;
use crate::relay::{Answer, Stage};
use crate::rpc::{Kind, Notification};

/// More of a log is not read, in bytes.
const LONGEST_LOG: u64 = 512 << 20;
/// A pipe takes so much at once when it is ready for any, in bytes (PIPE_BUF, `man 7 pipe`).
const AT_ONCE: usize = 4096;
/// Other causes in the same log that `restow.log` has.
const OTHER_CAUSES: usize = 8;

/// A stage whose failures are explained.
#[derive(Debug)]
pub struct Explained<'a, S> {
    inner: &'a mut S,
    kind: Kind,
    /// The runtime, when it is one whose standard error is its caller's.
    caller: Option<PidFd>,
    container: String,
    /// What CRIU's log was before: one that has not changed is not this operation's.
    before: Option<Stamp>,
    journal: Journal,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

impl Stamp {
    fn of(log: &File) -> Option<Self> {
        let meta = log.metadata().ok()?;
        Some(Self {
            modified: meta.modified().ok(),
            length: meta.len(),
        })
    }
}

impl<'a, S: Stage> Explained<'a, S> {
    /// Takes note of how things are before criu starts. `journal` is a second one of the operation's.
    pub fn new(inner: &'a mut S, operation: &Operation, journal: Journal) -> Self {
        let log = journal.criu_log();
        Self {
            inner,
            kind: operation.kind,
            caller: caller(operation.kind, &operation.peer),
            container: operation.peer.container().unwrap_or("unnamed").to_owned(),
            before: log.ok().and_then(|(log, _)| Stamp::of(&log)),
            journal,
        }
    }

    fn operation(&self) -> &'static str {
        if self.kind == Kind::DUMP {
            "dump"
        } else {
            "restore"
        }
    }

    /// The log that this operation wrote, and what it says.
    fn log(&self) -> Option<(File, String, Report)> {
        let (log, path) = self.journal.criu_log().ok()?;
        if Stamp::of(&log) == self.before {
            return None;
        }
        let report = Report::read(BufReader::new((&log).take(LONGEST_LOG))).ok()?;
        Some((log, path.display().to_string(), report))
    }

    /// The sentence, with the path of the log that is kept.
    fn explain(&mut self, died: Option<Option<End>>) -> Option<String> {
        let Some((mut log, path, report)) = self.log() else {
            let said = match died {
                Some(end) => format!("{}, before it wrote a log", how(end, false)),
                None => "criu failed and wrote no log".to_owned(),
            };
            self.tell(&said);
            return Some(said);
        };
        if report
            .causes
            .first()
            .is_some_and(|cause| cause.cause == "restow-refused")
        {
            // It has been said where it happened.
            return None;
        }
        let said = sentence(&report, died);
        let with_path = |path: &Path| format!("{said}{LOG_AT}kept as {}", path.display());
        let kept = kept::keep(
            Path::new(kept::DIR),
            &mut log,
            &self.container,
            self.operation(),
            with_path,
        );
        let said = match kept {
            Ok(path) => with_path(&path),
            Err(error) => {
                self.journal.line(format_args!(
                    "CRIU's log cannot be kept in {}: {error}",
                    kept::DIR
                ));
                format!("{said}{LOG_AT}{path}")
            }
        };
        for cause in report.causes.iter().skip(1).take(OTHER_CAUSES) {
            self.journal
                .line(format_args!("also in CRIU's log: {cause}"));
        }
        self.tell(&said);
        Some(said)
    }

    fn tell(&mut self, said: &str) {
        let said = on_one_line(said);
        self.journal.failure(&said);
        if let Some(caller) = &self.caller {
            say(caller, &format!("restow: {said}\n"));
        }
    }
}

/// What happened, from the log and from how criu ended.
fn sentence(report: &Report, died: Option<Option<End>>) -> String {
    let from_log = report
        .sentence()
        .filter(|_| report.outcome == Outcome::Failed);
    match (died, from_log) {
        (None, Some(said)) => said,
        (None, None) => "criu failed and its log does not say why".to_owned(),
        (Some(end), None) => how(end, true),
        (Some(end), Some(said)) => format!("{}; its log says before that: {said}", how(end, true)),
    }
}

/// How criu ended without a result.
fn how(end: Option<End>, with_log: bool) -> String {
    let Some(end) = end else {
        return "criu ended without a result".to_owned();
    };
    match end {
        End::Signal(number) => {
            let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
            let hint = match name {
                "SIGKILL" => " (by hand, or by the kernel for lack of memory: see dmesg and the memory.events of its cgroup)",
                "SIGSEGV" | "SIGBUS" | "SIGABRT" | "SIGILL" | "SIGFPE" => {
                    " (it crashed: an image may be missing or damaged)"
                }
                "SIGSYS" => " (a seccomp filter of whoever started it forbids a call)",
                _ => "",
            };
            format!("criu was killed by signal {number}, {name}{hint}")
        }
        // What the dynamic loader ends with (`man ld.so`).
        End::Status(127) if !with_log => {
            "criu cannot start and ended with status 127: a library that it needs is missing (run criu --version on the node)".to_owned()
        }
        End::Status(status) => format!("criu ended with status {status} and no result"),
    }
}

/// The runtime, when its standard error is the place to say why it fails.
fn caller(kind: Kind, peer: &Peer) -> Option<PidFd> {
    if kind == Kind::DUMP || !peer.logs_to_file() {
        PidFd::open(peer.pid.0).ok()
    } else {
        None
    }
}

/// Says why an operation was refused on the standard error of the runtime, as CRIU's failures are said there.
pub fn tell_caller(kind: Kind, peer: &Peer, reason: &str) {
    if let Some(caller) = caller(kind, peer) {
        say(&caller, &format!("restow: {}\n", on_one_line(reason)));
    }
}

/// A log or a checkpoint is not trusted, and this goes to terminals.
fn on_one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// Writes to the caller's standard error, when that does not have to wait for anybody.
fn say(caller: &PidFd, text: &str) {
    let Ok(stderr) = caller.take(2) else {
        return;
    };
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let takes_it = poll(&mut ready, PollTimeout::ZERO) == Ok(1)
        && ready[0]
            .revents()
            .is_some_and(|events| events == PollFlags::POLLOUT);
    if !takes_it {
        return;
    }
    let mut end = text.len().min(AT_ONCE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let _ = File::from(stderr).write_all(&text.as_bytes()[..end]);
}

impl<S: Stage> Stage for Explained<'_, S> {
    fn begun(&mut self) {
        self.inner.begun();
    }

    fn notified(&mut self, notification: &Notification) -> Answer {
        self.inner.notified(notification)
    }

    fn answered(&mut self, script: &str) {
        self.inner.answered(script);
    }

    fn resuming(&mut self) {
        self.inner.resuming();
    }

    fn abandoned(&mut self) {
        self.inner.abandoned();
    }

    fn result(&mut self, success: bool, veto: Option<&str>) {
        self.inner.result(success, veto);
        if let (false, Some(reason), Some(caller)) = (success, veto, &self.caller) {
            say(caller, &format!("restow: {}\n", on_one_line(reason)));
        }
    }

    fn explanation(&mut self, died: bool, end: Option<End>) -> Option<String> {
        self.explain(died.then_some(end))
    }

    fn finished(&mut self) {
        self.inner.finished();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(log: &str) -> Report {
        Report::read(log.as_bytes()).unwrap()
    }

    #[test]
    fn the_log_and_the_end_are_one_sentence() {
        let known =
            report("(00.1)   7: Error (criu/files-reg.c:1): File a has bad size 1 (expect 2)\n");
        let said = sentence(&known, None);
        assert!(
            said.starts_with("process 7: file /a: ") && said.ends_with("[file-size-changed]"),
            "{said}"
        );
        let said = sentence(&known, Some(Some(End::Signal(9))));
        assert!(
            said.starts_with("criu was killed by signal 9, SIGKILL (by hand,"),
            "{said}"
        );
        assert!(said.ends_with("[file-size-changed]"), "{said}");
        let unfinished = report("(00.1) Reading image tree\n");
        let said = sentence(&unfinished, Some(Some(End::Signal(11))));
        assert_eq!(
            said,
            "criu was killed by signal 11, SIGSEGV (it crashed: an image may be missing or damaged)"
        );
        assert_eq!(
            sentence(&unfinished, Some(None)),
            "criu ended without a result"
        );
        assert!(how(Some(End::Status(127)), false).contains("a library that it needs is missing"));
        assert_eq!(
            how(Some(End::Status(1)), true),
            "criu ended with status 1 and no result"
        );
    }

    #[test]
    fn nobody_waits_for_a_full_pipe() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .stderr(writer.try_clone().unwrap())
            .spawn()
            .unwrap();
        let caller = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        say(&caller, "restow: why\n");
        let mut said = [0; 12];
        (&reader).read_exact(&mut said).unwrap();
        assert_eq!(&said, b"restow: why\n");
        nix::fcntl::fcntl(
            &writer,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )
        .unwrap();
        while (&writer).write(&[b'x'; 4096]).is_ok() {}
        nix::fcntl::fcntl(
            &writer,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
        )
        .unwrap();
        say(&caller, "restow: unheard\n");
        child.kill().unwrap();
        child.wait().unwrap();
        say(&caller, "restow: to nobody\n");
    }
}
