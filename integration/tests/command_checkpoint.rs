//! `restow checkpoint`, `list` and `rm` on containerd 1.7 and 2.1.

mod command;

use std::fs;

use anyhow::{Context, Result, ensure};
use command::{Lab, STORE};
use restow_cri::api::ContainerState;
use restow_integration::containerd::{SOCKET, Shim};
use restow_integration::on_both_suites;
use restow_integration::suite::Suite;

on_both_suites!(
    a_container_without_a_pod_is_checkpointed_listed_and_removed,
    a_container_of_a_pod_is_checkpointed_both_ways,
    a_stopped_container_did_nothing_after_its_checkpoint,
    a_failed_checkpoint_leaves_the_container_running_and_says_why,
    a_frozen_container_goes_on_when_the_command_is_gone,
);

/// What an archive of containerd's has, and `restow checkpoint` by its API as well.
const LAYOUT: [&str; 6] = [
    "checkpoint/inventory.img",
    "config.dump",
    "spec.dump",
    "rootfs-diff.tar",
    "dump.log",
    "stats-dump",
];

fn a_container_without_a_pod_is_checkpointed_listed_and_removed(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    lab.plain("alone", &["/probe", "run"])?;
    // It writes its report into its root file system.
    lab.ctr(&["tasks", "kill", "--signal", "SIGUSR1", "alone"])?;
    let rootfs = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/alone/rootfs";
    let reports = lab.path(&format!("{rootfs}/reports"));
    lab.until("the probe has reported", || {
        Ok(fs::read_dir(&reports)?.next().is_some())
    })?;
    let made = lab
        .restow(&["checkpoint", "alone", "--name", "first", "--json"])?
        .json()?;
    ensure!(made["name"] == "_node/first", "{made}");
    ensure!(
        made["through"] == "containerd" && made["running"] == true,
        "{made}"
    );
    ensure!(
        lab.task("alone")? == "RUNNING",
        "it is {}",
        lab.task("alone")?
    );
    let dir = format!("{STORE}/_node/first");
    for name in LAYOUT {
        let size = fs::metadata(lab.path(&format!("{dir}/{name}"))).with_context(|| name)?;
        ensure!(size.len() > 0, "{name} is empty");
    }
    let changes = fs::read(lab.path(&format!("{dir}/rootfs-diff.tar")))?;
    ensure!(
        changes.windows(8).any(|it| it == b"reports/"),
        "The report is not among the changes"
    );
    ensure!(lab.leftovers()?.is_empty(), "{:?}", lab.leftovers()?);

    let list = lab.restow(&["list", "--json"])?.json()?;
    let first = &list["checkpoints"][0];
    ensure!(first["name"] == "_node/first", "{list}");
    ensure!(first["size"].as_u64() > Some(4096), "{list}");
    ensure!(first["criu"].as_str().is_some(), "{list}");
    let text = lab.restow(&["list"])?;
    ensure!(text.out.contains("_node/first"), "{}", text.out);

    // The name is taken, and nothing is changed by asking again.
    let again = lab.restow(&["checkpoint", "alone", "--name", "first"])?;
    let said = again.refusal(5)?;
    ensure!(said.contains("_node/first already"), "{said}");

    lab.restow(&["rm", "_node/first", "--json"])?.json()?;
    ensure!(lab.stored()?.is_empty(), "{:?}", lab.stored()?);
    let gone = lab.restow(&["rm", "_node/first"])?;
    let said = gone.refusal(3)?;
    ensure!(
        said.contains("There is no checkpoint _node/first"),
        "{said}"
    );
    let nobody = lab.restow(&["checkpoint", "nobody"])?;
    let said = nobody.refusal(3)?;
    ensure!(said.contains("no container nobody"), "{said}");
    Ok(())
}

