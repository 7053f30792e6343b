//! A tree, and the command as it is called.

use std::fs;
use std::process::Output;

use anyhow::{Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::suite::Suite;
use restow_integration::tree::{Tree, TreePod, View, eventually};

pub(crate) const IMAGES: &str = "/run/tree/img";
pub(crate) const STAGING: &str = "/run/restow/staging";

pub(crate) fn engine(suite: Suite) -> Result<Engine> {
    Engine::start(Stack::v2(suite), Mode::Restow)
}

/// A parent and a child that hold a file of the pod's cgroup.
pub(crate) fn started<'e>(pod: &TreePod<'e>) -> Result<Tree<'e>> {
    let open = format!("all:r:3:{}/cgroup.events", pod.cgroup_inside());
    pod.tree(&["--children", "1", "--exit", "7", "--open", &open])
}

pub(crate) fn dump(
    engine: &Engine,
    pod: &TreePod<'_>,
    tree: &Tree<'_>,
    more: &[&str],
) -> Result<Output> {
    fs::create_dir_all(engine.node().path(IMAGES))?;
    let pid = tree.pid.to_string();
    let words = ["dump", "-t", &pid, "-D", IMAGES, "-o", "dump.log", "-v4"];
    pod.criu(&[&words, more].concat(), &[])
}

pub(crate) fn restore(pod: &TreePod<'_>, more: &[&str]) -> Result<Output> {
    let words = ["restore", "-D", IMAGES, "-o", "restore.log", "-v4"];
    pod.criu(&[&words, more].concat(), &[])
}

pub(crate) fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// The tree has moved from pod A, which is gone, to a pod B.
pub(crate) fn moved<'e>(engine: &'e Engine) -> Result<(TreePod<'e>, Tree<'e>)> {
    let pod_a = TreePod::start(engine, "aaaa", View::Node)?;
    let tree = started(&pod_a)?;
    tree.reports()?;
    succeeded(&dump(engine, &pod_a, &tree, &[])?)?;
    pod_a.remove()?;
    Ok((TreePod::start(engine, "another-bbbb", View::Node)?, tree))
}

pub(crate) fn check_arrived(pod: &TreePod<'_>, tree: &Tree<'_>) -> Result<()> {
    let events = inode(&pod.cgroup_dir().join("cgroup.events"))?;
    for report in tree.reports()? {
        let file = &report.files[0];
        ensure!(file.inode == events && file.offset == 3, "{file:?}");
    }
    ensure!(pod.population()? == 2);
    Ok(())
}

/// No process of Restow's, no staging directory.
pub(crate) fn check_clean(engine: &Engine) -> Result<()> {
    let script = "for p in /proc/[0-9]*; do case \"$(readlink $p/exe)\" in /opt/restow/*) exit 1;; esac; done";
    eventually("nothing of Restow runs", || {
        engine.run("sh", &["-c", script]).ok()
    })?;
    let staging = engine.node().path(STAGING);
    let left = fs::read_dir(&staging).map_or(0, Iterator::count);
    ensure!(left == 0, "{left} staging directories are left");
    Ok(())
}
