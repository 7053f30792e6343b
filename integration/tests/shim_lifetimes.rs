//! Neither shim outlives the other, whichever is killed, whatever the container does at that moment; and nothing is left behind.

use std::io::Write;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use restow_integration::on_both_suites;
use restow_integration::shim::{COUNTER, ShimNode, Which};
use restow_integration::suite::Suite;

on_both_suites!(
    a_container_lives_and_ends_as_ever,
    streams_are_attached_to_as_below_the_stock_shim,
    a_killed_shim_takes_the_other_and_the_container_with_it,
    containers_outlive_containerd_and_its_shims_are_found_again
);

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Says again what it reads, and writes it down.
const ECHO: &str = "while read word; do echo got $word >>/said; echo got $word; done";

/// What a container that says again what it reads has got from whoever started it and from one who attached to it later, and what the two
/// read, in order of the words.
fn attached(node: &ShimNode) -> Result<[String; 2]> {
    let mut first = node.run_with_streams("echo", ECHO)?;
    node.until_state("echo", Some("RUNNING"))?;
    let mut second = node.with_streams(&["tasks", "attach", "echo"])?;
    let send = |to: &mut Child, word: &str| -> Result<()> {
        let mut input = to.stdin.as_ref().context("It has no input")?;
        writeln!(input, "{word}")?;
        let deadline = Instant::now() + PATIENCE;
        while !node
            .file("echo", "said")
            .is_ok_and(|said| said.contains(word))
        {
            ensure!(Instant::now() < deadline, "{word} does not arrive");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    };
    send(&mut first, "one")?;
    send(&mut second, "two")?;
    send(&mut first, "three")?;
    let said = node.file("echo", "said")?;
    node.containerd()
        .ctr(&["tasks", "kill", "--signal", "SIGKILL", "echo"])?;
    // Who reads a word first has it.
    let mut read = String::new();
    for child in [first, second] {
        let output = child.wait_with_output().context("Wait for ctr")?;
        read += &String::from_utf8_lossy(&output.stdout);
    }
    let mut words: Vec<&str> = read.lines().collect();
    words.sort_unstable();
    let words = words.join(", ");
    let _ = node
        .containerd()
        .ctr(&["tasks", "delete", "--force", "echo"]);
    let _ = node.containerd().ctr(&["containers", "delete", "echo"]);
    Ok([said, words])
}

fn streams_are_attached_to_as_below_the_stock_shim(suite: Suite) -> Result<()> {
    let stock = attached(&ShimNode::with(suite, None)?)?;
    ensure!(stock[0] == "got one\ngot two\ngot three\n", "{stock:?}");
    ensure!(stock[1] == "got one, got three, got two", "{stock:?}");
    let node = ShimNode::start(suite)?;
    let ours = attached(&node)?;
    ensure!(ours == stock, "{ours:?}, below the stock shim {stock:?}");
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
