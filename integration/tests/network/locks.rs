//! The lock that CRIU puts on a network: who else is behind it, and who takes it away.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Mode};
use restow_integration::journey::Verdict;
use restow_integration::network::ask;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::Stock;
use restow_integration::stack::Stack;
use restow_integration::suite::Suite;

use crate::connections::{check_pair, said_of_outside, with_connections};
use crate::place::{cannot_dump, inet, journey, outside};

/// The rules that are left in the network namespace of a pod's sandbox.
pub(crate) fn rules(engine: &Engine, pod: &Pod) -> Result<String> {
    let sandbox = pod.sandbox().init()?.to_string();
    let rules = engine.run(
        "nsenter",
        &["--target", &sandbox, "--net", "iptables", "-S"],
    )?;
    let rules: Vec<&str> = rules.lines().filter(|line| line.contains("CRIU")).collect();
    Ok(rules.join(" "))
}

/// Waits until CRIU's rules are gone: criu or the relay may still be at it when the runtime has its answer.
pub(crate) fn unlocked(engine: &Engine, pod: &Pod) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = rules(engine, pod)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "CRIU's lock is still there: {left}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks until there is an answer: what follows a checkpoint may take a moment.
pub(crate) fn answers_again(engine: &Engine, address: &str) -> Result<String> {
    ask(engine, "tcp", address).or_else(|_| ask(engine, "tcp", address))
}

pub(crate) fn network_2_the_rest_of_the_pod_goes_on(suite: Suite) -> Result<()> {
    inet(
        "Network 2, rest of the pod",
        suite,
        Stock::Wrong(&["the other container of pod A does not answer"]),
        |engine| {
            let address = |pod: &Pod| format!("{}:9000", pod.addresses()[0]);
            let other = ContainerOptions::new(0)
                .named("other")
                .socket("0:listen:0.0.0.0:9000");
            let moving = ContainerOptions::new(0)
                .socket("0:listen:{ip4}:8001")
                .socket("0:pair:{ip4}:8002");
            // Stock cannot dump a connection.
            let moving = if engine.mode() == Mode::Stock {
                ContainerOptions::new(0).socket("0:listen:0.0.0.0:8001")
            } else {
                moving
            };
            let pod_a = Pod::start(engine, &PodOptions::new("pod-a").network())?;
            let mut stays = pod_a.container(&other)?;
            stays.start()?;
            let mut moves = pod_a.container(&moving)?;
            moves.start()?;
            moves.reports()?;
            answers_again(engine, &address(&pod_a))?;
            let checkpoint = Checkpoint::new(engine, "one-of-two")?;
            moves.checkpoint(&checkpoint)?;
            if let Err(error) = answers_again(engine, &address(&pod_a)) {
                return Ok(Verdict::Wrong(format!(
                    "the other container of pod A does not answer: {error:#}"
                )));
            }
            unlocked(engine, &pod_a)?;
            let pod_b = Pod::start(engine, &PodOptions::new("another-pod-b").network())?;
            let mut there = pod_b.container(&other)?;
            there.start()?;
            let mut moved = pod_b.container(&moving)?;
            match moved.restore(&checkpoint) {
                // With crun containerd alone restores nothing.
                Err(error) if engine.mode() == Mode::Stock => {
                    return Ok(Verdict::Wrong(format!("{error:#}")));
                }
                restored => restored?,
            }
            answers_again(engine, &address(&pod_b))?;
            unlocked(engine, &pod_b)?;
            let reports = moved.reports()?;
            if engine.mode() == Mode::Restow {
                let said = &reports[0].socket("pair:")?.said;
                ensure!(
                    said.ends_with("pong"),
                    "the connection inside says {said:?}"
                );
            }
            pod_a.remove(vec![stays, moves])?;
            pod_b.remove(vec![there, moved])?;
            Ok(Verdict::Right(
                "the other containers of both pods answer, no lock is left".to_owned(),
            ))
        },
    )
}

pub(crate) fn network_2_the_source_goes_on_with_its_connections(suite: Suite) -> Result<()> {
    inet(
        "Network 2, source goes on",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            let _servers = outside(engine)?;
            let mut journey = journey(with_connections());
            journey.leave_running = true;
            journey.run(engine, |there| {
                let left = there
                    .left_behind
                    .ok_or_else(|| anyhow!("nothing was left running"))?;
                for report in left.reports()? {
                    let said = &report.socket("connect:")?.said;
                    ensure!(
                        said.ends_with(" ping"),
                        "in pod A a connection says {said:?}"
                    );
                }
                let said = left.reports()?[1].socket("pair:")?.said.clone();
                ensure!(
                    said.ends_with("pong"),
                    "in pod A the connection inside says {said:?}"
                );
                for said in said_of_outside(there)? {
                    ensure!(
                        said.starts_with("end of file"),
                        "in pod B a connection says {said:?}"
                    );
                }
                check_pair(there, 1)?;
                Ok("pod A keeps its connections, pod B has those inside".to_owned())
            })
        },
    )
}

