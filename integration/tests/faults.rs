//! A process that dies in the middle of a checkpoint or restore: nothing is lost, nothing is left behind.
//!
//! CRIU runs an action script at each stage, after it has told the runtime and Restow; the script kills one of the three.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;

on_both_suites!(
    a_dump_that_loses_a_process_leaves_the_container_running,
    a_restore_that_loses_a_process_leaves_nothing_and_can_be_repeated,
    a_restore_that_is_not_as_planned_is_vetoed_before_it_runs,
);

/// Read by every criu of the node, whatever runtime starts it (`criu(8)`, configuration files).
const CRIU_CONFIG: &str = "/etc/criu/default.conf";
const SCRIPT: &str = "/opt/fault.sh";
const STAGING: &str = "/run/restow/staging";

/// Who dies. CRIU is the parent of its action scripts, the runtime is CRIU's parent, and of Restow's program only the
/// relay still runs under that name.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Criu,
    Relay,
    Runtime,
}

const VICTIMS: [Victim; 3] = [Victim::Criu, Victim::Relay, Victim::Runtime];

fn arrange(engine: &Engine, stage: &str, victim: Victim) -> Result<()> {
    let kill = match victim {
        Victim::Criu => "kill -9 $PPID",
        Victim::Runtime => "kill -9 $(awk '/^PPid:/ {print $2}' /proc/$PPID/status)",
        Victim::Relay => {
            "for p in /proc/[0-9]*; do \
             [ \"$(readlink $p/exe)\" = /opt/restow/bin/criu ] && kill -9 ${p#/proc/}; done"
        }
    };
    arrange_script(engine, stage, kill)
}

/// Runs `body` in a shell, as a child of CRIU, at `stage`.
fn arrange_script(engine: &Engine, stage: &str, body: &str) -> Result<()> {
    let script = format!(
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = {stage} ] || exit 0\necho > /opt/hit\n{body}\nexit 0\n"
    );
    let path = engine.node().path(SCRIPT);
    fs::write(&path, script).context("Write the action script")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let config = engine.node().path(CRIU_CONFIG);
    fs::create_dir_all(config.parent().unwrap_or(Path::new("/")))?;
    fs::write(config, format!("action-script {SCRIPT}\n")).context("Write CRIU's configuration")
}

/// Ends the arrangement; an error when the script never got to its stage, which would prove nothing.
fn disarm(engine: &Engine) -> Result<()> {
    fs::remove_file(engine.node().path(CRIU_CONFIG))?;
    fs::remove_file(engine.node().path("/opt/hit")).context("The stage was never reached")
}

