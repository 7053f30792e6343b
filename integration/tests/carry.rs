//! The content of emptyDir volumes, which goes with the pod unless it is carried along.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Manager, Mode, Stack};
use restow_integration::journey::{Journey, Verdict};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::{Stock, compare, skip};
use restow_integration::suite::Suite;

on_both_suites!(
    mounts_11_the_content_of_a_volume_comes_along,
    mounts_11_content_is_never_put_over_other_content,
    mounts_11_the_container_goes_on_when_its_content_cannot_be_written,
    mounts_11_content_goes_again_when_the_restore_fails,
);

/// A container that has its program and data on a volume which is empty in a fresh pod.
fn carrying() -> ContainerOptions {
    let mut container = ContainerOptions::new(1)
        .empty_volume("/work")
        .open("all:rw:4:/work/data")
        .open("each:a:0:/work/log")
        .open("each:r:1:/work/again")
        .open("all:r:0:/work/sparse")
        .open("all:rw:7:/work/unlinked")
        .probe("--cwd", "/work/sub");
    let carry = ("restow.dev/volumes".to_owned(), "carry".to_owned());
    container.annotations.push(carry);
    container
}

fn volume(pod: &Pod<'_>) -> PathBuf {
    pod.engine().node().path(pod.empty_volume(0))
}

