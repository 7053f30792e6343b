//! `restow-runtime`, by its names `restow-runc` and `restow-crun`, as CRI-O calls it, below conmon, and by hand.

use std::fs;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::podman::{LIB, install_programs};
use restow_integration::suite::Suite;

on_both_suites!(
    conmon_creates_what_is_restored_and_nothing_runs_until_start,
    a_container_that_waits_can_be_killed_and_deleted,
    run_by_hand_restores,
    a_failed_restore_leaves_nothing_and_can_be_tried_again,
);

/// The store of the namespace that pods here are in.
const STORE: &str = "/var/lib/restow/checkpoints/default";
const PATIENCE: Duration = Duration::from_secs(30);
const EVENTS: &str = "cgroup.events";

fn engine(suite: Suite) -> Result<Engine> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    install_programs(&engine)?;
    Ok(engine)
}

fn probe() -> ContainerOptions {
    ContainerOptions::new(1)
        .open(format!("all:r:0:/sys/fs/cgroup/{EVENTS}"))
        .open("each:r:3:/etc/hosts")
}

/// Makes a container in a pod, checkpoints it into the store and removes both. Returns what it had counted to.
fn checkpoint(engine: &Engine, name: &str) -> Result<u64> {
    let pod = Pod::start(engine, &PodOptions::new("pod-a"))?;
    let mut container = pod.container(&probe())?;
    container.start()?;
    let counted = container.reports()?[0].counter;
    let place = Checkpoint {
        images: format!("{STORE}/{name}/checkpoint"),
        archived: false,
        work: format!("/tmp/{name}"),
    };
    for dir in [&place.images, &place.work] {
        fs::create_dir_all(engine.node().path(dir)).with_context(|| format!("Make {dir}"))?;
    }
    container.checkpoint(&place)?;
    pod.remove(vec![container])?;
    Ok(counted)
}

/// Calls Restow's runtime.
fn call(engine: &Engine, args: &[&str]) -> Result<Output> {
    let program = format!("{LIB}/restow-{}", engine.runtime().program());
    let mut command = engine.node().command(program);
    command.args(["--root", &engine.runtime_root()]).args(args);
    command.output().context("Start restow-runtime")
}

