//! `restow-oci-hook` as podman, runc, crun and criu call it, with the files of `deploy/`.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::engine::{Mode, Runtime};
use restow_integration::on_both_suites;
use restow_integration::podman::{IMAGE, Podman, deploy};
use restow_integration::suite::Suite;

on_both_suites!(
    hooks_refuse_what_cannot_be_meant_and_what_would_start_afresh,
    containers_with_hooks_are_checkpointed_and_restored,
    a_stock_checkpoint_gets_a_source_json_by_the_action_script,
);

const HOOKS: &str = "/usr/share/containers/oci/hooks.d";
const HELD: [&str; 2] = ["--open", "all:r:0:/sys/fs/cgroup/cgroup.events"];

/// podman with the shipped hooks in its own directory.
fn with_hooks(suite: Suite) -> Result<Podman> {
    let podman = Podman::start(suite, Mode::Restow)?;
    let dir = podman.path(HOOKS);
    fs::create_dir_all(&dir).with_context(|| format!("Make {HOOKS}"))?;
    for stage in ["precreate", "create", "poststop"] {
        let name = format!("restow-{stage}.json");
        fs::copy(deploy("hooks.d").join(&name), dir.join(&name))
            .with_context(|| format!("Copy {name}"))?;
    }
    Ok(podman)
}

fn hooks_refuse_what_cannot_be_meant_and_what_would_start_afresh(suite: Suite) -> Result<()> {
    let podman = with_hooks(suite)?;
    let stock = podman.stock();
    let run = |podman: &Podman, annotation: &str| {
        podman.run(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--annotation",
            annotation,
            IMAGE,
            "/probe",
            "cat",
            "/etc/hosts",
        ])
    };
    run(&stock, "other/annotation=1")?;
    run(&stock, "restow.dev/enabled=true")?;
    let error = refused(run(&stock, "restow.dev/hostnam=x"))?;
    ensure!(error.contains("precreate"), "podman said: {error}");
    // The runtime is not Restow's, and would run the image's program.
    let error = refused(run(&stock, "restow.dev/restore-from=one"))?;
    ensure!(
        error.contains("createRuntime")
            || error.contains("asks to be restored")
            || error.contains("hook"),
        "podman said: {error}"
    );
    println!(
        "hooks | {suite} | a misspelt annotation and a fresh start of what asks to be restored are refused"
    );
    Ok(())
}

fn containers_with_hooks_are_checkpointed_and_restored(suite: Suite) -> Result<()> {
    let podman = with_hooks(suite)?;
    podman.probe("a", &["--network", "none"], &HELD)?;
    let before = podman.report("a")?;
    // In place twice, then under another name: hooks run at each.
    for _ in 0..2 {
        podman.run(&["container", "checkpoint", "a"])?;
        podman.run(&["container", "restore", "a"])?;
    }
    podman.run(&["container", "checkpoint", "--export", "/tmp/a.tar.zst", "a"])?;
    podman.run(&["rm", "a"])?;
    podman.run(&[
        "container",
        "restore",
        "--import",
        "/tmp/a.tar.zst",
        "--name",
        "b",
    ])?;
    let after = podman.report("b")?;
    ensure!(after.counter >= before.counter, "It started afresh");
    ensure!(
        after.files[0].inode == podman.cgroup_inode("b", "cgroup.events")?,
        "{:?} is not its cgroup's",
        after.files[0]
    );
    podman.run(&["rm", "--force", "b"]).map(drop)
}

fn a_stock_checkpoint_gets_a_source_json_by_the_action_script(suite: Suite) -> Result<()> {
    if (suite, Runtime::chosen()) == (Suite::Stable, Runtime::Crun) {
        println!(
            "action script | {suite}: SKIPPED: crun reads no configuration of CRIU before libcriu 4.2"
        );
        return Ok(());
    }
    let podman = with_hooks(suite)?;
    let stock = podman.stock();
    fs::create_dir_all(podman.path("/etc/criu")).context("Make /etc/criu")?;
    let conf = format!("/etc/criu/{}.conf", podman.engine().runtime().program());
    fs::copy(deploy("criu/restow.conf"), podman.path(&conf))
        .with_context(|| format!("Write {conf}"))?;
    stock.probe("a", &["--network", "none"], &HELD)?;
    let before = stock.report("a")?;
    stock.run(&[
        "container",
        "checkpoint",
        "--compress",
        "none",
        "--export",
        "/tmp/a.tar",
        "a",
    ])?;
    stock.run(&["rm", "a"])?;
    let text = podman
        .engine()
        .run("tar", &["-xOf", "/tmp/a.tar", "checkpoint/source.json"])?;
    let source: serde_json::Value =
        serde_json::from_str(&text).context("Understand source.json")?;
    ensure!(
        source["mounts"]
            .as_array()
            .is_some_and(|mounts| !mounts.is_empty()),
        "It has no mounts: {text}"
    );
    podman.run(&[
        "container",
        "restore",
        "--import",
        "/tmp/a.tar",
        "--name",
        "b",
    ])?;
    let after = podman.report("b")?;
    ensure!(after.counter >= before.counter, "It started afresh");
    println!(
        "action script | {suite} | a stock checkpoint has source.json and is restored by Restow"
    );
    Ok(())
}

/// What podman says when it fails.
fn refused(outcome: Result<String>) -> Result<String> {
    match outcome {
        Ok(output) => bail!("It was started: {output}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}
