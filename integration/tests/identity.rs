//! Who the restored container is, and how it is handled from outside.

use anyhow::{Context, Result, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Stack};
use restow_integration::journey::{Journey, Verdict};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::report::Report;
use restow_integration::scenario::{Stock, compare};
use restow_integration::suite::Suite;

on_both_suites!(
    identity_1_the_host_name_is_the_new_pods,
    identity_2_the_namespaces_are_the_new_sandboxes,
    identity_3_logs_exec_kill_and_exit_code_work_in_the_new_pod,
    identity_4_five_generations,
    identity_5_one_checkpoint_into_three_pods,
    identity_7_a_hardened_container_moves,
    identity_7_what_the_new_pod_masks_is_masked,
);

fn identity_1_the_host_name_is_the_new_pods(suite: Suite) -> Result<()> {
    compare(
        "Identity 1",
        Stack::v2(suite),
        Stock::Wrong(&["sees the host name pod-a"])
            .crun(Stock::Wrong(&["sees the host name pod-a"])),
        |engine| {
            Journey::new(ContainerOptions::new(1)).run(engine, |there| {
                for report in &there.reports {
                    ensure!(
                        report.hostname == there.pod.name(),
                        "process {} in pod {} sees the host name {}",
                        report.process,
                        there.pod.name(),
                        report.hostname
                    );
                }
                let sandbox =
                    there
                        .pod
                        .sandbox()
                        .exec(&["/probe", "cat", "/proc/sys/kernel/hostname"])?;
                ensure!(
                    sandbox.trim() == there.pod.name(),
                    "the sandbox of pod B is now called {}",
                    sandbox.trim()
                );
                Ok(format!(
                    "container and sandbox are called {}",
                    there.pod.name()
                ))
            })
        },
    )
}

fn identity_2_the_namespaces_are_the_new_sandboxes(suite: Suite) -> Result<()> {
    compare(
        "Identity 2",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            let mut journey = Journey::new(ContainerOptions::new(1));
            journey.from = journey.from.network();
            journey.to = journey.to.network();
            journey.run(engine, |there| {
                let namespace = |pid: i32, kind: &str| {
                    let link = format!("/proc/{pid}/ns/{kind}");
                    engine
                        .run("readlink", &[&link])
                        .map(|text| text.trim().to_owned())
                };
                let (sandbox, container) = (there.pod.sandbox().init()?, there.container.init()?);
                for kind in ["net", "ipc", "uts"] {
                    ensure!(
                        namespace(container, kind)? == namespace(sandbox, kind)?,
                        "its {kind} namespace is not that of pod B's sandbox"
                    );
                }
                for kind in ["mnt", "pid"] {
                    ensure!(
                        namespace(container, kind)? != namespace(sandbox, kind)?,
                        "it shares the sandbox's {kind} namespace"
                    );
                }
                let addresses = there
                    .container
                    .exec(&["/probe", "cat", "/proc/net/fib_trie"])?;
                let [v4, _] = there.pod.addresses();
                ensure!(
                    addresses.contains(&v4),
                    "it does not see pod B's address {v4}"
                );
                Ok("network, IPC and UTS namespaces are those of pod B's sandbox".to_owned())
            })
        },
    )
}

fn identity_3_logs_exec_kill_and_exit_code_work_in_the_new_pod(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(2)
        .probe("--exit", 7)
        .open("all:r:0:/etc/hosts");
    compare(
        "Identity 3",
        Stack::v2(suite),
        Stock::Wrong(&["has bad size"]).crun(Stock::Wrong(&["has bad size"])),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let before = there.container.log()?.len();
                std::thread::sleep(std::time::Duration::from_millis(400));
                let log = there.container.log()?;
                ensure!(
                    log.len() > before && log.contains("count"),
                    "nothing arrives in pod B's log"
                );
                let cgroup = there
                    .container
                    .exec(&["/probe", "cat", "/proc/self/cgroup"])?;
                ensure!(
                    cgroup.lines().any(|line| line == "0::/"),
                    "a program run in it is in another cgroup: {cgroup:?}"
                );
                let code = there.container.terminate()?;
                ensure!(
                    code == Some(7),
                    "it ended with {code:?}, not with its exit code 7"
                );
                Ok(
                    "it logs to pod B's log, runs a program, ends on SIGTERM with exit code 7"
                        .to_owned(),
                )
            })
        },
    )
}

