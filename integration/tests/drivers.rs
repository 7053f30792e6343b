//! Cgroups as the systemd driver names them.

use anyhow::{Context, Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::Stack;
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, PodOptions, Qos};
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, fixed_by_runc_1_2};
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_15_files_of_a_private_namespace_are_the_new_containers,
    cgroup_15_files_of_all_levels_are_the_new_pods,
    cgroup_15_the_two_nodes_may_have_different_drivers,
);

const STOCK: Stock = Stock::Wrong(OLD_CGROUP);

fn cgroup_15_files_of_a_private_namespace_are_the_new_containers(suite: Suite) -> Result<()> {
    let events = "/sys/fs/cgroup/cgroup.events";
    let mut journey = Journey::new(ContainerOptions::new(2).open(format!("all:r:3:{events}")));
    journey.from = journey.from.systemd();
    journey.to = journey.to.systemd();
    compare(
        "Cgroup 15, private namespace",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| {
            journey.run(engine, |there| {
                there.check_placement()?;
                there.check_file(events, there.cgroup_inode("cgroup.events")?)?;
                there.check_progress()?;
                Ok("3 processes in pod B's scope, the descriptor is on its file".to_owned())
            })
        },
    )
}

/// Files of the container, the pod and the QoS level.
fn all_levels() -> ContainerOptions {
    ContainerOptions::new(1)
        .host_cgroups()
        .open("all:r:4:{container}/cgroup.events")
        .open("each:r:0:{container}/cpu.stat")
        .open("each:r:9:{pod}/cpu.stat")
        .open("each:r:3:{qos}/cpu.stat")
}

fn check_all_levels(there: &Arrival<'_, '_>) -> Result<()> {
    there.check_placement()?;
    let opened: Vec<String> = there.origin.reports[0]
        .files
        .iter()
        .map(|file| file.opened.clone())
        .collect();
    let pod = there.pod.cgroup_dir();
    let qos = pod.parent().context("A pod's cgroup has a parent")?;
    there.check_file(&opened[0], there.cgroup_inode("cgroup.events")?)?;
    there.check_file(&opened[1], there.cgroup_inode("cpu.stat")?)?;
    there.check_file(&opened[2], inode(&pod.join("cpu.stat"))?)?;
    there.check_file(&opened[3], inode(&qos.join("cpu.stat"))?)?;
    for report in &there.reports {
        let path = report.cgroup_v2();
        ensure!(
            path == there.container.cgroup(),
            "/proc/self/cgroup says {path}, not {}, so it is not pod B's",
            there.container.cgroup()
        );
    }
    there.check_progress()
}

fn cgroup_15_files_of_all_levels_are_the_new_pods(suite: Suite) -> Result<()> {
    let mut journey = Journey::new(all_levels());
    journey.from = journey.from.systemd();
    journey.to = PodOptions::new("another-pod-b")
        .qos(Qos::BestEffort)
        .systemd();
    compare(
        "Cgroup 15, all levels",
        Stack::v2(suite),
        STOCK.crun(STOCK),
        |engine| {
            journey.run(engine, |there| {
                check_all_levels(there)?;
                Ok(
                    "scope, pod and QoS slice of burstable pod A became those of besteffort pod B"
                        .to_owned(),
                )
            })
        },
    )?;
    let mut journey = Journey::new(all_levels());
    journey.from = journey.from.systemd();
    journey.to = PodOptions::new("another-pod-b")
        .qos(Qos::Guaranteed)
        .systemd();
    compare(
        "Cgroup 15, guaranteed",
        Stack::v2(suite),
        STOCK.crun(STOCK),
        |engine| {
            journey.run(engine, |there| {
                check_all_levels(there)?;
                Ok(
                    "what was the QoS level's is now of kubepods.slice, where guaranteed pods are"
                        .to_owned(),
                )
            })
        },
    )
}

fn cgroup_15_the_two_nodes_may_have_different_drivers(suite: Suite) -> Result<()> {
    let mut journey = Journey::new(all_levels());
    journey.from = journey.from.systemd();
    compare(
        "Cgroup 15, to cgroupfs",
        Stack::v2(suite),
        STOCK.crun(STOCK),
        |engine| {
            journey.run(engine, |there| {
                check_all_levels(there)?;
                Ok("slices and scope became the kubelet's own directories".to_owned())
            })
        },
    )?;
    let mut journey = Journey::new(all_levels());
    journey.to = journey.to.systemd();
    compare(
        "Cgroup 15, from cgroupfs",
        Stack::v2(suite),
        STOCK.crun(STOCK),
        |engine| {
            journey.run(engine, |there| {
                check_all_levels(there)?;
                Ok("the kubelet's own directories became slices and a scope".to_owned())
            })
        },
    )
}
