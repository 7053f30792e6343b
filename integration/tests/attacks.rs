//! Checkpoints of real containers that were made to do harm, on a node. What needs no runtime is beside the code
//! (`core/src/checkpoint/tests/attacks.rs`).

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;

#[path = "kept/mod.rs"]
mod kept;

use kept::{NAMESPACE, STORE, asking, checkpointed, keep, left, prepare, restore};

on_both_suites!(
    memory_that_is_cut_short_is_named_before_criu_starts,
    what_is_refused_starts_nothing_and_leaves_nothing,
    what_was_checked_is_what_is_restored,
    what_the_spec_in_a_checkpoint_says_does_not_come_along,
);

fn memory_that_is_cut_short_is_named_before_criu_starts(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let options = ContainerOptions::new(1).probe("--memory", 1);
    let dir = checkpointed(&engine, "cut-short", &options)?;
    let checkpoint = Checkpoint {
        images: format!("{dir}/checkpoint"),
        archived: false,
        work: format!("{dir}/work"),
    };
    let images = engine.node().path(&checkpoint.images);
    let largest = fs::read_dir(&images)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("pages-"))
        .max_by_key(|entry| entry.metadata().map_or(0, |meta| meta.len()))
        .context("The checkpoint has no memory")?;
    let name = largest.file_name().to_string_lossy().into_owned();
    let whole = fs::read(largest.path())?;
    File::options()
        .write(true)
        .open(largest.path())?
        .set_len(whole.len() as u64 - 4096)?;

    let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
    let mut container = pod.container(&options)?;
    let Err(error) = container.restore(&checkpoint) else {
        bail!("It was restored with less memory than it had");
    };
    let error = format!("{error:#}");
    let expected = format!("{name}: it has {} bytes", whole.len() - 4096);
    ensure!(
        error.contains(&expected),
        "The error does not say what is cut short: {error}"
    );
    println!("{suite} | {error}");
    container.forget()?;

    fs::write(largest.path(), whole)?;
    container.restore(&checkpoint)?;
    ensure!(
        container
            .reports()?
            .iter()
            .all(|report| report.memory_intact)
    );
    pod.remove(vec![container])
}

fn what_is_refused_starts_nothing_and_leaves_nothing(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let options = ContainerOptions::new(0);
    let dir = checkpointed(&engine, "refused", &options)?;
    let inside = |path: &str| engine.node().path(format!("{dir}/{path}"));
    keep(&engine, &dir, NAMESPACE, "good.tar")?;
    keep(&engine, &dir, "theirs", "x.tar")?;
    // Of containers that really had such things in their root.
    engine.run("mkdir", &["-p", "/root/outside"])?;
    let layers: [(&str, &[&str]); 5] = [
        ("climbing", &["-P", "../layer/file"]),
        ("absolute", &["-P", "/root/outside"]),
        ("device", &["device"]),
        (
            "through",
            &["--transform", "s,^real,link,", "link", "real/written"],
        ),
        (
            "hard",
            &[
                "-P",
                "--transform",
                r"s,^\./first,/etc/passwd,RS",
                "./first",
                "./second",
            ],
        ),
    ];
    fs::create_dir_all(inside("layer/real"))?;
    fs::write(inside("layer/file"), "file")?;
    fs::write(inside("layer/real/written"), "written")?;
    std::os::unix::fs::symlink("/root/outside", inside("layer/link"))?;
    fs::write(inside("layer/first"), "first")?;
    fs::hard_link(inside("layer/first"), inside("layer/second"))?;
    engine.run("mknod", &[&format!("{dir}/layer/device"), "b", "8", "0"])?;
    for (name, args) in layers {
        let (layer, diff) = (format!("{dir}/layer"), format!("{dir}/rootfs-diff.tar"));
        engine.run("tar", &[&["-C", &layer, "-cf", &diff], args].concat())?;
        keep(&engine, &dir, NAMESPACE, &format!("{name}.tar"))?;
    }

    let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
    for (name, words) in [
        ("../../../etc/passwd", "it starts with a dot"),
        ("/var/lib/restow/checkpoints/default/good", "it is a path"),
        ("theirs/x", "one of namespace theirs"),
        ("absent", "no checkpoint absent on this node"),
        ("climbing", "leads out of it"),
        ("absolute", "leads out of it"),
        ("device", "a block device"),
        ("through", "link/written"),
        ("hard", "leads out of it"),
    ] {
        let container = pod.container(&asking(&options, name))?;
        let before = entries(&container.rootfs())?;
        let Err(error) = prepare(&container) else {
            bail!("{name} was taken");
        };
        let error = format!("{error:#}");
        println!("{suite} | {name}: {error}");
        ensure!(
            error.contains(words),
            "The refusal of {name} does not say {words:?}: {error}"
        );
        ensure!(
            entries(&container.rootfs())? == before,
            "{name} changed the root file system"
        );
        ensure!(
            left(&engine)?.is_empty(),
            "{name} left {:?}",
            left(&engine)?
        );
        ensure!(
            entries(&engine.node().path("/root/outside"))?.is_empty(),
            "{name} wrote outside"
        );
    }
    let mut container = pod.container(&asking(&options, "good"))?;
    let images = prepare(&container)?;
    restore(&mut container, &images)?;
    ensure!(container.reports()?.len() == 1);
    kept::call(&container, "finish")?;
    ensure!(
        left(&engine)?.is_empty(),
        "The images of a container that runs are left"
    );
    pod.remove(vec![container])
}

