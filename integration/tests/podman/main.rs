//! podman: checkpoints exported, restored under another name, on another node, in pods; archives of stock and of Restow.
//!
//! Each case is run by stock podman first, and prints what came of it.

mod archives;
mod commands;
mod moves;
mod network;

use std::fs;

use anyhow::{Context, Result, ensure};
use archives::{
    a_new_container_is_restored_from_an_archive_in_the_store,
    archives_of_restow_restore_with_stock, archives_of_stock_restore_with_restow,
};
use commands::the_same_commands_give_the_same_with_either_runtime;
use moves::{
    a_container_moves_into_and_out_of_a_pod, a_container_moves_to_another_name,
    a_container_moves_to_another_node, a_volume_is_left_out_or_travels_as_podman_does_it,
};
use network::{
    an_open_connection_goes_on_at_the_same_address, static_addresses_are_kept_or_left_on_request,
};
use restow_integration::engine::Mode;
use restow_integration::on_both_suites;
use restow_integration::podman::Podman;
use restow_integration::report::Report;
use restow_integration::suite::Suite;

on_both_suites!(
    a_container_moves_to_another_name,
    a_container_moves_to_another_node,
    a_container_moves_into_and_out_of_a_pod,
    a_volume_is_left_out_or_travels_as_podman_does_it,
    static_addresses_are_kept_or_left_on_request,
    an_open_connection_goes_on_at_the_same_address,
    archives_of_stock_restore_with_restow,
    archives_of_restow_restore_with_stock,
    a_new_container_is_restored_from_an_archive_in_the_store,
    the_same_commands_give_the_same_with_either_runtime,
);

/// What the probe holds: a file of its cgroup, and one that podman manages.
const HELD: [&str; 4] = [
    "--open",
    "all:r:0:/sys/fs/cgroup/cgroup.events",
    "--open",
    "each:r:3:/etc/hosts",
];
const ARCHIVE: &str = "/tmp/archive.tar.zst";

/// Runs a case on stock podman for the record, then with Restow, where it has to be right.
fn both(name: &str, suite: Suite, case: impl Fn(&Podman) -> Result<()>) -> Result<()> {
    let stock_only = std::env::var("RESTOW_MODES").is_ok_and(|modes| modes == "stock");
    for mode in [Mode::Stock, Mode::Restow] {
        if mode == Mode::Restow && stock_only {
            println!("{name}: Restow NOT RUN (RESTOW_MODES=stock)");
            continue;
        }
        let podman = Podman::start(suite, mode)?;
        let on = format!("podman: {name} | {suite} ({})", podman.engine().versions()?);
        match case(&podman) {
            Ok(()) => println!("{on} | {mode}: right"),
            Err(error) if mode == Mode::Stock => println!("{on} | stock: WRONG: {error:#}"),
            Err(error) => return Err(error).context(on),
        }
    }
    Ok(())
}

/// Checks that a container goes on from `before`, in its own cgroup and with its own files.
fn goes_on(podman: &Podman, name: &str, before: &Report) -> Result<Report> {
    let after = podman.report(name)?;
    ensure!(
        after.counter >= before.counter && after.memory_intact,
        "It started afresh: it has counted to {}, after {}",
        after.counter,
        before.counter
    );
    // podman says where the process is, which may be the old container's cgroup.
    let id = podman.inspect(name, "{{.Id}}")?;
    let path = podman.inspect(name, "{{.State.CgroupPath}}")?;
    ensure!(path.contains(&id), "{name} is {id}, and is in {path}");
    let cgroup = podman.cgroup_inode(name, "cgroup.events")?;
    for file in &after.files {
        ensure!(
            file.errno.is_none(),
            "{} cannot be read: {:?}",
            file.opened,
            file.errno
        );
        if file.opened.ends_with("cgroup.events") {
            ensure!(
                file.inode == cgroup,
                "{} is inode {}, not {cgroup} of its cgroup",
                file.opened,
                file.inode
            );
        }
        if file.opened == "/etc/hosts" {
            let id = podman.inspect(name, "{{.HostsPath}}")?;
            let content = fs::read_to_string(podman.path(id)).context("Read its hosts file")?;
            ensure!(
                file.content.as_deref() == Some(&content),
                "/etc/hosts is not its own: {:?}",
                file.content
            );
        }
    }
    let line = after
        .cgroup
        .lines()
        .find(|line| line.starts_with("0::"))
        .unwrap_or_default();
    ensure!(line == "0::/", "It sees itself in the cgroup {line}");
    Ok(after)
}
