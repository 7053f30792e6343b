//! Tasks in sub-cgroups, and files of cgroups that the new pod has not got.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use restow_integration::container::{Container, inode};
use restow_integration::engine::Stack;
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod};
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, fixed_by_runc_1_2};
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_6_a_task_in_a_sub_cgroup_is_in_the_same_one_below_the_new_container,
    cgroup_6_files_of_sub_cgroups_with_and_without_tasks_are_the_new_containers,
    cgroup_6_a_sub_cgroup_without_a_task_or_a_file_is_there_with_its_owner,
    cgroup_6_version_1_has_its_sub_cgroups_too,
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

/// Two levels below the container's cgroup in each hierarchy, before the container starts.
fn make_sub_cgroups(container: &Container<'_>) -> Result<()> {
    for name in ["service/worker", "service/idle"] {
        let path = container.cgroup_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("Make {}", path.display()))?;
    }
    Ok(())
}

fn cgroup_6_files_of_sub_cgroups_with_and_without_tasks_are_the_new_containers(
    suite: Suite,
) -> Result<()> {
    let [busy, idle] =
        ["worker", "idle"].map(|name| format!("/sys/fs/cgroup/service/{name}/cgroup.events"));
    let mut journey = Journey::new(
        ContainerOptions::new(2)
            .open(format!("all:r:4:{busy}"))
            .open(format!("each:r:0:{idle}"))
            .open(format!("all:watch:0:{idle}")),
    );
    journey.before_start = Some(make_sub_cgroups);
    journey.in_container_a = Some(|container| {
        let task = processes(&container.cgroup_dir())?
            .pop()
            .context("No task")?;
        let procs = container.cgroup_dir().join("service/worker/cgroup.procs");
        fs::write(procs, task).context("Move a task to the sub-cgroup")
    });
    let check = |there: &mut Arrival<'_, '_>| {
        there.check_file(&busy, there.cgroup_inode("service/worker/cgroup.events")?)?;
        let expected = there.cgroup_inode("service/idle/cgroup.events")?;
        for report in &there.reports {
            for file in report.files.iter().filter(|file| file.opened == idle) {
                ensure!(
                    file.inode == expected,
                    "fd {} of process {} is {}, not pod B's file",
                    file.fd,
                    report.process,
                    file.link
                );
            }
        }
        let below = processes(&there.container.cgroup_dir().join("service/worker"))?.len();
        ensure!(
            below == 1,
            "{below} tasks are in the sub-cgroup of pod B, not 1"
        );
        there.check_progress()?;
        Ok("descriptors and a watch are on files of pod B's service/worker, which has its task, and of service/idle, which has none".to_owned())
    };
    compare(
        "Cgroup 6, files",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| journey.run(engine, check),
    )?;

    // With the host's namespace the paths are pod A's.
    let mut journey = Journey::new(
        ContainerOptions::new(1)
            .host_cgroups()
            .open("all:r:4:{container}/service/idle/cgroup.events"),
    );
    journey.before_start = Some(make_sub_cgroups);
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(
        "Cgroup 6, files, host namespace",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            journey.run(engine, |there| {
                let expected = there.cgroup_inode("service/idle/cgroup.events")?;
                let opened = there.origin.reports[0].files[0].opened.clone();
                there.check_file(&opened, expected)?;
                there.check_progress()?;
                Ok(
                    "the descriptor is on the file of pod B's service/idle, which has no task"
                        .to_owned(),
                )
            })
        },
    )
}

fn cgroup_6_a_sub_cgroup_without_a_task_or_a_file_is_there_with_its_owner(
    suite: Suite,
) -> Result<()> {
    let mut journey = Journey::new(ContainerOptions::new(1));
    journey.before_start = Some(|container| {
        make_sub_cgroups(container)?;
        let own = container.cgroup_dir().join("service");
        for path in [
            "",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
        ] {
            chown(own.join(path), Some(4711), Some(4712))
                .with_context(|| format!("Hand {path} over"))?;
        }
        fs::set_permissions(&own, fs::Permissions::from_mode(0o750)).context("Set the mode")
    });
    // CRIU restores the owner of the directory, and not of the files by which it is used.
    let stock = Stock::Wrong(&[
        "the cgroup of pod A has come back",
        "cgroup.procs belongs to 0",
    ]);
    compare(
        "Cgroup 6, delegated",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            journey.run(engine, |there| {
                there.check_placement()?;
                let own = there.container.cgroup_dir().join("service");
                ensure!(
                    own.join("idle").is_dir(),
                    "service/idle/cgroup.procs: No such file"
                );
                let meta = fs::metadata(&own)?;
                ensure!(
                    (meta.uid(), meta.gid(), meta.mode() & 0o7777) == (4711, 4712, 0o750),
                    "service belongs to {}:{} with mode {:o}",
                    meta.uid(),
                    meta.gid(),
                    meta.mode()
                );
                let procs = fs::metadata(own.join("cgroup.procs"))?;
                ensure!(
                    procs.uid() == 4711,
                    "service/cgroup.procs belongs to {}",
                    procs.uid()
                );
                there.check_progress()?;
                Ok(
                    "pod B's container has service and service/idle, with the owner they had"
                        .to_owned(),
                )
            })
        },
    )
}

fn cgroup_6_version_1_has_its_sub_cgroups_too(suite: Suite) -> Result<()> {
    let [busy, idle] =
        ["worker", "idle"].map(|name| format!("/sys/fs/cgroup/pids/service/{name}/pids.current"));
    let mut journey = Journey::new(
        ContainerOptions::new(1)
            .open(format!("all:r:0:{busy}"))
            .open(format!("each:r:0:{idle}")),
    );
    journey.before_start = Some(|container| {
        for name in ["service/worker", "service/idle"] {
            let path = container.cgroup_v1_dir("pids")?.join(name);
            fs::create_dir_all(&path).with_context(|| format!("Make {}", path.display()))?;
        }
        Ok(())
    });
    journey.in_container_a = Some(|container| {
        let own = container.cgroup_v1_dir("pids")?;
        let task = processes(&own)?.pop().context("No task")?;
        fs::write(own.join("service/worker/cgroup.procs"), task)
            .context("Move a task to the sub-cgroup")
    });
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(
        "Cgroup 6, version 1",
        Stack::hybrid(suite),
        stock.crun(stock),
        |engine| {
            journey.run(engine, |there| {
            let own = there.container.cgroup_v1_dir("pids")?;
            there.check_file(&busy, inode(&own.join("service/worker/pids.current"))?)?;
            there.check_file(&idle, inode(&own.join("service/idle/pids.current"))?)?;
            let below = processes(&own.join("service/worker"))?.len();
            ensure!(below == 1, "{below} tasks are in the sub-cgroup of pod B, not 1");
            there.check_progress()?;
            Ok("descriptors are on the files of pod B's sub-cgroups in the hierarchy of pids, one of which has its task".to_owned())
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
