//! A node with one OCI runtime on it, with or without Restow before its CRIU.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use anyhow::{Context, Result, bail};

use crate::containerd::{self, Containerd, Image, PROBE_IMAGE, REGISTRY_PROBE_IMAGE, Registry};
use crate::kubelet::Kubelet;
use crate::node::{NODE_PATH, Node, NodeOptions};
use crate::suite::Suite;
use crate::tools;

pub use crate::stack::{Manager, Mode, Runtime, Stack};

/// Where Restow's `criu` is in a node.
const RESTOW_DIR: &str = containerd::RESTOW_DIR;
/// Where the probe is in a node.
pub(crate) const PROBE: &str = "/opt/probe";

/// Whether runtimes are to be called with the systemd cgroup driver: `RESTOW_CGROUP_DRIVER=systemd` in the environment. Only a
/// machine with systemd as its process 1 can.
#[must_use]
pub fn systemd_makes_cgroups() -> bool {
    std::env::var("RESTOW_CGROUP_DRIVER").is_ok_and(|driver| driver == "systemd")
}

/// A node ready to run containers.
#[derive(Debug)]
pub struct Engine {
    node: Rc<Node>,
    runtime: Runtime,
    mode: Mode,
    systemd: bool,
    /// The containerd that makes pods, and who calls it.
    kubelet: Option<Rc<Kubelet>>,
    /// What containerd's own restore pulls the container's image from.
    registry: Option<Rc<Registry>>,
}

impl Engine {
    /// Starts a node and puts the probe, and in [`Mode::Restow`] the interposer, into it.
    pub fn start(stack: Stack, mode: Mode) -> Result<Self> {
        let mut options = NodeOptions::new(stack.suite);
        options.cgroup_view = stack.cgroup_view;
        let node = Node::start(&options)?;
        let mut engine = Self {
            node: Rc::new(node),
            runtime: stack.runtime,
            mode,
            systemd: systemd_makes_cgroups(),
            kubelet: None,
            registry: None,
        };
        if stack.manager == Manager::Containerd {
            let node = Rc::clone(&engine.node);
            let containerd = match mode {
                Mode::Stock => Containerd::stock(node)?,
                Mode::Restow => Containerd::on(node)?,
            };
            let kubelet = Kubelet::new(Rc::new(containerd))?;
            if mode == Mode::Stock && stack.suite == Suite::Testing {
                let image = Image::probe()?.called(REGISTRY_PROBE_IMAGE);
                let registry = Registry::with_image(kubelet.containerd(), &image)?;
                kubelet.wait_for_image(REGISTRY_PROBE_IMAGE)?;
                engine.registry = Some(Rc::new(registry));
            }
            engine.kubelet = Some(Rc::new(kubelet));
        }
        engine.install(&tools::probe()?, PROBE)?;
        if mode == Mode::Restow {
            engine.install(&tools::interposer()?, &format!("{RESTOW_DIR}/criu"))?;
        }
        Ok(engine)
    }

    /// The same node and runtime without Restow.
    #[must_use]
    pub fn stock(&self) -> Self {
        Self {
            node: Rc::clone(&self.node),
            runtime: self.runtime,
            mode: Mode::Stock,
            systemd: self.systemd,
            kubelet: self.kubelet.clone(),
            registry: self.registry.clone(),
        }
    }

