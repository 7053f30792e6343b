//! A node whose containerd uses Restow's shim for everything, and containers made by `ctr` on it.
//!
//! The shim stands under the stock shim's name earlier in PATH, so that containers have the runtime type that containerd and `ctr` know
//! options for, and finds the stock shim behind itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use restow_shim::arguments::PROXY;

use crate::containerd::{Containerd, K8S, PROBE_IMAGE, RESTOW_DIR};
use crate::engine;
use crate::node::{Node, NodeOptions};
use crate::stack::{Runtime, Stack};
use crate::suite::Suite;
use crate::tools;

/// Where checkpoints of containers without a pod are kept.
pub const STORE: &str = "/var/lib/restow/checkpoints/_node";
/// Where containerd's shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";
/// Where images are unpacked.
const UNPACKED: &str = "/var/lib/restow/unpacked";
/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts in memory and in a file of its root file system, and says so where it was started from its beginning. One process, which
/// starts no others: CRIU 4.1 does not always bring a tree that does to rest on a busy machine. The file is written over and never
/// emptied: there is a number in it whenever the counter is checkpointed.
pub const COUNTER: &str = "echo fresh >>/starts; i=0; while :; do i=$((i+1)); echo $i 1<>/count; \
                           j=0; while [ $j -lt 2000 ]; do j=$((j+1)); done; done";

/// Which shim a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Restow's, the proxy.
    Proxy,
    /// containerd's.
    Stock,
}

/// A shim that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Whose it is.
    pub which: Which,
    /// Its number on the node.
    pub pid: i32,
    /// The container that it was started for.
    pub id: String,
    /// Of a proxy: the stock shim's socket.
    pub stock_socket: String,
    /// Of a proxy: its own socket.
    pub own_socket: String,
}

/// The shims on a node, each known by its command line.
///
/// # Errors
/// When they cannot be listed.
pub fn shims_of(containerd: &Containerd) -> Result<Vec<Process>> {
    let list = containerd.run("ps", &["-e", "-ww", "-o", "pid=,stat=,args="])?;
    let mut shims = Vec::new();
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [pid, state, program, rest @ ..] = &words[..] else {
            continue;
        };
        if !program.contains("containerd-shim-") || state.starts_with('Z') {
            continue;
        }
        let behind = |word: &str, nth| {
            let mut words = rest.iter().skip_while(|other| **other != word);
            words
                .nth(nth)
                .map_or_else(String::new, |word| (*word).to_owned())
        };
        shims.push(Process {
            which: match rest.contains(&PROXY) {
                true => Which::Proxy,
                false => Which::Stock,
            },
            pid: pid.parse().context("Read a process number")?,
            id: behind("-id", 1),
            stock_socket: behind(PROXY, 1).trim_start_matches("unix://").to_owned(),
            own_socket: behind(PROXY, 2),
        });
    }
    Ok(shims)
}

/// A node.
#[derive(Debug)]
pub struct ShimNode {
    containerd: Containerd,
    runtime: Runtime,
}

