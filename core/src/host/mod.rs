//! The edge to the kernel: everything in this crate that asks or changes the node is here.

pub mod attach;
mod bundle;
pub mod carry;
pub mod cgroup;
pub mod detach;
pub mod facts;
mod fresh;
mod handover;
pub mod journal;
pub mod kept;
pub mod last_words;
pub mod live;
pub mod network;
pub mod network_lock;
mod node_cgroups;
pub mod oom_score;
pub(crate) mod own_dir;
pub mod parse;
mod pid_namespace;
mod pidfd;
pub mod protect;
pub mod real_program;
pub mod record;
mod restored;
pub mod snapshot;
pub mod socket_table;
pub mod target;
mod unreachable;
mod within;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sched::{CloneFlags, setns};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{FileStat, Mode, fstat};

use crate::ids::{CgroupPath, ContainerPath, HostPath, HostPid};
use crate::plan::Lookup;
use crate::source::manifest::ManifestMount;
use crate::source::{Hierarchy, WatchedObject};
use crate::target::{CgroupMount, FileFact, ObjectId};

pub use bundle::Bundle;
pub use handover::{Exposure, Handed, open_handed};
pub use own_dir::Failed;
pub use parse::MountInfo;
pub use pidfd::{End, PidFd};
pub use restored::RestoredTree;
pub use unreachable::unreachable_files;

/// A process's mounts.
///
/// # Errors
/// When the process is gone, or its mountinfo is not as `proc(5)` says.
pub fn mountinfo(pid: HostPid) -> io::Result<Vec<MountInfo>> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = std::fs::read(&path)?;
    parse::mountinfo(&text)
        .map_err(|line| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: line {line}")))
}

/// A process's cgroups, as this process's cgroup namespace shows them.
///
/// # Errors
/// When the process is gone.
pub fn cgroups(pid: HostPid) -> io::Result<BTreeMap<Hierarchy, CgroupPath>> {
    Ok(parse::cgroups(&std::fs::read_to_string(format!(
        "/proc/{pid}/cgroup"
    ))?))
}

/// When a process was started, in clock ticks since boot.
///
/// # Errors
/// When the process is gone.
pub fn start_time(pid: HostPid) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse::start_time(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The cgroup file systems among `mounts`, for the given hierarchies.
pub fn cgroup_mounts(
    mounts: &[MountInfo],
    hierarchies: &BTreeMap<Hierarchy, CgroupPath>,
) -> Vec<CgroupMount> {
    let mut found: Vec<CgroupMount> = Vec::new();
    for mount in mounts {
        let hierarchy = match mount.fs_type.as_str() {
            "cgroup2" => Some(Hierarchy::v2()),
            "cgroup" => Hierarchy::of_v1_mount(&mount.super_options, hierarchies.keys()).cloned(),
            _ => None,
        };
        let Some(hierarchy) = hierarchy else { continue };
        let mount_point = HostPath::new(&mount.mount_point);
        // A later mount at the same place hides the earlier one.
        found.retain(|earlier| earlier.mount_point != mount_point);
        let root = CgroupPath::new(&mount.root);
        found.push(CgroupMount {
            hierarchy,
            root,
            mount_point,
        });
    }
    found
}

/// The hierarchies whose `/`, as this process sees it, is not the real root but the root of its cgroup namespace. Of those
/// that no mount shows nothing is known.
pub fn namespace_roots(mounts: &[CgroupMount]) -> BTreeSet<Hierarchy> {
    let shown = mounts.iter().filter(|mount| mount.root.is_root());
    let namespaced = shown.filter(|mount| {
        // Version 2 has `cgroup.type` in every cgroup but the real root, version 1 `release_agent` in the root only
        // (kernel/cgroup/cgroup.c, CFTYPE_NOT_ON_ROOT and CFTYPE_ONLY_ON_ROOT).
        let has = |name| mount.mount_point.join(name).as_path().exists();
        if mount.hierarchy.is_v2() {
            has("cgroup.type")
        } else {
            has("cgroup.procs") && !has("release_agent")
        }
    });
    namespaced.map(|mount| mount.hierarchy.clone()).collect()
}

/// What is at a path; `None` when nothing is.
///
/// # Errors
/// When the kernel does not let us look for another reason than absence.
pub fn look_up(lookup: &Lookup) -> io::Result<Option<FileFact>> {
    match open_in(lookup.root.as_path(), &lookup.rest) {
        Ok(fd) => file_fact(&fd).map(Some),
        Err(error) => absent_as_none(error),
    }
}

/// What is not there is no error.
fn absent_as_none<T>(error: io::Error) -> io::Result<Option<T>> {
    if is_absent(&error) {
        Ok(None)
    } else {
        Err(error)
    }
}

/// ELOOP: links that lead nowhere.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}

/// What a watch on a path would watch; `None` when nothing is there. The kernel is asked with a watch of our own: on an
/// overlay `stat(2)` may give other numbers than inotify.
///
/// # Errors
/// When the kernel does not let us look for another reason than absence.
pub fn watched_object(lookup: &Lookup) -> io::Result<Option<WatchedObject>> {
    let fd = match open_in(lookup.root.as_path(), &lookup.rest) {
        Ok(fd) => fd,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    inotify.add_watch(path.as_str(), AddWatchFlags::IN_DELETE_SELF)?;
    let info =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", inotify.as_fd().as_raw_fd()))?;
    Ok(parse::watches(&info).into_values().next())
}

/// Opens `rest` below `root` for `fstat` only, never leaving `root` through a link.
///
/// # Errors
/// As `openat2(2)`.
pub(crate) fn open_in(root: &Path, rest: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let base = nix::fcntl::open(root, flags, Mode::empty())?;
    if rest.as_os_str().is_empty() {
        return Ok(base);
    }
    open_below(base.as_fd(), rest)
}

/// As [`open_in`], below an open directory.
fn open_below(root: BorrowedFd<'_>, rest: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    Ok(openat2(root, rest, how)?)
}

/// Where a path leads inside `root`, links followed as far as what it names is there, none out of `root`. Without `root`
/// it is the path itself.
pub(crate) fn resolve_in(root: &Path, path: &ContainerPath) -> ContainerPath {
    let link = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let Ok(base) = open_in(root, Path::new("")).and_then(|fd| link(&fd)) else {
        return path.clone();
    };
    let mut there = Some(path.clone());
    while let Some(prefix) = there {
        let relative = prefix
            .as_path()
            .strip_prefix("/")
            .unwrap_or(prefix.as_path());
        let found = open_in(root, relative).and_then(|fd| link(&fd)).ok();
        if let Some(inside) = found
            .as_ref()
            .and_then(|found| found.strip_prefix(&base).ok())
            && let Some(rest) = path.strip(&prefix)
        {
            return ContainerPath::new(inside).join(rest);
        }
        there = prefix.parent();
    }
    path.clone()
}

pub(crate) fn file_fact(fd: &OwnedFd) -> io::Result<FileFact> {
    Ok(fact_of(&fstat(fd)?))
}

fn fact_of(stat: &FileStat) -> FileFact {
    FileFact {
        id: ObjectId {
            dev: stat.st_dev,
            ino: stat.st_ino,
        },
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
    }
}

/// The host name in the UTS namespace that `namespace` (an `ns/uts` file) stands for.
///
/// This process enters it and comes back; it must have one thread.
///
/// # Errors
/// As `setns(2)`; needs `CAP_SYS_ADMIN`.
pub fn hostname_in(namespace: &File) -> io::Result<String> {
    let own = File::open("/proc/self/ns/uts")?;
    setns(namespace, CloneFlags::CLONE_NEWUTS)?;
    let name = nix::unistd::gethostname();
    setns(&own, CloneFlags::CLONE_NEWUTS)?;
    Ok(name?.to_string_lossy().into_owned())
}

/// The kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |name| name.release().to_string_lossy().into_owned(),
    )
}

