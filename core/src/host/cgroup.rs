//! Moving processes between cgroups.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroups;
use crate::ids::{CgroupPath, HostPath, HostPid};
use crate::plan::{CgroupPlan, Placement};
use crate::source::{Hierarchy, Owner};
use crate::target::Target;

/// Moves a process to `wanted` in every hierarchy in which it is elsewhere and that is mounted on the node. A write
/// that would change nothing is left out: the kernel waits for an RCU grace period (10-20 ms) on it all the same.
///
/// # Errors
/// With the cgroup that could not be entered.
pub fn move_process(
    pid: HostPid,
    wanted: &BTreeMap<Hierarchy, CgroupPath>,
    target: &Target,
) -> io::Result<()> {
    let current = cgroups(pid)?;
    for (hierarchy, path) in wanted {
        if current.get(hierarchy) == Some(path) {
            continue;
        }
        if let Some(dir) = target.cgroup_path_on_host(hierarchy, path) {
            attach(pid, &dir)?;
        }
    }
    Ok(())
}

/// Makes the sub-cgroups of the plan, so that files in them can be opened. One that was another user's is theirs again, with
/// the files by which processes and controllers are moved (`Documentation/admin-guide/cgroup-v2.rst`, delegation).
///
/// # Errors
/// With the cgroup that could not be made.
pub fn make_sub_cgroups(plan: &CgroupPlan, target: &Target) -> io::Result<()> {
    for sub in &plan.sub_cgroups {
        if let Some(dir) = target.cgroup_path_on_host(&sub.hierarchy, &sub.cgroup) {
            std::fs::create_dir_all(dir.as_path())
                .and_then(|()| sub.owner.map_or(Ok(()), |owner| give(&dir, owner)))
                .map_err(|error| named(&dir, &error))?;
        }
    }
    Ok(())
}

/// Files that are handed over with a cgroup; version 1 has `tasks` in place of the last two.
const DELEGATED: [&str; 4] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
    "tasks",
];

fn give(dir: &HostPath, owner: Owner) -> io::Result<()> {
    let (uid, gid) = (Some(owner.uid), Some(owner.gid));
    std::fs::set_permissions(dir.as_path(), Permissions::from_mode(owner.mode))?;
    if (owner.uid, owner.gid) == (0, 0) {
        return Ok(());
    }
    chown(dir.as_path(), uid, gid)?;
    for name in DELEGATED {
        match chown(dir.join(name).as_path(), uid, gid) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// Removes the sub-cgroups of the plan again, as far as nobody uses them.
pub fn remove_sub_cgroups(plan: &CgroupPlan, target: &Target) {
    for sub in plan.sub_cgroups.iter().rev() {
        let mut path = Some(sub.cgroup.clone());
        while let Some(cgroup) =
            path.filter(|path| plan.container.get(&sub.hierarchy) != Some(path) && !path.is_root())
        {
            if let Some(dir) = target.cgroup_path_on_host(&sub.hierarchy, &cgroup) {
                let _ = std::fs::remove_dir(dir.as_path());
            }
            path = cgroup.parent();
        }
    }
}

/// Moves the restored tasks of the plan to their sub-cgroups.
///
/// # Errors
/// With the cgroup that could not be entered.
pub fn place(
    placements: &[Placement],
    tasks: &BTreeMap<crate::ids::NsPid, HostPid>,
    target: &Target,
) -> io::Result<()> {
    for placement in placements {
        let dir = target.cgroup_path_on_host(&placement.hierarchy, &placement.cgroup);
        // A task that is not there is for verify() to tell.
        if let (Some(dir), Some(pid)) = (dir, tasks.get(&placement.pid)) {
            attach(*pid, &dir)?;
        }
    }
    Ok(())
}

/// Gives this process a cgroup namespace of its own, whose root is the cgroup it is in.
///
/// # Errors
/// As `unshare(2)`.
pub fn unshare_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWCGROUP)?)
}

/// Kills every process in a cgroup and below it, but not this one. Ends when none is left, or after a second.
pub fn kill_all(dir: &HostPath) {
    let own = nix::unistd::getpid();
    for _ in 0..100 {
        let mut found = Vec::new();
        processes(dir.as_path(), &mut found);
        found.retain(|pid| *pid != own);
        if found.is_empty() {
            return;
        }
        for pid in found {
            // One that has just ended is no fault.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn processes(dir: &Path, found: &mut Vec<Pid>) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(
        text.lines()
            .filter_map(|line| line.parse().ok().map(Pid::from_raw)),
    );
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), found);
        }
    }
}

fn attach(pid: HostPid, dir: &HostPath) -> io::Result<()> {
    let procs = dir.join("cgroup.procs");
    // Never created: in a directory that is no cgroup the write would make a plain file and look like success.
    let mut file = std::fs::File::options()
        .write(true)
        .open(procs.as_path())
        .map_err(|error| named(&procs, &error))?;
    io::Write::write_all(&mut file, pid.to_string().as_bytes())
        .map_err(|error| named(&procs, &error))
}

fn named(path: &HostPath, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
