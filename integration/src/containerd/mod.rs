//! containerd on a node, as a service manager would run it, with runtime handlers for every runtime below the stock shim and below
//! Restow's.
//!
//! Its pods have a network made by the CNI plugins of Debian: `eth0` on the bridge `cni0`, with an address of each family. The one image it
//! needs is made here from the probe, so that nothing is ever pulled.

mod config;
mod image;
mod registry;
mod shares;

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::engine::checked;
use crate::network;
use crate::node::{NODE_PATH, Node, NodeOptions};
use crate::stack::{Runtime, Stack};
use crate::tools;

pub use image::Image;
pub use registry::{REGISTRY, REGISTRY_IMAGES, Registry};

/// containerd's socket, as a path of the node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// The namespace of what the CRI plugin makes.
pub const K8S: &str = "k8s.io";
/// Where Restow's programs are in a node.
pub const RESTOW_DIR: &str = "/opt/restow/bin";
/// The image that pods' sandboxes are made of: the probe, which waits.
pub const PAUSE_IMAGE: &str = "docker.io/library/restow-pause:latest";
/// The image of containers: the probe as `/probe`, and the directories that it uses.
pub const PROBE_IMAGE: &str = "docker.io/library/restow-probe:latest";
/// The same by its name in a [`Registry`].
pub const REGISTRY_PROBE_IMAGE: &str = "127.0.0.1:5000/restow-probe:latest";

const CONFIG: &str = "/etc/containerd/config.toml";
const LOG: &str = "/var/log/containerd.log";
/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which shim a runtime handler uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shim {
    /// containerd's own, `containerd-shim-runc-v2`.
    Stock,
    /// `containerd-shim-restow-v2`, which stands before it.
    Restow,
}

/// The name of the runtime handler (what a RuntimeClass names) for a runtime below a shim.
#[must_use]
pub fn handler(runtime: Runtime, shim: Shim) -> &'static str {
    match (runtime, shim) {
        (Runtime::Runc, Shim::Stock) => "runc",
        (Runtime::Crun, Shim::Stock) => "crun",
        (Runtime::Runc, Shim::Restow) => "restow-runc",
        (Runtime::Crun, Shim::Restow) => "restow-crun",
    }
}

/// A node with a running containerd.
#[derive(Debug)]
pub struct Containerd {
    node: Rc<Node>,
    /// What entered the node and waits there for containerd to end.
    process: RefCell<Option<Child>>,
    pid: Cell<i32>,
    restow: bool,
}

impl Containerd {
    /// Starts a node with containerd on it.
    ///
    /// # Errors
    /// When node or containerd do not start.
    pub fn start(stack: Stack) -> Result<Self> {
        let mut options = NodeOptions::new(stack.suite);
        options.cgroup_view = stack.cgroup_view;
        Self::on(Rc::new(Node::start(&options)?))
    }

    /// Starts containerd on `node` and gives it the images. Restow's programs are there, and no handler of the stock shim finds them.
    ///
    /// # Errors
    /// When containerd does not start; its log is in the error.
    pub fn on(node: Rc<Node>) -> Result<Self> {
        Self::configured(node, true)
    }

    /// The same without anything of Restow's on the node; handlers of Restow's shim fail there.
    ///
    /// # Errors
    /// When containerd does not start; its log is in the error.
    pub fn stock(node: Rc<Node>) -> Result<Self> {
        Self::configured(node, false)
    }

    fn configured(node: Rc<Node>, restow: bool) -> Result<Self> {
        let this = Self {
            node,
            process: RefCell::new(None),
            pid: Cell::new(0),
            restow,
        };
        this.write(CONFIG, &config::containerd(this.node.state().suite))?;
        this.write("/etc/cni/net.d/10-restow.conflist", config::NETWORK)?;
        // The plugin takes the bridge that is there.
        this.run("sh", &["-c", &network::bridge_script()])?;
        shares::leave_out(&this)?;
        if restow {
            this.install_restow()?;
        }
        this.launch()?;
        for image in [Image::pause()?, Image::probe()?] {
            this.import(&image)?;
        }
        Ok(this)
    }

    /// Puts Restow's programs where the runtime handlers and the shim look for them.
    fn install_restow(&self) -> Result<()> {
        for (program, name) in [
            (tools::interposer()?, "criu"),
            (tools::runtime()?, "restow-crun"),
            (tools::shim()?, "containerd-shim-restow-v2"),
        ] {
            self.install(&program, &format!("{RESTOW_DIR}/{name}"))?;
        }
        Ok(())
    }

    /// Copies a program into the node.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn install(&self, program: &std::path::Path, inside: &str) -> Result<()> {
        crate::engine::install(&self.node, program, inside)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let target = self.node.path(path);
        let dir = target.parent().context("A file needs a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("Create {} in the node", dir.display()))?;
        fs::write(&target, text).with_context(|| format!("Write {path} in the node"))
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its node, to be kept.
    #[must_use]
    pub fn shared_node(&self) -> Rc<Node> {
        Rc::clone(&self.node)
    }

    /// Whether Restow's programs are on the node.
    #[must_use]
    pub fn has_restow(&self) -> bool {
        self.restow
    }

    /// Its socket, as a path of the host.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.node.path(SOCKET)
    }

