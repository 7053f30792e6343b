//! `restow.dev/manage-cgroups`: CRIU restores cgroups (`soft`), or nobody does (`ignore`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::{Engine, Stack};
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, fixed_by_runc_1_2};
use restow_integration::suite::Suite;
use serde_json::json;

on_both_suites!(
    cgroup_9_soft_with_a_private_namespace_writes_no_limit,
    cgroup_9_soft_with_the_hosts_namespace,
    cgroup_9_soft_restores_a_sub_cgroup,
    cgroup_9_soft_makes_no_directory_where_the_container_is_not,
    cgroup_9_soft_writes_no_limit_in_version_1,
    cgroup_9_ignore_keeps_all_tasks_in_the_containers_cgroup,
);

const STOCK: Stock = Stock::Wrong(OLD_CGROUP);

fn manage(mut container: ContainerOptions, how: &str) -> ContainerOptions {
    let annotation = ("restow.dev/manage-cgroups".to_owned(), how.to_owned());
    container.annotations.push(annotation);
    container
}

fn tasks(cgroup: &Path) -> Result<Vec<String>> {
    let path = cgroup.join("cgroup.procs");
    let text = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Every cgroup of the node in every version 1 hierarchy, but its own programs'.
fn version_1_cgroups(engine: &Engine) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    for names in engine.node().state().cgroups.v1_hierarchies() {
        let root = names
            .split(',')
            .next()
            .and_then(|name| engine.node().cgroup_v1_root(name));
        walk(&root.unwrap_or_default(), &mut found);
    }
    found.sort();
    found
}

fn cgroup_9_soft_with_a_private_namespace_writes_no_limit(suite: Suite) -> Result<()> {
    let events = "/sys/fs/cgroup/cgroup.events";
    let limited = |limit: &str| {
        let container = ContainerOptions::new(2)
            .open(format!("all:r:3:{events}"))
            .resources(json!({"unified": {"cgroup.max.descendants": limit}}));
        manage(container, "soft")
    };
    let mut journey = Journey::new(limited("7"));
    journey.container_there = Some(limited("40"));
    compare(
        "Cgroup 9, soft",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| {
            journey.run(engine, |there| {
            there.check_placement()?;
            there.check_file(events, there.cgroup_inode("cgroup.events")?)?;
            for report in &there.reports {
                ensure!(report.cgroup_v2() == "/", "/proc/self/cgroup says {:?}, not 0::/", report.cgroup_v2());
            }
            let limit = fs::read_to_string(there.container.cgroup_dir().join("cgroup.max.descendants"))?;
            ensure!(limit.trim() == "40", "the limit of pod B's container is {}, not 40", limit.trim());
            there.check_progress()?;
            Ok("3 processes in pod B's cgroup, /proc/self/cgroup is 0::/, the limit is pod B's".to_owned())
        })
        },
    )
}

fn cgroup_9_soft_with_the_hosts_namespace(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(2)
        .host_cgroups()
        .open("all:r:4:{container}/cgroup.events");
    let journey = Journey::new(manage(container, "soft"));
    compare(
        "Cgroup 9, soft, host namespace",
        Stack::v2(suite),
        STOCK.crun(STOCK),
        |engine| {
            journey.run(engine, |there| {
                there.check_placement()?;
                let old = format!(
                    "/sys/fs/cgroup{}/cgroup.events",
                    there.origin.container_cgroup_inside
                );
                there.check_file(&old, there.cgroup_inode("cgroup.events")?)?;
                there.check_progress()?;
                Ok("3 processes in pod B's cgroup, the descriptor is on its file".to_owned())
            })
        },
    )
}

/// A level below the container's cgroup, with one task in it and a limit of its own.
fn delegate(container: &restow_integration::container::Container<'_>) -> Result<()> {
    let own = container.cgroup_dir();
    let sub = own.join("service/worker");
    fs::create_dir_all(&sub).context("Make the sub-cgroup")?;
    let task = tasks(&own)?.pop().context("The container has no task")?;
    fs::write(sub.join("cgroup.procs"), &task).context("Move a task to the sub-cgroup")
}

fn cgroup_9_soft_restores_a_sub_cgroup(suite: Suite) -> Result<()> {
    let mut journey = Journey::new(manage(ContainerOptions::new(2), "soft"));
    journey.in_container_a = Some(delegate);
    compare(
        "Cgroup 9, soft, sub-cgroup",
        Stack::v2(suite),
        fixed_by_runc_1_2(suite),
        |engine| {
            journey.run(engine, |there| {
                check_below(there, 1)?;
                there.check_progress()?;
                Ok("pod B's service/worker has the task".to_owned())
            })
        },
    )
}

