//! Mounts and the files on them after a restore in another pod.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::engine::Stack;
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{Stock, compare};
use restow_integration::suite::Suite;
use serde_json::json;

on_both_suites!(
    mounts_1_files_that_the_runtime_manages_are_the_new_pods,
    mounts_1_an_offset_behind_the_end_becomes_the_end_for_all_who_share_it,
    mounts_9_a_mount_that_only_the_new_pod_has_is_there,
    mounts_9_mounts_of_other_kinds_and_in_other_places_are_there_with_their_options,
    mounts_10_a_mount_that_only_the_old_pod_had_is_dropped_when_nothing_uses_it,
    mounts_10_a_mount_that_only_the_old_pod_had_blocks_when_it_is_in_use,
);

fn mounts_1_files_that_the_runtime_manages_are_the_new_pods(suite: Suite) -> Result<()> {
    const FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];
    let container = FILES
        .iter()
        .fold(ContainerOptions::new(1), |container, file| {
            container
                .open(format!("all:r:0:{file}"))
                .open(format!("1:r:5:{file}"))
        });
    compare(
        "Mounts 1",
        Stack::v2(suite),
        Stock::Wrong(&["has bad size"]).crun(Stock::Wrong(&["has bad size"])),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
            let fresh = |file: &str| there.container.exec(&["/probe", "cat", file]);
            for file in FILES {
                let expected = fresh(file)?;
                for report in &there.reports {
                    for held in report.files.iter().filter(|held| held.opened == file) {
                        let content = held.content.as_deref().unwrap_or("nothing");
                        ensure!(
                            content == expected && content.contains(there.pod.name()),
                            "fd {} of process {} on {file} reads {content:?}",
                            held.fd,
                            report.process
                        );
                        let before = there.origin.reports[report.process].files.iter().find(|old| old.fd == held.fd);
                        let offset = before.map(|old| old.offset);
                        ensure!(offset == Some(held.offset), "fd {} was at {offset:?}, is at {}", held.fd, held.offset);
                    }
                }
            }
            there.check_progress()?;
            Ok("/etc/hosts, resolv.conf and hostname of pod B are read through the old descriptors".to_owned())
        })
        },
    )
}

fn mounts_1_an_offset_behind_the_end_becomes_the_end_for_all_who_share_it(
    suite: Suite,
) -> Result<()> {
    const FILE: &str = "/etc/hosts";
    let container = ContainerOptions::new(2)
        .open(format!("all:r:4000:{FILE}"))
        .open(format!("each:r:5000:{FILE}"))
        .open(format!("1:r:3:{FILE}"));
    let stock = Stock::Wrong(&["has bad size"]);
    compare(
        "Mounts 1, offset",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let end = there.container.exec(&["/probe", "cat", FILE])?.len() as u64;
                for (before, after) in there.origin.reports.iter().zip(&there.reports) {
                    for (before, after) in before.files.iter().zip(&after.files) {
                        let expected = before.offset.min(end);
                        ensure!(
                            after.offset == expected && after.shared == before.shared,
                            "fd {} was at {} (shared: {}) and is at {}, not {expected} (shared: {})",
                            after.fd,
                            before.offset,
                            before.shared,
                            after.offset,
                            after.shared
                        );
                    }
                }
                there.check_progress()?;
                Ok("offsets behind the end of pod B's file are its end, shared as they were".to_owned())
            })
        },
    )
}

fn mounts_9_a_mount_that_only_the_new_pod_has_is_there(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(1);
    let there = container.clone().volume("/new/dir");
    compare(
        "Mounts 9",
        Stack::v2(suite),
        Stock::Wrong(&["/new/dir/pod: No such file"])
            .crun(Stock::Wrong(&["/new/dir/pod: No such file"])),
        |engine| {
            let mut journey = Journey::new(container.clone());
            journey.container_there = Some(there.clone());
            journey.run(engine, |there| {
                let content = there.container.exec(&["/probe", "cat", "/new/dir/pod"])?;
                ensure!(
                    content == there.pod.name(),
                    "/new/dir/pod reads {content:?}"
                );
                there.check_progress()?;
                Ok("pod B's volume is mounted in the restored container".to_owned())
            })
        },
    )
}

