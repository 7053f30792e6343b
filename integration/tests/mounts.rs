//! Mounts and the files on them after a restore in another pod.

use anyhow::{Result, ensure};
use restow_integration::engine::Stack;
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{Stock, compare};
use restow_integration::suite::Suite;

on_both_suites!(mounts_1_files_that_the_runtime_manages_are_the_new_pods);

fn mounts_1_files_that_the_runtime_manages_are_the_new_pods(suite: Suite) -> Result<()> {
    const FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];
    let container = FILES
        .iter()
        .fold(ContainerOptions::new(1), |container, file| {
            container
                .open(format!("all:r:0:{file}"))
                .open(format!("1:r:5:{file}"))
        });
    compare("Mounts 1", Stack::v2(suite), Stock::Wrong, |engine| {
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
    })
}
