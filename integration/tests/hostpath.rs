//! The node's cgroup file systems, mounted into a container by hostPath or read by version 1 controllers.

use anyhow::{Context, Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::Stack;
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;

on_both_suites!(
    cgroup_4_files_below_a_host_path_of_the_cgroups_are_the_new_containers,
    cgroup_11_files_of_version_1_controllers_are_the_new_containers,
);

fn cgroup_4_files_below_a_host_path_of_the_cgroups_are_the_new_containers(
    suite: Suite,
) -> Result<()> {
    // As monitoring agents do it: a private cgroup namespace, and the node's whole tree elsewhere.
    let container = ContainerOptions::new(1)
        .bind(Bind::new("/sys/fs/cgroup", "/host/cgroup").readonly())
        .open("all:r:5:/host/cgroup{path}/cgroup.events")
        .open("each:r:0:/host/cgroup{path}/cpu.stat")
        .open("each:r:0:/host/cgroup/cgroup.stat");
    compare(
        "Cgroup 4",
        Stack::v2(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
            there.check_placement()?;
            let old = format!("/host/cgroup{}", there.origin.container_cgroup_inside);
            there.check_file(&format!("{old}/cgroup.events"), there.cgroup_inode("cgroup.events")?)?;
            there.check_file(&format!("{old}/cpu.stat"), there.cgroup_inode("cpu.stat")?)?;
            let node = inode(&there.engine.node().cgroup_root().join("cgroup.stat"))?;
            there.check_file("/host/cgroup/cgroup.stat", node)?;
            Ok("descriptors by the hostPath are on pod B's files, that on the node's own file is kept".to_owned())
        })
        },
    )
}

fn cgroup_11_files_of_version_1_controllers_are_the_new_containers(suite: Suite) -> Result<()> {
    const FILES: [(&str, &str); 4] = [
        ("memory", "memory.usage_in_bytes"),
        ("cpu", "cpu.shares"),
        ("pids", "pids.current"),
        ("cpuacct", "cpuacct.usage"),
    ];
    let path = |(controller, file): (&str, &str)| format!("/sys/fs/cgroup/{controller}/{file}");
    let container = FILES
        .into_iter()
        .fold(ContainerOptions::new(2), |container, file| {
            container
                .open(format!("all:r:0:{}", path(file)))
                .open(format!("each:r:1:{}", path(file)))
        });
    compare(
        "Cgroup 11",
        Stack::hybrid(suite),
        Stock::Wrong(OLD_CGROUP).crun(Stock::Wrong(OLD_CGROUP)),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                for (controller, file) in FILES {
                    let dir = there.container.cgroup_v1_dir(controller)?;
                    there
                        .check_file(&path((controller, file)), inode(&dir.join(file))?)
                        .with_context(|| format!("The controller {controller}"))?;
                }
                for report in &there.reports {
                    let strays: Vec<_> = report
                        .cgroup
                        .lines()
                        .filter(|line| !line.ends_with(there.container.cgroup()))
                        .collect();
                    ensure!(
                        strays.is_empty(),
                        "process {} is also in {strays:?}",
                        report.process
                    );
                }
                there.check_progress()?;
                Ok(
                    "memory, cpu, pids and cpuacct files and tasks are pod B's in every hierarchy"
                        .to_owned(),
                )
            })
        },
    )
}
