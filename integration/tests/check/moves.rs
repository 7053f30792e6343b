//! What it says nothing about, and what Restow takes care of: that can be dumped, and restored elsewhere.

use anyhow::{Result, bail};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::journey::{Journey, Verdict};
use restow_integration::network::{OUTSIDE, Outside};
use restow_integration::pod::ContainerOptions;
use restow_integration::suite::Suite;

use crate::asked::{Dump, holding, judge, pod, stage};
use crate::objects::asks_too_much;

/// Everything here looks suspicious, and CRIU keeps it.
pub(crate) fn kept(suite: Suite) -> ContainerOptions {
    let mut kept = vec![
        "memfd",
        "pidfd:self",
        "aio",
        "unix-in-flight",
        "unlinked:/tmp/small,1000",
        "unlinked:/vol/small,1000",
        "mapped-unlinked:/tmp/mapped",
        "shared-map",
        "pty",
        "stopped",
        "zombie",
        "strict",
        "sysv-shm",
        "socket:16,3,0",
        "node:c,10,200",
        "watch:/vol",
        "file:/sys/fs/cgroup/cgroup.events",
        "file:/proc/1/status",
        "file:/proc/self/ns/net",
        "file:/proc/pressure/cpu",
        "device:/dev/null",
        "device-map:/dev/zero",
        "threads:3",
        "deleted-cwd:/tmp/cwd",
    ];
    if !asks_too_much(suite) {
        kept.extend([
            "socket:2,1,0",
            "socket:2,2,0",
            "socket:10,1,0",
            "socket:2,3,1",
        ]);
    }
    holding(&kept)
}

pub(crate) fn check_what_criu_keeps_is_no_finding(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let more = kept(suite)
        .probe("--hold", "fanotify")
        .probe("--hold", "namespace:mnt");
    judge(&engine, &pod, "kept", &more, &[], Dump::Works)
}

/// And what CRIU keeps arrives in another pod.
pub(crate) fn check_what_is_no_finding_can_be_restored_elsewhere(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let verdict = Journey::new(kept(suite)).run(&engine, |there| {
        there.check_progress()?;
        Ok("it goes on counting".to_owned())
    })?;
    match verdict {
        Verdict::Right(text) => {
            println!("kept, moved | {} | {text}", engine.versions()?);
            Ok(())
        }
        Verdict::Wrong(text) => bail!("{text}"),
    }
}

/// In a container that has opted in.
pub(crate) fn check_what_restow_takes_care_of_is_no_blocker(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod = pod(&engine, "pod-a")?;
    judge(
        &engine,
        &pod,
        "removed",
        &holding(&["removed-cgroup"]),
        &["warning removed-cgroup"],
        Dump::Works,
    )?;
    let foreign = holding(&[]).left_open("/etc/hostname").open("all:fd:0:3");
    judge(
        &engine,
        &pod,
        "foreign",
        &foreign,
        &["warning foreign-file"],
        Dump::Works,
    )?;
    // What CRIU is certain to refuse is refused before it starts; of the rest it is said what it was.
    for (kind, expected, words) in [
        (
            "io-uring",
            "blocker io-uring",
            &["(restow): The checkpoint is not possible: fd 3 of process"],
        ),
        (
            "namespace:uts",
            "blocker namespace",
            &["(restow): The checkpoint is not possible: process"],
        ),
        (
            "userfaultfd",
            "blocker anonymous-file",
            &["(restow): CRIU failed; what it cannot dump here: fd 3 of process"],
        ),
    ] {
        judge(
            &engine,
            &pod,
            kind,
            &holding(&[kind]),
            &[expected],
            Dump::Refused(words),
        )?;
    }
    if asks_too_much(suite) {
        return Ok(());
    }
    let [outside, _] = OUTSIDE;
    let outside = format!("{outside}:7001");
    let _server = Outside::start(&engine, &outside)?;
    let inside = holding(&[]).socket("0:pair:127.0.0.1:7000");
    judge(&engine, &pod, "inside", &inside, &[], Dump::Works)?;
    let listener = holding(&[]).socket("0:listen:{ip4}:7002");
    judge(&engine, &pod, "listener", &listener, &[], Dump::Works)?;
    let waiting = holding(&["listen-full"]);
    judge(
        &engine,
        &pod,
        "waiting",
        &waiting,
        &["warning tcp-waiting"],
        Dump::Works,
    )?;
    let refused = Dump::Refused(&["The checkpoint is not possible"]);
    for (tcp, severity, dump) in [
        ("close", "warning", Dump::Works),
        ("keep", "warning", Dump::Works),
        ("refuse", "blocker", refused),
    ] {
        let client = holding(&[]).socket(format!("0:connect:{outside}"));
        let client = client.annotation("restow.dev/tcp", tcp);
        let expected = format!("{severity} tcp-established");
        judge(&engine, &pod, tcp, &client, &[&expected], dump)?;
    }
    Ok(())
}
