//! containerd on a node: it starts, its handlers run the probe, and it is started again below running containers.

use std::time::Duration;

use anyhow::{Result, ensure};
use restow_integration::containerd::{Containerd, PROBE_IMAGE, Shim, handler};
use restow_integration::on_both_suites;
use restow_integration::stack::{Runtime, Stack};
use restow_integration::suite::Suite;

on_both_suites!(containers_run_below_every_handler_and_outlive_containerd);

fn containers_run_below_every_handler_and_outlive_containerd(suite: Suite) -> Result<()> {
    let containerd = Containerd::start(Stack::v2(suite))?;
    for runtime in Runtime::ALL {
        let name = handler(runtime, Shim::Stock);
        let program = format!("--runc-binary={}", runtime.program());
        containerd.ctr(&[
            "run",
            "--detach",
            &program,
            PROBE_IMAGE,
            name,
            "/probe",
            "run",
        ])?;
    }
    containerd.restart("KILL")?;
    let list = containerd.ctr(&["tasks", "list"])?;
    for runtime in Runtime::ALL {
        let name = handler(runtime, Shim::Stock);
        ensure!(
            list.lines()
                .any(|line| line.starts_with(name) && line.ends_with("RUNNING")),
            "{name} does not run: {list}"
        );
        let out = containerd.ctr(&[
            "tasks",
            "exec",
            "--exec-id",
            "cat",
            name,
            "/probe",
            "cat",
            "/proc/self/comm",
        ])?;
        ensure!(out.trim() == "probe", "{name} answers {out:?}");
        containerd.ctr(&["tasks", "kill", "--signal", "TERM", name])?;
        let _ = containerd.ctr(&["tasks", "wait", name]);
        // Of one that has ended already, wait knows nothing; the shim may not either, for a moment.
        let stopped = || -> Result<bool> {
            let list = containerd.ctr(&["tasks", "list"])?;
            let mut lines = list.lines().filter(|line| line.starts_with(name));
            Ok(lines.all(|line| line.ends_with("STOPPED")))
        };
        while !stopped()? {
            std::thread::sleep(Duration::from_millis(20));
        }
        containerd.ctr(&["containers", "rm", name])?;
    }
    Ok(())
}
