//! What a container shares with its pod: namespaces, process ids, and what the pod gives it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use restow_integration::container::Container;
use restow_integration::engine::Stack;
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, fixed_by_runc_1_2};
use restow_integration::suite::Suite;
use serde_json::json;

on_both_suites!(
    identity_2_namespaces_are_those_of_the_new_sandbox,
    identity_6_a_shared_process_namespace_is_the_new_pods,
    identity_6_a_process_id_that_is_taken_blocks,
    identity_9_the_oom_score_is_the_new_pods,
    identity_9_the_memory_limit_is_the_new_pods,
);

/// Which object a file of the node is.
fn object(container: &Container<'_>, path: &str) -> Result<(u64, u64)> {
    let path = container.engine().node().path(path);
    let meta = fs::metadata(&path).with_context(|| format!("Look at {}", path.display()))?;
    Ok((meta.dev(), meta.ino()))
}

/// Each of these namespaces is the one that the sandbox of pod B is in.
fn check_namespaces(there: &Arrival<'_, '_>, names: &[&str]) -> Result<()> {
    for name in names {
        let of = |container: &Container<'_>| -> Result<(u64, u64)> {
            object(container, &format!("/proc/{}/ns/{name}", container.init()?))
        };
        ensure!(
            of(there.container)? == of(there.pod.sandbox())?,
            "its {name} namespace is not that of pod B's sandbox"
        );
    }
    Ok(())
}

fn identity_2_namespaces_are_those_of_the_new_sandbox(suite: Suite) -> Result<()> {
    let mut journey = Journey::new(ContainerOptions::new(1));
    journey.from.network = true;
    journey.to.network = true;
    compare(
        "Identity 2",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            journey.run(engine, |there| {
            check_namespaces(there, &["net", "ipc", "uts"])?;
            there.check_progress()?;
            let routes = there.container.exec(&["/probe", "cat", "/proc/net/fib_trie"])?;
            let [v4, _] = there.pod.addresses();
            ensure!(routes.contains(&v4), "it has not pod B's address {v4}");
            Ok("network, IPC and UTS namespaces are those of pod B's sandbox, with its address".to_owned())
        })
        },
    )
}

fn shared() -> ContainerOptions {
    let mut container = ContainerOptions::new(1);
    container.share_processes = true;
    container
}

fn identity_6_a_shared_process_namespace_is_the_new_pods(suite: Suite) -> Result<()> {
    let journey = Journey::new(shared());
    compare(
        "Identity 6",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| {
            journey.run(engine, |there| {
                check_namespaces(there, &["pid", "net", "ipc", "uts"])?;
                there.check_placement()?;
                for (before, after) in there.origin.reports.iter().zip(&there.reports) {
                    ensure!(
                        before.pid == after.pid,
                        "process {} had the id {} and has {}",
                        after.process,
                        before.pid,
                        after.pid
                    );
                }
                there.check_progress()?;
                Ok(
                    "the processes are in the namespace of pod B's sandbox, with the ids they had"
                        .to_owned(),
                )
            })
        },
    )
}

fn identity_6_a_process_id_that_is_taken_blocks(suite: Suite) -> Result<()> {
    // So many that their ids and the other container's overlap, wherever the two start to count.
    let many = || ContainerOptions {
        children: 24,
        ..shared()
    };
    let mut journey = Journey::new(many());
    // Another container of pod B has come first.
    journey.in_pod_b = Some(|pod| {
        let mut options = shared();
        options.name = "first".to_owned();
        options.children = 24;
        let mut first = pod.container(&options)?;
        first.start()?;
        std::mem::forget(first);
        Ok(())
    });
    let stock = Stock::Wrong(&["Can't fork"]);
    compare(
        "Identity 6, id taken",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(&[
            "process ",
            "its id is taken by probe in the process namespace that the new pod's containers share",
        ]))
        },
    )
}

fn identity_9_the_oom_score_is_the_new_pods(suite: Suite) -> Result<()> {
    let with = |score: i32| {
        let mut container = ContainerOptions::new(2);
        container.oom_score = Some(score);
        container
    };
    let mut journey = Journey::new(with(300));
    journey.container_there = Some(with(700));
    let stock = Stock::Wrong(&["the OOM score adjustment of process"]);
    compare(
        "Identity 9, OOM score",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            journey.run(engine, |there| {
                for report in &there.reports {
                    let path = format!("/proc/{}/oom_score_adj", report.pid);
                    let score = there.container.exec(&["/probe", "cat", &path])?;
                    ensure!(
                        score.trim() == "700",
                        "the OOM score adjustment of process {} is {}, not pod B's 700",
                        report.pid,
                        score.trim()
                    );
                }
                there.check_progress()?;
                Ok(
                    "all 3 processes have pod B's OOM score adjustment 700, not pod A's 300"
                        .to_owned(),
                )
            })
        },
    )
}

fn identity_9_the_memory_limit_is_the_new_pods(suite: Suite) -> Result<()> {
    let limited = |memory: u64| {
        ContainerOptions::new(1)
            .open("all:r:0:/sys/fs/cgroup/memory/memory.limit_in_bytes")
            .resources(json!({"memory": {"limit": memory}}))
    };
    let mut journey = Journey::new(limited(64 << 20));
    journey.container_there = Some(limited(96 << 20));
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(
        "Identity 9, memory limit",
        Stack::hybrid(suite),
        stock.crun(stock),
        |engine| {
            journey.run(engine, |there| {
                for report in &there.reports {
                    let limit = report.files[0].content.clone().unwrap_or_default();
                    ensure!(
                        limit.trim() == "100663296",
                        "process {} reads the limit {}, which is not pod B's",
                        report.process,
                        limit.trim()
                    );
                }
                there.check_progress()?;
                Ok("the open limit file reads pod B's 96 MiB".to_owned())
            })
        },
    )
}
