//! Addresses and connections.

use anyhow::{Context, Result, ensure};
use restow_integration::network::Outside;
use restow_integration::podman::{IMAGE, Podman};
use restow_integration::report::Report;
use restow_integration::suite::Suite;

use crate::{ARCHIVE, HELD, both, goes_on};

/// The node's own address on the network of this file's containers.
const GATEWAY: &str = "10.89.8.1";

pub(crate) fn static_addresses_are_kept_or_left_on_request(suite: Suite) -> Result<()> {
    let moved = both("static address", suite, |podman| {
        podman.run(&[
            "network",
            "create",
            "--disable-dns",
            "--subnet",
            "10.89.7.0/24",
            "net",
        ])?;
        let open = [&HELD[..], &["--socket", "0:listen:10.89.7.10:8080"]].concat();
        podman.probe("addr", &["--network", "net", "--ip", "10.89.7.10"], &open)?;
        let before = podman.report("addr")?;
        podman.run(&[
            "container",
            "checkpoint",
            "--tcp-established",
            "--export",
            ARCHIVE,
            "addr",
        ])?;
        podman.run(&["rm", "addr"])?;
        podman.run(&[
            "container",
            "restore",
            "--tcp-established",
            "--import",
            ARCHIVE,
        ])?;
        goes_on(podman, "addr", &before)?;
        let address = podman.inspect("addr", "{{.NetworkSettings.Networks.net.IPAddress}}")?;
        ensure!(address == "10.89.7.10", "It has the address {address}");
        ensure!(
            asked(podman, "10.89.7.10:8080")?,
            "Its listener does not answer"
        );
        podman.run(&["rm", "--force", "addr"])?;

        // Beside another that has the address: without it, and bound to the new one where Restow is.
        let taken = [
            "run",
            "--detach",
            "--name",
            "taken",
            "--network",
            "net",
            "--ip",
            "10.89.7.10",
            IMAGE,
            "/probe",
            "pause",
        ];
        podman.run(&taken)?;
        podman.run(&[
            "container",
            "restore",
            "--ignore-static-ip",
            "--ignore-static-mac",
            "--import",
            ARCHIVE,
            "--name",
            "addr2",
        ])?;
        goes_on(podman, "addr2", &before)?;
        let address = podman.inspect("addr2", "{{.NetworkSettings.Networks.net.IPAddress}}")?;
        ensure!(
            address != "10.89.7.10" && !address.is_empty(),
            "It has the address {address:?}"
        );
        ensure!(
            asked(podman, &format!("{address}:8080"))?,
            "Its listener is not at {address}"
        );
        Ok(())
    });
    unless_no_sockets("static address", suite, moved)
}

/// Whether something answers there.
fn asked(podman: &Podman, address: &str) -> Result<bool> {
    let output = podman
        .engine()
        .node()
        .command("/opt/probe")
        .args(["ask", "tcp", address])
        .output();
    Ok(output.context("Start the probe")?.status.success())
}

pub(crate) fn an_open_connection_goes_on_at_the_same_address(suite: Suite) -> Result<()> {
    let moved = both("open connection", suite, |podman| {
        connection_arrives(podman, &["--tcp-established"], "open")
    });
    unless_no_sockets("open connection", suite, moved)?;
    // podman refuses `--tcp-established` with another name. Restow does not need it.
    let moved = both("open connection, another name", suite, |podman| {
        connection_arrives(podman, &["--name", "other"], "other")
    });
    unless_no_sockets("open connection, another name", suite, moved)
}

/// Checkpoints a container that is connected to a server, and restores it with these options under this name.
fn connection_arrives(podman: &Podman, options: &[&str], name: &str) -> Result<()> {
    podman.run(&[
        "network",
        "create",
        "--disable-dns",
        "--subnet",
        "10.89.8.0/24",
        "net",
    ])?;
    // The node has its address on the network as long as a container is there.
    podman.run(&[
        "run",
        "--detach",
        "--name",
        "stays",
        "--network",
        "net",
        IMAGE,
        "/probe",
        "pause",
    ])?;
    let _server = Outside::start(podman.engine(), &format!("{GATEWAY}:7000"))?;
    let connection = format!("0:connect:{GATEWAY}:7000");
    let held = [&HELD[..], &["--socket", &connection]].concat();
    let keep = ["--annotation", "restow.dev/tcp=keep"];
    let at = ["--network", "net", "--ip", "10.89.8.10"];
    podman.probe("open", &[&keep[..], &at].concat(), &held)?;
    let before = podman.report("open")?;
    let was = connected(&before)?;
    let checkpoint = ["container", "checkpoint", "--tcp-established", "--export"];
    podman.run(&[&checkpoint[..], &[ARCHIVE, "open"]].concat())?;
    podman.run(&["rm", "open"])?;
    let restore = ["container", "restore", "--import", ARCHIVE];
    podman.run(&[&restore[..], options].concat())?;
    let after = goes_on(podman, name, &before)?;
    let is = connected(&after)?;
    ensure!(was == is, "The connection was {was} and is {is}");
    Ok(())
}

/// Both ends of the connection to the server, which answers.
fn connected(report: &Report) -> Result<String> {
    let socket = report.socket("connect:")?;
    ensure!(
        socket.said.ends_with(" ping"),
        "The server says {:?} to {}",
        socket.said,
        socket.local
    );
    Ok(format!("{} to {:?}", socket.local, socket.peer))
}

/// What came of a case with internet sockets, which criu 4.1 cannot dump on Linux 6.16 and later.
fn unless_no_sockets(name: &str, suite: Suite, moved: Result<()>) -> Result<()> {
    match moved {
        Err(error) if format!("{error:#}").contains("socket-options-refused") => {
            println!(
                "podman: {name} | {suite}: SKIPPED: this criu dumps no sockets on this kernel"
            );
            Ok(())
        }
        moved => moved,
    }
}
