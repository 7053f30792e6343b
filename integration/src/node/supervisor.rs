//! The process outside a node that takes it down, however its owner ends.
//!
//! ```text
//! owner ── stdin: a pipe, open as long as the node is wanted ──▶ supervisor ── stdin: the same ──▶ process 1 of the node
//!       ◀── stdout: one line, the node's state or an error ───              ◀── stdout: one line ──
//! ```
//!
//! Owner gone or finished: its end of the pipe closes and the supervisor ends the node's process 1 (the kernel then ends all its
//! processes and mounts), removes the cgroups and the state. Supervisor killed: process 1 dies with it, and the next start
//! collects the rest.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};

use super::cgroup::NodeCgroups;
use super::options::CgroupView;
use super::state::{Claim, NodeState, Process};
use crate::suite::Suite;

/// What the supervisor and the node's process 1 are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The node's name.
    pub id: String,
    /// Its suite.
    pub suite: Suite,
    /// The root below its overlay.
    pub root: PathBuf,
    /// How it sees cgroups.
    pub cgroup_view: CgroupView,
    /// Go on when the owner is gone, until told to stop.
    pub detached: bool,
}

/// The one line that a supervisor or a process 1 answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It works.
    Ready(Option<NodeState>),
    /// Why it does not.
    Error(String),
}

impl Answer {
    /// Writes it to standard output.
    pub fn send(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")
            .and_then(|()| out.flush())
            .context("Answer the process that started this one")
    }

    /// Reads it from the standard output of `child`.
    pub fn receive(child: &mut Child, who: &str) -> Result<Option<NodeState>> {
        let stdout = child
            .stdout
            .take()
            .with_context(|| format!("{who} has no output"))?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .with_context(|| format!("Wait for {who}"))?;
        match serde_json::from_str(&line) {
            Ok(Self::Ready(state)) => Ok(state),
            Ok(Self::Error(error)) => Err(anyhow!(error)),
            Err(_) => Err(anyhow!("{who} ended without an answer")),
        }
    }
}

/// Runs a node until its owner goes away or SIGTERM comes.
pub fn supervise(order: &Order) -> Result<()> {
    // Ctrl-C on the owner's terminal must not reach us: the owner's end does.
    setsid().context("Leave the owner's session")?;
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        signals.add(signal);
    }
    signals.thread_block().context("Block signals")?;
    let signals =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("Open a signalfd")?;

    let claim = Claim::new(&order.id)?;
    let cgroups = NodeCgroups::of(&order.id)?;
    let mut init = None;
    let outcome = start(order, &cgroups, &mut init).and_then(|state| {
        Answer::Ready(Some(state)).send()?;
        wait_for_the_end(order.detached, &signals)
    });
    let cleared = take_down(init, &cgroups, claim);
    outcome.and(cleared)
}

fn start(order: &Order, cgroups: &NodeCgroups, init: &mut Option<Child>) -> Result<NodeState> {
    let mut state = NodeState {
        id: order.id.clone(),
        suite: order.suite,
        cgroup_view: order.cgroup_view,
        supervisor: Process::of(std::process::id().try_into()?)?,
        init: None,
        cgroups: cgroups.clone(),
    };
    state.store()?;
    cgroups.create()?;
    // The next child is process 1 of a new pid namespace.
    unshare(CloneFlags::CLONE_NEWPID).context("Make a pid namespace (CAP_SYS_ADMIN is needed)")?;
    let child = init.insert(
        Command::new("/proc/self/exe")
            .arg0("restow-node")
            .arg("init")
            .arg(serde_json::to_string(order)?)
            .env_clear()
            .env("PATH", super::NODE_PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("Start the node's process 1")?,
    );
    state.init = Some(Process::of(child.id().try_into()?)?);
    state.store()?;
    Answer::receive(child, "the node's process 1")?;
    Ok(state)
}

/// Returns when the node is not wanted any more: its owner closed the pipe, its process 1 ended, or we were told to stop.
fn wait_for_the_end(detached: bool, signals: &SignalFd) -> Result<()> {
    let stdin = std::io::stdin();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if !detached {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("Wait for the owner"),
        }
    }
}

fn take_down(init: Option<Child>, cgroups: &NodeCgroups, claim: Claim) -> Result<()> {
    if let Some(mut init) = init {
        // It may have ended by itself. The wait returns when all of the namespace's processes are gone.
        let _ = init.kill();
        init.wait().context("Wait for the node's process 1")?;
    }
    cgroups.remove()?;
    claim.release()
}
