//! What a node needs of another to restore its checkpoints, and containerd's own restore on `CreateContainer` (CRI, 2.1 to 2.3). Both need
//! the image: from a registry, a real one on the node's loopback.

mod command;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use command::{ENABLED, Lab, STORE};
use restow_cri::ContainerId;
use restow_cri::api::ContainerState;
use restow_integration::containerd::{
    Image, REGISTRY_IMAGES, REGISTRY_PROBE_IMAGE, Registry, Shim, handler,
};
use restow_integration::on_both_suites;
use restow_integration::stack::Runtime;
use restow_integration::suite::Suite;

on_both_suites!(
    a_copied_checkpoint_is_restored_where_nothing_else_of_the_node_is,
    what_containerd_restores_itself_goes_on_below_both_shims,
);

/// The image, named as one of the registry.
const IMAGE: &str = REGISTRY_PROBE_IMAGE;

/// A registry with the image in it, which the node has as well.
fn registry_with_image(lab: &Lab) -> Result<Registry> {
    let registry = Registry::with_image(&lab.containerd, &Image::probe()?.called(IMAGE))?;
    lab.until("the CRI plugin knows the image", || {
        let image = lab.call(lab.cri().image(IMAGE))?;
        Ok(image.is_some_and(|image| !image.repo_digests.is_empty()))
    })?;
    Ok(registry)
}

/// Copies a directory from one node to another, as one would by any other means.
fn copy(from: &Lab, to: &Lab, dir: &str) -> Result<()> {
    let parent = Path::new(dir)
        .parent()
        .context("A directory is in another")?;
    let into = to.containerd.node().path(parent);
    std::fs::create_dir_all(&into)?;
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from.path(dir))
        .arg(&into)
        .status();
    ensure!(copied.context("Start cp")?.success(), "cp of {dir} failed");
    Ok(())
}

/// Restored, not started: it counts on from where it was.
fn counts_on(lab: &Lab, log: &str, from: u64) -> Result<()> {
    lab.counts_beyond(log, from)?;
    let first = lab.first_count(log)?;
    ensure!(first > 20, "It has counted from the beginning: {first}");
    Ok(())
}

fn a_copied_checkpoint_is_restored_where_nothing_else_of_the_node_is(suite: Suite) -> Result<()> {
    let (a, b) = (Lab::start(suite)?, Lab::start(suite)?);
    let registry = registry_with_image(&a)?;
    let pod = a.probe("web", "0c4d-11", Shim::Restow, IMAGE, &["run"], ENABLED)?;
    let from = a.counts_beyond(pod.log(), 100)?;
    let what = pod.what();
    a.restow(&["checkpoint", &what, "--name", "one", "--json"])?
        .json()?;
    copy(&a, &b, STORE)?;
    copy(&a, &b, REGISTRY_IMAGES)?;
    drop(registry);
    drop(a);

    // Of the image there is only the name.
    let answer = b.restow(&["restore", "one"])?;
    let said = answer.refusal(5)?;
    let expected = format!("The node has not got the image {IMAGE}, and cannot pull it");
    ensure!(said.contains(&expected), "{said}");
    ensure!(b.pods()?.is_empty(), "{:?}", b.pods()?);

    let _registry = Registry::start(&b.containerd)?;
    let restored = b
        .restow(&["restore", "one", "--pod", "web-2", "--json"])?
        .json()?;
    let uid = restored["uid"].as_str().context("uid")?;
    counts_on(
        &b,
        &format!("/var/log/pods/default_web-2_{uid}/probe/0.log"),
        from,
    )?;

    // A pod of the node's own that asks for it.
    let asking = ("restow.dev/restore-from", "one");
    let other = b.probe("web-3", "0c4d-13", Shim::Restow, IMAGE, &["run"], asking)?;
    ensure!(b.state(&other.container)? == ContainerState::ContainerRunning);
    counts_on(&b, other.log(), from)
}

