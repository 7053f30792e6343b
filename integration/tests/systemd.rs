//! Restow comes onto a machine whose process 1 is systemd, has containerd restarted by it, and leaves both as they were.
//!
//! A node has no systemd: these run on a virtual machine, by `cargo xtask vm --test systemd`.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_cri::Cri;
use restow_integration::installation::{bring, complaints, differences, restow_done, snapshot};
use restow_integration::node::{self, Node, NodeOptions};
use restow_integration::suite::Suite;
use restow_integration::tools;

// The machine is of Debian testing.
mod testing {
    #[test]
    fn containerd_is_restarted_and_containers_go_on() -> anyhow::Result<()> {
        restow_integration::limit::within("containerd_is_restarted_and_containers_go_on", || {
            super::containerd_is_restarted_and_containers_go_on(super::Suite::Testing)
        })
    }
}

const SOCKET: &str = "/run/containerd/containerd.sock";
/// An emulated machine on a busy host needs much of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine with systemd and its containerd.
struct Machine {
    node: Node,
}

impl Machine {
    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.node.command(program);
        let output = command.args(args).output();
        let output = output.with_context(|| format!("Start {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The process of containerd that systemd has started.
    fn containerd(&self) -> Result<String> {
        let state = self.run("systemctl", &["is-active", "containerd"])?;
        ensure!(state == "active", "containerd is {state}");
        self.run(
            "systemctl",
            &["show", "--property", "MainPID", "--value", "containerd"],
        )
    }

    /// The runtime handlers that the running containerd tells a kubelet of.
    fn handlers(&self) -> Result<BTreeSet<String>> {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("Make a runtime for calls")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A containerd that has just started may not answer yet.
            let asked = tokio.block_on(async {
                let cri = Cri::connect(self.node.path(SOCKET)).await?;
                cri.status(false).await
            });
            match asked {
                Ok(status) => {
                    let handlers = status.runtime_handlers.into_iter();
                    return Ok(handlers.map(|handler| handler.name).collect());
                }
                Err(error) if Instant::now() > deadline => bail!("containerd: {error}"),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Starts a container that does nothing; it goes by containerd's default runtime.
    fn start_container(&self, name: &str) -> Result<()> {
        let root = "/opt/root";
        for dir in ["dev", "proc", "sys", "run", "tmp"] {
            fs::create_dir_all(self.node.path(root).join(dir)).context("Make a root")?;
        }
        let probe = self.node.path(root).join("probe");
        fs::copy(tools::probe()?, probe).context("Copy the probe")?;
        let run = ["run", "--detach", "--rootfs", root, name, "/probe", "pause"];
        self.run("ctr", &run).map(drop)
    }

    /// The process of a running container.
    fn process(&self, name: &str) -> Result<String> {
        let list = self.run("ctr", &["tasks", "ls"])?;
        let mut lines = list.lines().map(|line| line.split_whitespace());
        let found = lines.find_map(|mut line| {
            let pid = (line.next() == Some(name)).then(|| line.next())??;
            (line.next() == Some("RUNNING")).then(|| pid.to_owned())
        });
        found.with_context(|| format!("{name} does not run: {list}"))
    }
}

fn containerd_is_restarted_and_containers_go_on(suite: Suite) -> Result<()> {
    if std::env::var(node::WHERE).as_deref() != Ok("machine") {
        println!(
            "systemd | {suite} | SKIPPED: a node has no systemd; run `cargo xtask vm --test systemd`"
        );
        return Ok(());
    }
    let machine = Machine {
        node: Node::start(&NodeOptions::new(suite))?,
    };
    let node = &machine.node;
    machine.run("systemctl", &["start", "containerd"])?;
    bring(node)?;
    machine.start_container("stays")?;
    let container = machine.process("stays")?;
    let ours = ["restow".to_owned(), "restow-crun".to_owned()];
    let stock = machine.handlers()?;
    ensure!(
        ours.iter().all(|name| !stock.contains(name)),
        "It has handlers of ours before: {stock:?}"
    );
    let (first, before) = (machine.containerd()?, snapshot(node)?);

    let said = restow_done(node, &["install", "--criu-in-path", "--restart"])?;
    ensure!(!said.contains("nothing was restarted"), "It says: {said}");
    let second = machine.containerd()?;
    ensure!(first != second, "containerd was not restarted");
    let handlers = machine.handlers()?;
    ensure!(
        ours.iter()
            .chain(&stock)
            .all(|name| handlers.contains(name)),
        "containerd has the handlers {handlers:?}, and had {stock:?}"
    );
    let bad = complaints(node)?;
    ensure!(bad.is_empty(), "Doctor is not content: {bad:#?}");
    restow_done(node, &["install", "--criu-in-path", "--restart"])?;
    ensure!(
        machine.containerd()? == second,
        "containerd is restarted though nothing has changed"
    );

    restow_done(node, &["uninstall", "--restart"])?;
    let third = machine.containerd()?;
    ensure!(second != third, "containerd was not restarted");
    ensure!(
        machine.handlers()? == stock,
        "Its handlers are {:?}, and were {stock:?}",
        machine.handlers()?
    );
    let mut left = differences(&before, &snapshot(node)?);
    // What containerd and systemd write for themselves.
    left.retain(|line| {
        !line.starts_with("/var/lib/containerd") && !line.starts_with("/var/lib/systemd")
    });
    ensure!(left.is_empty(), "The machine is not as it was: {left:#?}");

    // Without being asked to, nothing is restarted, and doctor says what is missing.
    restow_done(node, &["install", "--criu-in-path"])?;
    ensure!(machine.containerd()? == third, "containerd was restarted");
    let bad = complaints(node)?;
    ensure!(
        bad.len() == 1 && bad[0].contains("since before its configuration was changed"),
        "Doctor says {bad:#?}"
    );
    machine.run("systemctl", &["restart", "containerd"])?;
    let bad = complaints(node)?;
    ensure!(bad.is_empty(), "Doctor is not content: {bad:#?}");
    restow_done(node, &["uninstall", "--restart"])?;
    ensure!(
        machine.process("stays")? == container,
        "The container is another process"
    );
    ensure!(machine.handlers()? == stock, "Handlers of ours are left");
    println!(
        "systemd | {suite} | installed and uninstalled twice, containerd restarted by systemd, a container went on"
    );
    Ok(())
}
