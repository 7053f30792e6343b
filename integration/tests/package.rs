//! The Debian package, as `cargo xtask deb` makes it, on a node: installed with dpkg, used, and purged.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::installation::{
    Snapshot, answers, complaints_of, differences, moves, others_go_on, snapshot, with_the_rest,
};
use restow_integration::node::Node;
use restow_integration::suite::Suite;
use restow_integration::{on_both_suites, tools};

on_both_suites!(
    a_package_moves_a_container_and_leaves_nothing,
    what_is_configured_is_taken_back_with_the_package,
);

/// Where the package has the programs.
const LIB: &str = "/usr/lib/restow";

/// A node with the package on it, beside what was there before.
fn with_package(suite: Suite) -> Result<Engine> {
    let engine = Engine::start(Stack::v2(suite), Mode::Stock)?;
    let package = tools::package()?;
    fs::copy(&package, engine.node().path("/tmp/restow.deb"))
        .with_context(|| format!("Copy {} to the node", package.display()))?;
    Ok(engine)
}

/// What doctor complains of.
fn complaints(node: &Node) -> Result<Vec<String>> {
    let output = node.command("restow").args(["doctor", "--json"]).output();
    complaints_of(answers(&output.context("Start restow doctor")?)?)
}

fn a_package_moves_a_container_and_leaves_nothing(suite: Suite) -> Result<()> {
    let engine = with_package(suite)?;
    let node = engine.node();
    let before = snapshot(node)?;
    engine.run("dpkg", &["--install", "/tmp/restow.deb"])?;
    for name in [
        "criu",
        "containerd-shim-restow-v2",
        "restow",
        "restow-runtime",
        "restow-runc",
        "restow-crun",
        "restow-oci-hook",
    ] {
        let owner = engine.run("dpkg", &["--search", &format!("{LIB}/{name}")])?;
        ensure!(owner.starts_with("restow:"), "{name} belongs to {owner}");
    }
    // Without further ado nothing of the node goes through it.
    let mut others = differences(&before, &snapshot(node)?);
    others.retain(|line| !line.ends_with("is new") && !line.starts_with("/var/lib/dpkg"));
    others.retain(|line| !line.starts_with("/usr"));
    ensure!(others.is_empty(), "The package changes {others:#?}");
    others_go_on(&engine)?;
    let said = engine.run("restow", &["install", "--criu-in-path"])?;
    ensure!(
        !said.contains(&format!("{LIB}/restow-runtime")),
        "What the package has is installed once more: {said}"
    );
    let bad = complaints(node)?;
    ensure!(bad.is_empty(), "Doctor is not content: {bad:#?}");
    // The same package again, as an upgrade is.
    engine.run("dpkg", &["--install", "/tmp/restow.deb"])?;
    let bad = complaints(node)?;
    ensure!(bad.is_empty(), "After an upgrade: {bad:#?}");
    let installed = snapshot(node)?;
    println!("package | {suite} | {}", moves(&engine)?);
    // What moves leave (state of runtimes) is not the package's.
    let before = with_the_rest(&before, &snapshot(node)?, &installed);
    engine.run("dpkg", &["--purge", "restow"])?;
    nothing_is_left(node, &before)?;
    println!("package | {suite} | purged, nothing is left");
    Ok(())
}

/// Compares the node with what it was; dpkg's own records are its own, but have nothing of the package.
fn nothing_is_left(node: &Node, before: &Snapshot) -> Result<()> {
    let mut left = differences(before, &snapshot(node)?);
    left.retain(|line| !line.starts_with("/var/lib/dpkg") || line.contains("restow"));
    // containerd makes it when it is asked for its configuration.
    left.retain(|line| !line.starts_with("/var/lib/containerd"));
    ensure!(left.is_empty(), "The node is not as it was: {left:#?}");
    for dir in ["/run/restow", "/var/log/restow"] {
        ensure!(!node.path(dir).exists(), "{dir} is left");
    }
    let known = node.command("dpkg").args(["--status", "restow"]).output()?;
    ensure!(!known.status.success(), "dpkg still knows the package");
    Ok(())
}

fn what_is_configured_is_taken_back_with_the_package(suite: Suite) -> Result<()> {
    let engine = with_package(suite)?;
    let node = engine.node();
    let before = snapshot(node)?;
    engine.run("dpkg", &["--install", "/tmp/restow.deb"])?;
    engine.run("restow", &["install", "--criu-in-path"])?;
    fs::create_dir_all(node.path("/etc/restow"))?;
    fs::write(
        node.path("/etc/restow/config.toml"),
        "enable = 'annotated'\n",
    )?;
    let store = "/var/lib/restow/checkpoints/default/kept";
    fs::create_dir_all(node.path(store))?;
    fs::write(node.path(store).join("inventory.img"), "memory")?;
    engine.run("dpkg", &["--remove", "restow"])?;
    ensure!(
        node.path("/etc/restow/config.toml").exists(),
        "Removing the package takes the node's configuration away"
    );
    ensure!(
        !node.path("/usr/local/sbin/criu").is_symlink()
            && !node.path("/var/lib/restow/install.json").exists(),
        "The node is configured for programs that are gone"
    );
    others_go_on(&engine)?;
    engine.run("dpkg", &["--purge", "restow"])?;
    ensure!(
        node.path(store).join("inventory.img").exists(),
        "Purging the package takes checkpoints away"
    );
    fs::remove_dir_all(node.path("/var/lib/restow"))?;
    nothing_is_left(node, &before)?;
    println!("package | {suite} | removed and purged; configuration first, checkpoints stay");
    Ok(())
}