    /// Its process, as a process of the node.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.get()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.node.path(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts the program and waits until it answers.
    fn launch(&self) -> Result<()> {
        // The shell notes its number, which containerd then has, and its errors join the log.
        let script = format!(
            "mkdir -p /var/log; echo $$ >/run/containerd.pid; exec containerd --config {CONFIG} >>{LOG} 2>&1"
        );
        let mut command = self.node.command("sh");
        command
            .args(["-c", &script])
            .env("PATH", NODE_PATH)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("Start containerd")?;
        *self.process.borrow_mut() = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() || !self.answers() {
            if self.has_ended()? || Instant::now() > deadline {
                let log = self.log();
                let from = log.len().saturating_sub(3000);
                bail!(
                    "containerd does not start; its log ends: {}",
                    log.get(from..).unwrap_or(&log)
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        let pid = fs::read_to_string(self.node.path("/run/containerd.pid"))
            .context("Read containerd's process number")?;
        self.pid
            .set(pid.trim().parse().context("Read a process number")?);
        Ok(())
    }

    /// Its plugins are there once it serves; the last words of its start say so.
    fn answers(&self) -> bool {
        self.log()
            .rsplit("starting containerd")
            .next()
            .is_some_and(|text| text.contains("containerd successfully booted"))
    }

    /// Whether it does not run any more.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn has_ended(&self) -> Result<bool> {
        let mut process = self.process.borrow_mut();
        let Some(child) = process.as_mut() else {
            return Ok(true);
        };
        Ok(child.try_wait().context("Look after containerd")?.is_some())
    }

    /// Ends it with `signal` (`TERM`, `KILL`); its shims and containers go on.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, signal: &str) -> Result<()> {
        self.run("kill", &[&format!("-{signal}"), &self.pid().to_string()])?;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended()? {
            if Instant::now() > deadline {
                bail!("containerd does not end");
            }
            thread::sleep(Duration::from_millis(5));
        }
        *self.process.borrow_mut() = None;
        Ok(())
    }

    /// Ends it with `signal` and starts it again.
    ///
    /// # Errors
    /// When it does not end, or not start.
    pub fn restart(&self, signal: &str) -> Result<()> {
        self.stop(signal)?;
        self.launch()
    }

    /// Makes `image` known.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub fn import(&self, image: &Image) -> Result<()> {
        let written = self.node.path("/var/tmp/image.tar");
        if image.archive().is_none() {
            image.write(&written)?;
        }
        let archive = image.archive().unwrap_or(&written);
        let mut command = self.ctr_command();
        let output = command
            .args(["images", "import", "--no-unpack", "-"])
            .stdin(fs::File::open(archive).with_context(|| format!("Open {}", archive.display()))?)
            .output();
        checked(&output.context("Start ctr")?, || {
            format!("ctr images import of {}", image.name())
        })?;
        self.name_by_digest(image.name())?;
        match fs::remove_file(written) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("Remove an image's archive")
            }
            _ => Ok(()),
        }
    }

    /// Gives an image a name by its digest, as a pulled one has: containerd's own restore looks for the base image by it.
    fn name_by_digest(&self, name: &str) -> Result<()> {
        let list = self.ctr(&["images", "list", &format!("name=={name}")])?;
        let digest = list
            .split_whitespace()
            .find(|word| word.starts_with("sha256:"))
            .with_context(|| format!("There is no image {name}: {list}"))?;
        let base = name.rsplit_once(':').map_or("", |(base, _)| base);
        let by_digest = format!("{base}@{digest}");
        self.ctr(&["images", "tag", "--force", name, &by_digest])
            .map(drop)
    }

    /// Gives an image that is there another name.
    ///
    /// # Errors
    /// When it is not there.
    pub fn name_also(&self, image: &str, name: &str) -> Result<()> {
        self.ctr(&["images", "tag", "--force", image, name])?;
        self.name_by_digest(name)
    }

    /// A call of `ctr` in Kubernetes' namespace.
    #[must_use]
    pub fn ctr_command(&self) -> Command {
        let mut command = self.node.command("ctr");
        command.args(["--namespace", K8S]);
        command
    }

    /// Calls `ctr` in Kubernetes' namespace, has it succeed and returns its output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let output = self.ctr_command().args(args).output();
        checked(&output.context("Start ctr")?, || {
            format!("ctr {}", args.join(" "))
        })
    }

    /// Runs a program in the node that has to succeed, and returns its output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.node.command(program).args(args).output();
        checked(&output.with_context(|| format!("Start {program}"))?, || {
            format!("{program} {}", args.join(" "))
        })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The node ends its processes; only our own child has to be collected, when the node outlives this.
        if let Some(mut child) = self.process.borrow_mut().take() {
            let _ = self.run("kill", &["-KILL", &self.pid().to_string()]);
            let _ = child.wait();
        }
    }
}
