//! Processes do no more in the new container than one that the runtime starts there.

use std::fs;

use anyhow::{Result, ensure};
use restow_integration::engine::Stack;
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod};
use restow_integration::scenario::{Stock, compare};
use restow_integration::suite::Suite;

on_both_suites!(
    capabilities_that_the_new_container_has_not_got_block,
    what_a_hardened_container_forbids_blocks,
    users_and_groups_that_a_hardened_container_cannot_become_block,
    a_node_that_trusts_its_checkpoints_takes_them,
);

/// What the bare runtime does with all of them.
const RESTORED: Stock = Stock::Wrong(&["should have been refused"]);

fn privileged() -> ContainerOptions {
    let mut container = ContainerOptions::new(1);
    container.privileged = true;
    container
}

fn hardened() -> ContainerOptions {
    let mut container = ContainerOptions::new(1);
    container.hardened = true;
    container
}

fn capabilities_that_the_new_container_has_not_got_block(suite: Suite) -> Result<()> {
    let mut journey = Journey::new(privileged());
    journey.container_there = Some(ContainerOptions::new(1));
    let words = [
        "process 1",
        "the same goes for 1 more",
        "has CAP_SYS_ADMIN, which the new container has not got",
        "privileges",
    ];
    compare(
        "Privileges, capabilities",
        Stack::v2(suite),
        RESTORED.crun(RESTORED),
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(&words))
        },
    )
}

fn what_a_hardened_container_forbids_blocks(suite: Suite) -> Result<()> {
    let mut journey = Journey::new(ContainerOptions::new(1));
    journey.container_there = Some(hardened());
    let words = [
        "may gain privileges by running a program",
        "has no seccomp filter",
        "which the new container has not got",
    ];
    compare(
        "Privileges, hardened",
        Stack::v2(suite),
        // Bare crun 1.28 restores no container that has masked directories.
        RESTORED,
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(&words))
        },
    )
}

fn users_and_groups_that_a_hardened_container_cannot_become_block(suite: Suite) -> Result<()> {
    let mut journey = Journey::new(hardened());
    let mut there = hardened();
    there.user = 1000;
    journey.container_there = Some(there);
    let words = [
        "runs as user 0, and the new container as 1000",
        "is in group 0, and the new container's processes are not",
    ];
    compare(
        "Privileges, user",
        Stack::v2(suite),
        // Bare crun 1.28 restores no container that has masked directories.
        RESTORED,
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(&words))
        },
    )
}

fn a_node_that_trusts_its_checkpoints_takes_them(suite: Suite) -> Result<()> {
    fn trust(pod: &Pod<'_>) -> Result<()> {
        let dir = pod.engine().node().path("/etc/restow");
        fs::create_dir_all(&dir)?;
        let text = "[defaults]\nprivileges = \"checkpoint\"\n";
        Ok(fs::write(dir.join("config.toml"), text)?)
    }
    let mut journey = Journey::new(privileged());
    journey.container_there = Some(ContainerOptions::new(1));
    journey.in_pod_a = Some(trust);
    compare(
        "Privileges, trusted",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            journey.run(engine, |there| {
                ensure!(there.reports.len() == 2, "The probe does not report");
                there.check_progress()?;
                Ok("a node that says so takes what the processes could do before".to_owned())
            })
        },
    )
}