/// Kills the real criu or the relay at a stage of CRIU's, by a script that CRIU runs.
pub(crate) fn kill_at(engine: &Engine, stage: &str, relay: bool) -> Result<()> {
    let kill = if relay {
        "for p in /proc/[0-9]*; do [ \"$(readlink $p/exe)\" = /opt/restow/bin/criu ] && kill -9 ${p#/proc/}; done"
    } else {
        "kill -9 $PPID"
    };
    let script =
        format!("#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = {stage} ] || exit 0\n{kill}\nexit 0\n");
    let path = engine.node().path("/opt/fault.sh");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    std::fs::create_dir_all(engine.node().path("/etc/criu"))?;
    std::fs::write(
        engine.node().path("/etc/criu/default.conf"),
        "action-script /opt/fault.sh\n",
    )?;
    Ok(())
}

pub(crate) fn victim(relay: bool) -> &'static str {
    if relay {
        "The relay was killed"
    } else {
        "criu was killed"
    }
}

pub(crate) fn no_death_leaves_a_network_locked(suite: Suite) -> Result<()> {
    if let Some(why) = cannot_dump(suite)? {
        println!("no death leaves a network locked | {suite}: SKIPPED: {why}");
        return Ok(());
    }
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let config = engine.node().path("/etc/criu/default.conf");
    let container = ContainerOptions::new(0)
        .socket("0:listen:{ip4}:8001")
        .socket("0:pair:{ip4}:8002");
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a").network())?;
    let mut moves = pod_a.container(&container)?;
    moves.start()?;
    moves.reports()?;
    let [v4, _] = pod_a.addresses();
    for relay in [false, true] {
        // The network is locked and no socket is touched yet.
        kill_at(&engine, "post-dump", relay)?;
        let checkpoint = Checkpoint::new(&engine, "lost")?;
        ensure!(
            moves.checkpoint_running(&checkpoint).is_err(),
            "the checkpoint succeeded"
        );
        std::fs::remove_file(&config)?;
        unlocked(&engine, &pod_a)
            .with_context(|| format!("At the checkpoint: {}", victim(relay)))?;
        answers_again(&engine, &format!("{v4}:8001"))?;
        let said = moves.reports()?[0].socket("pair:")?.said.clone();
        ensure!(
            said.ends_with("pong"),
            "{} and the connection inside says {said:?}",
            victim(relay)
        );
    }
    let checkpoint = Checkpoint::new(&engine, "whole")?;
    moves.checkpoint(&checkpoint)?;
    pod_a.remove(vec![moves])?;
    for relay in [false, true] {
        let pod_b = Pod::start(&engine, &PodOptions::new("another-pod-b").network())?;
        kill_at(&engine, "setup-namespaces", relay)?;
        let mut lost = pod_b.container(&container.clone().named("lost"))?;
        ensure!(lost.restore(&checkpoint).is_err(), "the restore succeeded");
        std::fs::remove_file(&config)?;
        if !relay {
            unlocked(&engine, &pod_b)
                .with_context(|| format!("At the restore: {}", victim(relay)))?;
        }
        let mut moved = pod_b.container(&container)?;
        moved.restore(&checkpoint)?;
        // The relay unlocks what a dead criu leaves; what a dead relay leaves the next restore does.
        unlocked(&engine, &pod_b).with_context(|| format!("At the restore: {}", victim(relay)))?;
        let said = moved.reports()?[0].socket("pair:")?.said.clone();
        ensure!(
            said.ends_with("pong"),
            "the connection inside says {said:?}"
        );
        pod_b.remove(vec![lost, moved])?;
    }
    println!("no death leaves a network locked | {suite} | Restow: right");
    Ok(())
}

pub(crate) fn network_3_a_dump_that_locked_with_nftables_moves_too(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(0)
        .socket("0:pair:{ip4}:8001")
        .socket("0:full:127.0.0.1:8002");
    let stock = Stock::Wrong(&["Connected TCP socket"]);
    inet("Network 3, nftables", suite, stock, |engine| {
        std::fs::create_dir_all(engine.node().path("/etc/criu"))?;
        let config = engine.node().path("/etc/criu/default.conf");
        std::fs::write(config, "network-lock nftables\n")?;
        journey(container.clone()).run(engine, |there| {
            check_pair(there, 0)?;
            let said = &there.reports[0].socket("full:")?.said;
            ensure!(
                said.ends_with("intact, pong"),
                "what was in flight: {said:?}"
            );
            unlocked(there.engine, there.pod)?;
            let inventory = there.checkpoint.read(there.engine, "inventory.img")?;
            // network_lock_method: 1.
            ensure!(
                inventory.windows(2).any(|bytes| bytes == [0x58, 1]),
                "the dump was not locked with nftables"
            );
            Ok("connections inside go on, no lock is left".to_owned())
        })
    })
}
