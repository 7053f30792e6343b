//! Who the restored container is, and how it is handled from outside.

use anyhow::{Result, ensure};
use restow_integration::engine::Stack;
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{Stock, compare};
use restow_integration::suite::Suite;

on_both_suites!(
    identity_1_the_host_name_is_the_new_pods,
    identity_3_logs_exec_kill_and_exit_code_work_in_the_new_pod,
);

fn identity_1_the_host_name_is_the_new_pods(suite: Suite) -> Result<()> {
    compare("Identity 1", Stack::v2(suite), Stock::Wrong, |engine| {
        Journey::new(ContainerOptions::new(1)).run(engine, |there| {
            for report in &there.reports {
                ensure!(
                    report.hostname == there.pod.name(),
                    "process {} in pod {} sees the host name {}",
                    report.process,
                    there.pod.name(),
                    report.hostname
                );
            }
            let sandbox =
                there
                    .pod
                    .sandbox()
                    .exec(&["/probe", "cat", "/proc/sys/kernel/hostname"])?;
            ensure!(
                sandbox.trim() == there.pod.name(),
                "the sandbox of pod B is now called {}",
                sandbox.trim()
            );
            Ok(format!(
                "container and sandbox are called {}",
                there.pod.name()
            ))
        })
    })
}

fn identity_3_logs_exec_kill_and_exit_code_work_in_the_new_pod(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(2)
        .probe("--exit", 7)
        .open("all:r:0:/etc/hosts");
    compare("Identity 3", Stack::v2(suite), Stock::Wrong, |engine| {
        Journey::new(container.clone()).run(engine, |there| {
            let before = there.container.log()?.len();
            std::thread::sleep(std::time::Duration::from_millis(400));
            let log = there.container.log()?;
            ensure!(
                log.len() > before && log.contains("count"),
                "nothing arrives in pod B's log"
            );
            let cgroup = there
                .container
                .exec(&["/probe", "cat", "/proc/self/cgroup"])?;
            ensure!(
                cgroup.lines().any(|line| line == "0::/"),
                "a program run in it is in another cgroup: {cgroup:?}"
            );
            let code = there.container.terminate()?;
            ensure!(
                code == Some(7),
                "it ended with {code:?}, not with its exit code 7"
            );
            Ok(
                "it logs to pod B's log, runs a program, ends on SIGTERM with exit code 7"
                    .to_owned(),
            )
        })
    })
}
