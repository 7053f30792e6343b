//! Trees that change, trees that are no container's, and what cannot be looked at.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use restow_integration::engine::Runtime;
use restow_integration::pod::ContainerOptions;
use restow_integration::suite::Suite;

use crate::asked::{check, container, holding, pod, stage};

pub(crate) fn check_a_tree_that_changes_all_the_time(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let mut container = container(&pod, &engine, &holding(&["churn", "churn"]))?;
    container.start()?;
    for _ in 0..10 {
        let answer = check(&engine, container.id())?;
        ensure!(
            answer.said().is_empty(),
            "It says {:#}",
            answer.report["findings"]
        );
        answer.check_code()?;
    }
    container.remove()
}

pub(crate) fn check_process_trees_without_a_container(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    for (leads, expected) in [(true, &[][..]), (false, &["blocker session-outside"])] {
        // Whatever this test was started with is of another mount namespace.
        let setsid = if leads { "setsid" } else { "" };
        let script = format!(
            "for n in {{4..60}}; do eval \"exec $n>&-\"; done; \
             exec 3>&1 </dev/null >/dev/null 2>&1; (exec 3>&-; exec {setsid} /opt/probe pause) & echo $! >&3"
        );
        let pid = engine.run("bash", &["-c", &script])?;
        let pid = pid.trim();
        // Until the shell's child has become the probe.
        let ready = format!(
            "until [ \"$(cat /proc/{pid}/comm)\" = probe ]; do :; done; mkdir -p /tmp/images"
        );
        engine.run("sh", &["-c", &ready])?;
        let answer = check(&engine, pid)?;
        answer.check_code()?;
        let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        ensure!(
            answer.said() == expected,
            "It says {:#}",
            answer.report["findings"]
        );
        ensure!(answer.report["container"].is_null());
        let dump = engine.run("criu", &["dump", "-t", pid, "-D", "/tmp/images"]);
        ensure!(dump.is_ok() == leads, "criu dump: {dump:?}");
        engine.run("sh", &["-c", &format!("kill -9 {pid} 2>/dev/null; true")])?;
    }
    Ok(())
}

pub(crate) fn check_says_why_it_cannot_look(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let mut container = pod.container(&ContainerOptions::new(0))?;
    container.start()?;
    let root = engine.runtime_root();
    let restow = "/opt/restow/bin/restow";
    engine.restow_command()?;
    let init = container.init()?.to_string();
    let ask = |program: &str, args: &[&str]| -> Result<(Option<i32>, String)> {
        let output = engine.node().command(program).args(args).output()?;
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    };
    for (program, args, code, words) in [
        (
            restow,
            &["check", "4000000"][..],
            3,
            "There is no process 4000000",
        ),
        (
            restow,
            &["check", "--root", &root, "nobody"],
            3,
            "No running container has an id that begins with nobody",
        ),
        (
            restow,
            &["check", "--root", "/nowhere", "x"],
            3,
            "Cannot read the state directory /nowhere",
        ),
        // What every id begins with.
        (
            restow,
            &["check", "--root", &root, ""],
            2,
            "a value is required",
        ),
        (restow, &["check"], 2, "PID|CONTAINER"),
        (
            "setpriv",
            &["--reuid", "65534", "--clear-groups", restow, "check", &init],
            3,
            "run this as root",
        ),
        // Where the process has no number.
        (
            "unshare",
            &["--pid", "--fork", "--mount-proc", restow, "check", "4000"],
            3,
            "There is no process 4000",
        ),
    ] {
        let (got, text) = ask(program, args)?;
        ensure!(
            got == Some(code) && text.contains(words),
            "{args:?} gives {got:?}: {text}"
        );
    }
    // A container that has ended.
    let id = container.id().to_owned();
    container.terminate()?;
    let (code, text) = ask(restow, &["check", "--root", &root, &id])?;
    ensure!(
        code == Some(3) && text.contains("No running container"),
        "Of one that has ended: {code:?} {text}"
    );
    if Runtime::chosen() == Runtime::Runc && suite == Suite::Stable {
        let answer = check(&engine, pod.sandbox().id())?;
        let old = answer.report["findings"][0]["rule"] == "old-runtime";
        ensure!(
            old && answer.code == Some(1),
            "Of runc 1.1 it says {}",
            answer.report
        );
    }
    Ok(())
}
