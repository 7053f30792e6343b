//! Changes that the container made in its root file system, which its user carries to the new one: an overlay, as a
//! containerd snapshot is.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::container::Container;
use restow_integration::engine::{Manager, Stack};
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{Stock, compare, skip};
use restow_integration::suite::Suite;

on_both_suites!(identity_8_changes_of_the_root_file_system_are_there);

/// Where the layers of pod A's and pod B's container are.
const ROOTS: &str = "/run/roots";

/// Makes the root of a container that does not run yet an overlay: what is in it becomes the image.
fn overlay(container: &Container<'_>, pod: &str) -> Result<()> {
    let engine = container.engine();
    let layers = format!("{ROOTS}/{pod}");
    let inside = format!("{}/rootfs", container.bundle());
    for layer in ["upper", "work"] {
        fs::create_dir_all(engine.node().path(format!("{layers}/{layer}")))
            .with_context(|| format!("Make the {layer} layer"))?;
    }
    let data = container.rootfs().join("data");
    for name in ["kept", "deleted", "replaced"] {
        fs::write(data.join(name), format!("{name} in the image"))?;
    }
    engine.run("mv", &[&inside, &format!("{layers}/lower")])?;
    fs::create_dir(engine.node().path(&inside)).context("Make the root")?;
    let options = format!("lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work");
    engine
        .run(
            "mount",
            &["-t", "overlay", "-o", &options, "overlay", &inside],
        )
        .map(drop)
}

fn unmount(container: &Container<'_>) -> Result<()> {
    let root = format!("{}/rootfs", container.bundle());
    container
        .engine()
        .run("umount", &["--lazy", &root])
        .map(drop)
}

/// containerd keeps the layers, and its checkpoint of a pod's container has the changes (`rootfs-diff.tar`), which the shim applies.
fn on_pods(stack: Stack) -> Result<()> {
    if stack.suite == Suite::Stable {
        let why = "containerd 1.7 leaves the root file system out of checkpoints; `restow checkpoint` adds it";
        return skip("Identity 8", stack, why);
    }
    let mut journey = Journey::new(ContainerOptions::new(1));
    journey.in_container_a = Some(|container| {
        // As from inside: through the merged root.
        let root = container.rootfs();
        fs::write(root.join("data/written"), "written by the program")?;
        // One of the image's.
        fs::remove_dir(root.join("tmp")).context("Remove a directory of the image")
    });
    compare("Identity 8", stack, Stock::Right, |engine| {
        journey.run(engine, |there| {
            let written = there.container.exec(&["/probe", "cat", "/data/written"])?;
            ensure!(
                written == "written by the program",
                "/data/written reads {written:?}"
            );
            let root = there.container.rootfs();
            ensure!(root.join("data").exists(), "there is no root file system");
            ensure!(!root.join("tmp").exists(), "/tmp has come back");
            there.check_progress()?;
            Ok("what the program wrote is there, what it removed is not".to_owned())
        })
    })
}

fn identity_8_changes_of_the_root_file_system_are_there(suite: Suite) -> Result<()> {
    let stack = Stack::v2(suite);
    if stack.manager == Manager::Containerd {
        return on_pods(stack);
    }
    let container = ContainerOptions::new(1)
        .open("all:rw:5:/data/kept")
        .open("each:r:3:/data/replaced");
    let mut journey = Journey::new(container);
    journey.before_start = Some(|container| {
        overlay(container, "a")?;
        // As from inside: through the merged root.
        let data = container.rootfs().join("data");
        fs::write(data.join("replaced"), "replaced by the program")?;
        fs::write(data.join("written"), "written by the program")?;
        fs::remove_file(data.join("deleted")).context("Delete a file of the image")
    });
    journey.after_checkpoint = Some(unmount);
    journey.before_restore = Some(|container| {
        let engine = container.engine();
        // What the runtime's user does: the changes of the old container are laid over the image anew.
        engine.run("mkdir", &["-p", &format!("{ROOTS}/b")])?;
        engine.run(
            "cp",
            &[
                "-a",
                &format!("{ROOTS}/a/upper"),
                &format!("{ROOTS}/b/upper"),
            ],
        )?;
        overlay(container, "b")
    });
    compare(
        "Identity 8",
        stack,
        Stock::Right.crun(Stock::Right),
        |engine| {
            journey.run(engine, |there| {
            let read = |name: &str| {
                let path = format!("/data/{name}");
                there.container.exec(&["/probe", "cat", &path])
            };
            ensure!(read("written")? == "written by the program", "/data/written reads otherwise");
            ensure!(read("replaced")? == "replaced by the program", "/data/replaced reads otherwise");
            ensure!(read("deleted").is_err(), "/data/deleted has come back");
            let expected = [("/data/kept", 5, "kept in the image"), ("/data/replaced", 3, "replaced by the program")];
            for report in &there.reports {
                for (path, offset, content) in expected {
                    let file = report.file(path)?;
                    ensure!(
                        file.offset == offset && file.content.as_deref() == Some(content),
                        "fd {} of process {} on {path} is at {} and reads {:?}",
                        file.fd,
                        report.process,
                        file.offset,
                        file.content
                    );
                }
            }
            there.check_progress()?;
            unmount(there.container)?;
            Ok("written, replaced and deleted files are as the program left them, descriptors go on".to_owned())
        })
        },
    )
}