fn entries(dir: &std::path::Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .with_context(|| format!("List {}", dir.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn what_was_checked_is_what_is_restored(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let options = ContainerOptions::new(1).probe("--memory", 1);
    let dir = checkpointed(&engine, "changed", &options)?;
    keep(&engine, &dir, NAMESPACE, "archive.tar")?;
    engine.run(
        "cp",
        &["-a", &dir, &format!("{STORE}/{NAMESPACE}/directory")],
    )?;
    for (name, changed) in [
        ("archive", "archive.tar"),
        ("directory", "directory/checkpoint/core-1.img"),
    ] {
        let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
        let mut container = pod.container(&asking(&options, name))?;
        let images = prepare(&container)?;
        // In place, as one would who still has it open.
        let path = engine.node().path(format!("{STORE}/{NAMESPACE}/{changed}"));
        File::options()
            .write(true)
            .open(&path)?
            .write_all(&[0xff; 4096])?;
        restore(&mut container, &images)?;
        ensure!(
            container
                .reports()?
                .iter()
                .all(|report| report.memory_intact),
            "The memory is not what it was"
        );
        kept::call(&container, "finish")?;
        pod.remove(vec![container])?;
    }
    Ok(())
}

fn what_the_spec_in_a_checkpoint_says_does_not_come_along(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let options = ContainerOptions::new(0);
    let dir = checkpointed(&engine, "smuggled", &options)?;
    let path = engine.node().path(format!("{dir}/spec.dump"));
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    spec["process"]["capabilities"]["bounding"] = serde_json::json!(["CAP_SYS_ADMIN"]);
    spec["process"]["env"] = serde_json::json!(["SMUGGLED=1"]);
    spec["annotations"]["cdi.k8s.io/gpu"] = serde_json::json!("vendor.com/gpu=all");
    spec["annotations"]["restow.dev/map"] = serde_json::json!("path:/etc=/root");
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.push(serde_json::json!({
            "destination": "/smuggled", "type": "bind", "source": "/root", "options": ["rbind", "rw"],
        }));
    }
    spec["linux"]["devices"] =
        serde_json::json!([{"path": "/dev/smuggled", "type": "b", "major": 8, "minor": 0}]);
    fs::write(&path, serde_json::to_vec(&spec)?)?;
    let image = r#"{"rootfsImageName": "evil.example/image:latest", "rootfsImage": "sha256:0"}"#;
    fs::write(engine.node().path(format!("{dir}/config.dump")), image)?;
    keep(&engine, &dir, NAMESPACE, "x.tar")?;

    let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
    let mut container = pod.container(&asking(&options, "x"))?;
    let config = engine.node().path(container.bundle()).join("config.json");
    let before = fs::read(&config)?;
    let images = prepare(&container)?;
    ensure!(fs::read(&config)? == before, "The pod's spec was changed");
    restore(&mut container, &images)?;
    let init = container.init()?;
    let mounts = engine.run("cat", &[&format!("/proc/{init}/mountinfo")])?;
    ensure!(!mounts.contains("smuggled"), "A mount came along: {mounts}");
    for gone in ["smuggled", "dev/smuggled"] {
        ensure!(
            !container.rootfs().join(gone).exists(),
            "/{gone} came along"
        );
    }
    pod.remove(vec![container])
}
