//! Docker: dockerd on a node, with the stock runtime and with Restow's.
//!
//! `docker checkpoint` is experimental. It makes a checkpoint of a container and starts the same container from it; another one can be
//! started from it when the files are put where Docker looks for them.

use std::cell::RefCell;
use std::fs;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_integration::installation::{bring, restow_done};
use restow_integration::node::{Node, NodeOptions};
use restow_integration::podman::{OPT_IN, deploy};
use restow_integration::report::Report;
use restow_integration::suite::Suite;
use restow_integration::{root, tools};

// Of Debian stable alone: the Docker of testing starts nothing from a checkpoint, whatever the runtime (docs/docker.md).
mod stable {
    #[test]
    fn a_container_starts_as_another_from_its_checkpoint() -> anyhow::Result<()> {
        super::a_container_starts_as_another_from_its_checkpoint(super::Suite::Stable)
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: &str = "/sys/fs/cgroup/cgroup.events";

/// dockerd and its containerd on a node.
struct Docker {
    node: Node,
    services: RefCell<Vec<Child>>,
}

impl Docker {
    fn start(suite: Suite) -> Result<Self> {
        let mut options = NodeOptions::new(suite);
        options.root = Some(root::with_docker(suite, &mut |line| println!("   {line}"))?);
        let docker = Self {
            node: Node::start(&options)?,
            services: RefCell::default(),
        };
        bring(&docker.node)?;
        restow_done(&docker.node, &["install"])?;
        docker.configure()?;
        docker.serve("containerd", &[])?;
        docker.serve(
            "dockerd",
            &["--containerd", "/run/containerd/containerd.sock"],
        )?;
        docker.wait_for("dockerd to answer", || {
            Ok(docker.output(&["info"])?.status.success())
        })?;
        docker.import()?;
        Ok(docker)
    }

    /// The shipped file, and what a node without systemd, another overlay and iptables' modules needs to be told.
    fn configure(&self) -> Result<()> {
        let shipped = fs::read(deploy("docker/daemon.json")).context("Read daemon.json")?;
        let mut config: serde_json::Value = serde_json::from_slice(&shipped)?;
        config["experimental"] = true.into();
        config["storage-driver"] = "vfs".into();
        config["iptables"] = false.into();
        config["ip6tables"] = false.into();
        config["bridge"] = "none".into();
        config["exec-opts"] = serde_json::json!(["native.cgroupdriver=cgroupfs"]);
        fs::create_dir_all(self.node.path("/etc/docker")).context("Make /etc/docker")?;
        let path = self.node.path("/etc/docker/daemon.json");
        fs::write(path, config.to_string()).context("Write daemon.json")
    }

    fn serve(&self, program: &str, args: &[&str]) -> Result<()> {
        let log = fs::File::create(self.node.path(format!("/var/log/{program}.log")))?;
        let mut command = self.node.command(program);
        command.args(args).stdout(Stdio::null()).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("Start {program}"))?;
        self.services.borrow_mut().push(child);
        Ok(())
    }

    /// An image with nothing but the probe.
    fn import(&self) -> Result<()> {
        let image = self.node.path("/opt/image");
        fs::create_dir_all(image.join("reports")).context("Make the image")?;
        fs::copy(tools::probe()?, image.join("probe")).context("Copy the probe")?;
        let tar = self
            .node
            .command("tar")
            .args(["-C", "/opt/image", "-cf", "/opt/image.tar", "."])
            .status()?;
        ensure!(tar.success(), "tar fails");
        self.run(&["import", "/opt/image.tar", "probe"]).map(drop)
    }

    fn output(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.node.command("docker");
        command.args(args).output().context("Start docker")
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("docker {}: {}", args.join(" "), errors.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn inspect(&self, name: &str, format: &str) -> Result<String> {
        self.run(&["inspect", "--format", format, name])
    }

    fn wait_for(&self, what: &str, mut come: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !come()? {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.node.path("/var/log/dockerd.log"))?;
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("Waited in vain for {what}; dockerd's log ends: {last:#?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Makes a container that holds a file of its cgroup, and one that Docker manages.
    fn make(&self, verb: &[&str], name: &str, runtime: &str, options: &[&str]) -> Result<()> {
        let how = ["--name", name, "--runtime", runtime, "--network", "none"];
        let program = ["probe", "/probe", "run", "--reports", "/reports"];
        let cgroup_file = format!("all:r:0:{EVENTS}");
        let held = ["--open", &cgroup_file, "--open", "each:r:3:/etc/hosts"];
        self.run(&[verb, &how, options, &program, &held].concat())
            .map(drop)
    }

    /// Starts it from a checkpoint of its own.
    ///
    /// Docker gives containerd the checkpoint's files as content, and fails when it has the same still from the checkpoint itself.
    fn start_from(&self, name: &str, checkpoint: &str) -> Result<()> {
        let start = ["start", "--checkpoint", checkpoint, name];
        self.wait_for("containerd to let go of the checkpoint", || {
            match self.run(&start) {
                Ok(_) => Ok(true),
                Err(error) if format!("{error:#}").contains("already exists") => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn report(&self, name: &str) -> Result<Report> {
        let pid = self.inspect(name, "{{.State.Pid}}")?;
        let file = self.node.path(format!("/proc/{pid}/root/reports/0.json"));
        self.wait_for("the probe's report", || {
            // An earlier one is of before the checkpoint.
            let _ = fs::remove_file(&file);
            self.run(&["kill", "--signal", "USR1", name])?;
            let deadline = Instant::now() + Duration::from_secs(1);
            while !file.exists() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(file.exists())
        })?;
        Report::read(&file)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // They end with the node; what waits for them there, not by itself.
        for mut service in self.services.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

/// Checkpoints container `a`, removes it, and starts container `b` from the checkpoint.
fn moves(docker: &Docker, runtime: &str) -> Result<()> {
    let (a, b) = (format!("a-{runtime}"), format!("b-{runtime}"));
    let asks = ["--annotation", OPT_IN];
    docker.make(&["run", "--detach"], &a, runtime, &asks)?;
    docker.wait_for("the probe to hold its files", || {
        Ok(docker.run(&["logs", &a])?.contains("holding"))
    })?;
    let before = docker.report(&a)?;
    let dir = format!("/tmp/{runtime}");
    docker.run(&["checkpoint", "create", "--checkpoint-dir", &dir, &a, "one"])?;
    docker.wait_for("its end", || {
        Ok(docker.inspect(&a, "{{.State.Running}}")? == "false")
    })?;
    docker.run(&["rm", &a])?;
    docker.make(&["create"], &b, runtime, &asks)?;
    let id = docker.inspect(&b, "{{.Id}}")?;
    let own = format!("/var/lib/docker/containers/{id}/checkpoints");
    let copy = format!("mkdir -p {own} && cp -a {dir}/one {own}/one");
    let copied = docker.node.command("sh").args(["-c", &copy]).status()?;
    ensure!(copied.success(), "The checkpoint cannot be copied");
    docker.start_from(&b, "one")?;
    let after = docker.report(&b)?;
    ensure!(after.counter >= before.counter, "It started afresh");
    let cgroup = docker.node.cgroup_root().join("docker").join(&id);
    let events = fs::metadata(cgroup.join("cgroup.events"));
    let events = std::os::unix::fs::MetadataExt::ino(&events.context("Look at its cgroup")?);
    let held = after.files.iter().find(|file| file.opened == EVENTS);
    let inode = held.context("It has no cgroup file")?.inode;
    ensure!(
        inode == events,
        "its cgroup file is inode {inode}, not {events} of its cgroup"
    );
    ensure!(
        id.starts_with(&after.hostname),
        "it has the host name {} of the old container",
        after.hostname
    );
    docker.run(&["rm", "--force", &b]).map(drop)
}

/// A container without an annotation, checkpointed and started in place.
fn goes_on_in_place(docker: &Docker, runtime: &str) -> Result<()> {
    let name = format!("c-{runtime}");
    docker.make(&["run", "--detach"], &name, runtime, &[])?;
    docker.wait_for("the probe to hold its files", || {
        Ok(docker.run(&["logs", &name])?.contains("holding"))
    })?;
    let before = docker.report(&name)?;
    docker.run(&["checkpoint", "create", &name, "two"])?;
    docker.wait_for("its end", || {
        Ok(docker.inspect(&name, "{{.State.Running}}")? == "false")
    })?;
    docker.start_from(&name, "two")?;
    let after = docker.report(&name)?;
    ensure!(after.counter >= before.counter, "It started afresh");
    docker.run(&["rm", "--force", &name]).map(drop)
}

fn a_container_starts_as_another_from_its_checkpoint(suite: Suite) -> Result<()> {
    let docker = Docker::start(suite)?;
    let version = docker.run(&["version", "--format", "{{.Server.Version}}"])?;
    for runtime in ["runc", "restow"] {
        goes_on_in_place(&docker, runtime).with_context(|| format!("In place with {runtime}"))?;
        println!("Docker {version} | {suite} | {runtime}: checkpoint and start in place: right");
    }
    match moves(&docker, "runc") {
        Ok(()) => println!("Docker {version} | {suite} | stock: right"),
        Err(error) => println!("Docker {version} | {suite} | stock: WRONG: {error:#}"),
    }
    moves(&docker, "restow").context("With Restow")?;
    println!("Docker {version} | {suite} | Restow: as another container: right");
    Ok(())
}