/// Whether two processes share the namespace `kind` (a name in `/proc/<pid>/ns`).
///
/// # Errors
/// When one of them is gone or may not be looked at.
pub fn share_namespace(a: HostPid, b: HostPid, kind: &str) -> io::Result<bool> {
    let link = |pid| std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    Ok(link(a)? == link(b)?)
}

/// Where a process has single files that are mounts of their own, devices and the kernel's files left out.
///
/// # Errors
/// When the process is gone.
pub fn file_mounts(pid: HostPid) -> io::Result<Vec<ContainerPath>> {
    /// Nobody's configuration is there.
    const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];
    let root = format!("/proc/{pid}/root");
    let mounts = mountinfo(pid)?.into_iter().filter(|mount| {
        let at = &mount.mount_point;
        let rest = at.strip_prefix("/").unwrap_or(at);
        let found = open_in(Path::new(&root), rest).and_then(|fd| file_fact(&fd));
        !KERNEL.iter().any(|dir| at.starts_with(dir))
            && found.is_ok_and(|fact| fact.mode & libc::S_IFMT == libc::S_IFREG)
    });
    Ok(mounts
        .map(|mount| ContainerPath::new(&mount.mount_point))
        .collect())
}

/// A process's mounts as `source.json` records them, each with the object at its mount point.
///
/// # Errors
/// When the process is gone.
pub fn recorded_mounts(pid: HostPid) -> io::Result<Vec<ManifestMount>> {
    let root = format!("/proc/{pid}/root");
    let mounts = mountinfo(pid)?.into_iter().map(|mount| {
        let rest = mount
            .mount_point
            .strip_prefix("/")
            .unwrap_or(&mount.mount_point);
        // A mount point that another mount hides cannot be looked at; nothing was opened there either.
        let id = open_in(Path::new(&root), rest)
            .and_then(|fd| file_fact(&fd))
            .map(|fact| fact.id);
        let id = id.unwrap_or(ObjectId { dev: 0, ino: 0 });
        let cgroup = mount.fs_type.starts_with("cgroup");
        ManifestMount {
            mnt_id: mount.id,
            mount_point: ContainerPath::new(&mount.mount_point),
            root: mount.root.to_string_lossy().into_owned(),
            options: if cgroup {
                mount.super_options
            } else {
                String::new()
            },
            fs_type: mount.fs_type,
            dev: id.dev,
            ino: id.ino,
        }
    });
    Ok(mounts.collect())
}
