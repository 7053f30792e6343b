//! What the new pod lets its container write, whatever the old one let it.

use anyhow::{Result, ensure};
use restow_integration::engine::Stack;
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod};
use restow_integration::report::Report;
use restow_integration::scenario::{Stock, compare};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_10_a_write_descriptor_on_a_cgroup_mount_that_becomes_read_only_blocks,
    mounts_9_what_the_new_pod_has_read_only_is_read_only,
);

/// Stock restores mounts as writable as they were.
const WRITABLE: Stock = Stock::Wrong(&["is writable, and read-only in pod B"]);

/// Whether nothing can be written through the mount at this place.
fn read_only(report: &Report, mount_point: &str) -> bool {
    let mut lines = report.mountinfo.lines().rev().map(|line| line.split(' '));
    lines
        .find_map(|mut fields| (fields.nth(4) == Some(mount_point)).then(|| fields.next()))
        .flatten()
        .is_some_and(|options| options.split(',').any(|option| option == "ro"))
}

fn cgroup_10_a_write_descriptor_on_a_cgroup_mount_that_becomes_read_only_blocks(
    suite: Suite,
) -> Result<()> {
    // Pod A's container is privileged and sets its own limit, pod B's is not and may not.
    let mut container = ContainerOptions::new(1)
        .host_cgroups()
        .open("all:rw:0:{container}/cgroup.max.depth");
    container.privileged = true;
    let mut journey = Journey::new(container);
    let there = ContainerOptions::new(1).host_cgroups();
    journey.container_there = Some(there.clone());
    let stock = Stock::Wrong(&["Can't open file sys/fs/cgroup", "should have been refused"]);
    let words = [
        "fd 3 of process 1",
        "/cgroup.max.depth",
        "it is open for writing, and /sys/fs/cgroup is read-only in the new pod",
    ];
    compare(
        "Cgroup 10, read-only",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(&words))
        },
    )?;

    // Nothing can be written into a descriptor that leads nowhere, so this does not help.
    let mut ignoring = there;
    let ignore = ("restow.dev/cgroup-files".to_owned(), "ignore".to_owned());
    ignoring.annotations.push(ignore);
    journey.container_there = Some(ignoring);
    compare(
        "Cgroup 10, read-only, ignore",
        Stack::v2(suite),
        stock.crun(stock),
        |engine| {
            let verdict = journey.run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(verdict.refused(&words))
        },
    )
}

/// The node takes what processes could do before, so that the rest of such a move can be seen.
fn take_privileges(pod: &Pod<'_>) -> Result<()> {
    let dir = pod.engine().node().path("/etc/restow");
    std::fs::create_dir_all(&dir)?;
    let text = "[defaults]\nprivileges = \"checkpoint\"\n";
    Ok(std::fs::write(dir.join("config.toml"), text)?)
}

fn mounts_9_what_the_new_pod_has_read_only_is_read_only(suite: Suite) -> Result<()> {
    let volume = Bind::new("/var/lib/kubelet/volumes/shared", "/volume");
    let with = |bind: Bind| {
        ContainerOptions::new(1)
            .bind(bind)
            .open("all:r:2:/volume/data")
    };
    let mut container = with(volume.clone());
    container.privileged = true;
    let mut journey = Journey::new(container);
    journey.in_pod_a = Some(take_privileges);
    journey.container_there = Some(with(volume.readonly()));
    compare(
        "Mounts 9, read-only",
        Stack::v2(suite),
        WRITABLE.crun(WRITABLE),
        |engine| {
            let path = engine.node().path("/var/lib/kubelet/volumes/shared");
            std::fs::create_dir_all(&path)?;
            std::fs::write(path.join("data"), "0123456789")?;
            journey.run(engine, |there| {
            for report in &there.reports {
                // The last two are paths that the spec names, not mounts.
                for place in ["/volume", "/sys", "/sys/fs/cgroup", "/proc/sys", "/proc/bus"] {
                    ensure!(read_only(report, place), "{place} is writable, and read-only in pod B");
                }
                let file = &report.files[0];
                ensure!(
                    file.offset == 2 && file.content.as_deref() == Some("0123456789"),
                    "fd {} is at {} and reads {:?}",
                    file.fd,
                    file.offset,
                    file.content
                );
            }
            there.check_progress()?;
            Ok("volume, sysfs, cgroups and /proc/sys of a privileged container are read-only in pod B, which is not".to_owned())
        })
        },
    )
}
