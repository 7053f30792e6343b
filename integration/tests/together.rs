//! Version 1 controllers that share a hierarchy, as `cpu,cpuacct` do on many hosts.
//!
//! Only on request: the hierarchy is there for all processes of the host while a test has it mounted, and for some seconds more, and
//! crun fails on a node that does not mount it. `RESTOW_TOGETHER=1 cargo test -p restow-integration --test together` with no other
//! test beside it.

use anyhow::{Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::Stack;
use restow_integration::journey::Journey;
use restow_integration::node::Together;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{OLD_CGROUP, Stock, compare, skip};
use restow_integration::suite::Suite;

on_both_suites!(cgroup_11_controllers_that_share_a_hierarchy_are_no_exception);

/// Hosts hardly use these two, so they can be had.
const CONTROLLERS: [(&str, &str); 2] = [
    ("net_cls", "net_cls.classid"),
    ("net_prio", "net_prio.prioidx"),
];

fn cgroup_11_controllers_that_share_a_hierarchy_are_no_exception(suite: Suite) -> Result<()> {
    const NAME: &str = "Cgroup 11, co-mounted";
    let stack = Stack::hybrid(suite);
    let both = CONTROLLERS.map(|(controller, _)| controller).join(",");
    if std::env::var_os("RESTOW_TOGETHER").is_none() {
        let why = "run by itself with RESTOW_TOGETHER=1: it changes the whole host's cgroups";
        return skip(NAME, stack, why);
    }
    let Some(_mounted) = Together::mount(&both)? else {
        let why = format!("{both} cannot be mounted together on this host");
        return skip(NAME, stack, &why);
    };
    // By the link that each controller has; what is open is in the hierarchy.
    let path = |(controller, file): (&str, &str)| format!("/sys/fs/cgroup/{controller}/{file}");
    let container = CONTROLLERS
        .into_iter()
        .fold(ContainerOptions::new(1), |container, file| {
            container
                .open(format!("all:r:0:{}", path(file)))
                .open(format!("each:r:1:{}", path(file)))
        });
    let stock = Stock::Wrong(OLD_CGROUP);
    compare(NAME, stack, stock.crun(stock), |engine| {
        Journey::new(container.clone()).run(engine, |there| {
            for (controller, file) in CONTROLLERS {
                let own = there.container.cgroup_v1_dir(controller)?;
                there.check_file(&path((controller, file)), inode(&own.join(file))?)?;
            }
            for report in &there.reports {
                let line = report.cgroup.lines().find(|line| line.contains(&both));
                ensure!(
                    line.is_some_and(|line| line.ends_with(there.container.cgroup())),
                    "process {} is in {line:?}",
                    report.process
                );
                let at = format!("/sys/fs/cgroup/{both}/");
                let elsewhere = report.files.iter().find(|file| !file.link.starts_with(&at));
                ensure!(elsewhere.is_none(), "a descriptor is on {elsewhere:?}");
            }
            there.check_progress()?;
            Ok(
                "files of both controllers and tasks are pod B's in the hierarchy that they share"
                    .to_owned(),
            )
        })
    })
}