impl ShimNode {
    /// Starts it; `RESTOW_RUNTIME` says with which runtime.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(suite: Suite) -> Result<Self> {
        Self::with(suite, Some(&tools::shim()?))
    }

    /// The same with this shim, or with the stock shim alone.
    ///
    /// # Errors
    /// When it does not start.
    pub fn with(suite: Suite, shim: Option<&Path>) -> Result<Self> {
        let stack = Stack::v2(suite);
        let mut options = NodeOptions::new(suite);
        options.cgroup_view = stack.cgroup_view;
        let node = Rc::new(Node::start(&options)?);
        if let Some(shim) = shim {
            // Before containerd starts: it looks for its shim once, and asks it what it can do.
            let inside = format!("{RESTOW_DIR}/containerd-shim-restow-v2");
            engine::install(&node, shim, &inside)?;
            let link = node.path("/usr/local/bin/containerd-shim-runc-v2");
            symlink(&inside, &link).context("Put the shim into PATH")?;
        }
        let containerd = Containerd::on(node)?;
        let runtime = tools::runtime()?;
        containerd.install(&runtime, &format!("{RESTOW_DIR}/restow-crun"))?;
        Ok(Self {
            containerd,
            runtime: stack.runtime,
        })
    }

    /// Its containerd.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// A path of the node, on the host.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.containerd.node().path(path)
    }

    /// `ctr run` of a shell with this program, detached.
    ///
    /// # Errors
    /// With what `ctr` says.
    pub fn run(
        &self,
        id: &str,
        program: &str,
        annotations: &[&str],
        mounts: bool,
    ) -> Result<String> {
        let crun = format!("{RESTOW_DIR}/restow-crun");
        let runtime = match self.runtime {
            Runtime::Runc => "runc",
            Runtime::Crun => &crun,
        };
        let run = ["run", "--detach", "--runc-binary", runtime];
        self.containerd
            .ctr(&described(&run, id, program, annotations, mounts))
    }

    /// The same with its streams at this process's ends of pipes, and no annotation.
    ///
    /// # Errors
    /// When `ctr` cannot be started.
    pub fn run_with_streams(&self, id: &str, program: &str) -> Result<Child> {
        self.with_streams(&described(&["run"], id, program, &[], false))
    }

    /// `ctr` with its streams at this process's ends of pipes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn with_streams(&self, args: &[&str]) -> Result<Child> {
        let mut command = self.containerd.ctr_command();
        command.args(args).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().context("Start ctr")
    }

    /// The same of a container that is made known only; containerd's default runtime would run it.
    ///
    /// # Errors
    /// With what `ctr` says.
    pub fn make_known(&self, id: &str, program: &str, annotations: &[&str]) -> Result<String> {
        let create = ["containers", "create"];
        self.containerd
            .ctr(&described(&create, id, program, annotations, false))
    }

    /// A file of a running container's root file system.
    ///
    /// # Errors
    /// When it is not there.
    pub fn file(&self, id: &str, name: &str) -> Result<String> {
        // Of the node's mounts, not this process's: the root file system is mounted there only.
        let path = format!("{}/rootfs/{name}", self.bundle(id));
        self.containerd.run("cat", &[&path])
    }

    /// A container's bundle.
    #[must_use]
    pub fn bundle(&self, id: &str) -> String {
        format!("/run/containerd/io.containerd.runtime.v2.task/{K8S}/{id}")
    }

    /// How far a counter has come.
    ///
    /// # Errors
    /// When it has not written that.
    pub fn count(&self, id: &str) -> Result<u64> {
        let text = self.file(id, "count")?;
        text.trim()
            .parse()
            .with_context(|| format!("{id} has counted {text:?}"))
    }

    /// Waits until a counter is beyond `beyond`.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn until_beyond(&self, id: &str, beyond: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.count(id) {
                Ok(count) if count > beyond => return Ok(count),
                other if Instant::now() > deadline => {
                    bail!("{id} does not count beyond {beyond}: {other:?}")
                }
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Puts a checkpoint of a running container into the store, with the changes of its root file system, and ends it: what it wrote
    /// after the dump would not go with the images.
    ///
    /// # Errors
    /// When runtime or containerd refuse.
    pub fn checkpoint(&self, id: &str, name: &str) -> Result<()> {
        let dir = format!("{STORE}/{name}");
        let images = format!("{dir}/checkpoint");
        fs::create_dir_all(self.path(&images)).context("Make a place for the checkpoint")?;
        let work = format!("/var/tmp/work-{name}");
        fs::create_dir_all(self.path(&work)).context("Make a place for CRIU's logs")?;
        self.containerd.ctr(&[
            "tasks",
            "checkpoint",
            "--exit",
            "--image-path",
            &images,
            "--work-path",
            &work,
            id,
        ])?;
        let script = format!(
            "ctr --namespace {K8S} snapshots diff --media-type application/vnd.oci.image.layer.v1.tar {id} >{dir}/rootfs-diff.tar"
        );
        self.containerd.run("sh", &["-c", &script])?;
        Ok(())
    }

    /// Kills a container and takes it away.
    ///
    /// # Errors
    /// When it does not go.
    pub fn remove(&self, id: &str) -> Result<()> {
        if let Err(error) = self.containerd.ctr(&["tasks", "delete", "--force", id]) {
            // crun forgets a container that it checkpoints and does not leave running. The stock shim then has nothing to delete, and
            // containerd keeps the task until that shim is gone.
            if !format!("{error:#}").contains("No such file") {
                return Err(error);
            }
            kill(Pid::from_raw(self.shim(Which::Stock, id)?), Signal::SIGKILL)?;
            self.until_state(id, None)?;
        }
        self.containerd.ctr(&["containers", "delete", id])?;
        Ok(())
    }

    /// The state of a container's task as `ctr` has it, if it has one.
    ///
    /// # Errors
    /// When `ctr` fails.
    pub fn state(&self, id: &str) -> Result<Option<String>> {
        let list = self.containerd.ctr(&["tasks", "list"])?;
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id));
        Ok(line
            .and_then(|line| line.split_whitespace().last())
            .map(str::to_owned))
    }

    /// Waits until a container's task is in this state, or is not there.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn until_state(&self, id: &str, wanted: Option<&str>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state(id)?;
            if state.as_deref() == wanted {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{id} is {state:?}, not {wanted:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process of one shim.
    ///
    /// # Errors
    /// When there is none.
    pub fn shim(&self, which: Which, id: &str) -> Result<i32> {
        let shims = shims_of(&self.containerd)?;
        let found = shims
            .iter()
            .find(|shim| shim.which == which && shim.id == id);
        found
            .map(|shim| shim.pid)
            .with_context(|| format!("{id} has no {which:?}: {shims:?}"))
    }

    /// Waits until nothing is left of any container: no shim, no socket, no bundle, no mount, no image.
    ///
    /// # Errors
    /// With what stays.
    pub fn until_nothing_is_left(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left()?;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} stay", left.join(", "));
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn left(&self) -> Result<Vec<String>> {
        let mut left: Vec<String> = shims_of(&self.containerd)?
            .iter()
            .map(|shim| format!("{shim:?}"))
            .collect();
        let bundles = format!("/run/containerd/io.containerd.runtime.v2.task/{K8S}");
        for dir in [SOCKETS, &bundles, UNPACKED] {
            for entry in fs::read_dir(self.path(dir)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // Lock files of the store stay.
                if !name.starts_with('.')
                    && entry.path().extension().is_none_or(|ext| ext != "lock")
                {
                    left.push(format!("{dir}/{name}"));
                }
            }
        }
        let mounts = self.containerd.run("cat", &["/proc/mounts"])?;
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&bundles))
                .map(str::to_owned),
        );
        Ok(left)
    }
}

/// A command of `ctr` about a container of the node's shell and programs.
fn described<'w>(
    command: &[&'w str],
    id: &'w str,
    program: &'w str,
    annotations: &[&'w str],
    mounts: bool,
) -> Vec<&'w str> {
    let mut args = command.to_vec();
    for annotation in annotations {
        args.extend(["--annotation", annotation]);
    }
    for mount in [
        "type=bind,src=/usr,dst=/usr,options=rbind:ro",
        "type=bind,src=/usr/bin,dst=/bin,options=rbind:ro",
        "type=bind,src=/usr/lib,dst=/lib,options=rbind:ro",
        "type=bind,src=/usr/lib64,dst=/lib64,options=rbind:ro",
    ] {
        args.extend(["--mount", mount]);
    }
    if mounts {
        args.extend([
            "--mount",
            "type=bind,src=/var/tmp,dst=/volume,options=rbind:rw",
        ]);
    }
    args.extend([PROBE_IMAGE, id, "/bin/sh", "-c", program]);
    args
}