/// What containerd 2.1 makes of a checkpoint that is named instead of an image, or why not.
fn by_cri(lab: &Lab, shim: Shim, name: &str, args: &[&str]) -> Result<String> {
    let archive = format!("{STORE}/default/{name}.tar");
    let (new, uid) = (format!("{name}-2"), format!("0c4d-restored-{name}"));
    if shim == Shim::Stock {
        // Where no handler restores, the command has containerd do it.
        let by = handler(lab.runtime, shim);
        let answer = lab.restow(&["restore", name, "--pod", &new, "--handler", by, "--json"])?;
        let restored = answer.json()?;
        ensure!(restored["handler"] == by, "{restored}");
        let id = restored["container"].as_str().context("container")?;
        ensure!(lab.state(&ContainerId(id.to_owned()))? == ContainerState::ContainerRunning);
        let uid = restored["uid"].as_str().context("uid")?;
        return Ok(format!("/var/log/pods/default_{new}_{uid}/probe/0.log"));
    }
    let pod = lab.probe(&new, &uid, shim, &archive, args, ENABLED)?;
    Ok(pod.log().to_owned())
}

/// The counts in a log go up only: nothing has been started afresh.
fn only_up(lab: &Lab, log: &str) -> Result<()> {
    let text = std::fs::read_to_string(lab.path(log))?;
    let counts: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split_once("count ")?.1.trim().parse().ok())
        .collect();
    ensure!(counts.is_sorted(), "It has been started afresh: {counts:?}");
    Ok(())
}

/// containerd 1.7 has no restore of its own.
fn nothing_restores(lab: &Lab) -> Result<()> {
    let pod = lab.pod("web", "0c4d-11", Shim::Stock, &["run"])?;
    let what = pod.what();
    lab.restow(&["checkpoint", &what, "--name", "one", "--json"])?
        .json()?;
    lab.remove(&pod)?;
    let stock = handler(lab.runtime, Shim::Stock);
    let answer = lab.restow(&["restore", "one", "--handler", stock])?;
    let said = answer.refusal(5)?;
    ensure!(said.contains("Nothing on the node restores"), "{said}");
    ensure!(lab.pods()?.is_empty(), "{:?}", lab.pods()?);
    Ok(())
}

fn what_containerd_restores_itself_goes_on_below_both_shims(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    if suite == Suite::Stable {
        return nothing_restores(&lab);
    }
    let _registry = registry_with_image(&lab)?;
    let reads_hosts = ["run", "--open", "all:r:0:/etc/hosts"];
    for (name, shim, args) in [
        ("plain", Shim::Stock, &["run"][..]),
        ("hosts", Shim::Stock, &reads_hosts),
        ("plain-restow", Shim::Restow, &["run"]),
        ("hosts-restow", Shim::Restow, &reads_hosts),
    ] {
        if shim == Shim::Stock && lab.runtime == Runtime::Crun {
            println!(
                "{name}: SKIPPED: containerd 2.1 gives crun's restore a flag that it has not got"
            );
            continue;
        }
        let pod = lab.probe(name, &format!("0c4d-{name}"), shim, IMAGE, args, ENABLED)?;
        let from = lab.counts_beyond(pod.log(), 100)?;
        let what = pod.what();
        lab.restow(&["checkpoint", &what, "--name", name, "--json"])?
            .json()?;
        lab.remove(&pod)?;
        match (by_cri(&lab, shim, name, args), name) {
            (Ok(_), "hosts") => bail!("It is right without Restow, so this does not show anything"),
            (Err(error), "hosts") => {
                // It says no more; what differs from the one before is the file.
                let said = format!("{error:#}");
                ensure!(said.contains("criu failed: type RESTORE"), "{said}");
                println!("{name} | {suite} | stock: {said}");
            }
            (restored, _) => {
                let log = restored.with_context(|| name.to_owned())?;
                lab.counts_beyond(&log, from)?;
                only_up(&lab, &log)?;
                println!("{name} | {suite} | {shim:?}: counts on from {from}");
            }
        }
    }
    Ok(())
}