fn fill(pod: &Pod<'_>) -> Result<()> {
    let volume = volume(pod);
    fs::create_dir_all(volume.join("sub"))?;
    for (name, text) in [
        ("data", "0123456789"),
        ("log", "a line\n"),
        ("unlinked", "has no name"),
    ] {
        fs::write(volume.join(name), text)?;
    }
    fs::hard_link(volume.join("data"), volume.join("again"))?;
    symlink("data", volume.join("link"))?;
    let sparse = File::create(volume.join("sparse"))?;
    sparse.set_len(4 << 30)?;
    sparse.write_all_at(b"island", 3 << 30)?;
    fs::set_permissions(volume.join("data"), fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(volume.join("data"), Some(1234), Some(4321))?;
    Ok(())
}

/// Every volume of the kind, of whatever pod.
fn unlink(engine: &Engine) -> Result<()> {
    let pods = engine.node().path("/var/lib/kubelet/pods");
    for pod in fs::read_dir(pods)? {
        let volume = pod?.path().join("volumes/kubernetes.io~empty-dir/empty-0");
        let _ = fs::remove_file(volume.join("unlinked"));
    }
    Ok(())
}

fn mounts_11_the_content_of_a_volume_comes_along(suite: Suite) -> Result<()> {
    compare(
        "Mounts 11",
        Stack::v2(suite),
        Stock::Wrong(&["Can't open file work", "Can't open dir work", "work/"]),
        |engine| {
            let mut journey = Journey::new(carrying());
            journey.in_pod_a = Some(fill);
            journey.before_checkpoint = Some(unlink);
            journey.run(engine, |there| {
                let volume = volume(there.pod);
                let meta = |name: &str| fs::metadata(volume.join(name)).context(name.to_owned());
                let data = meta("data")?;
                there.check_file("/work/data", data.ino())?;
                there.check_file("/work/again", data.ino())?;
                let log = meta("log")?.ino();
                there.check_file("/work/sparse", meta("sparse")?.ino())?;
                ensure!(
                    (data.uid(), data.gid(), data.mode() & 0o777) == (1234, 4321, 0o600),
                    "owner and mode of data are {}, {} and {:o}",
                    data.uid(),
                    data.gid(),
                    data.mode()
                );
                let sparse = meta("sparse")?;
                ensure!(
                    sparse.blocks() < 1 << 11 && sparse.len() == 4 << 30,
                    "{sparse:?}"
                );
                for report in &there.reports {
                    ensure!(
                        report.file("/work/log")?.inode == log,
                        "the log is another file"
                    );
                    let unlinked = report.file("/work/unlinked")?;
                    ensure!(
                        unlinked.content.as_deref() == Some("has no name") && unlinked.offset == 7,
                        "the unlinked file is {unlinked:?}"
                    );
                    ensure!(
                        report.cwd == "/work/sub",
                        "process {} is in {}",
                        report.process,
                        report.cwd
                    );
                }
                ensure!(
                    !volume.join("unlinked").exists(),
                    "the unlinked file has a name"
                );
                there.check_progress()?;
                Ok(
                    "descriptors, links, holes, owners and an unlinked file are there in pod B"
                        .to_owned(),
                )
            })
        },
    )
}

fn mounts_11_content_is_never_put_over_other_content(suite: Suite) -> Result<()> {
    compare(
        "Mounts 11, not empty",
        Stack::v2(suite),
        Stock::Wrong(&["work/"]),
        |engine| {
            let mut journey = Journey::new(carrying());
            journey.in_pod_a = Some(fill);
            let mut there = carrying();
            there.empty_volumes.clear();
            // A volume of the same kind with a file in it.
            there.volumes.push("/work".into());
            journey.container_there = Some(there);
            let verdict = journey.run(engine, |_| anyhow::bail!("it was restored"))?;
            Ok(match verdict {
                Verdict::Wrong(text)
                    if text.contains("mount /work") && text.contains("is not empty") =>
                {
                    Verdict::Right("the restore is refused and names the volume".into())
                }
                other => other,
            })
        },
    )
}

/// A container with content in its volume, and its pod.
fn started(engine: &Engine) -> Result<(Pod<'_>, restow_integration::container::Container<'_>)> {
    let pod = Pod::start(engine, &PodOptions::new("pod-a"))?;
    let mut container = pod.container(&carrying())?;
    fill(&pod)?;
    container.start()?;
    Ok((pod, container))
}

fn mounts_11_the_container_goes_on_when_its_content_cannot_be_written(suite: Suite) -> Result<()> {
    let stack = Stack::v2(suite);
    if stack.manager == Manager::Containerd {
        let why = "where containerd has the images while they are made is its own affair";
        return skip("Mounts 11, no room", stack, why);
    }
    let engine = Engine::start(stack, Mode::Restow)?;
    let (pod, container) = started(&engine)?;
    let mut noise = File::open("/dev/urandom")?;
    let mut bytes = vec![0; 24 << 20];
    std::io::Read::read_exact(&mut noise, &mut bytes)?;
    File::create(volume(&pod).join("noise"))?.write_all(&bytes)?;
    let before = container.reports()?[1].counter;

    let checkpoint = Checkpoint::new(&engine, "full")?;
    let options = ["-t", "tmpfs", "-o", "size=16m", "small", &checkpoint.images];
    engine.run("mount", &options)?;
    let failed = container.checkpoint_running(&checkpoint);
    let text = format!("{:#}", failed.err().context("It was checkpointed")?);
    ensure!(
        text.contains("volume /work") && text.contains("No space left"),
        "{text}"
    );
    let images = engine.node().path(&checkpoint.images);
    for name in ["source.json", "volume-0.tar.zst"] {
        ensure!(!images.join(name).exists(), "{name} was left behind");
    }
    let reports = container.reports()?;
    ensure!(reports[1].counter >= before && reports[0].memory_intact);
    engine.run("umount", &[&checkpoint.images])?;
    println!("Mounts 11, no room | {suite} | refused, the container goes on: {text}");
    pod.remove(vec![container])
}

fn mounts_11_content_goes_again_when_the_restore_fails(suite: Suite) -> Result<()> {
    let stack = Stack::v2(suite);
    if stack.manager == Manager::Containerd {
        let why = "the shim refuses an image set that is not whole before CRIU starts";
        return skip("Mounts 11, failed restore", stack, why);
    }
    let engine = Engine::start(stack, Mode::Restow)?;
    let (pod, mut container) = started(&engine)?;
    let checkpoint = Checkpoint::new(&engine, "broken")?;
    container.checkpoint(&checkpoint)?;
    pod.remove(vec![container])?;
    // CRIU finds out late, when it is about to restore memory.
    let memory = engine.node().path(&checkpoint.images).join("pagemap-1.img");
    let kept = memory.with_file_name("kept");
    fs::rename(&memory, &kept)?;

    let pod = Pod::start(&engine, &PodOptions::new("pod-b"))?;
    let mut container = pod.container(&carrying())?;
    ensure!(
        container.restore(&checkpoint).is_err(),
        "It was restored without its memory"
    );
    let left: Vec<_> = fs::read_dir(volume(&pod))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    ensure!(left.is_empty(), "{left:?} is left in the volume");
    container.forget()?;

    // What was undone can be done again.
    fs::rename(&kept, &memory)?;
    let mut container = pod.container(&carrying())?;
    container.restore(&checkpoint)?;
    let reports = container.reports()?;
    ensure!(reports[0].file("/work/data")?.content.as_deref() == Some("0123456789"));
    println!(
        "Mounts 11, failed restore | {suite} | the volume is empty again, and a second restore is right"
    );
    pod.remove(vec![container])
}