    /// The image that containers of pods are made from.
    pub(crate) fn image(&self) -> &'static str {
        match self.registry {
            Some(_) => REGISTRY_PROBE_IMAGE,
            None => PROBE_IMAGE,
        }
    }

    /// Who makes pods over the container runtime interface, when that is how they are made here.
    #[must_use]
    pub fn kubelet(&self) -> Option<&Rc<Kubelet>> {
        self.kubelet.as_ref()
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The node, to be kept.
    #[must_use]
    pub fn shared_node(&self) -> Rc<Node> {
        Rc::clone(&self.node)
    }

    /// The runtime.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// Whether Restow takes part.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether systemd makes the cgroups of pods and containers.
    #[must_use]
    pub fn systemd(&self) -> bool {
        self.systemd
    }

    /// The probe, as a path of the host.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.node.path(PROBE)
    }

    /// Copies a program into the node.
    pub(crate) fn install(&self, program: &Path, inside: &str) -> Result<()> {
        install(&self.node, program, inside)
    }

    /// A call of the command `restow` in the node, which is put there.
    pub fn restow_command(&self) -> Result<Command> {
        let program = format!("{RESTOW_DIR}/restow");
        if !self.node.path(&program).exists() {
            self.install(&tools::restow()?, &program)?;
        }
        Ok(self.node.command(program))
    }

    /// A call of the runtime, with CRIU found as the mode wants it.
    #[must_use]
    pub fn runtime_command(&self) -> Command {
        self.with_criu(self.node.command(self.runtime.program()))
    }

    /// The same below a shim, which ends with the container and its exit code, and makes
    /// `<pid_file>.started` once it runs, with the number of microseconds that the runtime took in it.
    #[must_use]
    pub fn shim_command(&self, pid_file: &str) -> Command {
        let mut command = self.node.command(PROBE);
        command.args(["shim", pid_file, self.runtime.program()]);
        self.with_criu(command)
    }

    /// The same, writing how many microseconds the runtime took to `file`.
    #[must_use]
    pub fn timed_command(&self, file: &str) -> Command {
        let mut command = self.node.command(PROBE);
        command.args(["time", file, self.runtime.program()]);
        self.with_criu(command)
    }

    /// A call of any program in the node, writing how many microseconds it took to `file`.
    #[must_use]
    pub fn timed_program(&self, file: &str, program: &str) -> Command {
        let mut command = self.node.command(PROBE);
        command.args(["time", file, program]);
        command
    }

    fn with_criu(&self, mut command: Command) -> Command {
        command.args(["--root", &self.runtime_root()]);
        if self.systemd {
            command.arg(match self.runtime {
                Runtime::Runc => "--systemd-cgroup",
                Runtime::Crun => "--cgroup-manager=systemd",
            });
        }
        if self.mode == Mode::Restow {
            command.env("PATH", format!("{RESTOW_DIR}:{NODE_PATH}"));
        }
        command
    }

    /// Where the runtime keeps the state of containers, as a path of the node.
    #[must_use]
    pub fn runtime_root(&self) -> String {
        // containerd's shim has one place for all runtimes.
        let name = match self.kubelet {
            Some(_) => "runc",
            None => self.runtime.program(),
        };
        format!("/run/containerd/{name}/k8s.io")
    }

    /// Runs a program in the node that has to succeed, and returns its output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .node
            .command(program)
            .args(args)
            .output()
            .with_context(|| format!("Start {program}"))?;
        checked(&output, || format!("{program} {}", args.join(" ")))
    }

    /// The versions of what is at work here, for output: `runc 1.1.15, criu 4.1.1`.
    pub fn versions(&self) -> Result<String> {
        let version = |text: &str| {
            text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
                .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
                .unwrap_or("?")
                .to_owned()
        };
        let program = self.runtime.program();
        let runtime = version(&self.run(program, &["--version"])?);
        let criu = version(&self.run("criu", &["--version"])?);
        if self.kubelet.is_none() {
            return Ok(format!("{program} {runtime}, criu {criu}"));
        }
        let containerd = version(&self.run("containerd", &["--version"])?);
        Ok(format!(
            "containerd {containerd}, {program} {runtime}, criu {criu}"
        ))
    }
}

/// Copies a program into a node.
pub(crate) fn install(node: &Node, program: &Path, inside: &str) -> Result<()> {
    let target = node.path(inside);
    let dir = target.parent().context("A program needs a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("Create {} in the node", dir.display()))?;
    // On a machine that is used again the old one may be running.
    let new = target.with_extension("new");
    fs::copy(program, &new).with_context(|| format!("Copy {} into the node", program.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("Make {inside} executable in the node"))?;
    fs::rename(&new, &target).with_context(|| format!("Rename {}", new.display()))
}

/// The standard output of a program that has to have succeeded.
pub(crate) fn checked(output: &Output, what: impl Fn() -> String) -> Result<String> {
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", what(), output.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
