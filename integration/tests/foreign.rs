//! Files on mounts that the container has not got: whoever started it left them open to it.

use anyhow::{Result, bail, ensure};
use restow_integration::engine::Stack;
use restow_integration::journey::{Journey, Verdict};
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{Stock, compare};
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_16_files_of_the_nodes_own_mount_are_the_new_pods,
    mounts_14_a_file_of_the_node_that_corresponds_to_nothing_is_named,
);

fn cgroup_16_files_of_the_nodes_own_mount_are_the_new_pods(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(2)
        .left_open("{pod}/cgroup.events")
        .left_open("{qos}/cgroup.stat")
        .left_open("{pod}/cgroup.events")
        .open("all:fd:3:3")
        .open("all:fd:0:4")
        .open("all:fd:6:5");
    compare(
        "Cgroup 16",
        Stack::v2(suite),
        Stock::Wrong(&["Can't lookup mount"]),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let inode = |file: String| -> Result<u64> {
                    let root = there.engine.node().cgroup_root();
                    restow_integration::container::inode(&root.join(&file[1..]))
                };
                let events = inode(format!("{}/cgroup.events", there.pod.cgroup()))?;
                there.check_file("3", events)?;
                there.check_file("5", events)?;
                there.check_file(
                    "4",
                    inode(format!("{}/cgroup.stat", there.pod.qos_cgroup()))?,
                )?;
                // What the container cannot write by any path it cannot write by these either.
                for fd in [3, 4] {
                    let again = there.container.exec(&[
                        "/probe",
                        "writable",
                        &format!("/proc/1/fd/{fd}"),
                    ])?;
                    ensure!(
                        again.trim() == "no",
                        "descriptor {fd} can be opened for writing: {again}"
                    );
                }
                there.check_progress()?;
                Ok("9 descriptors on the node's own mount are on pod B's files".to_owned())
            })
        },
    )
}

fn mounts_14_a_file_of_the_node_that_corresponds_to_nothing_is_named(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(1)
        .left_open("/var/log/of-the-caller")
        .open("all:fd:2:3");
    compare(
        "Mounts 14",
        Stack::v2(suite),
        Stock::Wrong(&["Can't lookup mount"]),
        |engine| {
            let log = engine.node().path("/var/log/of-the-caller");
            std::fs::create_dir_all(log.with_file_name(""))?;
            std::fs::write(log, "words of the caller")?;
            let verdict =
                Journey::new(container.clone()).run(engine, |_| bail!("it was restored"))?;
            Ok(match verdict {
                Verdict::Wrong(text)
                    if text.contains("fd 3 of process 1")
                        && text.contains("/var/log/of-the-caller")
                        && text.contains("the container had not got") =>
                {
                    Verdict::Right("the restore is refused and names the file".to_owned())
                }
                other => other,
            })
        },
    )
}
