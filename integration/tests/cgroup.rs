//! Cgroups after a restore in another pod.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::container::inode;
use restow_integration::engine::{Engine, Manager, Mode, Stack};
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions, Qos};
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, fixed_by_runc_1_2};
use restow_integration::suite::Suite;
use serde_json::json;

on_both_suites!(
    cgroup_1_files_of_a_private_namespace_are_the_new_containers,
    cgroup_2_files_seen_from_the_host_namespace_are_the_new_containers,
    cgroup_3_files_of_pod_and_qos_level_are_the_new_pods,
    cgroup_5_write_descriptors_of_a_privileged_container_are_the_new_containers,
    cgroup_12_a_running_original_is_left_alone,
    cgroup_14_old_limits_are_not_written,
    cgroup_14_old_limits_are_not_written_in_version_1,
    threads_in_a_threaded_cgroup_go_with_their_process_and_are_told,
);

fn cgroup_1_files_of_a_private_namespace_are_the_new_containers(suite: Suite) -> Result<()> {
    let [events, stat] = ["cgroup.events", "cpu.stat"].map(|file| format!("/sys/fs/cgroup/{file}"));
    let container = ContainerOptions::new(2)
        .open(format!("all:r:0:{events}"))
        .open(format!("each:r:6:{stat}"));
    compare(
        "Cgroup 1",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
            there.check_placement()?;
            for report in &there.reports {
                ensure!(report.cgroup_v2() == "/", "/proc/self/cgroup says {:?}, not 0::/", report.cgroup_v2());
            }
            there.check_file(&events, there.cgroup_inode("cgroup.events")?)?;
            there.check_file(&stat, there.cgroup_inode("cpu.stat")?)?;
            there.check_progress()?;
            Ok("3 processes in pod B's cgroup, 6 descriptors on its files, /proc/self/cgroup is 0::/".to_owned())
        })
        },
    )
}

fn cgroup_2_files_seen_from_the_host_namespace_are_the_new_containers(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(2)
        .host_cgroups()
        .open("all:r:4:{container}/cgroup.events")
        .open("each:r:17:{container}/cpu.stat");
    compare(
        "Cgroup 2",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                there.check_placement()?;
                check_host_namespace(there)?;
                there.check_progress()?;
                Ok(
                    "6 descriptors on the files of pod B's container, offsets 4 and 17 kept"
                        .to_owned(),
                )
            })
        },
    )
}

/// The files that Cgroup 2 and 12 hold, and the path that the tasks see.
fn check_host_namespace(there: &Arrival) -> Result<()> {
    let old = format!("/sys/fs/cgroup{}", there.origin.container_cgroup_inside);
    for report in &there.reports {
        let path = report.cgroup_v2();
        ensure!(
            path == there.container.cgroup(),
            "/proc/self/cgroup says {path}, not {}",
            there.container.cgroup()
        );
    }
    there.check_file(
        &format!("{old}/cgroup.events"),
        there.cgroup_inode("cgroup.events")?,
    )?;
    there.check_file(&format!("{old}/cpu.stat"), there.cgroup_inode("cpu.stat")?)
}

fn cgroup_3_files_of_pod_and_qos_level_are_the_new_pods(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(1)
        .host_cgroups()
        .open("all:r:0:{pod}/cgroup.events")
        .open("each:r:9:{pod}/cpu.stat")
        .open("each:r:3:{qos}/cpu.stat");
    compare(
        "Cgroup 3",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            let mut journey = Journey::new(container.clone());
            journey.to = journey.to.qos(Qos::BestEffort);
            journey.run(engine, |there| {
            there.check_placement()?;
            let opened: Vec<String> = there.origin.reports[0].files.iter().map(|file| file.opened.clone()).collect();
            let pod = there.pod.cgroup_dir();
            let qos = pod.parent().context("A pod's cgroup has a parent")?;
            there.check_file(&opened[0], inode(&pod.join("cgroup.events"))?)?;
            there.check_file(&opened[1], inode(&pod.join("cpu.stat"))?)?;
            there.check_file(&opened[2], inode(&qos.join("cpu.stat"))?)?;
            there.check_progress()?;
            Ok("descriptors of burstable pod A are on the files of besteffort pod B and of its QoS level".to_owned())
        })
        },
    )
}