/// That many of the three tasks are in the sub-cgroup, the others in the container's own.
fn check_below(there: &Arrival<'_, '_>, count: usize) -> Result<()> {
    let own = there.container.cgroup_dir();
    let below = if count == 0 && !own.join("service").exists() {
        0
    } else {
        tasks(&own.join("service/worker"))?.len()
    };
    ensure!(
        below == count,
        "{below} tasks are in the sub-cgroup of pod B, not {count}"
    );
    let above = tasks(&own)?.len();
    ensure!(
        above == 3 - count,
        "{above} of {} tasks are in the container's own cgroup of pod B",
        3 - count
    );
    Ok(())
}

fn cgroup_9_soft_makes_no_directory_where_the_container_is_not(suite: Suite) -> Result<()> {
    // The node has version 2 alone, its kernel has version 1 hierarchies too.
    let crun = Stock::Wrong(&["stray cgroups in version 1"]);
    let stock = match suite {
        Suite::Stable => Stock::Wrong(OLD_CGROUP).crun(crun),
        Suite::Testing => Stock::Right.crun(crun),
    };
    let check = |name: &str, container: ContainerOptions| {
        let journey = Journey::new(manage(container, "soft"));
        compare(name, Stack::v2(suite), stock, |engine| {
            let before = version_1_cgroups(engine);
            journey.run(engine, |there| {
                there.check_placement()?;
                let after = version_1_cgroups(there.engine);
                let stray: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
                ensure!(
                    stray.is_empty(),
                    "{} stray cgroups in version 1 hierarchies, {}",
                    stray.len(),
                    stray[0].display()
                );
                there.check_progress()?;
                Ok("nothing was made in hierarchies that the container has no place in".to_owned())
            })
        })
    };
    check(
        "Cgroup 9, soft, stray directories",
        ContainerOptions::new(1),
    )?;
    check(
        "Cgroup 9, soft, stray directories, host namespace",
        ContainerOptions::new(1).host_cgroups(),
    )
}

fn cgroup_9_soft_writes_no_limit_in_version_1(suite: Suite) -> Result<()> {
    let limited = |pids: u32| {
        let container = ContainerOptions::new(1)
            .open("all:r:0:/sys/fs/cgroup/pids/pids.max")
            .resources(json!({"pids": {"limit": pids}}));
        manage(container, "soft")
    };
    let mut journey = Journey::new(limited(50));
    journey.container_there = Some(limited(80));
    compare(
        "Cgroup 9, soft, version 1",
        Stack::hybrid(suite),
        STOCK.crun(STOCK),
        |engine| {
            journey.run(engine, |there| {
                let dir = there.container.cgroup_v1_dir("pids")?;
                let limit = fs::read_to_string(dir.join("pids.max")).context("Read pids.max")?;
                ensure!(
                    limit.trim() == "80",
                    "pids.max of pod B's container is {}, not 80",
                    limit.trim()
                );
                let found = tasks(&dir)?.len();
                ensure!(
                    found == 2,
                    "{found} of 2 tasks are in the container's cgroup of pod B"
                );
                let old = there.origin.container_cgroup_inside.trim_start_matches('/');
                let root = there
                    .engine
                    .node()
                    .cgroup_v1_root("pids")
                    .context("The hierarchy is gone")?;
                ensure!(
                    !root.join(old).exists(),
                    "the cgroup of pod A has come back"
                );
                there.check_file(
                    "/sys/fs/cgroup/pids/pids.max",
                    inode(&dir.join("pids.max"))?,
                )?;
                there.check_progress()?;
                Ok("the limit is pod B's, both tasks are in its cgroup".to_owned())
            })
        },
    )
}

fn cgroup_9_ignore_keeps_all_tasks_in_the_containers_cgroup(suite: Suite) -> Result<()> {
    let events = "/sys/fs/cgroup/cgroup.events";
    let container = ContainerOptions::new(2).open(format!("all:r:3:{events}"));
    let mut journey = Journey::new(manage(container, "ignore"));
    journey.in_container_a = Some(delegate);
    compare(
        "Cgroup 9, ignore",
        Stack::v2(suite),
        STOCK.crun(STOCK),
        |engine| {
            journey.run(engine, |there| {
                check_below(there, 0)?;
                there.check_file(events, there.cgroup_inode("cgroup.events")?)?;
                there.check_progress()?;
                Ok("all 3 tasks are in pod B's container's own cgroup, as asked".to_owned())
            })
        },
    )
}
