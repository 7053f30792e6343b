//! What other containers and services of the node have in version 1 hierarchies is none of a checkpoint's business.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::foreign::{FOREIGN, ForeignCgroups, sit_in_roots};
use restow_integration::node::hierarchies;
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;

on_both_suites!(
    foreign_cgroups_of_version_1_are_neither_walked_nor_recorded,
    a_container_from_the_roots_of_version_1_is_restored_by_every_mode,
);

/// What a checkpoint has of cgroups.
struct Recorded {
    image: Vec<u8>,
    log: String,
}

impl Recorded {
    fn of(engine: &Engine, container: &Container<'_>, name: &str) -> Result<Self> {
        let checkpoint = Checkpoint::new(engine, name)?;
        container.checkpoint_running(&checkpoint)?;
        let node = engine.node();
        let image = fs::read(node.path(&checkpoint.images).join("cgroup.img"))
            .context("Read cgroup.img")?;
        let log =
            fs::read(node.path(&checkpoint.work).join("dump.log")).context("Read dump.log")?;
        Ok(Self {
            image,
            log: String::from_utf8_lossy(&log).into_owned(),
        })
    }

    fn mentions_foreign(&self) -> (bool, bool) {
        let image = String::from_utf8_lossy(&self.image);
        (image.contains(FOREIGN), self.log.contains(FOREIGN))
    }
}

fn no_version_1() -> Result<bool> {
    let none = !hierarchies()?
        .iter()
        .any(|hierarchy| hierarchy.v1.is_some());
    if none {
        println!("SKIPPED: this host has no cgroup version 1 hierarchies");
    }
    Ok(none)
}

fn foreign_cgroups_of_version_1_are_neither_walked_nor_recorded(suite: Suite) -> Result<()> {
    if no_version_1()? {
        return Ok(());
    }
    for mode in [Mode::Stock, Mode::Restow] {
        let engine = Engine::start(Stack::v2(suite), mode)?;
        let pod = Pod::start(&engine, &PodOptions::new("pod-a"))?;
        let mut container = pod.container(&ContainerOptions::new(1).host_cgroups())?;
        container.start()?;
        sit_in_roots(engine.node(), &container)?;
        let alone = Recorded::of(&engine, &container, "alone")?;
        let count = 300;
        let foreign = ForeignCgroups::make(engine.node(), &["memory", "cpu", "pids"], count)?;
        let among = Recorded::of(&engine, &container, "among")?;
        drop(foreign);
        let grown = among.image.len().saturating_sub(alone.image.len());
        println!(
            "{count} foreign cgroups | {suite} | {mode}: cgroup.img {} bytes (+{grown}), dump.log {} bytes (+{})",
            among.image.len(),
            among.log.len(),
            among.log.len().saturating_sub(alone.log.len())
        );
        let (image, log) = among.mentions_foreign();
        if mode == Mode::Stock {
            // Otherwise this would show nothing.
            ensure!(
                image && log,
                "The bare runtime's checkpoint does not have them"
            );
            continue;
        }
        ensure!(!image, "cgroup.img has foreign cgroups");
        ensure!(!log, "dump.log tells of foreign cgroups");
        ensure!(
            grown < 100,
            "cgroup.img grows by {grown} bytes with foreign cgroups"
        );
        // The container's own are there: CRIU makes them again where it is asked to (soft).
        let own = container.cgroup().trim_start_matches('/').to_owned();
        ensure!(
            String::from_utf8_lossy(&among.image).contains(&own),
            "cgroup.img has not got the container's own cgroup {own}"
        );
        container.reports().context("The container goes on")?;
    }
    Ok(())
}

fn a_container_from_the_roots_of_version_1_is_restored_by_every_mode(suite: Suite) -> Result<()> {
    if no_version_1()? {
        return Ok(());
    }
    // The last: by the runtime without Restow, which takes the checkpoint as well as its own.
    for mode in [Some("auto"), Some("soft"), Some("ignore"), None] {
        let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
        let told = mode.map_or("stock".to_owned(), |mode| format!("manage-cgroups={mode}"));
        let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
        let mut options = ContainerOptions::new(2)
            .host_cgroups()
            .open("each:r:3:/etc/hosts");
        // crun 1.28 alone does not find its masked directories again.
        options.privileged = true;
        options
            .annotations
            .extend(mode.map(|mode| ("restow.dev/manage-cgroups".to_owned(), mode.to_owned())));
        let mut container = pod_a.container(&options)?;
        container.start()?;
        sit_in_roots(engine.node(), &container)?;
        let before = container.reports()?;
        let checkpoint = Checkpoint::new(&engine, "roots")?;
        let foreign = ForeignCgroups::make(engine.node(), &["memory"], 10)?;
        container.checkpoint(&checkpoint)?;
        drop(foreign);
        pod_a.remove(vec![container])?;
        let there = if mode.is_some() {
            None
        } else {
            Some(engine.stock())
        };
        let there = there.as_ref().unwrap_or(&engine);
        let pod_b = Pod::start(there, &PodOptions::new("pod-b"))?;
        let mut container = pod_b.container(&options)?;
        container
            .restore(&checkpoint)
            .with_context(|| told.clone())?;
        let after = container.reports()?;
        ensure!(
            before
                .iter()
                .zip(&after)
                .all(|(old, new)| new.counter >= old.counter),
            "{told}: a process does not go on"
        );
        ensure!(
            mode.is_none() || container.cgroup_population()? == 3,
            "{told}: the tasks are not in the new container's cgroup"
        );
        let memory = engine.node().cgroup_v1_root("memory").unwrap_or_default();
        ensure!(
            !memory.join(FOREIGN).exists(),
            "{told}: a foreign cgroup has come back"
        );
        println!("from the roots of version 1 | {suite} | {told}: right");
    }
    Ok(())
}
