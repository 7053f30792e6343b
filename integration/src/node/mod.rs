//! A node: a Debian root in namespaces and cgroups of its own, that lives as long as the process that made it.
//!
//! ```no_run
//! use restow_integration::node::{Node, NodeOptions};
//! use restow_integration::suite::Suite;
//!
//! let node = Node::start(&NodeOptions::new(Suite::Stable))?;
//! let output = node.command("runc").arg("--version").output()?;
//! assert!(output.status.success());
//! std::fs::write(node.path("/tmp/seen-inside"), "hello")?;
//! # anyhow::Ok(())
//! ```

mod cgroup;
mod enter;
mod init;
mod mounts;
mod options;
mod state;
mod supervisor;
mod together;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use cgroup::{NodeCgroups, hierarchies, remove_tree};
pub use enter::enter;
pub use init::init;
pub use options::{CgroupView, NodeOptions};
pub use state::{BASE, NodeState, Process, list, sweep};
pub use supervisor::{Answer, Order, supervise};
pub use together::Together;

use crate::root::Root;
use crate::suite::Suite;

/// Where programs are looked for inside a node.
pub const NODE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A running node. Dropping it takes it down.
#[derive(Debug)]
pub struct Node {
    state: NodeState,
    /// Holds the pipe that keeps the node alive; `None` when the node is this whole machine.
    supervisor: Option<Child>,
}

/// Says, with the value `machine`, that tests run on this machine itself instead of a node: see [`Node::start`].
pub const WHERE: &str = "RESTOW_NODE";

/// What tests write and a fresh node has not got: configuration that would count for the next one, and checkpoints.
const LEFT_BEHIND: [&str; 4] = [
    "/etc/criu",
    "/etc/restow",
    "/var/lib/kubelet/checkpoints",
    "/var/lib/restow",
];

impl Node {
    /// Starts a node; its root must have been built.
    ///
    /// With `RESTOW_NODE=machine` in the environment it is the machine that this runs on, a virtual one made for that. Nothing
    /// is started then; pods that an earlier test left are ended.
    pub fn start(options: &NodeOptions) -> Result<Self> {
        if std::env::var(WHERE).is_ok_and(|place| place == "machine") {
            return Self::machine(options.suite);
        }
        let (state, supervisor) = launch(options, false)?;
        Ok(Self {
            state,
            supervisor: Some(supervisor),
        })
    }