/// What Identity 4 and 5 move: descriptors by paths of the host's cgroups, and on the pod's `/etc/hosts`.
fn traveller() -> ContainerOptions {
    ContainerOptions::new(2)
        .host_cgroups()
        .open("all:r:0:{container}/cgroup.events")
        .open("each:r:3:/etc/hosts")
}

/// The container is wholly in `pod` and each process has counted at least as far as it had; returns where each is now.
fn check_belongs(container: &Container, pod: &Pod, counted: &[u64]) -> Result<Vec<u64>> {
    let reports = container.reports()?;
    let events = container.cgroup_inode("cgroup.events")?;
    for report in &reports {
        let number = report.process;
        ensure!(
            report.hostname == pod.name(),
            "process {number} sees the host name {}",
            report.hostname
        );
        ensure!(
            report.files[0].inode == events,
            "process {number} holds {}",
            report.files[0].link
        );
        let hosts = report.files[1].content.as_deref().unwrap_or_default();
        ensure!(
            hosts.contains(pod.name()),
            "process {number} reads /etc/hosts as {hosts:?}"
        );
        ensure!(
            report.counter >= counted.get(number).copied().unwrap_or(0) && report.memory_intact,
            "process {number} is at {}, was at {counted:?}",
            report.counter
        );
    }
    ensure!(
        container.cgroup_population()? == reports.len(),
        "not all tasks are in the container's cgroup"
    );
    Ok(reports.iter().map(|report| report.counter).collect())
}

/// What bare runtimes say of it: host paths of cgroups are the old pod's, and its `/etc/hosts` has another length.
const TRAVELLER_STOCK: Stock = Stock::Wrong(&[
    "Can't open file sys/fs/cgroup",
    "has bad size",
    "holds /sys/fs/cgroup",
]);

fn identity_4_five_generations(suite: Suite) -> Result<()> {
    let generations = |engine: &Engine| -> Result<String> {
        let mut pod = Pod::start(engine, &PodOptions::new("generation-0"))?;
        let mut container = pod.container(&traveller())?;
        container.start()?;
        let mut counted = check_belongs(&container, &pod, &[])?;
        for generation in 1..=5 {
            let name = format!("generation-{generation}{}", "x".repeat(generation));
            let checkpoint = Checkpoint::new(engine, &name)?;
            container
                .checkpoint(&checkpoint)
                .with_context(|| format!("Checkpoint for {name}"))?;
            pod.remove(vec![container])?;
            pod = Pod::start(engine, &PodOptions::new(&name))?;
            container = pod.container(&traveller())?;
            container
                .restore(&checkpoint)
                .with_context(|| format!("Restore as {name}"))?;
            counted = check_belongs(&container, &pod, &counted).with_context(|| name)?;
        }
        pod.remove(vec![container])?;
        Ok(format!(
            "five pods one after the other, counted to {}",
            counted[0]
        ))
    };
    compare(
        "Identity 4",
        Stack::v2(suite),
        TRAVELLER_STOCK.crun(TRAVELLER_STOCK),
        |engine| Ok(Verdict::of(generations(engine))),
    )
}

fn identity_5_one_checkpoint_into_three_pods(suite: Suite) -> Result<()> {
    let copies = |engine: &Engine| -> Result<String> {
        let pod = Pod::start(engine, &PodOptions::new("original"))?;
        let mut container = pod.container(&traveller())?;
        container.start()?;
        let counted = check_belongs(&container, &pod, &[])?;
        let checkpoint = Checkpoint::new(engine, "shared")?;
        container.checkpoint(&checkpoint)?;
        pod.remove(vec![container])?;
        let mut copies = Vec::new();
        for name in ["copy-1", "copy-22", "copy-333"] {
            let pod = Pod::start(engine, &PodOptions::new(name))?;
            let mut container = pod.container(&traveller())?;
            container
                .restore(&checkpoint)
                .with_context(|| format!("Restore as {name}"))?;
            copies.push((pod, container));
        }
        for (pod, container) in copies {
            check_belongs(&container, &pod, &counted).with_context(|| pod.name().to_owned())?;
            pod.remove(vec![container])?;
        }
        Ok("three pods run side by side from one checkpoint".to_owned())
    };
    compare(
        "Identity 5",
        Stack::v2(suite),
        TRAVELLER_STOCK.crun(TRAVELLER_STOCK),
        |engine| Ok(Verdict::of(copies(engine))),
    )
}

