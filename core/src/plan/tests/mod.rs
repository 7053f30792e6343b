//! The rules, each on the smallest container that shows it.

mod access;
mod carry;
mod cgroups;
mod files;
mod identity;
mod maps;
mod masks;
mod mounts;
mod privileges;
mod sockets;
mod tree;
mod watches;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::{CgroupPath, HostPath, NsPid};
use crate::policy::{CgroupFiles, Hostname, ManageCgroups};
use crate::source::Watch;
use crate::source::manifest::{CgroupFile, ManifestCgroup, ManifestFile, ManifestMount};
use crate::source::{
    CgroupMember, FsType, Hierarchy, Manifest, Mount, OpenFile, Task, UtsNamespace, WatchKind,
};
use crate::target::{CgroupMount, FileFact, SpecMount, TargetMount};

pub(super) const OLD: &str = "/kubepods/burstable/pod1111/old";
pub(super) const NEW: &str = "/kubepods/besteffort/pod2222/new";
pub(super) const CGROUP_MOUNT: u32 = 10;
pub(super) const HOSTS_MOUNT: u32 = 11;
pub(super) const DATA_MOUNT: u32 = 12;

/// A container with one process that has a cgroup mount, `/etc/hosts` and a volume.
pub(super) fn source(private: bool) -> Source {
    let mount = |id, at: &str, fs, ext_key: Option<&str>| Mount {
        id: MountId(id),
        parent: MountId(1),
        mount_point: ContainerPath::new(at),
        root: ContainerPath::new("/"),
        fs,
        options: String::new(),
        read_only: false,
        ext_key: ext_key.map(str::to_owned),
    };
    let namespace_root = private.then(|| CgroupPath::new(OLD));
    let member = CgroupMember {
        path: CgroupPath::new(OLD),
        namespace_root,
    };
    Source {
        tasks: vec![Task {
            pid: NsPid(1),
            cgroup_set: Some(2),
        }],
        mounts: vec![
            mount(CGROUP_MOUNT, "/sys/fs/cgroup", FsType::Cgroup2, None),
            mount(
                HOSTS_MOUNT,
                "/etc/hosts",
                FsType::Other(0),
                Some("/etc/hosts"),
            ),
            mount(DATA_MOUNT, "/data", FsType::Other(0), Some("/data")),
        ],
        cgroup_sets: BTreeMap::from([(2, BTreeMap::from([(Hierarchy::v2(), member)]))]),
        uts: Some(UtsNamespace {
            id: 9,
            name: "pod-a".into(),
        }),
        private_cgroup_namespace: private,
        manifest: Some(manifest(private)),
        ..Source::default()
    }
}

pub(super) fn manifest(private: bool) -> Manifest {
    let root = if private { OLD } else { "/" };
    Manifest {
        version: crate::source::manifest::VERSION,
        writer: "test".into(),
        time: 0,
        criu_run: None,
        kernel: String::new(),
        runtime: "runc".into(),
        container: None,
        identity: BTreeMap::new(),
        hostname: "pod-a".into(),
        addresses: Vec::new(),
        cgroup: ManifestCgroup {
            private_namespace: private,
            paths: BTreeMap::new(),
            namespace_roots: None,
            unrecorded: BTreeSet::new(),
        },
        unreachable: Vec::new(),
        volumes: Vec::new(),
        mounts: vec![ManifestMount {
            mnt_id: MountId(CGROUP_MOUNT),
            mount_point: ContainerPath::new("/sys/fs/cgroup"),
            root: root.into(),
            fs_type: "cgroup2".into(),
            options: String::new(),
            dev: 0,
            ino: 0,
        }],
    }
}

pub(super) fn with_file(
    mut source: Source,
    id: u32,
    path: &str,
    mount: u32,
    change: impl FnOnce(&mut OpenFile),
) -> Source {
    let mut file = OpenFile {
        id: FileId(id),
        path: ContainerPath::new(path),
        mount: Some(MountId(mount)),
        flags: libc::O_RDONLY,
        pos: 0,
        size: Some(100),
        mode: Some(libc::S_IFREG | 0o644),
        external: false,
    };
    change(&mut file);
    source.files.insert(file.id, file);
    source.holders.insert(
        FileId(id),
        vec![Holder {
            pid: NsPid(1),
            fd: id,
        }],
    );
    source
}

