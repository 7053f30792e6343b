//! `restow-oci-hook` as podman, runc, crun and criu call it, with the files of `deploy/`.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::engine::{Mode, Runtime};
use restow_integration::installation::{bring, restow_done};
use restow_integration::on_both_suites;
use restow_integration::podman::{IMAGE, Podman, deploy};
use restow_integration::suite::Suite;

on_both_suites!(
    hooks_refuse_what_cannot_be_meant_and_what_would_start_afresh,
    containers_with_hooks_are_checkpointed_and_restored,
    a_stock_checkpoint_gets_a_source_json_by_the_action_script,
    installed_hooks_are_called,
    with_hooks_alone_a_cgroup_file_moves_where_the_runtime_names_the_cgroup,
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

fn installed_hooks_are_called(suite: Suite) -> Result<()> {
    let podman = Podman::bare(suite)?;
    let node = podman.engine().node();
    bring(node)?;
    restow_done(node, &["install", "--hooks"])?;
    podman.import_image()?;
    let run = |annotation: &str| {
        let options = [
            "run",
            "--rm",
            "--network",
            "none",
            "--annotation",
            annotation,
        ];
        podman.run(&[&options[..], &[IMAGE, "/probe", "cat", "/etc/hosts"]].concat())
    };
    run("restow.dev/enabled=true")?;
    let error = refused(run("restow.dev/hostnam=x"))?;
    ensure!(error.contains("precreate"), "podman said: {error}");
    restow_done(node, &["uninstall"])?;
    run("restow.dev/hostnam=x")?;
    println!("hooks | {suite} | installed by restow install, and taken back");
    Ok(())
}

/// The hooks change nothing of a restore: what moves with them is what the runtime can do alone.
fn with_hooks_alone_a_cgroup_file_moves_where_the_runtime_names_the_cgroup(
    suite: Suite,
) -> Result<()> {
    let podman = with_hooks(suite)?.stock();
    podman.probe("a", &["--network", "none"], &HELD)?;
    let before = podman.report("a")?;
    podman.run(&["container", "checkpoint", "--export", "/tmp/a.tar", "a"])?;
    podman.run(&["rm", "a"])?;
    let restore = ["container", "restore", "--import", "/tmp/a.tar"];
    podman.run(&[&restore[..], &["--name", "b"]].concat())?;
    let after = podman.report("b")?;
    ensure!(after.counter >= before.counter, "It started afresh");
    // podman says where it is, which may be the old container's.
    let id = podman.inspect("b", "{{.Id}}")?;
    let there = podman.inspect("b", "{{.State.CgroupPath}}")?.contains(&id);
    let own = podman.cgroup_inode("b", "cgroup.events");
    let right = there && own.is_ok_and(|inode| inode == after.files[0].inode);
    // runc before 1.2 does not tell criu where the container's cgroup is.
    let can = (suite, Runtime::chosen()) != (Suite::Stable, Runtime::Runc);
    ensure!(
        right || !can,
        "It is in another's cgroup, or {:?} is not its own, with a runtime that can",
        after.files[0]
    );
    println!("hooks alone | {suite} | its cgroup file is its own: {right}");
    podman.run(&["rm", "--force", "b"]).map(drop)
}

/// What podman says when it fails.
fn refused(outcome: Result<String>) -> Result<String> {
    match outcome {
        Ok(output) => bail!("It was started: {output}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}
