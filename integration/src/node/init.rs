//! Process 1 of a node: builds its view of the world, then reaps orphans until its supervisor goes away.

use std::fs;
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::sethostname;

use super::cgroup::NodeCgroups;
use super::mounts;
use super::options::CgroupView;
use super::supervisor::{Answer, Order};

/// Runs as process 1 of the node. Returns only when it cannot start, or when its supervisor has gone.
pub fn init(order: &Order) -> Result<()> {
    // The supervisor may be killed without a chance to take the node down.
    set_pdeathsig(Signal::SIGKILL).context("Ask to die with the supervisor")?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().context("Block SIGCHLD")?;
    let children = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("Open a signalfd")?;

    let cgroups = NodeCgroups::of(&order.id)?;
    enter_namespaces(&cgroups)?;
    let v1: Vec<String> = cgroups.v1_hierarchies().map(str::to_owned).collect();
    mounts::build(
        &order.root,
        (order.cgroup_view == CgroupView::Hybrid).then_some(v1.as_slice()),
    )?;
    configure(order)?;
    Answer::Ready(None).send()?;
    reap(&children)
}

fn enter_namespaces(cgroups: &NodeCgroups) -> Result<()> {
    // The cgroup namespace's root is where this process is when it makes the namespace.
    cgroups.enter_root()?;
    unshare(
        CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("Make the node's namespaces (CAP_SYS_ADMIN is needed)")?;
    cgroups.enter_system()?;
    cgroups.delegate_controllers()
}

fn configure(order: &Order) -> Result<()> {
    sethostname(&order.id).context("Set the node's host name")?;
    let write = |path: &str, text: &str| {
        fs::write(path, text).with_context(|| format!("Write {path} in the node"))
    };
    write("/etc/hostname", &format!("{}\n", order.id))?;
    write(
        "/etc/hosts",
        &format!(
            "127.0.0.1\tlocalhost\n127.0.1.1\t{}\n::1\tlocalhost\n",
            order.id
        ),
    )?;
    // No name server: a node has no network but its own.
    let _ = fs::remove_file("/etc/resolv.conf");
    write("/etc/resolv.conf", "")?;
    write(
        "/etc/machine-id",
        &format!("{:0>32}\n", machine_id(&order.id)),
    )?;
    let output = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .output()
        .context("Start ip in the node")?;
    if !output.status.success() {
        bail!(
            "Cannot bring up the node's loopback interface: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Hexadecimal digits that differ from node to node.
fn machine_id(id: &str) -> String {
    let hex: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
    hex[hex.len().saturating_sub(32)..].to_owned()
}

fn reap(children: &SignalFd) -> Result<()> {
    let stdin = std::io::stdin();
    loop {
        let mut fds = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("Wait for orphans"),
        }
        if fds[1].revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
        while let Ok(Some(_)) = children.read_signal() {}
        while !matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive) | Err(_)
        ) {}
    }
}
