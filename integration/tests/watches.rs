//! Watches, and files that the kubelet replaces, after a restore in another pod.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::Stack;
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, fixed_by_runc_1_2};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_7_a_watch_on_cgroup_events_tells_of_the_new_cgroup,
    mounts_2_an_open_key_is_the_new_pods,
    mounts_3_watches_on_a_config_map_tell_of_the_new_pods,
    mounts_4_a_watch_on_a_single_file_is_on_the_new_pods,
    mounts_15_fanotify_marks_are_on_the_new_pods_file_and_mount,
);

/// Long enough for an event that is only queued in the kernel.
const SHORTLY: Duration = Duration::from_millis(50);

/// The config map as the node has it.
fn map(there: &Arrival<'_, '_>) -> PathBuf {
    let volumes = format!("{}/volumes/kubernetes.io~configmap/map-0", there.pod.dir());
    there.engine.node().path(volumes)
}

/// In every process, the watch on `path` watches the object `expected`.
fn check_watch(there: &Arrival<'_, '_>, path: &str, expected: u64) -> Result<()> {
    for report in &there.reports {
        let watched = report.file(path)?.inode;
        ensure!(
            watched == expected,
            "process {} watches inode {watched} by {path}, not pod B's {expected}",
            report.process
        );
    }
    Ok(())
}

/// The watch on `path` has something to tell since the last report.
fn check_event(there: &mut Arrival<'_, '_>, path: &str) -> Result<()> {
    thread::sleep(SHORTLY);
    there.reports = there.container.reports()?;
    let told = there.reports[0]
        .file(path)?
        .content
        .clone()
        .unwrap_or_default();
    ensure!(told == "events", "the watch on {path} tells of {told:?}");
    Ok(())
}

fn cgroup_7_a_watch_on_cgroup_events_tells_of_the_new_cgroup(suite: Suite) -> Result<()> {
    let inside = "/sys/fs/cgroup/cgroup.events";
    let container = ContainerOptions::new(1).open(format!("all:watch:0:{inside}"));
    let stock = fixed_by_runc_1_2(suite);
    compare("Cgroup 7", Stack::v2(suite), stock, |engine| {
        Journey::new(container.clone()).run(engine, |there| {
            check_watch(there, inside, there.cgroup_inode("cgroup.events")?)?;
            // Freezing changes the file; the probe tells of it once it is thawed.
            let freeze = there.container.cgroup_dir().join("cgroup.freeze");
            for state in ["1", "0"] {
                fs::write(&freeze, state).context("Freeze and thaw the container")?;
                thread::sleep(SHORTLY);
            }
            check_event(there, inside)?;
            Ok("the watch is on pod B's file and tells of a change in it".to_owned())
        })
    })?;

    let host = "{container}/cgroup.events";
    let container = ContainerOptions::new(1)
        .host_cgroups()
        .open(format!("all:watch:0:{host}"));
    compare(
        "Cgroup 7, host namespace",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let old = format!(
                    "/sys/fs/cgroup{}/cgroup.events",
                    there.origin.container_cgroup_inside
                );
                check_watch(there, &old, there.cgroup_inode("cgroup.events")?)?;
                Ok("the watch is on pod B's file".to_owned())
            })
        },
    )
}

fn mounts_2_an_open_key_is_the_new_pods(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(1)
        .config_map("/map")
        .open("all:r:3:/map/pod");
    compare(
        "Mounts 2",
        Stack::v2(suite),
        Stock::Wrong(&["Can't open file map/.."]).crun(Stock::Wrong(&["Can't open file map/.."])),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                there.check_file("/map/pod", inode(&map(there).join("..data/pod"))?)?;
                let content = there.reports[1].file("/map/pod")?.content.clone();
                ensure!(
                    content.as_deref() == Some(there.pod.name()),
                    "it reads {content:?}"
                );
                Ok("the key is read from pod B's version of the volume, offset kept".to_owned())
            })
        },
    )
}

