//! The kernel, this process's rights, cgroups, and directories that are written to.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};
use restow::host::{kernel_release, live};

use super::{Lines, Node};

/// Where something of ours is written, and what for.
const WRITTEN: &[(&str, &str)] = &[
    ("/run", "images are edited in /run/restow at a restore"),
    (
        "/var/lib",
        "checkpoints and the journal of the installation are in /var/lib/restow",
    ),
    (
        "/var/log",
        "logs of failed operations are kept in /var/log/restow",
    ),
];

pub(super) fn examine(node: &Node<'_>, lines: &mut Lines) {
    let kernel = live::kernel();
    if kernel.kernel_missing.is_empty() {
        lines.ok("kernel", format!("Linux {}", kernel_release()));
    }
    for missing in &kernel.kernel_missing {
        lines.fail(
            "kernel",
            format!("Linux {} has no {missing}, which criu needs", kernel_release()),
            "use a kernel with CONFIG_CHECKPOINT_RESTORE=y (in Debian, Fedora, RHEL and Ubuntu they have it); in a container, /proc has to be whole",
        );
    }
    capabilities(&kernel.capabilities_missing, lines);
    cgroups(node, lines);
    for (dir, what) in WRITTEN {
        writable(node, Path::new(dir), what, lines);
    }
}

fn capabilities(missing: &[&'static str], lines: &mut Lines) {
    // Without it only processes of other users are out of reach.
    let (users, needed): (Vec<&str>, Vec<&str>) = missing
        .iter()
        .partition(|name| **name == "CAP_SYS_RESOURCE");
    if !needed.is_empty() {
        lines.fail(
            "capabilities",
            format!("this process has no {}", needed.join(", ")),
            "run this as root, in a container with --privileged",
        );
    } else if !users.is_empty() {
        lines.warn(
            "capabilities",
            "this process has no CAP_SYS_RESOURCE: containers whose programs are not root's cannot be dumped with what it starts",
            "run containerd, podman or the runtime with all capabilities",
        );
    } else {
        lines.ok("capabilities", "all that criu uses");
    }
}

fn cgroups(node: &Node<'_>, lines: &mut Lines) {
    let at = |path: &str| node.root.place(Path::new(path), true).ok();
    let is_v2 = |path: &str| {
        at(path)
            .and_then(|path| statfs(&path).ok())
            .is_some_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
    };
    if is_v2("/sys/fs/cgroup") {
        lines.ok("cgroups", "version 2");
    } else if is_v2("/sys/fs/cgroup/unified") {
        lines.ok(
            "cgroups",
            "version 1 controllers with version 2 beside (hybrid)",
        );
    } else if at("/sys/fs/cgroup/memory").is_some_and(|path| path.exists()) {
        lines.warn(
            "cgroups",
            "version 1 alone",
            "Restow is tested with version 2 and with both; boot with systemd.unified_cgroup_hierarchy=1",
        );
    } else {
        lines.fail(
            "cgroups",
            "there are none at /sys/fs/cgroup",
            "mount them: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        );
    }
}

fn writable(node: &Node<'_>, dir: &Path, what: &str, lines: &mut Lines) {
    let name = dir.display();
    let outcome = match node.root.place(dir, true) {
        Ok(place) => access(&place, AccessFlags::W_OK),
        Err(_) => Err(Errno::ENOENT),
    };
    match outcome {
        Ok(()) => lines.ok("directories", format!("{name} can be written to")),
        Err(Errno::EROFS) => lines.fail(
            "directories",
            format!("{name} is read-only; {what}"),
            format!("mount -o remount,rw {name}, or mount a tmpfs there"),
        ),
        Err(error) => lines.fail(
            "directories",
            format!("{name} cannot be written to ({}); {what}", error.desc()),
            "run this as root, and have the directory",
        ),
    }
}
