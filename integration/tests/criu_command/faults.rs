//! What fails leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use restow_integration::suite::Suite;
use restow_integration::tree::eventually;

use crate::calls::{IMAGES, check_arrived, check_clean, engine, moved, restore, succeeded};

pub(crate) fn a_restore_that_fails_leaves_nothing(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    // An image that only criu reads, and reads late.
    let image = engine
        .node()
        .path(IMAGES)
        .join(format!("pagemap-{}.img", tree.pid));
    let whole = fs::read(&image)?;
    fs::write(&image, "no image")?;
    let output = restore(&pod, &["-d"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(!tree.alive(), "a tree that failed runs");
    check_clean(&engine)?;
    ensure!(pod.population()? == 0);
    // And it can be tried again.
    fs::write(&image, whole)?;
    succeeded(&restore(&pod, &["-d"])?)?;
    check_arrived(&pod, &tree)?;
    check_clean(&engine)
}

pub(crate) fn a_criu_that_is_killed_leaves_nothing(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    let script = engine.node().path("/run/tree/user.sh");
    for stage in ["pre-restore", "post-restore", "pre-resume", "post-resume"] {
        fs::write(
            &script,
            format!("#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = {stage} ] && kill -9 $PPID\nexit 0\n"),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let output = restore(&pod, &["-d", "--action-script", "/run/tree/user.sh"])?;
        ensure!(output.status.code() == Some(137), "{stage}: {output:?}");
        eventually("no process of the tree is left", || {
            (!tree.alive()).then_some(())
        })
        .with_context(|| format!("Killed at {stage}"))?;
        check_clean(&engine)?;
    }
    succeeded(&restore(&pod, &["-d"])?)?;
    check_arrived(&pod, &tree)
}

pub(crate) fn a_tree_that_is_not_as_planned_does_not_run(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    // Before our own script, somebody takes a task elsewhere.
    let script = engine.node().path("/run/tree/user.sh");
    fs::write(
        &script,
        "#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = post-setup-namespaces -o $CRTOOLS_SCRIPT_ACTION = post-restore ] || exit 0\n\
         mkdir -p /sys/fs/cgroup/elsewhere && echo $CRTOOLS_INIT_PID > /sys/fs/cgroup/elsewhere/cgroup.procs\nexit 0\n",
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let output = restore(&pod, &["-d", "--action-script", "/run/tree/user.sh"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.contains("not as planned") && said.contains("/elsewhere"),
        "{said}"
    );
    ensure!(!tree.alive());
    check_clean(&engine)
}