fn mounts_3_watches_on_a_config_map_tell_of_the_new_pods(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(0)
        .config_map("/map")
        .open("all:watch:0:/map")
        .open("all:watch:0:/map/..data")
        .open("all:watch:0:/map/pod");
    compare(
        "Mounts 3",
        Stack::v2(suite),
        Stock::Wrong(&["Unable to open /map/.."]).crun(Stock::Wrong(&["Unable to open /map/.."])),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let map = map(there);
                check_watch(there, "/map", inode(&map)?)?;
                check_watch(there, "/map/..data", inode(&map.join("..data/"))?)?;
                check_watch(there, "/map/pod", inode(&map.join("..data/pod"))?)?;
                // The kubelet's way of writing a new version.
                let version = "..2027_01_01_00_00_00.1";
                fs::create_dir(map.join(version))?;
                fs::write(map.join(version).join("pod"), "new")?;
                symlink(version, map.join("..data_tmp"))?;
                fs::rename(map.join("..data_tmp"), map.join("..data"))?;
                check_event(there, "/map")?;
                Ok(
                    "directory, version and key of pod B are watched, and a new version is told"
                        .to_owned(),
                )
            })
        },
    )
}

fn mounts_15_fanotify_marks_are_on_the_new_pods_file_and_mount(suite: Suite) -> Result<()> {
    let mut container = ContainerOptions::new(1)
        .config_map("/map")
        .open("all:mark:0:/map/pod")
        .open("each:mark-mount:0:/map");
    container.privileged = true;
    compare(
        "Mounts 15",
        Stack::v2(suite),
        Stock::Wrong(&["Unable to open /map/..", "Unable to open map/.."]),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let map = map(there);
                check_watch(there, "/map/pod", inode(&map.join("..data/pod"))?)?;
                fs::write(map.join("..data/pod"), "new")?;
                check_event(there, "/map/pod")?;
                for report in &there.reports {
                    let mark = report.file("/map")?;
                    let mount = report
                        .mountinfo
                        .lines()
                        .find(|line| line.split(' ').nth(4) == Some("/map"))
                        .and_then(|line| line.split(' ').next()?.parse().ok());
                    ensure!(
                        Some(mark.inode) == mount,
                        "the mark is on mount {}, /map is {mount:?}",
                        mark.inode
                    );
                }
                there.check_progress()?;
                Ok("the marks are on pod B's file and mount, and a change is told".to_owned())
            })
        },
    )
}

fn mounts_4_a_watch_on_a_single_file_is_on_the_new_pods(suite: Suite) -> Result<()> {
    compare(
        "Mounts 4",
        Stack::v2(suite),
        Stock::Wrong(&["Can't dump that handle"]),
        |engine| {
            // On a file system in memory, and at a place that CRIU does not try by itself.
            let with = |pod: &str| -> Result<ContainerOptions> {
                let source = format!("/var/lib/kubelet/settings-of-{pod}");
                fs::write(engine.node().path(&source), format!("of {pod}"))?;
                Ok(ContainerOptions::new(1)
                    .bind(Bind::new(source, "/app/settings"))
                    .open("all:watch:0:/app/settings")
                    .open("each:watch:0:/etc/hosts"))
            };
            let mut journey = Journey::new(with("a")?);
            journey.container_there = Some(with("b")?);
            journey.run(engine, |there| {
                let settings = there.engine.node().path("/var/lib/kubelet/settings-of-b");
                check_watch(there, "/app/settings", inode(&settings)?)?;
                let hosts = there.engine.node().path(there.pod.dir()).join("etc-hosts");
                check_watch(there, "/etc/hosts", inode(&hosts)?)?;
                fs::write(&settings, "changed")?;
                check_event(there, "/app/settings")?;
                Ok("the watches are on pod B's files and tell of a change".to_owned())
            })
        },
    )
}
