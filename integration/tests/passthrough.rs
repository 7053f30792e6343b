//! Containers that do not ask for Restow are treated as if it were not there.

use anyhow::{Context, Result, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Mode, Runtime, Stack};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;

on_both_suites!(a_container_that_does_not_ask_is_restored_as_by_the_bare_runtime);

fn a_container_that_does_not_ask_is_restored_as_by_the_bare_runtime(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    // The container's id and cgroup stay, so that the bare runtime is right.
    let pod = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let mut options = ContainerOptions::new(2)
        .open("all:r:0:/sys/fs/cgroup/cgroup.events")
        .open("each:r:3:/etc/hosts");
    // Bare crun 1.28 restores no container that has masked directories.
    options.privileged = Runtime::chosen() == Runtime::Crun;
    options
        .annotations
        .push(("restow.dev/enabled".to_owned(), "false".to_owned()));
    let mut container = pod.container(&options)?;
    container.start()?;
    let before = container.reports()?;
    let checkpoint = Checkpoint::new(&engine, "stock")?;
    container.checkpoint(&checkpoint)?;
    let images = engine.node().path(&checkpoint.images);
    ensure!(
        images.join("inventory.img").exists(),
        "There are no images in {}",
        images.display()
    );
    ensure!(
        !images.join("source.json").exists(),
        "Restow added to the images of a container that did not ask"
    );

    container
        .restore(&checkpoint)
        .context("The restore in place fails")?;
    let after = container.reports()?;
    for (old, new) in before.iter().zip(&after) {
        ensure!(
            new.counter >= old.counter && new.memory_intact,
            "Process {} does not go on",
            new.process
        );
    }
    let work = engine.node().path(&checkpoint.work);
    ensure!(
        !work.join("restow-plan.json").exists(),
        "Restow planned the restore of a container that did not ask"
    );
    println!("without opt-in | {suite} | checkpoint and restore in place, no trace of Restow");
    pod.remove(vec![container])
}
