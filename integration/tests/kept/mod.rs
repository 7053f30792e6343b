//! Checkpoints kept in a node's store, and containers that are made ready from them as a shim does it.

use std::fs;

use anyhow::{Context, Result};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::Engine;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};

/// Where the store is unless the node's configuration says otherwise.
pub(crate) const STORE: &str = "/var/lib/restow/checkpoints";
/// Where checkpoints are unpacked.
pub(crate) const UNPACKED: &str = "/var/lib/restow/unpacked";
/// The namespace of the suite's pods.
pub(crate) const NAMESPACE: &str = "default";

const PREPARE: &str = "/opt/restow/bin/restow-prepare";

/// Does what a shim does before it restores a container; returns the image directory.
pub(crate) fn prepare(container: &Container<'_>) -> Result<String> {
    call(container, "prepare")
}

/// Undoes it, or says that the container runs.
pub(crate) fn call(container: &Container<'_>, what: &str) -> Result<String> {
    let engine = container.engine();
    let program = engine.node().path(PREPARE);
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_restow-prepare"), &program)
            .context("Install restow-prepare")?;
    }
    let output = engine.run(PREPARE, &[what, &container.bundle()])?;
    Ok(output.trim().to_owned())
}

/// A container that asks for a checkpoint.
pub(crate) fn asking(options: &ContainerOptions, name: &str) -> ContainerOptions {
    options.clone().annotation("restow.dev/restore-from", name)
}

/// Checkpoints a container of pod A, and removes the pod. The directory has the layout of containerd's archives.
pub(crate) fn checkpointed(
    engine: &Engine,
    name: &str,
    options: &ContainerOptions,
) -> Result<String> {
    let pod = Pod::start(engine, &PodOptions::new("pod-a"))?;
    let mut container = pod.container(options)?;
    container.start()?;
    let checkpoint = Checkpoint::new(engine, name)?;
    container.checkpoint(&checkpoint)?;
    let dir = checkpoint.images.trim_end_matches("/checkpoint").to_owned();
    let spec = engine.node().path(container.bundle()).join("config.json");
    fs::copy(spec, engine.node().path(&dir).join("spec.dump")).context("Keep the spec")?;
    fs::write(engine.node().path(&dir).join("config.dump"), "{}").context("Write config.dump")?;
    pod.remove(vec![container])?;
    Ok(dir)
}

/// Packs such a directory as an archive of the store.
pub(crate) fn keep(engine: &Engine, dir: &str, namespace: &str, file: &str) -> Result<()> {
    let store = format!("{STORE}/{namespace}");
    engine.run("mkdir", &["-p", &store])?;
    let options = if file.ends_with(".gz") { "-czf" } else { "-cf" };
    let mut args = vec!["-C", dir, options];
    let file = format!("{store}/{file}");
    args.push(&file);
    args.extend(["checkpoint", "spec.dump", "config.dump"]);
    for more in ["rootfs-diff.tar", "deleted.files"] {
        if engine.node().path(dir).join(more).exists() {
            args.push(more);
        }
    }
    engine.run("tar", &args).map(drop)
}

/// Restores a container from prepared images.
pub(crate) fn restore(container: &mut Container<'_>, images: &str) -> Result<()> {
    let work = format!("{}/work", container.bundle());
    fs::create_dir_all(container.engine().node().path(&work)).context("Make the work directory")?;
    container.restore(&Checkpoint {
        images: images.to_owned(),
        archived: false,
        work,
    })
}

/// What is left of prepared checkpoints.
pub(crate) fn left(engine: &Engine) -> Result<Vec<String>> {
    let dir = engine.node().path(UNPACKED);
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&dir).with_context(|| format!("List {}", dir.display()))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}
