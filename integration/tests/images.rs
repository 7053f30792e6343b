//! What Restow does with the images themselves: memory is never touched, originals never change, damage is named.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;
use restow_integration::watch::Watch;

on_both_suites!(
    memory_images_are_neither_read_nor_copied,
    original_images_are_never_changed,
    damaged_images_are_named_and_nothing_starts,
    a_failed_checkpoint_leaves_the_container_running,
);

const STAGING: &str = "/run/restow/staging";
const INTERPOSER: &str = "/opt/restow/bin/criu";
const REAL_CRIU: &str = "/usr/sbin/criu";

/// A container of pod A, checkpointed, and pod A removed.
fn checkpointed(engine: &Engine, name: &str, container: &ContainerOptions) -> Result<Checkpoint> {
    let pod = Pod::start(engine, &PodOptions::new("pod-a"))?;
    let mut container = pod.container(container)?;
    container.start()?;
    let checkpoint = Checkpoint::new(engine, name)?;
    container.checkpoint(&checkpoint)?;
    pod.remove(vec![container])?;
    Ok(checkpoint)
}

fn images(engine: &Engine, checkpoint: &Checkpoint) -> Result<Vec<PathBuf>> {
    let dir = engine.node().path(&checkpoint.images);
    let entries = fs::read_dir(&dir).with_context(|| format!("List {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    Ok(files)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn is_memory(path: &Path) -> bool {
    name(path).starts_with("pages-")
}

/// How long staging took, in microseconds, as Restow's log of the last restore says. Only shown: time proves nothing here.
fn staging_time(engine: &Engine, checkpoint: &Checkpoint) -> Result<u64> {
    let path = engine.node().path(&checkpoint.work).join("restow.log");
    let log = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
    let line = log.lines().rev().find(|line| line.contains(" staged in "));
    let time = line.and_then(|line| line.strip_suffix(" µs")?.rsplit(' ').next()?.parse().ok());
    time.with_context(|| format!("The log does not say how long staging took: {log}"))
}

fn memory_images_are_neither_read_nor_copied(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let mut staged = Vec::new();
    for mebibytes in [1, 256] {
        let options = ContainerOptions::new(1)
            .probe("--memory", mebibytes)
            .open("each:r:0:/etc/hosts");
        let checkpoint = checkpointed(&engine, &format!("memory-{mebibytes}"), &options)?;
        let memory: Vec<PathBuf> = images(&engine, &checkpoint)?
            .into_iter()
            .filter(|path| is_memory(path))
            .collect();
        let bytes: u64 = memory
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|data| data.len())
            .sum();
        ensure!(
            bytes >= mebibytes << 20,
            "The memory images have {bytes} bytes, which is too little to show anything"
        );

        let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
        let mut container = pod.container(&options)?;
        let watch = Watch::start(&memory, engine.node().path(STAGING))?;
        container.restore(&checkpoint)?;
        let seen = watch.stop()?;
        ensure!(
            container
                .reports()?
                .iter()
                .all(|report| report.memory_intact),
            "The memory is not what it was"
        );

        // Both by the watch's own account, so that a watch that sees nothing shows nothing.
        ensure!(
            seen.programs.contains(REAL_CRIU),
            "The real criu was not seen reading memory: {:?}",
            seen.programs
        );
        ensure!(
            !seen.programs.contains(INTERPOSER),
            "Restow opened or read memory images: {:?}",
            seen.programs
        );
        let copies: Vec<_> = seen
            .beside
            .iter()
            .filter(|(path, _, regular)| is_memory(path) && *regular)
            .collect();
        ensure!(
            copies.is_empty(),
            "Memory images are copied into the staging directory: {copies:?}"
        );
        ensure!(
            seen.beside.iter().any(|(path, ..)| is_memory(path)),
            "No memory image is staged: {:?}",
            seen.beside
        );
        let written: u64 = seen
            .beside
            .iter()
            .filter(|(_, _, regular)| *regular)
            .map(|(_, length, _)| length)
            .sum();
        println!(
            "memory of {mebibytes} MiB | {suite} | read by {:?} alone, {} staged as links, {written} bytes of other images rewritten, in {} µs",
            seen.programs,
            memory.len(),
            staging_time(&engine, &checkpoint)?
        );
        staged.push(written);
        pod.remove(vec![container])?;
    }
    // The same container but for its memory: what is staged does not depend on it. Ids differ by a digit.
    ensure!(
        staged[0].abs_diff(staged[1]) < 256,
        "{} bytes are staged for 1 MiB, {} for 256 MiB",
        staged[0],
        staged[1]
    );
    Ok(())
}

/// Content, times and link counts of all images.
fn fingerprint(
    engine: &Engine,
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<String, (u64, i64, i64, u64)>> {
    let mut prints = BTreeMap::new();
    for path in images(engine, checkpoint)? {
        let mut hash = DefaultHasher::new();
        fs::read(&path)
            .with_context(|| format!("Read {}", path.display()))?
            .hash(&mut hash);
        let data = path
            .metadata()
            .with_context(|| format!("Look at {}", path.display()))?;
        prints.insert(
            name(&path),
            (
                hash.finish(),
                data.mtime_nsec(),
                data.ctime_nsec(),
                data.nlink(),
            ),
        );
    }
    ensure!(prints.len() > 10, "Only {} images were made", prints.len());
    Ok(prints)
}

fn original_images_are_never_changed(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let options = ContainerOptions::new(1)
        .open("each:r:0:/etc/hosts")
        .open("all:r:0:/sys/fs/cgroup/cgroup.events");
    let checkpoint = checkpointed(&engine, "originals", &options)?;
    let before = fingerprint(&engine, &checkpoint)?;
    for round in ["first", "second"] {
        let pod = Pod::start(&engine, &PodOptions::new(&format!("{round}-pod")))?;
        let mut container = pod.container(&options)?;
        container.restore(&checkpoint)?;
        container.reports()?;
        ensure!(
            fingerprint(&engine, &checkpoint)? == before,
            "The {round} restore changed the images"
        );
        pod.remove(vec![container])?;
    }
    // A veto late in the restore: the real criu is there, but fails.
    let pod = Pod::start(&engine, &PodOptions::new("failing-pod"))?;
    let mut container = pod.container(&options)?;
    let program = container.rootfs().join("probe");
    fs::write(&program, "another program").context("Spoil the container's program")?;
    ensure!(
        container.restore(&checkpoint).is_err(),
        "A container with another program is restored"
    );
    ensure!(
        fingerprint(&engine, &checkpoint)? == before,
        "A failed restore changed the images"
    );
    ensure!(
        staging_is_empty(&engine),
        "The failed restore left its staging directory"
    );
    pod.remove(vec![container])
}

fn staging_is_empty(engine: &Engine) -> bool {
    fs::read_dir(engine.node().path(STAGING)).map_or(true, |mut entries| entries.next().is_none())
}

/// A way to spoil an image.
struct Damage {
    what: &'static str,
    /// The image, by the start of its name.
    image: &'static str,
    spoil: fn(&mut Vec<u8>),
}

const DAMAGES: &[Damage] = &[
    Damage {
        what: "truncated in a record",
        image: "files.img",
        spoil: |bytes| bytes.truncate(bytes.len() - 3),
    },
    Damage {
        what: "truncated in its header",
        image: "mountpoints-",
        spoil: |bytes| bytes.truncate(6),
    },
    Damage {
        what: "empty",
        image: "cgroup.img",
        spoil: Vec::clear,
    },
    Damage {
        what: "of another kind",
        image: "utsns-",
        spoil: |bytes| bytes[4..8].copy_from_slice(b"NOPE"),
    },
    Damage {
        what: "with a hostile length",
        image: "files.img",
        spoil: |bytes| bytes[8..12].fill(0xff),
    },
    Damage {
        what: "of a foreign version",
        image: "inventory.img",
        // The version is the inventory's first field; the header has 4 bytes in it, 8 in other images.
        spoil: |bytes| bytes[9] = 99,
    },
    Damage {
        what: "missing",
        image: "mountpoints-",
        spoil: |_| (),
    },
];

fn damaged_images_are_named_and_nothing_starts(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let options = ContainerOptions::new(1)
        .open("each:r:0:/etc/hosts")
        .open("all:r:0:/sys/fs/cgroup/cgroup.events");
    let checkpoint = checkpointed(&engine, "whole", &options)?;
    let mut faults = Vec::new();
    for damage in DAMAGES {
        let spoilt = Checkpoint::new(
            &engine,
            &format!("spoilt-{}", damage.what.replace(' ', "-")),
        )?;
        let target = engine.node().path(&spoilt.images);
        let mut image = None;
        for path in images(&engine, &checkpoint)? {
            let copy = target.join(name(&path));
            fs::copy(&path, &copy).with_context(|| format!("Copy {}", path.display()))?;
            if name(&path).starts_with(damage.image) {
                let mut bytes = fs::read(&copy).context("Read an image")?;
                (damage.spoil)(&mut bytes);
                fs::write(&copy, bytes).context("Spoil an image")?;
                image = Some(name(&path));
                if damage.what == "missing" {
                    fs::remove_file(&copy).context("Remove an image")?;
                }
            }
        }
        let image = image.with_context(|| format!("No image {}*", damage.image))?;
        let before = fingerprint(&engine, &spoilt)?;
        let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
        let mut container = pod.container(&options)?;
        match container.restore(&spoilt) {
            Ok(()) => faults.push(format!(
                "{image} {}: it is restored all the same",
                damage.what
            )),
            Err(error) => {
                let text = format!("{error:#}").replace('\n', " ");
                println!("{image} {} | {suite} | {text}", damage.what);
                if !text.contains(&image) {
                    faults.push(format!(
                        "{image} {}: the error does not name it: {text}",
                        damage.what
                    ));
                }
                let located = text.contains("at byte") || damage.what == "missing";
                if !located {
                    faults.push(format!(
                        "{image} {}: the error does not say where: {text}",
                        damage.what
                    ));
                }
            }
        }
        let population = container.cgroup_population().unwrap_or(0);
        ensure!(
            population == 0,
            "{image} {}: {population} tasks run",
            damage.what
        );
        ensure!(
            fingerprint(&engine, &spoilt)? == before,
            "{image} {}: the images were changed",
            damage.what
        );
        ensure!(
            staging_is_empty(&engine),
            "{image} {}: a staging directory is left",
            damage.what
        );
        pod.remove(vec![container])?;
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn a_failed_checkpoint_leaves_the_container_running(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let options = ContainerOptions::new(1)
        .probe("--memory", 4)
        .open("each:r:0:/sys/fs/cgroup/cgroup.events");
    let mut container = pod.container(&options)?;
    container.start()?;

    // No room: before the first image, among the small ones, in the memory.
    for size in ["4k", "64k", "2m"] {
        let checkpoint = Checkpoint::new(&engine, &format!("full-{size}"))?;
        let limit = format!("size={size}");
        engine.run(
            "mount",
            &["-t", "tmpfs", "-o", &limit, "full", &checkpoint.images],
        )?;
        fails_and_goes_on(
            &mut container,
            &checkpoint,
            &format!("with {size} of room | {suite}"),
        )?;
        engine.run("umount", &[&checkpoint.images])?;
    }

    // No CRIU but ours.
    let real = engine.node().path(REAL_CRIU);
    let aside = real.with_extension("aside");
    fs::rename(&real, &aside).context("Move the real criu aside")?;
    let checkpoint = Checkpoint::new(&engine, "no-criu")?;
    let outcome = fails_and_goes_on(
        &mut container,
        &checkpoint,
        &format!("without the real criu | {suite}"),
    );
    fs::rename(&aside, &real).context("Put the real criu back")?;
    outcome?;

    // After all that, a checkpoint and a restore work.
    let before = container.reports()?;
    let checkpoint = Checkpoint::new(&engine, "good")?;
    container.checkpoint(&checkpoint)?;
    pod.remove(vec![container])?;
    let pod = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
    let mut container = pod.container(&options)?;
    container.restore(&checkpoint)?;
    ensure!(
        container.reports()?[0].counter > before[0].counter,
        "The restored container does not go on"
    );
    pod.remove(vec![container])
}

fn fails_and_goes_on(container: &mut Container, checkpoint: &Checkpoint, what: &str) -> Result<()> {
    let before = container.reports()?;
    let Err(error) = container.checkpoint_running(checkpoint) else {
        bail!("A checkpoint {what} succeeds")
    };
    println!(
        "a checkpoint {what} | fails: {}",
        format!("{error:#}").lines().next().unwrap_or_default()
    );
    ensure!(
        !container.has_ended()?,
        "A failed checkpoint {what} ended the container"
    );
    let after = container
        .reports()
        .with_context(|| format!("After a failed checkpoint {what}"))?;
    ensure!(
        before
            .iter()
            .zip(&after)
            .all(|(old, new)| new.counter > old.counter && new.memory_intact),
        "After a failed checkpoint {what} the container does not count on"
    );
    Ok(())
}