pub(super) fn target() -> Target {
    Target {
        cgroups: BTreeMap::from([(Hierarchy::v2(), CgroupPath::new(NEW))]),
        cgroup_mounts: vec![CgroupMount {
            hierarchy: Hierarchy::v2(),
            root: CgroupPath::new("/"),
            mount_point: HostPath::new("/sys/fs/cgroup"),
        }],
        mounts: ["/etc/hosts", "/data"]
            .map(|at| TargetMount {
                key: at.into(),
                source: HostPath::new(format!("/pods/2222{at}")),
            })
            .to_vec(),
        hostname: Some("pod-b".into()),
        ..Target::default()
    }
}

/// Answers the lookups: everything is there with this size, except what `absent` names.
pub(super) fn looked_up(source: &Source, mut target: Target, size: u64, absent: &[&str]) -> Target {
    for (ino, lookup) in (1..).zip(Questions::of(source, &target, &Policy::default()).files) {
        let path = lookup.path();
        let there = !absent.contains(&path.to_string().as_str());
        let fact = FileFact {
            id: ObjectId { dev: 5, ino },
            size,
            mode: libc::S_IFREG | 0o644,
        };
        target.files.insert(path, there.then_some(fact));
    }
    target
}

pub(super) fn planned(source: &Source, size: u64, absent: &[&str], policy: &Policy) -> Plan {
    plan(source, &looked_up(source, target(), size, absent), policy)
}

pub(super) fn blockers(plan: &Plan) -> Vec<String> {
    plan.blockers().map(ToString::to_string).collect()
}

/// Gives the new pod further bind mounts, and the runtime's request a device besides.
pub(super) fn with_mounts(mut target: Target, keys: &[&str]) -> Target {
    for key in keys {
        let source = HostPath::new(format!("/pods/2222/new{key}"));
        target.mounts.push(TargetMount {
            key: (*key).into(),
            source,
        });
        let options = vec!["rbind".to_owned(), "ro".to_owned()];
        let destination = ContainerPath::new(key);
        target.spec_mounts.push(SpecMount {
            kind: "bind".into(),
            destination,
            options,
            cgroup: false,
        });
    }
    target.mounts.push(TargetMount {
        key: "/dev/null".into(),
        source: HostPath::new("/dev/null"),
    });
    target
}

pub(super) fn with_watch(mut source: Source, path: Option<&str>, mount: u32, ino: u64) -> Source {
    source.watches.push(Watch {
        kind: WatchKind::Inotify,
        instance: FileId(5),
        wd: 2,
        path: path.map(ContainerPath::new),
        mount: path.map(|_| MountId(mount)),
        object: WatchedObject {
            sdev: 8 << 20 | 1,
            ino,
        },
    });
    source.watchers.insert(
        FileId(5),
        vec![Holder {
            pid: NsPid(1),
            fd: 4,
        }],
    );
    source
}

/// Answers the look-ups of watches: everything is there, except what `absent` names.
pub(super) fn watched(source: &Source, mut target: Target, absent: &[&str]) -> Target {
    for (ino, lookup) in (1..).zip(Questions::of(source, &target, &Policy::default()).watches) {
        let path = lookup.path();
        let there = !absent.contains(&path.to_string().as_str());
        target
            .watched
            .insert(path, there.then_some(WatchedObject { sdev: 1, ino }));
    }
    target
}

/// A read-only file that the dump found on this mount of the old node, under this path.
pub(super) fn with_unreachable(mut source: Source, path: &str, mount: u32) -> Source {
    let path = ContainerPath::new(path);
    let holders = vec![Holder {
        pid: NsPid(1),
        fd: 3,
    }];
    let file = ManifestFile {
        mnt_id: MountId(mount),
        ino: 9,
        path,
        cgroup: None,
        holders,
    };
    let key = file.key();
    source.manifest.as_mut().unwrap().unreachable.push(file);
    with_file(source, 3, &key, mount, |file| {
        file.mount = None;
        file.external = true;
    })
}