fn a_container_of_a_pod_is_checkpointed_both_ways(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    let pod = lab.pod("web", "0c4d-11", Shim::Stock, &["run"])?;
    let what = pod.what();
    let own = lab
        .restow(&["checkpoint", &what, "--name", "own", "--json"])?
        .json()?;
    // CRI has it from containerd 2.0 on.
    let (through, file) = match suite {
        Suite::Stable => ("containerd", "own"),
        Suite::Testing => ("cri", "own.tar"),
    };
    ensure!(own["through"] == through, "{own}");
    ensure!(own["name"] == "default/own" && own["pod"] == "web", "{own}");
    let said = lab.restow(&[
        "checkpoint",
        &what,
        "--through",
        "containerd",
        "--name",
        "api",
    ])?;
    ensure!(said.code == Some(0), "{}", said.error);
    ensure!(
        lab.stored()? == ["default/api", &format!("default/{file}")],
        "{:?}",
        lab.stored()?
    );
    ensure!(lab.state(&pod.container)? == ContainerState::ContainerRunning);
    let count = lab.count(pod.log())?;
    lab.counts_beyond(pod.log(), count)?;

    let dir = format!("{STORE}/default/api");
    for name in LAYOUT
        .iter()
        .chain(&["status.dump", "container.log", "pod.json"])
    {
        fs::metadata(lab.path(&format!("{dir}/{name}"))).with_context(|| *name)?;
    }
    // Both are read by everything else that reads checkpoints.
    for name in ["api", file] {
        let path = format!("{STORE}/default/{name}");
        let info = lab.restow(&["image", "info", &path])?;
        ensure!(info.code == Some(0), "{name}: {}", info.error);
    }
    let list = lab
        .restow(&["list", "--namespace", "default", "--json"])?
        .json()?;
    for at in [0, 1] {
        let it = &list["checkpoints"][at];
        ensure!(it["pod"] == "web" && it["container"] == "probe", "{list}");
        ensure!(it["namespace"] == "default", "{list}");
    }
    // The beginning of its id means it as well.
    let id = &pod.container.as_str()[..12];
    let made = lab.restow(&["checkpoint", id, "--json"])?.json()?;
    ensure!(
        made["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("default/web-probe-")),
        "{made}"
    );
    let wrong = lab.restow(&["checkpoint", "web/nginx"])?;
    let said = wrong.refusal(3)?;
    ensure!(said.contains("it has probe"), "{said}");
    Ok(())
}

fn a_stopped_container_did_nothing_after_its_checkpoint(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    let pod = lab.pod("web", "0c4d-11", Shim::Stock, &["run"])?;
    let made = lab
        .restow(&[
            "checkpoint",
            &pod.what(),
            "--stop",
            "--name",
            "last",
            "--json",
        ])?
        .json()?;
    ensure!(made["running"] == false, "{made}");
    lab.until("CRI knows that it has ended", || {
        Ok(lab.state(&pod.container)? == ContainerState::ContainerExited)
    })?;
    if suite == Suite::Stable {
        // All that it ever wrote was in its log when it was dumped.
        let kept = fs::read(lab.path(&format!("{STORE}/default/last/container.log")))?;
        let all = fs::read(lab.path(pod.log()))?;
        ensure!(
            kept == all,
            "It has written {} bytes more",
            all.len().abs_diff(kept.len())
        );
    }
    Ok(())
}

fn a_failed_checkpoint_leaves_the_container_running_and_says_why(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    // Nobody asks for locks to be dumped.
    let pod = lab.pod(
        "web",
        "0c4d-11",
        Shim::Stock,
        &["run", "--hold", "posix-lock:/data/locked"],
    )?;
    lab.plain(
        "alone",
        &["/probe", "run", "--hold", "posix-lock:/data/locked"],
    )?;
    for (what, stop) in [
        (pod.what(), false),
        (pod.what(), true),
        ("alone".to_owned(), false),
    ] {
        let mut args = vec!["checkpoint", &what];
        if stop {
            args.push("--stop");
        }
        let answer = lab.restow(&args)?;
        let said = answer.refusal(5)?;
        ensure!(said.contains("goes on running"), "{said}");
        ensure!(said.contains("lock"), "It does not say why: {said}");
        ensure!(lab.stored()?.is_empty(), "{:?}", lab.stored()?);
        ensure!(lab.leftovers()?.is_empty(), "{:?}", lab.leftovers()?);
    }
    ensure!(
        lab.task("alone")? == "RUNNING",
        "it is {}",
        lab.task("alone")?
    );
    let count = lab.count(pod.log())?;
    lab.counts_beyond(pod.log(), count)?;
    Ok(())
}

fn a_frozen_container_goes_on_when_the_command_is_gone(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    lab.plain("alone", &["/probe", "run"])?;
    lab.ctr(&["tasks", "pause", "alone"])?;
    ensure!(lab.task("alone")? == "PAUSED");
    // Its standard input ends at once, as when the command is killed.
    let thawed = lab.restow(&["thaw-when-left", SOCKET, "k8s.io", "alone"])?;
    ensure!(thawed.code == Some(0), "{}", thawed.error);
    ensure!(
        lab.task("alone")? == "RUNNING",
        "it is {}",
        lab.task("alone")?
    );
    Ok(())
}
