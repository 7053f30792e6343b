//! What a runtime will say of a container that a running process stands for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{Error, Given, Node};
use crate::host::{Bundle, MountInfo, cgroups, file_fact, look_up, mountinfo, open_in};
use crate::ids::{CgroupPath, ContainerPath, HostPath, HostPid};
use crate::plan::Lookup;
use crate::target::{ObjectId, SpecMount, Target, TargetMount};

/// File systems that a runtime or CRIU makes anew for a container.
const OWN: [&str; 4] = ["proc", "sysfs", "devpts", "mqueue"];

/// What a runtime would say of the container that the process is in: one that was created in the new pod (`runc create`),
/// or anything whose cgroups, mounts and namespaces the restored container is to have.
///
/// A mount is known by what is mounted: its source is a path on the node that leads to the same object.
///
/// # Errors
/// When the process is gone or `/proc` cannot be read.
pub fn of_process(pid: HostPid) -> Result<(Given, Bundle, Node), Error> {
    let of = |what: &str| Error::of(format!("{what} of process {pid}"));
    let places = cgroups(pid).map_err(of("cgroups"))?;
    let node = Node::read(&places)?;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let mut bundle = Bundle {
        oom_score: oom_score(pid),
        ..Bundle::default()
    };
    let mut given = Given {
        uts: Some(format!("/proc/{pid}/ns/uts").into()),
        network: Some(format!("/proc/{pid}/ns/net").into()),
        ..Given::default()
    };
    let shown = Target {
        cgroup_mounts: node.cgroup_mounts.clone(),
        ..Target::default()
    };
    for mount in mountinfo(pid).map_err(of("mounts"))? {
        let at = ContainerPath::new(&mount.mount_point);
        if at.is_root() {
            bundle.read_only_root = has(&mount, "ro");
            continue;
        }
        let source = source_of(&mount, &root, &node);
        let own = OWN.contains(&mount.fs_type.as_str());
        if masks(&mount, &at, source.as_ref()) {
            bundle.masked.push(at.clone());
        } else if own && mount.root != Path::new("/") {
            // A part of /proc or /sys over itself.
            if has(&mount, "ro") {
                bundle.read_only_paths.push(at.clone());
            }
        } else {
            let shown = source.as_ref().and_then(|source| shown.cgroup_at(source));
            let made = shown.is_some_and(|(hierarchy, path)| places.get(&hierarchy) == Some(&path));
            let bind = source.is_some() && !made && !own;
            let options = mount.options.split(',').map(str::to_owned);
            bundle.mounts.push(SpecMount {
                kind: mount.fs_type.clone(),
                destination: at.clone(),
                options: options.chain(bind.then(|| "bind".to_owned())).collect(),
                cgroup: made,
            });
        }
        let Some(source) = source else { continue };
        given.mounts.push(TargetMount {
            key: at.to_string(),
            source,
        });
    }
    if !bundle.masked.is_empty() {
        // runc's key for all masked files.
        let null = "/dev/null";
        given.mounts.push(TargetMount {
            key: null.into(),
            source: HostPath::new(null),
        });
    }
    given.cgroups = places;
    Ok((given, bundle, node))
}

/// The process's OOM score, unless it is this one's: a container whose spec says nothing has the runtime's.
fn oom_score(pid: HostPid) -> Option<i32> {
    let score = |process: &str| -> Option<i32> {
        let text = std::fs::read_to_string(format!("/proc/{process}/oom_score_adj")).ok()?;
        text.trim().parse().ok()
    };
    score(&pid.to_string()).filter(|found| Some(*found) != score("self"))
}

fn has(mount: &MountInfo, wanted: &str) -> bool {
    mount.options.split(',').any(|option| option == wanted)
}

/// Whether a mount hides what is below: `/dev/null` over a file, an empty file system (runc) or an empty directory of the
/// node (crun) over a directory.
fn masks(mount: &MountInfo, at: &ContainerPath, source: Option<&HostPath>) -> bool {
    let kernel = ["/proc", "/sys"].map(ContainerPath::new);
    let within = kernel
        .iter()
        .any(|top| at != top && at.strip(top).is_some());
    let empty = mount.fs_type == "tmpfs" && has(mount, "ro");
    within
        && match source {
            Some(source) => {
                *source == HostPath::new("/dev/null") || source.name() == ".empty-directory"
            }
            None => empty,
        }
}

/// A path on the node that leads to what is mounted, if there is one.
fn source_of(mount: &MountInfo, root: &Path, node: &Node) -> Option<HostPath> {
    let rest = mount.mount_point.strip_prefix("/").ok()?;
    // Hidden by another mount at the same place or above.
    let id = id_of(&open_in(root, rest).ok()?)?;
    let shown = CgroupPath::new(&mount.root);
    let above = node
        .mounts
        .iter()
        .filter(|other| other.device == mount.device);
    let paths = above.filter_map(|other| {
        let rest = shown.strip(&CgroupPath::new(&other.root))?;
        Some(HostPath::new(&other.mount_point).join(rest))
    });
    let mut paths: Vec<HostPath> = paths.collect();
    // The plainest path: a bind mount elsewhere leads there, too.
    paths.sort_by_key(HostPath::depth);
    paths.into_iter().find(|path| {
        let lookup = Lookup {
            root: path.clone(),
            rest: PathBuf::new(),
        };
        look_up(&lookup).is_ok_and(|found| found.is_some_and(|fact| fact.id == id))
    })
}

fn id_of(fd: &OwnedFd) -> Option<ObjectId> {
    file_fact(fd).ok().map(|fact| fact.id)
}
