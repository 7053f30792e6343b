//! Tasks in sub-cgroups, and files of cgroups that the new pod has not got.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use restow_integration::engine::Stack;
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod};
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, fixed_by_runc_1_2};
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_6_a_task_in_a_sub_cgroup_is_in_the_same_one_below_the_new_container,
    cgroup_9_ignoring_cgroups_is_right_too,
    cgroup_10_a_file_that_the_new_pod_has_not_got_blocks_or_becomes_inert,
    cgroup_13_a_file_of_a_cgroup_removed_before_the_dump_blocks_or_becomes_inert,
);

fn processes(cgroup: &Path) -> Result<Vec<String>> {
    let path = cgroup.join("cgroup.procs");
    let text = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn cgroup_6_a_task_in_a_sub_cgroup_is_in_the_same_one_below_the_new_container(
    suite: Suite,
) -> Result<()> {
    compare(
        "Cgroup 6",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| {
            let mut journey = Journey::new(ContainerOptions::new(2));
            // As a program with a delegated cgroup does it: a level below, with one task in it.
            journey.in_container_a = Some(|container| {
                let sub = container.cgroup_dir().join("service/worker");
                fs::create_dir_all(&sub).context("Make the sub-cgroup")?;
                let task = processes(&container.cgroup_dir())?
                    .pop()
                    .context("The container has no task")?;
                fs::write(sub.join("cgroup.procs"), &task).context("Move a task to the sub-cgroup")
            });
            journey.run(engine, |there| {
                let below = processes(&there.container.cgroup_dir().join("service/worker"))?;
                ensure!(
                    below.len() == 1,
                    "{} tasks are in the sub-cgroup of pod B, not 1",
                    below.len()
                );
                let above = processes(&there.container.cgroup_dir())?;
                ensure!(
                    above.len() == 2,
                    "{} tasks are in the container's own cgroup of pod B, not 2",
                    above.len()
                );
                there.check_progress()?;
                Ok("pod B's service/worker has the task".to_owned())
            })
        },
    )
}

fn cgroup_9_ignoring_cgroups_is_right_too(suite: Suite) -> Result<()> {
    let [events, stat] = ["cgroup.events", "cpu.stat"].map(|file| format!("/sys/fs/cgroup/{file}"));
    let container = ContainerOptions::new(2)
        .open(format!("all:r:0:{events}"))
        .open(format!("each:r:6:{stat}"));
    // crun 1.21 does not read the configuration and passes CRIU the new cgroup.
    compare(
        "Cgroup 9",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Right),
        |engine| {
            // Read by the runtime for every container of the node, at dump and at restore; by crun with libcriu 4.2 or later.
            let config = format!("/etc/criu/{}.conf", engine.runtime().program());
            let config = engine.node().path(config);
            fs::create_dir_all(config.parent().context("A file needs a directory")?)?;
            fs::write(config, "manage-cgroups=ignore\n").context("Write CRIU's configuration")?;
            Journey::new(container.clone()).run(engine, |there| {
                there.check_placement()?;
                there.check_file(&events, there.cgroup_inode("cgroup.events")?)?;
                there.check_file(&stat, there.cgroup_inode("cpu.stat")?)?;
                there.check_progress()?;
                Ok("3 processes in pod B's cgroup, 6 descriptors on its files".to_owned())
            })
        },
    )
}

/// What names the file that is not there, and what can be done.
const NAMED: &[&str] = &[
    "fd 3 of process 1",
    "only-here/cgroup.events",
    "does not exist on this node",
    "cgroup-files to ignore",
];

fn held() -> ContainerOptions {
    ContainerOptions::new(1)
        .host_cgroups()
        .open("all:r:4:{pod}/only-here/cgroup.events")
}

fn ignoring(mut container: ContainerOptions) -> ContainerOptions {
    let ignore = ("restow.dev/cgroup-files".to_owned(), "ignore".to_owned());
    container.annotations.push(ignore);
    container
}

/// Every descriptor reads end of file, and the container goes on.
fn check_inert(there: &Arrival<'_, '_>) -> Result<String> {
    for report in &there.reports {
        let file = &report.files[0];
        let content = file.content.as_deref();
        ensure!(
            content == Some(""),
            "fd {} of process {} reads {content:?}, not end of file",
            file.fd,
            report.process
        );
    }
    there.check_progress()?;
    Ok("the container goes on, reads give end of file".to_owned())
}

/// A cgroup beside the containers that only pod A has.
fn make_only_here(pod: &Pod<'_>) -> Result<()> {
    fs::create_dir(pod.cgroup_dir().join("only-here")).context("Make a cgroup in pod A")
}

fn cgroup_10_a_file_that_the_new_pod_has_not_got_blocks_or_becomes_inert(
    suite: Suite,
) -> Result<()> {
    let stock = Stock::Wrong(OLD_CGROUP);
    let mut journey = Journey::new(held());
    journey.in_pod_a = Some(make_only_here);
    compare(
        "Cgroup 10, remap",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(NAMED))
        },
    )?;
    journey.container_there = Some(ignoring(held()));
    compare(
        "Cgroup 10, ignore",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| journey.run(engine, |there| check_inert(there)),
    )
}

fn cgroup_13_a_file_of_a_cgroup_removed_before_the_dump_blocks_or_becomes_inert(
    suite: Suite,
) -> Result<()> {
    let stock = Stock::Wrong(&["Can't create link remap"]);
    let mut journey = Journey::new(held());
    journey.in_pod_a = Some(make_only_here);
    journey.in_container_a = Some(|container| {
        let pod = container.cgroup_dir();
        let pod = pod.parent().context("A container's cgroup has a parent")?;
        fs::remove_dir(pod.join("only-here")).context("Remove the cgroup")
    });
    compare(
        "Cgroup 13, remap",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(NAMED))
        },
    )?;
    journey.container_there = Some(ignoring(held()));
    compare(
        "Cgroup 13, ignore",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| journey.run(engine, |there| check_inert(there)),
    )
}