fn cgroup_5_write_descriptors_of_a_privileged_container_are_the_new_containers(
    suite: Suite,
) -> Result<()> {
    let mut container = ContainerOptions::new(1)
        .host_cgroups()
        .open("all:w:0:{container}/cgroup.procs")
        .open("each:rw:0:{container}/cgroup.max.descendants");
    container.privileged = true;
    compare(
        "Cgroup 5",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                there.check_placement()?;
                for report in &there.reports {
                    for (file, name) in report
                        .files
                        .iter()
                        .zip(["cgroup.procs", "cgroup.max.descendants"])
                    {
                        let inode = there.cgroup_inode(name)?;
                        ensure!(
                            file.inode == inode,
                            "fd {} of process {} is {}",
                            file.fd,
                            report.process,
                            file.link
                        );
                    }
                }
                Ok("descriptors open for writing are on the files of pod B's container".to_owned())
            })
        },
    )
}

fn cgroup_12_a_running_original_is_left_alone(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(2)
        .host_cgroups()
        .open("all:r:4:{container}/cgroup.events")
        .open("each:r:17:{container}/cpu.stat");
    compare(
        "Cgroup 12",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            let mut journey = Journey::new(container.clone());
            journey.leave_running = true;
            journey.run(engine, |there| {
                there.check_placement()?;
                check_host_namespace(there)?;
                let original = there.left_behind.context("Pod A was to go on")?;
                let population = original.cgroup_population()?;
                ensure!(
                    population == 3,
                    "pod A's container now has {population} tasks in its cgroup, not its own 3"
                );
                let old = &there.origin.reports[0];
                for file in &original.reports()?[0].files {
                    let before = old.file(&file.opened)?;
                    ensure!(
                        file.inode == before.inode,
                        "pod A's own fd {} has changed",
                        file.fd
                    );
                }
                Ok("pod A runs on with its 3 tasks and files, pod B has its own".to_owned())
            })
        },
    )
}

fn cgroup_14_old_limits_are_not_written(suite: Suite) -> Result<()> {
    let limited = |limit: &str| {
        ContainerOptions::new(1)
            .open("all:r:0:/sys/fs/cgroup/cgroup.max.descendants")
            .resources(json!({"unified": {"cgroup.max.descendants": limit}}))
    };
    compare(
        "Cgroup 14",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| {
            let mut journey = Journey::new(limited("7"));
            journey.container_there = Some(limited("40"));
            journey.run(engine, |there| {
                there.check_placement()?;
                let path = there.container.cgroup_dir().join("cgroup.max.descendants");
                let limit = fs::read_to_string(&path)
                    .with_context(|| format!("Read {}", path.display()))?;
                ensure!(
                    limit.trim() == "40",
                    "the limit of pod B's container is {}, not 40",
                    limit.trim()
                );
                for report in &there.reports {
                    let seen = report.files[0]
                        .content
                        .as_deref()
                        .unwrap_or_default()
                        .trim();
                    ensure!(
                        seen == "40",
                        "process {} reads the limit {seen}, not 40",
                        report.process
                    );
                }
                Ok(
                    "the limit is pod B's 40, not pod A's 7, and the open descriptor reads it"
                        .to_owned(),
                )
            })
        },
    )
}

