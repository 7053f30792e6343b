//! The node's cgroup file systems, mounted into a container by hostPath or read by version 1 controllers.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::Stack;
use restow_integration::journey::{Arrival, Journey};
use restow_integration::node::Together;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, skip};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_4_files_below_a_host_path_of_the_cgroups_are_the_new_containers,
    cgroup_4_files_that_the_new_pods_mounts_do_not_show_are_handed_in,
    cgroup_11_files_of_version_1_controllers_are_the_new_containers,
    cgroup_11_a_named_hierarchy_without_controllers_is_no_exception,
    cgroup_11_controllers_that_share_a_hierarchy_are_no_exception,
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

/// A file of one hierarchy, held shared and by each process.
fn holding(dir: &str, files: &[&str]) -> ContainerOptions {
    files
        .iter()
        .fold(ContainerOptions::new(1), |container, file| {
            container
                .open(format!("all:r:0:{dir}/{file}"))
                .open(format!("each:r:1:{dir}/{file}"))
        })
}

/// The files of the hierarchy of `controller` that were opened below `dir` are pod B's.
fn check_hierarchy(
    there: &Arrival<'_, '_>,
    controller: &str,
    dir: &str,
    files: &[&str],
) -> Result<()> {
    let own = there.container.cgroup_v1_dir(controller)?;
    for file in files {
        there.check_file(&format!("{dir}/{file}"), inode(&own.join(file))?)?;
    }
    check_strays(there)?;
    there.check_progress()
}

fn cgroup_11_a_named_hierarchy_without_controllers_is_no_exception(suite: Suite) -> Result<()> {
    const DIR: &str = "/sys/fs/cgroup/systemd";
    const FILES: [&str; 2] = ["notify_on_release", "cgroup.clone_children"];
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(
        "Cgroup 11, named",
        Stack::hybrid(suite),
        stock.crun(stock),
        |engine| {
            Journey::new(holding(DIR, &FILES)).run(engine, |there| {
                check_hierarchy(there, "name=systemd", DIR, &FILES)?;
                Ok("files and tasks are pod B's in the hierarchy name=systemd too".to_owned())
            })
        },
    )
}

fn cgroup_11_controllers_that_share_a_hierarchy_are_no_exception(suite: Suite) -> Result<()> {
    // Hosts hardly use these two, so they can be had; cpu and cpuacct share one in the same way.
    const CONTROLLERS: &str = "net_cls,net_prio";
    const FILES: [&str; 2] = ["net_cls.classid", "net_prio.prioidx"];
    const NAME: &str = "Cgroup 11, co-mounted";
    let stack = Stack::hybrid(suite);
    let Some(_mounted) = Together::mount(CONTROLLERS)? else {
        return skip(
            NAME,
            stack,
            "net_cls and net_prio cannot be mounted together here",
        );
    };
    // By the link that each controller has, the path is that of the hierarchy.
    let opened = "/sys/fs/cgroup/net_prio";
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(NAME, stack, stock.crun(stock), |engine| {
        Journey::new(holding(opened, &FILES)).run(engine, |there| {
            check_hierarchy(there, "net_cls", opened, &FILES)?;
            for held in &there.reports[0].files {
                let at = format!("/sys/fs/cgroup/{CONTROLLERS}/");
                ensure!(held.link.starts_with(&at), "fd {} is {}", held.fd, held.link);
            }
            Ok("files of both controllers, and the tasks, are pod B's in the hierarchy that they share".to_owned())
        })
    })
}

fn cgroup_11_files_below_a_host_path_of_the_hierarchies_are_the_new_containers(
    suite: Suite,
) -> Result<()> {
    const HELD: [(&str, &str); 2] = [("pids", "pids.current"), ("systemd", "notify_on_release")];
    let container = HELD.iter().fold(
        ContainerOptions::new(1).bind(Bind::new("/sys/fs/cgroup", "/host/cgroup").readonly()),
        |container, (hierarchy, file)| {
            container.open(format!("all:r:1:/host/cgroup/{hierarchy}{{path}}/{file}"))
        },
    );
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(
        "Cgroup 11, hostPath",
        Stack::hybrid(suite),
        stock.crun(stock),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let old = &there.origin.container_cgroup_inside;
                for (hierarchy, file) in HELD {
                    let name = match hierarchy {
                        "systemd" => "name=systemd",
                        controller => controller,
                    };
                    let dir = there.container.cgroup_v1_dir(name)?;
                    let opened = format!("/host/cgroup/{hierarchy}{old}/{file}");
                    there.check_file(&opened, inode(&dir.join(file))?)?;
                }
                check_strays(there)?;
                there.check_progress()?;
                Ok("descriptors by the hostPath are on pod B's files of version 1".to_owned())
            })
        },
    )
}
