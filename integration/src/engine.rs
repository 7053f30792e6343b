//! A node with one OCI runtime on it, with or without Restow before its CRIU.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use anyhow::{Context, Result, bail};

use crate::node::{CgroupView, NODE_PATH, Node, NodeOptions};
use crate::suite::Suite;
use crate::tools;

/// Where Restow's `criu` is in a node.
const RESTOW_DIR: &str = "/opt/restow/bin";
/// Where the probe is in a node.
const PROBE: &str = "/opt/probe";

/// Whether Restow takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The distribution's runtime and CRIU alone.
    Stock,
    /// Restow's `criu` is the first in the runtime's PATH, and containers ask for it.
    Restow,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stock => "stock",
            Self::Restow => "Restow",
        })
    }
}

/// A combination that scenarios run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The Debian suite, which decides all versions.
    pub suite: Suite,
    /// Which cgroups the node sees.
    pub cgroup_view: CgroupView,
}

impl Stack {
    /// The suite with cgroup version 2 alone.
    #[must_use]
    pub fn v2(suite: Suite) -> Self {
        Self {
            suite,
            cgroup_view: CgroupView::V2,
        }
    }

    /// The suite with version 1 controllers.
    #[must_use]
    pub fn hybrid(suite: Suite) -> Self {
        Self {
            suite,
            cgroup_view: CgroupView::Hybrid,
        }
    }
}

/// A node ready to run containers with runc.
#[derive(Debug)]
pub struct Engine {
    node: Rc<Node>,
    mode: Mode,
}

impl Engine {
    /// Starts a node and puts the probe, and in [`Mode::Restow`] the interposer, into it.
    pub fn start(stack: Stack, mode: Mode) -> Result<Self> {
        let mut options = NodeOptions::new(stack.suite);
        options.cgroup_view = stack.cgroup_view;
        let node = Node::start(&options)?;
        let engine = Self {
            node: Rc::new(node),
            mode,
        };
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
            mode: Mode::Stock,
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Whether Restow takes part.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The probe, as a path of the host.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.node.path(PROBE)
    }

    /// Copies a program into the node.
    fn install(&self, program: &Path, inside: &str) -> Result<()> {
        let target = self.node.path(inside);
        let dir = target.parent().context("A program needs a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("Create {} in the node", dir.display()))?;
        fs::copy(program, &target)
            .with_context(|| format!("Copy {} into the node", program.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("Make {inside} executable in the node"))
    }

    /// A call of the runtime, with CRIU found as the mode wants it.
    #[must_use]
    pub fn runtime(&self) -> Command {
        let mut command = self.node.command("runc");
        command.args(["--root", "/run/containerd/runc/k8s.io"]);
        if self.mode == Mode::Restow {
            command.env("PATH", format!("{RESTOW_DIR}:{NODE_PATH}"));
        }
        command
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
        let runc = version(&self.run("runc", &["--version"])?);
        let criu = version(&self.run("criu", &["--version"])?);
        Ok(format!("runc {runc}, criu {criu}"))
    }
}

/// The standard output of a program that has to have succeeded.
pub(crate) fn checked(output: &Output, what: impl Fn() -> String) -> Result<String> {
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", what(), output.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
