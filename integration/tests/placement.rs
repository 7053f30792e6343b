//! Tasks in sub-cgroups, and files of cgroups that the new pod has not got.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Mode, Runtime, Stack};
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::{OLD_CGROUP, Stock, compare};
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
    for mode in [Mode::Stock, Mode::Restow] {
        let engine = Engine::start(Stack::v2(suite), mode)?;
        let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
        let options = ContainerOptions::new(2);
        let mut container = pod_a.container(&options)?;
        container.start()?;
        // As a program with a delegated cgroup does it: a level below, with one task in it.
        let sub = container.cgroup_dir().join("service/worker");
        fs::create_dir_all(&sub).context("Make the sub-cgroup")?;
        let task = processes(&container.cgroup_dir())?
            .pop()
            .context("The container has no task")?;
        fs::write(sub.join("cgroup.procs"), &task).context("Move a task to the sub-cgroup")?;
        let checkpoint = Checkpoint::new(&engine, "sub")?;
        container.checkpoint(&checkpoint)?;
        pod_a.remove(vec![container])?;

        let pod_b = Pod::start(&engine, &PodOptions::new("pod-b"))?;
        let mut container = pod_b.container(&options)?;
        let found = container.restore(&checkpoint).and_then(|()| {
            let below = processes(&container.cgroup_dir().join("service/worker"))?;
            ensure!(
                below.len() == 1,
                "{} tasks are in the sub-cgroup, not 1",
                below.len()
            );
            let above = processes(&container.cgroup_dir())?;
            ensure!(
                above.len() == 2,
                "{} tasks are in the container's own, not 2",
                above.len()
            );
            container.reports()
        });
        match (mode, found) {
            (Mode::Restow, Ok(_)) => {
                println!("Cgroup 6 | {suite} | Restow: right: pod B's service/worker has the task");
            }
            (Mode::Restow, Err(error)) => return Err(error),
            // runc passes CRIU the new cgroup since 1.2; before, everything lands in the old pod's.
            (Mode::Stock, found) => {
                // What is written here is written about runc.
                let judged = Stack::v2(suite).runtime == Runtime::Runc;
                let expected = suite == Suite::Testing;
                ensure!(!judged || found.is_ok() == expected, "Stock: {found:?}");
                println!(
                    "Cgroup 6 | {suite} | stock: {}",
                    if found.is_ok() { "right" } else { "WRONG" }
                );
            }
        }
    }
    Ok(())
}

fn cgroup_9_ignoring_cgroups_is_right_too(suite: Suite) -> Result<()> {
    let [events, stat] = ["cgroup.events", "cpu.stat"].map(|file| format!("/sys/fs/cgroup/{file}"));
    let container = ContainerOptions::new(2)
        .open(format!("all:r:0:{events}"))
        .open(format!("each:r:6:{stat}"));
    compare(
        "Cgroup 9",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP),
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

fn cgroup_10_a_file_that_the_new_pod_has_not_got_blocks_or_becomes_inert(
    suite: Suite,
) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    // Something beside the containers that only pod A has.
    fs::create_dir(pod_a.cgroup_dir().join("only-here")).context("Make a cgroup in pod A")?;
    let options = ContainerOptions::new(1)
        .host_cgroups()
        .open("all:r:4:{pod}/only-here/cgroup.events");
    let mut container = pod_a.container(&options)?;
    container.start()?;
    let counted = container.reports()?[1].counter;
    let checkpoint = Checkpoint::new(&engine, "gone")?;
    container.checkpoint(&checkpoint)?;
    pod_a.remove(vec![container])?;

    arrive_without_the_file(&engine, &checkpoint, &options, "Cgroup 10", counted)
}

fn cgroup_13_a_file_of_a_cgroup_removed_before_the_dump_blocks_or_becomes_inert(
    suite: Suite,
) -> Result<()> {
    for mode in [Mode::Stock, Mode::Restow] {
        let engine = Engine::start(Stack::v2(suite), mode)?;
        let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
        let passing = pod_a.cgroup_dir().join("only-here");
        fs::create_dir(&passing).context("Make a cgroup in pod A")?;
        let options = ContainerOptions::new(1)
            .host_cgroups()
            .open("all:r:4:{pod}/only-here/cgroup.events");
        let mut container = pod_a.container(&options)?;
        container.start()?;
        let counted = container.reports()?[1].counter;
        fs::remove_dir(&passing).context("Remove the cgroup")?;
        let checkpoint = Checkpoint::new(&engine, "removed")?;
        let dumped = container.checkpoint(&checkpoint);
        if mode == Mode::Stock {
            let Err(error) = dumped else {
                bail!("Stock dumps it, so this does not show anything")
            };
            println!("Cgroup 13 | {suite} | stock: WRONG: {}", first_line(&error));
            pod_a.remove(vec![container])?;
            continue;
        }
        dumped?;
        pod_a.remove(vec![container])?;
        arrive_without_the_file(&engine, &checkpoint, &options, "Cgroup 13", counted)?;
    }
    Ok(())
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}")
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The checkpoint's file `only-here/cgroup.events` exists nowhere any more: the restore is blocked, unless the pod says
/// that such files are to be ignored.
fn arrive_without_the_file(
    engine: &Engine,
    checkpoint: &Checkpoint,
    options: &ContainerOptions,
    name: &str,
    counted: u64,
) -> Result<()> {
    // A restored container's program is never started, so the file need not be there for it.
    let pod_b = Pod::start(engine, &PodOptions::new("pod-b"))?;
    let mut container = pod_b.container(options)?;
    let Err(error) = container.restore(checkpoint) else {
        bail!("It was restored without its file")
    };
    let text = format!("{error:#}");
    for word in [
        "fd 3 of process 1",
        "only-here/cgroup.events",
        "does not exist on this node",
        "cgroup-files to ignore",
    ] {
        ensure!(text.contains(word), "No {word:?} in {text}");
    }
    println!("{name}, remap | {}", first_line(&error));
    container.remove()?;

    let mut ignoring = options.clone();
    let ignore = ("restow.dev/cgroup-files".to_owned(), "ignore".to_owned());
    ignoring.annotations.push(ignore);
    let mut container = pod_b.container(&ignoring)?;
    container.restore(checkpoint)?;
    let reports = container.reports()?;
    for report in &reports {
        let content = report.files[0].content.as_deref();
        ensure!(
            content == Some(""),
            "Reading gives {content:?}, not end of file"
        );
    }
    ensure!(reports[1].counter >= counted && reports.len() == 2);
    println!("{name}, ignore | the container goes on, reads give end of file");
    Ok(())
}
