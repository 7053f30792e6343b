//! Processes: finding the stock shim that `start` left behind, and making the proxy like it.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::prctl;
use nix::unistd::Pid;

/// From here on, processes whose parents end become children of this one.
///
/// # Errors
/// Never on a Linux since 3.4.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// The children of this process that run `program`.
///
/// # Errors
/// When the kernel has no `children` in `/proc` (it comes with what CRIU needs).
pub fn children_running(program: &Path) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for pid in children.split_ascii_whitespace() {
            let exe = fs::read_link(format!("/proc/{pid}/exe"));
            if let (Ok(pid), Ok(exe)) = (pid.parse(), exe)
                && same_program(&exe, program)
            {
                found.push(Pid::from_raw(pid));
            }
        }
    }
    Ok(found)
}

fn same_program(exe: &Path, program: &Path) -> bool {
    exe == program || fs::canonicalize(program).is_ok_and(|program| exe == program)
}

/// Gives `pid` the OOM score and the cgroups that `like` has: the stock shim's `start` may have moved it into the `ShimCgroup` of the
/// runtime's options, and makes it a better victim than containerd.
pub fn make_like(pid: Pid, like: Pid) {
    let score = |pid| format!("/proc/{pid}/oom_score_adj");
    if let Ok(text) = fs::read_to_string(score(like)) {
        // A lower score than ours needs CAP_SYS_RESOURCE, which shims have; without it all stays as it is.
        let _ = fs::write(score(pid), text.trim());
    }
    let cgroups = |pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let (own, its) = (cgroups(pid), cgroups(like));
    if own == its {
        return;
    }
    for line in its
        .lines()
        .filter(|line| !own.lines().any(|own| own == *line))
    {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let controllers = controllers.strip_prefix("name=").unwrap_or(controllers);
        for mount in [controllers, "unified", ""] {
            let procs = format!("/sys/fs/cgroup/{mount}{path}/cgroup.procs");
            if (mount == controllers || controllers.is_empty())
                && fs::write(&procs, pid.to_string()).is_ok()
            {
                break;
            }
        }
    }
}
