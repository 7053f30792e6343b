//! A container under another name, on another node, in and out of pods, and with volumes.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::podman::{IMAGE, Podman};
use restow_integration::suite::Suite;

use crate::{ARCHIVE, HELD, both, goes_on};

pub(crate) fn a_container_moves_to_another_name(suite: Suite) -> Result<()> {
    both("another name", suite, |podman| {
        podman.probe("old", &["--network", "none"], &HELD)?;
        let before = podman.report("old")?;
        podman.run(&["container", "checkpoint", "--export", ARCHIVE, "old"])?;
        podman.run(&["rm", "old"])?;
        podman.run(&["container", "restore", "--import", ARCHIVE, "--name", "new"])?;
        let after = goes_on(podman, "new", &before)?;
        // Another generation, and twice from the same archive.
        podman.run(&[
            "container",
            "checkpoint",
            "--export",
            "/tmp/second.tar.zst",
            "new",
        ])?;
        podman.run(&["rm", "new"])?;
        for name in ["third", "fourth"] {
            podman.run(&[
                "container",
                "restore",
                "--import",
                "/tmp/second.tar.zst",
                "--name",
                name,
            ])?;
            goes_on(podman, name, &after)?;
        }
        podman.run(&["exec", "third", "/probe", "cat", "/etc/hosts"])?;
        podman.run(&["stop", "third"])?;
        podman.run(&["rm", "--force", "third", "fourth"]).map(drop)
    })
}

pub(crate) fn a_container_moves_to_another_node(suite: Suite) -> Result<()> {
    both("another node", suite, |podman| {
        podman.probe("web", &["--network", "none"], &HELD)?;
        let before = podman.report("web")?;
        podman.run(&["container", "checkpoint", "--export", ARCHIVE, "web"])?;
        let other = Podman::start(suite, podman.engine().mode())?;
        podman.send_image(&other)?;
        podman.send(ARCHIVE, &other)?;
        podman.run(&["rm", "web"])?;
        other.run(&["container", "restore", "--import", ARCHIVE])?;
        goes_on(&other, "web", &before).map(drop)
    })
}

pub(crate) fn a_container_moves_into_and_out_of_a_pod(suite: Suite) -> Result<()> {
    both("pods", suite, |podman| {
        let pod = |name: &str| {
            let infra = [
                "--infra-image",
                IMAGE,
                "--infra-command",
                "/probe pause",
                "--network",
                "none",
                "--share",
                "ipc,uts,net",
            ];
            podman.run(&[&["pod", "create", "--name", name][..], &infra].concat())
        };
        pod("one")?;
        pod("two")?;
        podman.probe("in", &["--pod", "one"], &HELD)?;
        let before = podman.report("in")?;
        podman.run(&["container", "checkpoint", "--export", ARCHIVE, "in"])?;
        podman.run(&["rm", "in"])?;
        podman.run(&[
            "container",
            "restore",
            "--import",
            ARCHIVE,
            "--pod",
            "two",
            "--name",
            "there",
        ])?;
        let after = goes_on(podman, "there", &before)?;
        let pod_of = podman.inspect("there", "{{.Pod}}")?;
        ensure!(
            pod_of == podman.run(&["pod", "inspect", "two", "--format", "{{.ID}}"])?,
            "It is in pod {pod_of}"
        );
        ensure!(
            after.hostname == "two",
            "It has the host name {}",
            after.hostname
        );
        podman
            .run(&["pod", "rm", "--force", "one", "two"])
            .map(drop)
    })
}

pub(crate) fn a_volume_is_left_out_or_travels_as_podman_does_it(suite: Suite) -> Result<()> {
    both("volumes", suite, |podman| {
        let open = [
            "--open",
            "all:rlog:0:/data/log",
            "--open",
            "all:r:0:/sys/fs/cgroup/cgroup.events",
        ];
        podman.run(&["volume", "create", "kept"])?;
        let at = podman.run(&["volume", "inspect", "--format", "{{.Mountpoint}}", "kept"])?;
        fs::write(podman.path(&at).join("log"), "first\n").context("Write to the volume")?;
        podman.probe(
            "vol",
            &["--network", "none", "--volume", "kept:/data"],
            &open,
        )?;
        let before = podman.report("vol")?;
        podman.run(&[
            "container",
            "checkpoint",
            "--ignore-volumes",
            "--export",
            ARCHIVE,
            "vol",
        ])?;
        podman.run(&["rm", "vol"])?;
        // The volume is somebody else's business, and has changed.
        fs::write(podman.path(&at).join("log"), "first\nsecond\n")
            .context("Write to the volume")?;
        podman.run(&[
            "container",
            "restore",
            "--ignore-volumes",
            "--import",
            ARCHIVE,
            "--name",
            "vol2",
        ])?;
        let after = goes_on(podman, "vol2", &before)?;
        let text = fs::read_to_string(podman.path(&at).join("log")).context("Read the volume")?;
        ensure!(
            text.starts_with("first\nsecond\n"),
            "The volume was changed: {text:?}"
        );

        // With its content, where it is not there any more.
        podman.run(&[
            "container",
            "checkpoint",
            "--export",
            "/tmp/with.tar.zst",
            "vol2",
        ])?;
        podman.run(&["rm", "vol2"])?;
        podman.run(&["volume", "rm", "kept"])?;
        podman.run(&[
            "container",
            "restore",
            "--import",
            "/tmp/with.tar.zst",
            "--name",
            "vol3",
        ])?;
        goes_on(podman, "vol3", &after)?;
        let text = fs::read_to_string(podman.path(&at).join("log")).context("Read the volume")?;
        ensure!(
            text.starts_with("first\nsecond\n"),
            "The volume did not travel: {text:?}"
        );
        Ok(())
    })
}
