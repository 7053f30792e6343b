//! podman on a node, with the distribution's runtime or Restow's around it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::container::inode;
use crate::engine::{Engine, Mode, Stack, checked};
use crate::report::Report;
use crate::suite::Suite;
use crate::tools;

/// Where the shipped configuration says that Restow's programs are.
pub const LIB: &str = "/usr/local/lib/restow";
/// The image with the probe in it.
pub const IMAGE: &str = "localhost/probe:latest";
/// The annotation by which a container asks for Restow.
pub const OPT_IN: &str = "restow.dev/enabled=true";
/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// podman's configuration without Restow's.
const STOCK: &str = "/etc/containers/stock.conf";

/// What a machine that is not booted by systemd, whose version 2 cgroups have no controllers, needs to be told.
const NODE: &str = "[containers]\npids_limit = 0\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n[network]\nfirewall_driver = \"iptables\"\n";

/// podman on a node of its own.
#[derive(Debug)]
pub struct Podman {
    engine: Engine,
}

impl Podman {
    /// Starts a node with the chosen runtime and an image of the probe.
    pub fn start(suite: Suite, mode: Mode) -> Result<Self> {
        let podman = Self::on(suite, mode)?;
        podman.install()?;
        podman.import_image()?;
        Ok(podman)
    }

    /// Starts a node with the chosen runtime, nothing of Restow's and no image.
    pub fn bare(suite: Suite) -> Result<Self> {
        Self::on(suite, Mode::Stock)
    }

    fn on(suite: Suite, mode: Mode) -> Result<Self> {
        let engine = Engine::start(Stack::v2(suite), mode)?;
        let podman = Self { engine };
        for name in ["/etc/containers/containers.conf", STOCK] {
            fs::write(podman.path(name), NODE).with_context(|| format!("Write {name}"))?;
        }
        Ok(podman)
    }

    /// The same node, with podman calling the distribution's runtime.
    #[must_use]
    pub fn stock(&self) -> Self {
        Self {
            engine: self.engine.stock(),
        }
    }

    /// The node and its runtime.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A path of the host for one of the node.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.engine.node().path(inside)
    }

    /// Puts Restow's programs and podman's shipped configuration where `restow install` does.
    fn install(&self) -> Result<()> {
        install_programs(&self.engine)?;
        let shipped = deploy("podman/50-restow.conf");
        let dir = self.path("/etc/containers/containers.conf.d");
        fs::create_dir_all(&dir).with_context(|| format!("Make {}", dir.display()))?;
        fs::copy(&shipped, dir.join("50-restow.conf"))
            .with_context(|| format!("Copy {}", shipped.display()))?;
        Ok(())
    }

    /// Makes the image of the probe.
    pub fn import_image(&self) -> Result<()> {
        let root = self.path("/opt/image");
        for dir in ["dev", "etc", "proc", "sys", "tmp", "run", "reports", "data"] {
            fs::create_dir_all(root.join(dir)).context("Make the image")?;
        }
        fs::copy(self.engine.probe(), root.join("probe"))
            .context("Copy the probe into the image")?;
        self.engine
            .run("tar", &["-C", "/opt/image", "-cf", "/opt/image.tar", "."])?;
        self.run(&["import", "--quiet", "/opt/image.tar", IMAGE])
            .map(drop)
    }

    /// A call of podman.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.engine.node().command("podman");
        if self.engine.mode() == Mode::Stock {
            // podman then reads this file alone.
            command.env("CONTAINERS_CONF", STOCK);
        }
        command
            .args(["--runtime", self.engine.runtime().program()])
            .args(args);
        command
    }

    /// Calls podman, which has to succeed, and returns its output without the end of line.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("Start podman")?;
        Ok(checked(&output, || format!("podman {}", args.join(" ")))?
            .trim_end()
            .to_owned())
    }

    /// Starts a container with the probe and waits until it holds its files. It opts in.
    pub fn probe(&self, name: &str, options: &[&str], probe: &[&str]) -> Result<()> {
        let run = ["run", "--detach", "--name", name, "--annotation", OPT_IN];
        let program = [IMAGE, "/probe", "run", "--reports", "/reports"];
        self.run(&[&run, options, &program, probe].concat())?;
        self.wait_for(name, "its probe to hold its files", || {
            Ok(self.run(&["logs", name])?.contains("holding"))
        })
    }

    /// What the probe's first process sees.
    pub fn report(&self, name: &str) -> Result<Report> {
        let root = self.run(&["mount", name])?;
        let file = self.path(root).join("reports/0.json");
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("Remove {}", file.display()));
            }
            _ => {}
        }
        self.run(&["kill", "--signal", "USR1", name])?;
        self.wait_for(name, "its report", || Ok(file.exists()))?;
        Report::read(&file)
    }

    /// Waits for something of a container.
    pub fn wait_for(
        &self,
        name: &str,
        what: &str,
        mut come: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !come()? {
            if Instant::now() > deadline {
                let log = self.run(&["logs", "--tail", "5", name]).unwrap_or_default();
                bail!("Container {name}: waited in vain for {what}; its log ends: {log}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A word of `podman inspect`.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        self.run(&["inspect", "--format", format, name])
    }

    /// The inode of a file of the container's cgroup.
    pub fn cgroup_inode(&self, name: &str, file: &str) -> Result<u64> {
        let path = self.inspect(name, "{{.State.CgroupPath}}")?;
        let path = path.trim_start_matches('/');
        inode(&self.engine.node().cgroup_root().join(path).join(file))
    }

    /// Gives another node the image that this one has.
    pub fn send_image(&self, to: &Self) -> Result<()> {
        self.run(&["save", "--quiet", "--output", "/tmp/image.tar", IMAGE])?;
        self.send("/tmp/image.tar", to)?;
        to.run(&["load", "--quiet", "--input", "/tmp/image.tar"])
            .map(drop)
    }

    /// Copies an archive to another node.
    pub fn send(&self, archive: &str, to: &Self) -> Result<()> {
        let (from, into) = (self.path(archive), to.path(archive));
        fs::copy(&from, &into)
            .with_context(|| format!("Copy {} to the other node", from.display()))?;
        Ok(())
    }
}

/// A file of `deploy/`.
#[must_use]
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

/// Puts Restow's programs where the files in `deploy/` say that they are.
pub fn install_programs(engine: &Engine) -> Result<()> {
    engine.install(&tools::interposer()?, &format!("{LIB}/criu"))?;
    let wrapper = tools::runtime()?;
    for name in [
        "restow-runtime",
        "restow-crun",
        "restow-runc",
        "restow-oci-hook",
    ] {
        engine.install(&wrapper, &format!("{LIB}/{name}"))?;
    }
    Ok(())
}
