//! A running tree as `/proc` shows it, read without stopping, tracing or otherwise touching it.
//!
//! The tree goes on meanwhile: a process, thread or descriptor that vanishes while it is looked at is left out. What may
//! not be looked at is an error, so that "nothing found" always means that everything was seen.

mod diag;
mod files;
mod net;
mod node;
mod statx;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::{cgroup_mounts, cgroups, mountinfo, open_in, parse};
use crate::check::{Facts, Mount, Task};
use crate::ids::{HostPid, MountId};

pub use node::{kernel, node, program_version, version_of};

/// Namespaces that matter, by their name in `/proc/<pid>/ns`.
const NAMESPACES: [&str; 9] = [
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "time",
    "time_for_children",
    "user",
    "uts",
];

/// Reads the tree below `root`. What the node can do is left for the caller to fill in, see [`node()`].
///
/// # Errors
/// When the root is gone, or something of the tree may not be looked at.
pub fn read(root: HostPid) -> io::Result<Facts> {
    let status = std::fs::read_to_string(format!("/proc/{root}/status"))?;
    let own_pid_namespace = own_pid_namespace(&status);
    let mut tasks = Vec::new();
    let doubtful = files::Doubtful::new(overlays(root)?);
    for pid in tree(root)? {
        match settled_task(pid, &doubtful) {
            Ok(task) => tasks.push(task),
            Err(error) if pid != root && vanished(&error) => {}
            Err(error) => return Err(named(format_args!("process {pid}"), &error)),
        }
    }
    let mut facts = Facts {
        root,
        own_pid_namespace,
        tasks,
        beside: Vec::new(),
        mounts: BTreeMap::new(),
        inet: BTreeMap::new(),
        unix: BTreeMap::new(),
        netlink_pending: BTreeSet::new(),
        unread: Vec::new(),
        node: crate::check::Node::default(),
    };
    read_mounts(&mut facts)?;
    read_sockets(&mut facts);
    if own_pid_namespace {
        facts.beside = beside(&facts);
    }
    Ok(facts)
}

/// Whether an error says that a process, or something of it, is not there any more.
pub(crate) fn vanished(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::EBADF)
    )
}

/// Whether reading mountinfo failed because the process has ended: one that is not buried yet gives EINVAL
/// (`fs/proc_namespace.c`, `mounts_open_common`).
fn unmounted(error: &io::Error) -> bool {
    vanished(error) || error.raw_os_error() == Some(libc::EINVAL)
}

fn named(what: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("Cannot look at {what}: {error}"))
}

/// `NSpid` ends with 1 for the first process of a pid namespace; the node's own first process has one number only.
fn own_pid_namespace(status: &str) -> bool {
    let numbers = field(status, "NSpid:").unwrap_or_default();
    let mut numbers = numbers.split_whitespace();
    numbers.next().is_some() && numbers.next_back() == Some("1")
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// The processes of the tree, parents first.
fn tree(root: HostPid) -> io::Result<Vec<HostPid>> {
    let mut found = vec![root];
    let mut seen = BTreeSet::from([root]);
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let threads = match std::fs::read_dir(format!("/proc/{pid}/task")) {
            Ok(threads) => threads,
            Err(error) if pid != root && vanished(&error) => continue,
            Err(error) => return Err(named(format_args!("process {pid}"), &error)),
        };
        for thread in threads.flatten() {
            let text = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(parse::children(&text).filter(|child| seen.insert(*child)));
        }
    }
    Ok(found)
}

/// The overlay mounts of the root; a nested mount namespace has copies, whose files are then asked for by inode alone.
fn overlays(root: HostPid) -> io::Result<BTreeSet<MountId>> {
    let mounts = mountinfo(root).map_err(|error| named("its mounts", &error))?;
    let overlays = mounts.iter().filter(|mount| mount.fs_type == "overlay");
    Ok(overlays.map(|mount| mount.id).collect())
}

