//! The node's cgroup file systems, mounted into a container by hostPath or read by version 1 controllers.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::Stack;
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_4_files_below_a_host_path_of_the_cgroups_are_the_new_containers,
    cgroup_4_files_that_the_new_pods_mounts_do_not_show_are_handed_in,
    cgroup_11_files_of_version_1_controllers_are_the_new_containers,
    cgroup_11_a_named_hierarchy_without_controllers_is_no_exception,
    cgroup_11_files_below_a_host_path_of_the_hierarchies_are_the_new_containers,
);

fn cgroup_4_files_below_a_host_path_of_the_cgroups_are_the_new_containers(
    suite: Suite,
) -> Result<()> {
    // As monitoring agents do it: a private cgroup namespace, and the node's whole tree elsewhere.
    let container = ContainerOptions::new(1)
        .bind(Bind::new("/sys/fs/cgroup", "/host/cgroup").readonly())
        .open("all:r:5:/host/cgroup{path}/cgroup.events")
        .open("each:r:0:/host/cgroup{path}/cpu.stat")
        .open("each:r:0:/host/cgroup/cgroup.stat");
    compare(
        "Cgroup 4",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
            there.check_placement()?;
            let old = format!("/host/cgroup{}", there.origin.container_cgroup_inside);
            there.check_file(&format!("{old}/cgroup.events"), there.cgroup_inode("cgroup.events")?)?;
            there.check_file(&format!("{old}/cpu.stat"), there.cgroup_inode("cpu.stat")?)?;
            let node = inode(&there.engine.node().cgroup_root().join("cgroup.stat"))?;
            there.check_file("/host/cgroup/cgroup.stat", node)?;
            Ok("descriptors by the hostPath are on pod B's files, that on the node's own file is kept".to_owned())
        })
        },
    )
}

/// The new pod shows another part of the cgroups at the same place, so that no path leads to the new container's files.
fn cgroup_4_files_that_the_new_pods_mounts_do_not_show_are_handed_in(suite: Suite) -> Result<()> {
    let with = |shown: &str| {
        ContainerOptions::new(2)
            .bind(Bind::new(shown, "/host/cgroup").readonly())
            .open("all:r:5:/host/cgroup{path}/cgroup.events")
            .open("each:r:3:/host/cgroup{path}/cgroup.events")
            .open("1:r:0:/host/cgroup{path}/cpu.stat")
    };
    compare(
        "Cgroup 4, handed in",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP),
        |engine| {
            let other = engine.node().cgroup_root().join("other");
            fs::create_dir(other).context("Make a cgroup beside the pods'")?;
            let mut journey = Journey::new(with("/sys/fs/cgroup"));
            journey.container_there = Some(with("/sys/fs/cgroup/other"));
            journey.run(engine, |there| {
                there.check_placement()?;
                let expected = there.cgroup_inode("cgroup.events")?;
                for (before, after) in there.origin.reports.iter().zip(&there.reports) {
                    for (before, after) in before.files.iter().zip(&after.files).take(2) {
                        let kept = (after.offset, after.flags, after.shared)
                            == (before.offset, before.flags, before.shared);
                        ensure!(
                            after.inode == expected && kept,
                            "fd {} was {before:?} and is {after:?}, not pod B's file (inode {expected})",
                            after.fd
                        );
                    }
                }
                let old = format!("/host/cgroup{}/cpu.stat", there.origin.container_cgroup_inside);
                there.check_file(&old, there.cgroup_inode("cpu.stat")?)?;
                there.check_progress()?;
                Ok("7 descriptors are on pod B's files, shared as they were".to_owned())
            })
        },
    )
}

fn cgroup_11_files_of_version_1_controllers_are_the_new_containers(suite: Suite) -> Result<()> {
    const FILES: [(&str, &str); 4] = [
        ("memory", "memory.usage_in_bytes"),
        ("cpu", "cpu.shares"),
        ("pids", "pids.current"),
        ("cpuacct", "cpuacct.usage"),
    ];
    let path = |(controller, file): (&str, &str)| format!("/sys/fs/cgroup/{controller}/{file}");
    let container = FILES
        .into_iter()
        .fold(ContainerOptions::new(2), |container, file| {
            container
                .open(format!("all:r:0:{}", path(file)))
                .open(format!("each:r:1:{}", path(file)))
        });
    compare(
        "Cgroup 11",
        Stack::hybrid(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                for (controller, file) in FILES {
                    let dir = there.container.cgroup_v1_dir(controller)?;
                    there
                        .check_file(&path((controller, file)), inode(&dir.join(file))?)
                        .with_context(|| format!("The controller {controller}"))?;
                }
                check_strays(there)?;
                there.check_progress()?;
                Ok(
                    "memory, cpu, pids and cpuacct files and tasks are pod B's in every hierarchy"
                        .to_owned(),
                )
            })
        },
    )
}

/// No task is anywhere but in the container's cgroup, in whichever hierarchy.
fn check_strays(there: &Arrival<'_, '_>) -> Result<()> {
    for report in &there.reports {
        let strays: Vec<_> = report
            .cgroup
            .lines()
            .filter(|line| !line.ends_with(there.container.cgroup()))
            .collect();
        ensure!(
            strays.is_empty(),
            "process {} is also in {strays:?}",
            report.process
        );
    }
    Ok(())
}

fn cgroup_11_a_named_hierarchy_without_controllers_is_no_exception(suite: Suite) -> Result<()> {
    const FILE: &str = "notify_on_release";
    let opened = format!("/sys/fs/cgroup/systemd/{FILE}");
    let container = ContainerOptions::new(1)
        .open(format!("all:r:0:{opened}"))
        .open(format!("each:r:1:{opened}"));
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(
        "Cgroup 11, named",
        Stack::hybrid(suite),
        stock.crun(stock),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let own = there.container.cgroup_v1_dir("name=systemd")?;
                there.check_file(&opened, inode(&own.join(FILE))?)?;
                check_strays(there)?;
                there.check_progress()?;
                Ok("files and tasks are pod B's in the hierarchy name=systemd too".to_owned())
            })
        },
    )
}

fn cgroup_11_files_below_a_host_path_of_the_hierarchies_are_the_new_containers(
    suite: Suite,
) -> Result<()> {
    const HELD: [(&str, &str, &str); 2] = [
        ("pids", "pids", "pids.current"),
        ("systemd", "name=systemd", "notify_on_release"),
    ];
    // One by one: runc unmounts on the node what is mounted below a source, see docs/mounts-and-files.md.
    let container = HELD
        .iter()
        .fold(ContainerOptions::new(1), |container, (dir, _, file)| {
            let bind = Bind::new(format!("/sys/fs/cgroup/{dir}"), format!("/host/{dir}"));
            container
                .bind(bind.readonly())
                .open(format!("all:r:1:/host/{dir}{{path}}/{file}"))
        });
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(
        "Cgroup 11, hostPath",
        Stack::hybrid(suite),
        stock.crun(stock),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let old = &there.origin.container_cgroup_inside;
                for (dir, hierarchy, file) in HELD {
                    let own = there.container.cgroup_v1_dir(hierarchy)?;
                    let opened = format!("/host/{dir}{old}/{file}");
                    there.check_file(&opened, inode(&own.join(file))?)?;
                }
                check_strays(there)?;
                there.check_progress()?;
                Ok("descriptors by the hostPath are on pod B's files of version 1".to_owned())
            })
        },
    )
}