    fn machine(suite: Suite) -> Result<Self> {
        // A probe is process 1 of its namespace and ends by nothing less than SIGKILL, for which systemd alone waits a minute
        // and a half.
        let cgroups = NodeCgroups::of("")?;
        for name in ["kubepods.slice", "kubepods"] {
            let kill = cgroups.v2().join(name).join("cgroup.kill");
            if kill.exists() {
                fs::write(&kill, "1").with_context(|| format!("Write {}", kill.display()))?;
            }
        }
        // Without a pod there is no such slice.
        let _ = Command::new("systemctl")
            .args(["stop", "kubepods.slice"])
            .stderr(Stdio::null())
            .status();
        remove_tree(&cgroups.v2().join("kubepods"), Duration::from_secs(20))?;
        for dir in LEFT_BEHIND {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("Remove {dir}"));
                }
                _ => {}
            }
        }
        let init = Process::of(1)?;
        let state = NodeState {
            id: "machine".to_owned(),
            suite,
            cgroup_view: CgroupView::V2,
            supervisor: init,
            init: Some(init),
            // The root itself.
            cgroups,
        };
        Ok(Self {
            state,
            supervisor: None,
        })
    }

    /// Its name and its host name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// What is known about it.
    #[must_use]
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// Its process 1, as a process of the host.
    pub fn init(&self) -> Result<Process> {
        self.state.init()
    }

    /// Its supervisor.
    #[must_use]
    pub fn supervisor(&self) -> Process {
        self.state.supervisor
    }

    /// A command that runs `program` inside: in its namespaces and cgroups, with a clean environment and the root as working
    /// directory.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match self.supervisor {
            Some(_) => Command::new(program_file()),
            None => Command::new(&program),
        };
        if self.supervisor.is_some() {
            command
                .args(["exec", "--keep-env", &self.state.id, "--"])
                .arg(program);
        }
        command
            .env_clear()
            .envs([("PATH", NODE_PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// A path of the host for the absolute path `inside`, for reading and writing what the node has there.
    ///
    /// Absolute symbolic links inside lead out of the node.
    #[must_use]
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let pid = self.state.init.map_or(0, |init| init.pid);
        Path::new("/proc")
            .join(pid.to_string())
            .join("root")
            .join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// The root of its version 2 cgroups, as a path of the host.
    #[must_use]
    pub fn cgroup_root(&self) -> PathBuf {
        self.state.cgroups.v2()
    }

    /// The root of its cgroups in the version 1 hierarchy that has `controller`, as a path of the host.
    #[must_use]
    pub fn cgroup_v1_root(&self, controller: &str) -> Option<PathBuf> {
        self.state.cgroups.v1(controller)
    }

    /// Takes it down and tells what went wrong with that, which dropping cannot.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(supervisor) = &mut self.supervisor else {
            return Ok(());
        };
        drop(supervisor.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match supervisor
                .try_wait()
                .context("Wait for the node's supervisor")?
            {
                Some(status) if status.success() || !NodeState::dir(&self.state.id).exists() => {
                    return Ok(());
                }
                Some(status) => bail!(
                    "Node {} was not taken down completely ({status})",
                    self.state.id
                ),
                None if Instant::now() > deadline => {
                    bail!("Node {} is not taken down after 20 s", self.state.id)
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// Starts a node that stays until [`down`] is called.
pub fn up(options: &NodeOptions) -> Result<NodeState> {
    Ok(launch(options, true)?.0)
}

/// Takes down the node `id`, whoever made it.
pub fn down(id: &str) -> Result<()> {
    let node = NodeState::load(id)?;
    if node.supervisor.is_alive() {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(node.supervisor.pid),
            nix::sys::signal::Signal::SIGTERM,
        )
        .with_context(|| format!("Stop the supervisor of node {id}"))?;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.supervisor.is_alive() {
        if Instant::now() > deadline {
            bail!("Node {id} is not taken down after 20 s");
        }
        thread::sleep(Duration::from_millis(5));
    }
    sweep().map(drop)
}

fn launch(options: &NodeOptions, detached: bool) -> Result<(NodeState, Child)> {
    if !nix::unistd::geteuid().is_root() {
        bail!("A node needs root: run this with sudo");
    }
    let id = options.id.clone().unwrap_or_else(fresh_id);
    if id.is_empty()
        || id.len() > 48
        || !id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        bail!("{id:?} is no name for a node: use up to 48 letters, digits and dashes");
    }
    let root = match &options.root {
        Some(root) => root.clone(),
        None => Root::require(options.suite)?.path,
    };
    let order = Order {
        id,
        suite: options.suite,
        root,
        cgroup_view: options.cgroup_view,
        detached,
    };
    let program = program_file();
    let mut supervisor = Command::new(&program)
        .arg("supervise")
        .arg(serde_json::to_string(&order)?)
        .stdin(if detached {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| {
            format!(
                "Start {} (build it with `cargo build -p restow-integration`)",
                program.display()
            )
        })?;
    match Answer::receive(&mut supervisor, "the node's supervisor") {
        Ok(Some(state)) => Ok((state, supervisor)),
        outcome => {
            drop(supervisor.stdin.take());
            supervisor
                .wait()
                .context("Wait for the node's supervisor")?;
            outcome
                .and_then(|_| bail!("The supervisor answered without a state"))
                .with_context(|| format!("Start node {}", order.id))
        }
    }
}

fn fresh_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!(
        "restow-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The `restow-node` program, which the supervisor and everything that enters a node runs.
fn program_file() -> PathBuf {
    if let Some(path) = std::env::var_os("RESTOW_NODE_PROGRAM") {
        return path.into();
    }
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    // Tests are in target/<profile>/deps, programs one level up.
    own.ancestors()
        .skip(1)
        .map(|dir| dir.join("restow-node"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| own.with_file_name("restow-node"))
}