/// Reads a process with its files. One that ends while it is looked at gives EACCES for its links
/// (`fs/proc/namespaces.c` and `fs/proc/base.c` start from that and find no task), as does one that must not be looked
/// at; only the latter does so each time. Takes at most 20 ms more than a look.
fn settled_task(pid: HostPid, doubtful: &files::Doubtful) -> io::Result<Task> {
    for _ in 0..20 {
        match task(pid, Some(doubtful)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
    task(pid, Some(doubtful))
}

/// Reads a process; with its files, unless `doubtful` is missing.
fn task(pid: HostPid, doubtful: Option<&files::Doubtful>) -> io::Result<Task> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let number = |name: &str, at: usize| -> Option<i64> {
        field(&status, name)?
            .split_whitespace()
            .nth(at)?
            .parse()
            .ok()
    };
    let last = |name: &str| -> Option<u32> {
        field(&status, name)?
            .split_whitespace()
            .next_back()?
            .parse()
            .ok()
    };
    let state = state_in(&status);
    let mut namespaces = BTreeMap::new();
    // A process that has ended has neither namespaces nor files.
    let zombie = state == 'Z' || state == 'X';
    if !zombie {
        for name in NAMESPACES {
            match std::fs::read_link(format!("/proc/{pid}/ns/{name}")) {
                Ok(link) => {
                    if let Some(id) = namespace_id(&link) {
                        namespaces.insert(name, id);
                    }
                }
                // Older kernels have no time namespaces.
                Err(error) if vanished(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let (files, mappings) = match doubtful {
        Some(doubtful) if !zombie => (files::open_files(pid, doubtful)?, files::mappings(pid)?),
        _ => (Vec::new(), Vec::new()),
    };
    Ok(Task {
        pid,
        ns_pid: last("NSpid:").unwrap_or(0),
        command: field(&status, "Name:").unwrap_or_default().to_owned(),
        state,
        session: last("NSsid:").unwrap_or(0),
        tracer: number("TracerPid:", 0)
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or(0),
        uid: number("Uid:", 1)
            .and_then(|uid| u32::try_from(uid).ok())
            .unwrap_or(0),
        namespaces,
        files,
        mappings,
    })
}

fn state_in(status: &str) -> char {
    let state = field(status, "State:").and_then(|text| text.chars().next());
    state.unwrap_or('?')
}

/// Looks again at processes in state D: every one is so now and then, and one that is stuck is so each time. Takes at
/// most 50 ms. Those of a frozen cgroup of version 1 are in that state and not stuck.
pub fn settle(facts: &mut Facts) {
    for _ in 0..5 {
        let stuck: Vec<&mut Task> = facts
            .tasks
            .iter_mut()
            .filter(|task| task.state == 'D')
            .collect();
        if stuck.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
        for task in stuck {
            let read = |name: &str| {
                std::fs::read_to_string(format!("/proc/{}/{name}", task.pid)).unwrap_or_default()
            };
            let frozen = ["freezer", "refrigerator"]
                .iter()
                .any(|word| read("wchan").contains(word));
            task.state = if frozen {
                'S'
            } else {
                state_in(&read("status"))
            };
        }
    }
}

/// The number in `mnt:[4026531841]`.
fn namespace_id(link: &Path) -> Option<u64> {
    let text = link.to_str()?;
    text.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

fn read_mounts(facts: &mut Facts) -> io::Result<()> {
    for task in &facts.tasks {
        let Some(id) = task.namespaces.get("mnt") else {
            continue;
        };
        if facts.mounts.contains_key(id) {
            continue;
        }
        let watched = facts
            .tasks
            .iter()
            .any(|task| task.files.iter().any(|file| !file.watches.is_empty()));
        let mounts = match mountinfo(task.pid) {
            Ok(mounts) => mounts,
            Err(error) if task.pid != facts.root && unmounted(&error) => continue,
            Err(error) => {
                return Err(named(
                    format_args!("the mounts of process {}", task.pid),
                    &error,
                ));
            }
        };
        let root = format!("/proc/{}/root", task.pid);
        let mounts = mounts.into_iter().map(|mount| {
            let rest = mount
                .mount_point
                .strip_prefix("/")
                .unwrap_or(&mount.mount_point);
            let at = |wanted: bool| {
                wanted
                    .then(|| open_in(Path::new(&root), rest).ok())
                    .flatten()
            };
            Mount {
                id: mount.id,
                file: at(watched && mount.fs_type == "tmpfs")
                    .and_then(|fd| statx::of_descriptor(&fd).ok())
                    .and_then(|stat| stat.file()),
                has_queues: at(mount.fs_type == "mqueue").is_some_and(|fd| statx::has_entries(&fd)),
                mount_point: mount.mount_point,
                fs_type: mount.fs_type,
            }
        });
        facts.mounts.insert(*id, mounts.collect());
    }
    Ok(())
}

fn read_sockets(facts: &mut Facts) {
    let mut seen = BTreeSet::new();
    for task in &facts.tasks {
        let sockets = task.files.iter().any(|file| file.protocol.is_some());
        let namespace = task.namespaces.get("net").copied();
        if !sockets || !namespace.is_some_and(|id| seen.insert(id)) {
            continue;
        }
        net::inet(task.pid, &mut facts.inet);
        facts.netlink_pending.extend(net::netlink_pending(task.pid));
        match diag::unix_sockets(task.pid) {
            Ok(found) => facts.unix.extend(found),
            Err(error) if vanished(&error) => {}
            Err(error) => facts
                .unread
                .push(format!("unix sockets of process {}: {error}", task.pid)),
        }
    }
}

/// Processes of the root's pid namespace that are not below it, found through its cgroups.
fn beside(facts: &Facts) -> Vec<Task> {
    let Some(root) = facts.tasks.first() else {
        return Vec::new();
    };
    let own = HostPid(nix::unistd::getpid().as_raw());
    let (Ok(paths), Ok(mounts)) = (cgroups(root.pid), mountinfo(own)) else {
        return Vec::new();
    };
    let mut found = BTreeSet::new();
    for mount in cgroup_mounts(&mounts, &paths) {
        let Some(rest) = paths
            .get(&mount.hierarchy)
            .and_then(|path| path.strip(&mount.root))
        else {
            continue;
        };
        // The root of a hierarchy is no container's.
        if !rest.as_os_str().is_empty() {
            members(&mount.mount_point.as_path().join(rest), &mut found);
        }
    }
    let known: BTreeSet<HostPid> = facts.tasks.iter().map(|task| task.pid).collect();
    found
        .into_iter()
        .filter(|pid| !known.contains(pid))
        .filter_map(|pid| task(pid, None).ok())
        .filter(|task| {
            task.state != 'Z' && task.namespaces.get("pid") == root.namespaces.get("pid")
        })
        // One that was born after the tree was listed, or has ended since, is no stranger.
        .filter(|task| below(task.pid, &known) == Some(false))
        .collect()
}

/// Whether a process is below one of the tree; `None` when it has ended meanwhile.
fn below(pid: HostPid, tree: &BTreeSet<HostPid>) -> Option<bool> {
    let mut at = pid;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{at}/status")).ok()?;
        let next = parent(&status)?;
        if tree.contains(&next) {
            return Some(true);
        }
        if next.0 <= 0 {
            return Some(false);
        }
        at = next;
    }
}

/// The parent that a `status` names. One that is read while the process is buried has 0 for its parent, as those have whose parent is
/// in no namespace of ours, but also 0 for the process itself (`fs/proc/array.c`, `task_state`): it names none.
fn parent(status: &str) -> Option<HostPid> {
    let number = |name| field(status, name)?.parse().ok();
    number("Tgid:").filter(|tgid| *tgid != 0)?;
    number("PPid:").map(HostPid)
}

fn members(dir: &Path, found: &mut BTreeSet<HostPid>) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(
        text.lines()
            .filter_map(|line| line.parse().ok().map(HostPid)),
    );
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read_with_its_files_and_sockets() {
        let own = HostPid(nix::unistd::getpid().as_raw());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let facts = read(own).unwrap();
        let task = &facts.tasks[0];
        assert_eq!(task.pid, own);
        assert!(task.namespaces.contains_key("mnt"));
        let address = listener.local_addr().unwrap();
        let inodes = facts
            .inet
            .iter()
            .filter(|(_, socket)| socket.local == address);
        let inodes: Vec<u64> = inodes.map(|(inode, _)| *inode).collect();
        let file = task
            .files
            .iter()
            .find(|file| inodes.contains(&file.inode))
            .unwrap();
        assert_eq!(file.protocol.as_deref(), Some("TCP"));
    }

    #[test]
    fn processes_that_end_meanwhile_are_left_out() {
        let mut churn = std::process::Command::new("sh")
            .args(["-c", "while :; do (:) & (:); done"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let root = HostPid(i32::try_from(churn.id()).unwrap());
        let read: Vec<io::Result<Facts>> = (0..100).map(|_| read(root)).collect();
        churn.kill().unwrap();
        churn.wait().unwrap();
        for facts in read {
            assert_eq!(facts.unwrap().root, root);
        }
    }

    #[test]
    fn a_process_that_is_being_buried_has_no_parent() {
        assert_eq!(parent("Tgid:\t7\nPid:\t7\nPPid:\t4\n"), Some(HostPid(4)));
        assert_eq!(parent("Tgid:\t7\nPid:\t7\nPPid:\t0\n"), Some(HostPid(0)));
        assert_eq!(parent("Tgid:\t0\nPid:\t7\nPPid:\t0\n"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = read(HostPid(i32::MAX)).unwrap_err();
        assert!(vanished(&error), "{error}");
    }

    #[test]
    fn the_first_process_of_a_namespace_is_told_from_the_nodes() {
        assert!(own_pid_namespace("NSpid:\t4711\t1\n"));
        assert!(!own_pid_namespace("NSpid:\t1\n"));
        assert!(!own_pid_namespace("NSpid:\t4711\t17\n"));
    }
}
