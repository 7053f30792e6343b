//! The process that stays behind is born in the cgroup it belongs to.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use restow::host::detach::detached_into;
use restow_integration::node::{Node, NodeOptions};
use restow_integration::suite::Suite;

#[test]
fn a_detached_process_is_born_in_the_cgroup_that_is_asked_for() -> Result<()> {
    let node = Node::start(&NodeOptions::new(Suite::Stable))?;
    let path = node.cgroup_root().join("for-the-relay");
    fs::create_dir(&path).context("Make a cgroup")?;
    let dir = File::open(&path)?;
    let cgroup = |dir: Option<&File>| -> Result<String> {
        let (mut told, tell) = std::io::pipe()?;
        let number = tell.as_raw_fd();
        detached_into(dir.map(AsFd::as_fd), |newborn| {
            newborn.stand_alone(&[number]);
            // As little as possible: the process that was forked has other threads.
            let text = fs::read("/proc/self/cgroup").unwrap_or_default();
            let _ = nix::unistd::write(&tell, &text);
        })?;
        drop(tell);
        let mut text = String::new();
        told.read_to_string(&mut text)?;
        Ok(text)
    };
    let there = cgroup(Some(&dir))?;
    ensure!(
        there
            .lines()
            .any(|line| line.starts_with("0::") && line.ends_with("/for-the-relay")),
        "It is in {there}"
    );
    // Where it cannot be, it is where this process is.
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let elsewhere = cgroup(Some(&File::open("/")?))?;
    ensure!(elsewhere == own, "It is in {elsewhere}, not in {own}");
    Ok(())
}
