//! Neither shim outlives the other, whichever is killed, whatever the container does at that moment; and nothing is left behind.

use anyhow::{Result, ensure};
use restow_integration::on_both_suites;
use restow_integration::shim::{COUNTER, ShimNode, Which};
use restow_integration::suite::Suite;

on_both_suites!(
    a_container_lives_and_ends_as_ever,
    a_killed_shim_takes_the_other_and_the_container_with_it,
    containers_outlive_containerd_and_its_shims_are_found_again
);

fn a_container_lives_and_ends_as_ever(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    node.run("web", COUNTER, &[], false)?;
    node.until_beyond("web", 1)?;
    ensure!(node.state("web")?.as_deref() == Some("RUNNING"));
    let ctr = node.containerd();
    let said = ctr.ctr(&[
        "tasks",
        "exec",
        "--exec-id",
        "say",
        "web",
        "/bin/echo",
        "hello",
    ])?;
    ensure!(said.trim() == "hello", "{said:?}");
    ctr.ctr(&["tasks", "pause", "web"])?;
    ensure!(node.state("web")?.as_deref() == Some("PAUSED"));
    ctr.ctr(&["tasks", "resume", "web"])?;
    let count = node.count("web")?;
    node.until_beyond("web", count)?;
    node.remove("web")?;
    node.until_nothing_is_left()
}

/// What a container does when a shim is killed.
#[derive(Clone, Copy, Debug)]
enum State {
    Running,
    Executing,
    Paused,
    Ended,
}

fn a_killed_shim_takes_the_other_and_the_container_with_it(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    let ctr = node.containerd();
    for state in [
        State::Running,
        State::Executing,
        State::Paused,
        State::Ended,
    ] {
        for victim in [Which::Proxy, Which::Stock] {
            let program = match state {
                State::Ended => "echo 1 >/count",
                _ => COUNTER,
            };
            node.run("web", program, &[], false)?;
            match state {
                State::Running => {
                    node.until_beyond("web", 1)?;
                }
                State::Executing => {
                    node.until_beyond("web", 1)?;
                    let long = "while :; do :; done";
                    ctr.ctr(&[
                        "tasks",
                        "exec",
                        "--detach",
                        "--exec-id",
                        "long",
                        "web",
                        "/bin/sh",
                        "-c",
                        long,
                    ])?;
                }
                State::Paused => {
                    node.until_beyond("web", 1)?;
                    ctr.ctr(&["tasks", "pause", "web"])?;
                }
                State::Ended => node.until_state("web", Some("STOPPED"))?,
            }
            let pid = node.shim(victim, "web")?;
            ctr.run("kill", &["-KILL", &pid.to_string()])?;
            node.until_state("web", None)
                .map_err(|error| error.context(format!("{victim:?} killed while {state:?}")))?;
            ctr.ctr(&["containers", "delete", "web"])?;
            node.until_nothing_is_left()
                .map_err(|error| error.context(format!("{victim:?} killed while {state:?}")))?;
            let processes = ctr.run("ps", &["-e", "-o", "args="])?;
            ensure!(
                !processes.contains("/count"),
                "the container goes on: {processes}"
            );
        }
    }
    Ok(())
}

fn containers_outlive_containerd_and_its_shims_are_found_again(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    node.run("web", COUNTER, &[], false)?;
    let proxy = node.shim(Which::Proxy, "web")?;
    node.containerd().restart("KILL")?;
    ensure!(node.shim(Which::Proxy, "web")? == proxy);
    let count = node.count("web")?;
    node.until_beyond("web", count)?;
    let said = node.containerd().ctr(&[
        "tasks",
        "exec",
        "--exec-id",
        "say",
        "web",
        "/bin/echo",
        "hello",
    ])?;
    ensure!(said.trim() == "hello", "{said:?}");
    node.remove("web")?;
    node.until_nothing_is_left()
}