fn done(engine: &Engine, args: &[&str]) -> Result<String> {
    let output = call(engine, args)?;
    ensure!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn status(engine: &Engine, id: &str) -> Result<String> {
    let state: serde_json::Value = serde_json::from_str(&done(engine, &["state", id])?)?;
    Ok(state["status"].as_str().unwrap_or_default().to_owned())
}

fn wait_for(what: &str, mut come: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !come() {
        if Instant::now() > deadline {
            bail!("Waited in vain for {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What conmon keeps of a container.
struct Conmon<'a> {
    engine: &'a Engine,
    dir: String,
    id: String,
}

impl<'a> Conmon<'a> {
    /// Has conmon create the container, as CRI-O does (`internal/oci/runtime_oci.go`, `CreateContainer`).
    fn create(container: &Container<'a>, dir: &str) -> Result<Self> {
        let engine = container.engine();
        let id = container.id();
        fs::create_dir_all(engine.node().path(dir)).with_context(|| format!("Make {dir}"))?;
        let runtime = format!("{LIB}/restow-{}", engine.runtime().program());
        let root = format!("--runtime-arg=--root={}", engine.runtime_root());
        let file = |name: &str| format!("{dir}/{name}");
        let mut command = engine.node().command("/usr/bin/conmon");
        command.args([
            "--bundle",
            &container.bundle(),
            "--cid",
            id,
            "--cuuid",
            id,
            "--name",
            "c",
        ]);
        command.args([
            "--runtime",
            &runtime,
            &root,
            "--container-pidfile",
            &file("pid"),
        ]);
        command.args(["--log-path", &format!("k8s-file:{}", file("log"))]);
        // In the directory of sockets it makes a link that is called as the exit file.
        for name in ["exits", "sockets"] {
            fs::create_dir_all(engine.node().path(file(name))).context("Make a directory")?;
        }
        command.args([
            "--exit-dir",
            &file("exits"),
            "--socket-dir-path",
            &file("sockets"),
        ]);
        command.args(["--conmon-pidfile", &file("conmon.pid")]);
        let output = command.output().context("Start conmon")?;
        ensure!(
            output.status.success(),
            "conmon: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let conmon = Self {
            engine,
            dir: dir.to_owned(),
            id: id.to_owned(),
        };
        // CRI-O hears of it through a pipe when the runtime has ended, which is later than the process number is there.
        let created = || status(engine, id).is_ok_and(|status| status == "created");
        let made = wait_for("conmon to create the container", created);
        made.with_context(|| conmon.read("log").unwrap_or_default())?;
        Ok(conmon)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.engine.node().path(&self.dir).join(name);
        fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))
    }

    /// The exit code that conmon has seen.
    fn exit_code(&self) -> Result<String> {
        let file = format!("exits/{}", self.id);
        wait_for("conmon to see the end", || {
            self.read(&file).is_ok_and(|code| !code.is_empty())
        })?;
        self.read(&file)
    }
}

fn conmon_creates_what_is_restored_and_nothing_runs_until_start(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let counted = checkpoint(&engine, "one")?;
    let pod = Pod::start(&engine, &PodOptions::new("pod-bb"))?;
    let container = pod.container(&probe().annotation("restow.dev/restore-from", "one"))?;
    let conmon = Conmon::create(&container, "/run/conmon-c")?;
    let id = container.id();
    ensure!(
        status(&engine, id)? == "created",
        "It is {}",
        status(&engine, id)?
    );
    let events =
        fs::read_to_string(container.cgroup_dir().join(EVENTS)).context("Read its cgroup")?;
    ensure!(
        events.contains("populated 1") && events.contains("frozen 1"),
        "Its cgroup: {events}"
    );
    ensure!(
        conmon.read("log")?.is_empty(),
        "It has run: {}",
        conmon.read("log")?
    );
    // No image is kept for what has been read.
    let left =
        fs::read_dir(engine.node().path("/var/lib/restow/unpacked")).map_or(0, Iterator::count);
    ensure!(left == 0, "{left} unpacked checkpoints are left");

    done(&engine, &["start", id])?;
    wait_for("the program to write", || {
        conmon.read("log").is_ok_and(|log| log.contains("count"))
    })?;
    ensure!(
        status(&engine, id)? == "running",
        "It is {}",
        status(&engine, id)?
    );
    let reports = container.reports()?;
    let inode = container.cgroup_inode(EVENTS)?;
    for report in &reports {
        ensure!(
            report.counter >= counted && report.memory_intact,
            "It started afresh"
        );
        ensure!(
            report.hostname == "pod-bb",
            "It has the host name {}",
            report.hostname
        );
        ensure!(
            report.files[0].inode == inode,
            "{:?} is not its cgroup's",
            report.files[0]
        );
    }
    done(&engine, &["pause", id])?;
    ensure!(
        status(&engine, id)? == "paused",
        "Once started it can be paused"
    );
    done(&engine, &["resume", id])?;
    done(&engine, &["kill", id, "TERM"])?;
    ensure!(
        conmon.exit_code()?.trim() == "0",
        "It ended with {}",
        conmon.exit_code()?
    );
    done(&engine, &["delete", id])?;
    println!(
        "conmon | {suite} ({}) | created stopped, started, judged, ended with its exit code",
        engine.versions()?
    );
    pod.remove(vec![container])
}

fn a_container_that_waits_can_be_killed_and_deleted(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    checkpoint(&engine, "one")?;
    let pod = Pod::start(&engine, &PodOptions::new("pod-bb"))?;
    let container = pod.container(&probe().annotation("restow.dev/restore-from", "one"))?;
    let id = container.id();
    let killed = Conmon::create(&container, "/run/conmon-k")?;
    ensure!(
        !call(&engine, &["resume", id])?.status.success(),
        "It was resumed before it was started"
    );
    done(&engine, &["kill", id, "TERM"])?;
    ensure!(
        killed.exit_code()?.trim() == "137",
        "It ended with {}",
        killed.exit_code()?
    );
    ensure!(
        killed.read("log")?.is_empty(),
        "It has run: {}",
        killed.read("log")?
    );
    done(&engine, &["delete", id])?;
    let deleted = Conmon::create(&container, "/run/conmon-d")?;
    done(&engine, &["delete", id])?;
    ensure!(
        deleted.exit_code()?.trim() == "137",
        "It ended with {}",
        deleted.exit_code()?
    );
    ensure!(
        deleted.read("log")?.is_empty(),
        "It has run: {}",
        deleted.read("log")?
    );
    ensure!(
        !call(&engine, &["state", id])?.status.success(),
        "The runtime still knows it"
    );
    ensure!(!container.cgroup_dir().exists(), "Its cgroup is left");
    pod.remove(vec![container])
}

fn run_by_hand_restores(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let counted = checkpoint(&engine, "one")?;
    let pod = Pod::start(&engine, &PodOptions::new("pod-bb"))?;
    let container = pod.container(&probe().annotation("restow.dev/restore-from", "one"))?;
    // Its processes keep what the runtime has for standard streams.
    let program = format!("{LIB}/restow-{}", engine.runtime().program());
    let mut run = engine.node().command(program);
    run.args(["--root", &engine.runtime_root(), "run", "--detach"]);
    run.args(["--bundle", &container.bundle(), container.id()]);
    run.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status_of_run = run.status().context("Start restow-runtime")?;
    ensure!(status_of_run.success(), "run: {status_of_run}");
    ensure!(
        status(&engine, container.id())? == "running",
        "It does not run"
    );
    let report = &container.reports()?[0];
    ensure!(report.counter >= counted, "It started afresh");
    done(&engine, &["delete", "--force", container.id()])?;
    pod.remove(vec![container])
}

fn a_failed_restore_leaves_nothing_and_can_be_tried_again(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    checkpoint(&engine, "one")?;
    let pod = Pod::start(&engine, &PodOptions::new("pod-bb"))?;
    // A file that the container has not got: CRIU is not even started.
    let images = engine.node().path(STORE).join("one/checkpoint");
    let aside = images.with_file_name("aside");
    fs::rename(images.join("core-1.img"), &aside).context("Damage the checkpoint")?;
    let container = pod.container(&probe().annotation("restow.dev/restore-from", "one"))?;
    let create = ["create", "--bundle", &container.bundle(), container.id()];
    let failed = call(&engine, &create)?;
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(
        !failed.status.success() && said.contains("core-1.img"),
        "It said: {said}"
    );
    ensure!(
        !call(&engine, &["state", container.id()])?.status.success(),
        "The runtime knows it"
    );
    fs::rename(&aside, images.join("core-1.img")).context("Repair the checkpoint")?;
    let conmon = Conmon::create(&container, "/run/conmon-r")?;
    done(&engine, &["start", container.id()])?;
    done(&engine, &["kill", container.id(), "KILL"])?;
    ensure!(
        conmon.exit_code()?.trim() == "137",
        "It ended with {}",
        conmon.exit_code()?
    );
    done(&engine, &["delete", container.id()])?;
    pod.remove(vec![container])
}
