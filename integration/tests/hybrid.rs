//! From a node with cgroup version 1 controllers to one that has version 2 alone, as when a cluster is upgraded.

use anyhow::{Context, Result, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Stack};
use restow_integration::journey::Verdict;
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::{Stock, compare};
use restow_integration::suite::Suite;

on_both_suites!(cgroup_11_to_a_node_without_version_1);

/// Moves a container from `old` to `new`, where it is made with `there`; returns what became of it.
fn between(
    old: &Engine,
    new: &Engine,
    container: &ContainerOptions,
    there: &ContainerOptions,
) -> Result<Verdict> {
    let pod_a = Pod::start(old, &PodOptions::new("pod-a"))?;
    let mut container = pod_a.container(container)?;
    container.start()?;
    let counted = container.reports()?[0].counter;
    let checkpoint = Checkpoint::new(old, "between")?;
    container.checkpoint(&checkpoint)?;
    let arrived = Checkpoint::new(new, "between")?;
    checkpoint.carry(old, &arrived, new)?;
    pod_a.remove(vec![container])?;
    let pod_b = Pod::start(new, &PodOptions::new("another-pod-b"))?;
    let mut container = pod_b.container(there)?;
    let mut moved = || -> Result<String> {
        container.restore(&arrived).context("The restore fails")?;
        for report in container.reports()? {
            ensure!(
                report.counter >= counted && report.memory_intact,
                "process {} does not go on",
                report.process
            );
            let file = &report.files[0];
            ensure!(
                file.content.as_deref() == Some(""),
                "fd {} reads {:?}, not end of file",
                file.fd,
                file.content
            );
            let file = &report.files[1];
            let hosts = file.content.as_deref().unwrap_or_default();
            ensure!(
                hosts.contains("another-pod-b"),
                "fd {} reads {hosts:?}",
                file.fd
            );
        }
        Ok("it goes on; the file of version 1 reads end of file, /etc/hosts is pod B's".to_owned())
    };
    Ok(Verdict::of(moved()))
}

fn cgroup_11_to_a_node_without_version_1(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(1)
        .open("all:r:0:/sys/fs/cgroup/pids/pids.current")
        .open("each:r:3:/etc/hosts");
    let stock = Stock::Wrong(&["No mapping for", "The restore fails"]);
    compare(
        "Cgroup 11, to version 2",
        Stack::hybrid(suite),
        stock.crun(stock),
        |old| {
            let new = Engine::start(Stack::v2(suite), old.mode())?;
            let verdict = between(old, &new, &container, &container)?;
            Ok(verdict.refused(&[
                "fd 3 of process 1",
                "/sys/fs/cgroup/pids/pids.current",
                "in a cgroup hierarchy that this node does not mount",
                "cgroup-files to ignore",
            ]))
        },
    )?;
    let mut there = container.clone();
    let ignore = ("restow.dev/cgroup-files".to_owned(), "ignore".to_owned());
    there.annotations.push(ignore);
    compare(
        "Cgroup 11, to version 2, ignore",
        Stack::hybrid(suite),
        stock.crun(stock),
        |old| {
            let new = Engine::start(Stack::v2(suite), old.mode())?;
            between(old, &new, &container, &there)
        },
    )
}
