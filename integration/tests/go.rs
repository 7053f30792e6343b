//! A program of Go 1.25 or later keeps the files of its container's CPU limit open for life, and reads them again to set how many
//! processors it uses (`internal/runtime/cgroup` of Go).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use restow_integration::container::{Container, inode};
use restow_integration::engine::{Engine, Stack};
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::root::Root;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, skip};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;
use serde_json::json;

on_both_suites!(cgroup_8_a_go_programs_cpu_limit_is_the_new_pods);

/// The files that it holds, on version 1.
const HELD: [&str; 2] = ["cpu.cfs_quota_us", "cpu.cfs_period_us"];

/// Puts a real Go program with what it is linked to into the node. containerd of the newer suite is built with Go 1.27, and `publish`
/// waits for its input. The environment turns on what Debian's build leaves off for the sake of old behaviour.
///
/// The C library is the node's own: that of the newer suite puts guards into the stacks of threads (`MADV_GUARD_INSTALL`), which CRIU
/// dumps since 4.2 only.
fn install(engine: &Engine) -> Result<()> {
    let program = Root::require(Suite::Testing)?.path;
    let own = Root::require(engine.node().state().suite)?.path;
    let dir = engine.node().path("/opt/go");
    fs::create_dir_all(&dir).context("Make a directory for the program")?;
    for (from, name) in [
        (program.join("usr/bin/containerd"), "containerd"),
        (own.join("usr/lib/x86_64-linux-gnu/libc.so.6"), "libc.so.6"),
        (
            own.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
            "ld.so",
        ),
    ] {
        fs::copy(&from, dir.join(name)).with_context(|| format!("Copy {}", from.display()))?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn container(quota: u64) -> ContainerOptions {
    ContainerOptions::new(0)
        .bind(Bind::new("/opt/go", "/go").readonly())
        .probe(
            "--beside",
            "/go/ld.so --library-path /go /go/containerd publish --topic /x --namespace y",
        )
        .env("GODEBUG", "containermaxprocs=1,updatemaxprocs=1")
        .resources(json!({"cpu": {"quota": quota, "period": 100_000}}))
}

/// The files of its CPU limit that the program in this container holds, once it holds them.
fn held(container: &Container<'_>) -> Result<Vec<(String, u64)>> {
    let node = container.engine().node();
    let init = container.init()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let children = node.path(format!("/proc/{init}/task/{init}/children"));
        let children = fs::read_to_string(&children).context("Read the probe's children")?;
        let mut found = Vec::new();
        for pid in children.split_whitespace() {
            let dir: PathBuf = node.path(format!("/proc/{pid}/fd"));
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let link = fs::read_link(entry.path()).unwrap_or_default();
                let name = link
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                if link.starts_with(Path::new("/sys/fs/cgroup")) && HELD.contains(&name.as_str()) {
                    found.push((name, fs::metadata(entry.path())?.ino()));
                }
            }
        }
        if found.len() == HELD.len() {
            return Ok(found);
        }
        ensure!(
            Instant::now() < deadline,
            "the Go program holds {found:?} of {HELD:?}, which are not pod B's"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn cgroup_8_a_go_programs_cpu_limit_is_the_new_pods(suite: Suite) -> Result<()> {
    let stack = Stack::hybrid(suite);
    if !cfg!(target_arch = "x86_64") {
        return skip(
            "Cgroup 8",
            stack,
            "where its libraries are is known for x86-64",
        );
    }
    if Root::require(Suite::Testing).is_err() {
        return skip(
            "Cgroup 8",
            stack,
            "the root of the newer suite, which the program is from, is not built",
        );
    }
    let mut journey = Journey::new(container(50_000));
    journey.container_there = Some(container(70_000));
    journey.in_container_a = Some(|container| held(container).map(drop));
    let stock = Stock::Wrong(OLD_CGROUP);
    compare("Cgroup 8", stack, stock.crun(stock), |engine| {
        install(engine)?;
        journey.run(engine, |there| {
            let dir = there.container.cgroup_v1_dir("cpu")?;
            for (name, found) in held(there.container)? {
                let expected = inode(&dir.join(&name))?;
                ensure!(found == expected, "the Go program holds {name} with inode {found}, not pod B's file (inode {expected})");
            }
            let quota = fs::read_to_string(dir.join(HELD[0]))?;
            ensure!(quota.trim() == "70000", "the quota is {}, not 70000", quota.trim());
            there.check_progress()?;
            Ok("a Go 1.27 program holds quota and period of pod B, which has 70 ms instead of 50".to_owned())
        })
    })
}
