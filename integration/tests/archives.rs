//! Archives of real containers, kept in a node's store and restored with what changed in their root file systems.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use restow::checkpoint::{Asked, Settings};
use restow::policy::NodeConfig;
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;

#[path = "kept/mod.rs"]
#[allow(dead_code, reason = "other files use the rest")]
mod kept;

use kept::{NAMESPACE, asking, keep, left, prepare, restore};

on_both_suites!(an_archive_is_restored_with_the_changes_of_the_root_file_system);

/// Where the layers of the containers are.
const ROOTS: &str = "/run/roots";

/// Makes the root of a container that does not run yet an overlay: what is in it becomes the image.
fn overlay(container: &Container<'_>, pod: &str) -> Result<()> {
    let engine = container.engine();
    let layers = format!("{ROOTS}/{pod}");
    let inside = format!("{}/rootfs", container.bundle());
    for layer in ["upper", "work"] {
        fs::create_dir_all(engine.node().path(format!("{layers}/{layer}")))?;
    }
    let data = container.rootfs().join("data");
    for name in ["kept", "deleted", "replaced"] {
        fs::write(data.join(name), format!("{name} in the image"))?;
    }
    engine.run("mv", &[&inside, &format!("{layers}/lower")])?;
    fs::create_dir(engine.node().path(&inside))?;
    let options = format!("lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work");
    let mount = ["-t", "overlay", "-o", &options, "overlay", &inside];
    engine.run("mount", &mount).map(drop)
}

fn unmount(container: &Container<'_>) -> Result<()> {
    let root = format!("{}/rootfs", container.bundle());
    container
        .engine()
        .run("umount", &["--lazy", &root])
        .map(drop)
}

fn an_archive_is_restored_with_the_changes_of_the_root_file_system(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let options = ContainerOptions::new(1)
        .probe("--memory", 1)
        .open("all:rw:5:/data/kept")
        .open("each:r:3:/data/replaced");
    let pod = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let mut container = pod.container(&options)?;
    overlay(&container, "a")?;
    let data = container.rootfs().join("data");
    fs::write(data.join("replaced"), "replaced by the program")?;
    fs::write(data.join("written"), "written by the program")?;
    fs::remove_file(data.join("deleted"))?;
    container.start()?;
    let checkpoint = Checkpoint::new(&engine, "layers")?;
    container.checkpoint(&checkpoint)?;
    let dir = checkpoint.images.trim_end_matches("/checkpoint").to_owned();
    let spec = engine.node().path(container.bundle()).join("config.json");
    fs::copy(spec, engine.node().path(&dir).join("spec.dump"))?;
    fs::write(engine.node().path(&dir).join("config.dump"), "{}")?;
    unmount(&container)?;
    // The kernel's whiteouts, devices 0/0, as they are.
    let (upper, diff) = (format!("{ROOTS}/a/upper"), format!("{dir}/rootfs-diff.tar"));
    engine.run("tar", &["-C", &upper, "-cf", &diff, "."])?;
    pod.remove(vec![container])?;
    keep(&engine, &dir, NAMESPACE, "plain.tar")?;
    keep(&engine, &dir, NAMESPACE, "packed.tar.gz")?;

    for name in ["plain", "packed"] {
        let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
        let mut container = pod.container(&asking(&options, name))?;
        overlay(&container, name)?;
        let upper = engine.node().path(format!("{ROOTS}/{name}/upper"));
        ensure!(tree(&upper)?.is_empty(), "The new layer is not new");
        // A first try is given up: a fresh start would see the image.
        prepare(&container)?;
        let data = container.rootfs().join("data");
        ensure!(data.join("written").exists() && !data.join("deleted").exists());
        kept::call(&container, "undo")?;
        let read = |name: &str| fs::read_to_string(data.join(name)).context("Read the image");
        ensure!(read("deleted")? == "deleted in the image");
        ensure!(read("replaced")? == "replaced in the image");
        ensure!(!data.join("written").exists(), "What was undone is there");

        let images = prepare(&container)?;
        restore(&mut container, &images)?;
        ensure!(
            container
                .reports()?
                .iter()
                .all(|report| report.memory_intact)
        );
        let inside = |name: &str| container.exec(&["/probe", "cat", &format!("/data/{name}")]);
        ensure!(inside("written")? == "written by the program");
        ensure!(inside("replaced")? == "replaced by the program");
        ensure!(inside("kept")? == "kept in the image");
        ensure!(inside("deleted").is_err(), "What was deleted has come back");
        kept::call(&container, "finish")?;
        ensure!(left(&engine)?.is_empty());
        unmount(&container)?;
        pod.remove(vec![container])?;
        println!(
            "{suite} | {name}: written, replaced and deleted files are as the program left them"
        );
    }
    Ok(())
}

fn tree(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(tree(&entry.path())?);
        }
        all.push(entry.path());
    }
    Ok(all)
}

/// An archive that podman exported: everything in it belongs to root, whose rights this needs, but no node.
#[test]
fn what_podman_exports_is_applied_and_undone() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("restow-archives-{}", std::process::id()));
    let rootfs = dir.join("bundle/rootfs");
    fs::create_dir_all(rootfs.join("etc"))?;
    fs::create_dir_all(dir.join("store/_node"))?;
    fs::write(rootfs.join("etc/hosts"), "the image's")?;
    let before = tree(&rootfs)?;
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/archives/podman.tar.gz");
    fs::copy(archive, dir.join("store/_node/zoo.tar.gz"))?;
    let config = NodeConfig {
        checkpoints: Settings {
            roots: vec![dir.join("store")],
            unpack: dir.join("unpacked"),
            ..Settings::default()
        },
        ..NodeConfig::default()
    };
    let spec = serde_json::json!({"annotations": {"restow.dev/restore-from": "zoo"}});
    let asked = Asked::from_spec(&spec, &config)?.context("It asks for a checkpoint")?;
    let prepared = asked.prepare(&dir.join("bundle"), &rootfs)?;
    ensure!(prepared.image_dir().join("inventory.img").exists());
    ensure!(fs::read(rootfs.join("etc/hosts"))?.is_empty());
    ensure!(fs::read_link(rootfs.join("etc/mtab"))? == Path::new("/proc/mounts"));
    ensure!(rootfs.join("work").is_dir());
    prepared.undo()?;
    ensure!(tree(&rootfs)? == before);
    ensure!(fs::read(rootfs.join("etc/hosts"))? == b"the image's");
    ensure!(tree(&dir.join("unpacked"))?.is_empty());
    Ok(fs::remove_dir_all(dir)?)
}