fn identity_7_a_hardened_container_moves(suite: Suite) -> Result<()> {
    let mut container = ContainerOptions::new(1)
        .open("each:r:0:/etc/hosts")
        .open("all:r:0:/sys/fs/cgroup/cgroup.events");
    container.hardened = true;
    compare(
        "Identity 7",
        Stack::v2(suite),
        Stock::Wrong(&["has bad size"]).crun(Stock::Wrong(&["has bad size"])),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                there.check_file(
                    "/sys/fs/cgroup/cgroup.events",
                    there.cgroup_inode("cgroup.events")?,
                )?;
                there.check_progress()?;
                let status = there.container.exec(&["/probe", "cat", "/proc/1/status"])?;
                let field = |name: &str| {
                    status
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap_or_default()
                        .trim()
                        .to_owned()
                };
                ensure!(
                    field("Seccomp:") == "2",
                    "the seccomp mode is {:?}",
                    field("Seccomp:")
                );
                ensure!(
                    field("NoNewPrivs:") == "1",
                    "no_new_privs is {:?}",
                    field("NoNewPrivs:")
                );
                ensure!(
                    field("CapBnd:") == "0000000000000020",
                    "the capabilities are {:?}",
                    field("CapBnd:")
                );
                let writable = there.reports.iter().any(|report| {
                    let root = report
                        .mountinfo
                        .lines()
                        .find(|line| line.split(' ').nth(4) == Some("/"));
                    !root.is_some_and(|line| {
                        line.split(' ')
                            .nth(5)
                            .is_some_and(|options| options.starts_with("ro"))
                    })
                });
                ensure!(!writable, "its read-only root is writable");
                for (before, after) in there.origin.reports.iter().zip(&there.reports) {
                    let after = masks(after);
                    let gone = masks(before).into_iter().find(|path| !after.contains(path));
                    ensure!(
                        gone.is_none(),
                        "{} is not masked any more",
                        gone.unwrap_or_default()
                    );
                }
                Ok(
                    "seccomp, no_new_privs, one capability and the read-only root are still there"
                        .to_owned(),
                )
            })
        },
    )
}

/// Mount points below `/proc` and `/sys` on which nothing can be written: masks, and what is read-only.
fn masks(report: &Report) -> Vec<String> {
    let lines = report
        .mountinfo
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .filter(|fields| fields[4].starts_with("/proc/") || fields[4].starts_with("/sys/"))
        // A device is written whatever the mount says.
        .filter(|fields| fields[5].starts_with("ro") || fields[3] == "/null")
        .map(|fields| fields[4].to_owned())
        .collect()
}

/// The node takes what processes could do before, so that the rest of such a move can be seen.
fn take_privileges(pod: &Pod<'_>) -> Result<()> {
    let dir = pod.engine().node().path("/etc/restow");
    std::fs::create_dir_all(&dir)?;
    let text = "[defaults]\nprivileges = \"checkpoint\"\n";
    Ok(std::fs::write(dir.join("config.toml"), text)?)
}

fn identity_7_what_the_new_pod_masks_is_masked(suite: Suite) -> Result<()> {
    // Pod A's container was privileged, pod B's is not.
    let mut container = ContainerOptions::new(1);
    container.privileged = true;
    let mut journey = Journey::new(container);
    journey.in_pod_a = Some(take_privileges);
    journey.container_there = Some(ContainerOptions::new(1));
    let unmasked = Stock::Wrong(&["is not masked"]);
    compare(
        "Identity 7, masked",
        Stack::v2(suite),
        unmasked.crun(unmasked),
        |engine| {
            journey.run(engine, |there| {
                for report in &there.reports {
                    let masked = masks(report);
                    for path in ["/sys/firmware", "/proc/keys", "/proc/timer_list"] {
                        ensure!(
                            masked.iter().any(|mask| mask == path),
                            "{path} is not masked, as pod B wants it"
                        );
                    }
                }
                let keys = there.container.exec(&["/probe", "cat", "/proc/keys"])?;
                ensure!(keys.is_empty(), "/proc/keys reads {keys:?}");
                there.check_progress()?;
                Ok("what pod B's spec masks is hidden from the restored container".to_owned())
            })
        },
    )
}