fn cgroup_14_old_limits_are_not_written_in_version_1(suite: Suite) -> Result<()> {
    let limited = |quota: u64, memory: u64| {
        let cpu = json!({"quota": quota, "period": 100_000});
        ContainerOptions::new(1)
            .open("all:r:0:/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
            .resources(json!({"cpu": cpu, "memory": {"limit": memory}}))
    };
    compare(
        "Cgroup 14 (version 1)",
        Stack::hybrid(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            let mut journey = Journey::new(limited(50_000, 64 << 20));
            journey.container_there = Some(limited(80_000, 96 << 20));
            journey.run(engine, |there| {
            let old = there.origin.container_cgroup_inside.trim_start_matches('/').to_owned();
            for (controller, file, expected) in
                [("cpu", "cpu.cfs_quota_us", "80000"), ("memory", "memory.limit_in_bytes", "100663296")]
            {
                let dir = there.container.cgroup_v1_dir(controller)?;
                let read = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| format!("Read {name}"));
                let limit = read(file)?;
                ensure!(limit.trim() == expected, "{file} of pod B's container is {}, not {expected}", limit.trim());
                let tasks = read("cgroup.procs")?.lines().count();
                ensure!(tasks == 2, "{tasks} of 2 tasks are in the {controller} cgroup of pod B");
                let root = there.engine.node().cgroup_v1_root(controller).context("The hierarchy is gone")?;
                ensure!(!root.join(&old).exists(), "the {controller} cgroup of pod A has come back");
            }
            let inode = inode(&there.container.cgroup_v1_dir("cpu")?.join("cpu.cfs_quota_us"))?;
            there.check_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", inode)?;
            Ok("the limits are pod B's: 80 ms, 96 MiB; the open descriptor is on its cpu.cfs_quota_us".to_owned())
        })
        },
    )
}

fn threads_in_a_threaded_cgroup_go_with_their_process_and_are_told(suite: Suite) -> Result<()> {
    let stack = Stack::v2(suite);
    if stack.manager == Manager::Containerd {
        // Which then waits for ever. runc 1.1 reads `cgroup.procs` of all cgroups below the container's, which a threaded one refuses.
        println!(
            "threaded cgroup | {suite} | SKIPPED: containerd's runc cannot end such a container"
        );
        return Ok(());
    }
    let engine = Engine::start(stack, Mode::Restow)?;
    let options = ContainerOptions::new(0).probe("--hold", "threads:3");
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let mut container = pod_a.container(&options)?;
    container.start()?;
    let dir = container.cgroup_dir();
    let numbers = |file: &str| -> Result<Vec<String>> {
        let path = dir.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let processes = numbers("cgroup.procs")?;
    let mut threads = numbers("cgroup.threads")?;
    threads.retain(|thread| !processes.contains(thread));
    ensure!(threads.len() == 3, "The probe has the threads {threads:?}");
    let threaded = dir.join("threaded");
    fs::create_dir(&threaded)?;
    fs::write(threaded.join("cgroup.type"), "threaded").context("Make a threaded cgroup")?;
    for thread in &threads[1..] {
        fs::write(threaded.join("cgroup.threads"), thread).context("Move a thread")?;
    }
    let checkpoint = Checkpoint::new(&engine, "threaded")?;
    container.checkpoint(&checkpoint)?;
    pod_a.remove(vec![container])?;

    let pod_b = Pod::start(&engine, &PodOptions::new("pod-b"))?;
    let mut container = pod_b.container(&options)?;
    container.restore(&checkpoint)?;
    let log = engine.node().path(&checkpoint.work).join("restow.log");
    let log = fs::read_to_string(&log).with_context(|| format!("Read {}", log.display()))?;
    let told = log
        .lines()
        .find(|line| line.contains("warning: process 1: its thread "));
    let told = told.with_context(|| format!("The threads are not told of: {log}"))?;
    ensure!(
        told.contains(" and 1 more was in ") && told.contains("/threaded"),
        "{told}"
    );
    let text = fs::read_to_string(container.cgroup_dir().join("cgroup.threads"))?;
    ensure!(
        text.lines().count() == 4,
        "{} of 4 threads are in pod B's cgroup",
        text.lines().count()
    );
    container.reports()?;
    println!("threaded cgroup | {suite} | {told}");
    Ok(())
}