fn probe() -> ContainerOptions {
    ContainerOptions::new(2)
        .open("all:r:0:/sys/fs/cgroup/cgroup.events")
        .open("each:r:3:/etc/hosts")
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        ensure!(
            Instant::now() < deadline,
            "After 10 seconds still not so: {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Nothing of Restow's program runs any more.
fn no_relay(engine: &Engine) -> bool {
    let script = "for p in /proc/[0-9]*; do case \"$(readlink $p/exe)\" in /opt/restow/*) exit 1;; esac; done";
    engine.run("sh", &["-c", script]).is_ok()
}

fn check_running(container: &Container<'_>, counted: u64) -> Result<()> {
    let reports = container
        .reports()
        .context("The container does not run any more")?;
    ensure!(
        reports
            .iter()
            .all(|report| report.memory_intact && report.counter >= counted)
    );
    Ok(())
}

fn a_dump_that_loses_a_process_leaves_the_container_running(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let mut container = pod.container(&probe())?;
    container.start()?;
    for victim in VICTIMS {
        let counted = container
            .reports()?
            .iter()
            .map(|report| report.counter)
            .min()
            .unwrap_or(0);
        arrange(&engine, "network-lock", victim)?;
        let checkpoint = Checkpoint::new(&engine, &format!("lost-{victim:?}"))?;
        let failed = container.checkpoint_running(&checkpoint);
        disarm(&engine)?;
        ensure!(
            failed.is_err(),
            "{victim:?} was killed and the checkpoint is said to have succeeded"
        );
        eventually("the relay is gone", || no_relay(&engine))?;
        check_running(&container, counted)
            .with_context(|| format!("After {victim:?} was killed"))?;
        let images = engine.node().path(&checkpoint.images);
        ensure!(
            !images.join("source.json").exists(),
            "Half an image set looks like a whole one"
        );
        println!(
            "dump, {victim:?} killed at network-lock | {suite} | the container goes on running"
        );
    }
    // The last word: a checkpoint still works.
    container.checkpoint(&Checkpoint::new(&engine, "after")?)?;
    Ok(())
}

fn a_restore_that_loses_a_process_leaves_nothing_and_can_be_repeated(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let mut container = pod_a.container(&probe())?;
    container.start()?;
    let counted = container
        .reports()?
        .iter()
        .map(|report| report.counter)
        .min()
        .unwrap_or(0);
    let checkpoint = Checkpoint::new(&engine, "whole")?;
    container.checkpoint(&checkpoint)?;
    pod_a.remove(vec![container])?;

    let early = ["setup-namespaces", "post-setup-namespaces"]
        .map(|stage| VICTIMS.map(|victim| (stage, victim)));
    // After post-restore only criu's end is made good: without a relay or a runtime nobody is left who could.
    let late = ["post-restore", "pre-resume", "post-resume"].map(|stage| (stage, Victim::Criu));
    for (stage, victim) in early.into_iter().flatten().chain(late) {
        arrange(&engine, stage, victim)?;
        let pod = Pod::start(&engine, &PodOptions::new("pod-b"))?;
        let mut container = pod.container(&probe())?;
        let failed = container.restore(&checkpoint);
        disarm(&engine)?;
        ensure!(
            failed.is_err(),
            "{victim:?} was killed at {stage} and the restore is said to have succeeded"
        );
        let what =
            format!("{victim:?} killed at {stage}: no process is left in the container's cgroup");
        eventually(&what, || container.cgroup_population().unwrap_or(0) == 0)?;
        eventually("the relay is gone", || no_relay(&engine))?;
        pod.remove(vec![container])?;
        println!("restore, {victim:?} killed at {stage} | {suite} | no process is left");
    }

    // The last word: the checkpoint is as good as before, and its restore collects what the killed relays left.
    let pod = Pod::start(&engine, &PodOptions::new("pod-b"))?;
    let mut container = pod.container(&probe())?;
    container.restore(&checkpoint)?;
    check_running(&container, counted)?;
    eventually("the staging directories are gone", || {
        fs::read_dir(engine.node().path(STAGING)).is_ok_and(|mut entries| entries.next().is_none())
    })
}

fn a_restore_that_is_not_as_planned_is_vetoed_before_it_runs(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let mut container = pod_a.container(&probe())?;
    container.start()?;
    let counted = container.reports()?[0].counter;
    let checkpoint = Checkpoint::new(&engine, "vetoed")?;
    container.checkpoint(&checkpoint)?;
    pod_a.remove(vec![container])?;

    // Between plan and restore the file behind /etc/hosts becomes another one.
    let replace = "for f in /var/lib/kubelet/pods/*/etc-hosts; do cp $f $f.new; mv $f.new $f; done";
    arrange_script(&engine, "pre-restore", replace)?;
    let pod = Pod::start(&engine, &PodOptions::new("pod-b"))?;
    let mut container = pod.container(&probe())?;
    let Err(error) = container.restore(&checkpoint) else {
        bail!("It was restored although it is not as planned")
    };
    disarm(&engine)?;
    let text = format!("{error:#}");
    for word in [
        "(restow): The restored container is not as planned",
        "mount /etc/hosts (mnt_id ",
        "fd 4 of process 1",
    ] {
        ensure!(text.contains(word), "No {word:?} in {text}");
    }
    println!(
        "veto | {suite} | {}",
        text.lines().next().unwrap_or_default()
    );
    eventually("no process is left", || {
        container.cgroup_population().unwrap_or(0) == 0
    })?;
    eventually("the staging directory is gone", || {
        fs::read_dir(engine.node().path(STAGING)).is_ok_and(|mut entries| entries.next().is_none())
    })?;

    let mut again = pod.container(&probe())?;
    again
        .restore(&checkpoint)
        .context("The second try, with nothing in its way")?;
    check_running(&again, counted)
}