fn mounts_9_mounts_of_other_kinds_and_in_other_places_are_there_with_their_options(
    suite: Suite,
) -> Result<()> {
    let container = ContainerOptions::new(1).volume("/kept");
    let bind = |at: &str, source: &str, options: &[&str]| json!({"destination": at, "type": "bind", "source": source, "options": options});
    compare(
        "Mounts 9, kinds",
        Stack::v2(suite),
        Stock::Wrong(&["/fresh is not mounted"]),
        |engine| {
            let node = engine.node();
            let tree = "/var/lib/tree";
            fs::create_dir_all(node.path(tree).join("inner"))?;
            // Of its own propagation: when runc makes mount points for a restore it unmounts what it has bound for that, and
            // takes along what is mounted below the source where the node's mounts are shared.
            engine.run("mount", &["--bind", tree, tree])?;
            engine.run("mount", &["--make-private", tree])?;
            engine.run("mount", &["-t", "tmpfs", "inner", "/var/lib/tree/inner"])?;
            fs::write(node.path("/var/lib/single"), "single")?;
            let there = container
                .clone()
                .mount(json!({"destination": "/fresh", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "noexec", "size=1m", "mode=700"]}))
                .mount(json!({"destination": "/queues", "type": "mqueue", "source": "mqueue", "options": ["nosuid"]}))
                // In a volume, where nobody has made a mount point.
                .mount(bind("/kept/made/here", tree, &["rbind", "rro"]))
                .mount(bind("/kept/made/below/single", "/var/lib/single", &["bind", "ro", "noatime"]))
                .mount(bind("/top", tree, &["rbind", "ro"]));
            let mut journey = Journey::new(container.clone());
            journey.container_there = Some(there);
            journey.run(engine, |there| {
                let mounts = &there.reports[0].mountinfo;
                for (at, words) in [
                    (
                        "/fresh",
                        &["rw,nosuid,noexec", " - tmpfs ", "size=1024k,mode=700"][..],
                    ),
                    ("/queues", &["nosuid", " - mqueue "]),
                    ("/kept/made/here", &["ro,"]),
                    ("/kept/made/here/inner", &["ro,"]),
                    ("/kept/made/below/single", &["ro,noatime"]),
                    ("/top", &["ro,"]),
                    ("/top/inner", &["rw,"]),
                ] {
                    let line = mounts
                        .lines()
                        .find(|line| line.split(' ').nth(4) == Some(at));
                    let line = line.with_context(|| format!("{at} is not mounted"))?;
                    for word in words {
                        ensure!(line.contains(word), "{at} has not {word:?}: {line}");
                    }
                }
                there.check_progress()?;
                Ok(
                    "a tmpfs, queues and binds below a volume are there, each as its options say"
                        .to_owned(),
                )
            })
        },
    )
}

fn mounts_10_a_mount_that_only_the_old_pod_had_is_dropped_when_nothing_uses_it(
    suite: Suite,
) -> Result<()> {
    let there = ContainerOptions::new(1);
    let container = there.clone().volume("/old/dir");
    compare(
        "Mounts 10, unused",
        Stack::v2(suite),
        Stock::Wrong(&["No mapping for"]).crun(Stock::Wrong(&["No mapping for"])),
        |engine| {
            let mut journey = Journey::new(container.clone());
            journey.container_there = Some(there.clone());
            journey.run(engine, |there| {
                let found = there.container.exec(&["/probe", "cat", "/old/dir/pod"]);
                ensure!(
                    found.is_err(),
                    "/old/dir/pod is still there and reads {found:?}"
                );
                there.check_progress()?;
                Ok("pod A's volume is gone, the container goes on".to_owned())
            })
        },
    )
}

fn mounts_10_a_mount_that_only_the_old_pod_had_blocks_when_it_is_in_use(
    suite: Suite,
) -> Result<()> {
    let there = ContainerOptions::new(1);
    let container = there
        .clone()
        .volume("/old/dir")
        .open("all:r:0:/old/dir/pod");
    let mut journey = Journey::new(container);
    journey.container_there = Some(there);
    compare(
        "Mounts 10, in use",
        Stack::v2(suite),
        Stock::Wrong(&["No mapping for"]).crun(Stock::Wrong(&["No mapping for"])),
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(&[
                "mount /old/dir (mnt_id ",
                "fd 3 of process 1 (/old/dir/pod)",
                "give the new pod this mount",
            ]))
        },
    )
}
