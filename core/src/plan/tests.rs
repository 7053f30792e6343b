//! The rules, each on the smallest container that shows it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::{CgroupPath, HostPath, NsPid};
use crate::policy::{CgroupFiles, Hostname, ManageCgroups};
use crate::source::Watch;
use crate::source::manifest::{ManifestCgroup, ManifestFile, ManifestMount};
use crate::source::{
    CgroupMember, FsType, Hierarchy, Manifest, Mount, OpenFile, Task, UtsNamespace,
};
use crate::target::{CgroupMount, FileFact, SpecMount, TargetMount};

const OLD: &str = "/kubepods/burstable/pod1111/old";
const NEW: &str = "/kubepods/besteffort/pod2222/new";
const CGROUP_MOUNT: u32 = 10;
const HOSTS_MOUNT: u32 = 11;
const DATA_MOUNT: u32 = 12;

/// A container with one process that has a cgroup mount, `/etc/hosts` and a volume.
fn source(private: bool) -> Source {
    let mount = |id, at: &str, fs, ext_key: Option<&str>| Mount {
        id: MountId(id),
        parent: MountId(1),
        mount_point: ContainerPath::new(at),
        root: ContainerPath::new("/"),
        fs,
        options: String::new(),
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

fn manifest(private: bool) -> Manifest {
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
        cgroup: ManifestCgroup {
            private_namespace: private,
            paths: BTreeMap::new(),
        },
        unreachable: Vec::new(),
        mounts: vec![ManifestMount {
            mnt_id: MountId(CGROUP_MOUNT),
            mount_point: ContainerPath::new("/sys/fs/cgroup"),
            root: root.into(),
            fs_type: "cgroup2".into(),
            dev: 0,
            ino: 0,
        }],
    }
}

fn with_file(
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

fn target() -> Target {
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
fn looked_up(source: &Source, mut target: Target, size: u64, absent: &[&str]) -> Target {
    for (ino, lookup) in (1..).zip(lookups(source, &target)) {
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

fn planned(source: &Source, size: u64, absent: &[&str], policy: &Policy) -> Plan {
    plan(source, &looked_up(source, target(), size, absent), policy)
}

fn blockers(plan: &Plan) -> Vec<String> {
    plan.blockers().map(ToString::to_string).collect()
}

#[test]
fn in_a_private_cgroup_namespace_the_path_stays_and_the_object_changes() {
    let source = with_file(
        source(true),
        3,
        "/sys/fs/cgroup/cgroup.events",
        CGROUP_MOUNT,
        |_| {},
    );
    let plan = planned(&source, 0, &[], &Policy::default());
    assert_eq!(blockers(&plan), [""; 0]);
    let file = &plan.files[0];
    assert_eq!(file.new, file.old);
    assert_eq!(
        file.old_object.as_deref(),
        Some(format!("{OLD}/cgroup.events").as_str())
    );
    assert_eq!(
        file.new_object.as_deref(),
        Some(format!("/sys/fs/cgroup{NEW}/cgroup.events").as_str())
    );
    assert!(file.edit.drop_size && file.expect.is_some());
    assert!(plan.cgroup.private_namespace && !plan.cgroup.by_criu);
}

#[test]
fn in_the_hosts_cgroup_namespace_the_path_follows_each_level() {
    for (old, new, rule) in [
        (
            format!("{OLD}/cpu.stat"),
            format!("{NEW}/cpu.stat"),
            Rule::CgroupContainer,
        ),
        (
            "/kubepods/burstable/pod1111/x".into(),
            "/kubepods/besteffort/pod2222/x".into(),
            Rule::CgroupPod,
        ),
        (
            "/kubepods/burstable/x".into(),
            "/kubepods/besteffort/x".into(),
            Rule::CgroupQos,
        ),
        (
            "/kubepods/x".into(),
            String::from("/kubepods/x"),
            Rule::CgroupShared,
        ),
    ] {
        let source = with_file(
            source(false),
            3,
            &format!("/sys/fs/cgroup{old}"),
            CGROUP_MOUNT,
            |file| file.pos = 7,
        );
        let plan = planned(&source, 0, &[], &Policy::default());
        assert_eq!(
            plan.files[0].new.to_string(),
            format!("/sys/fs/cgroup{new}")
        );
        assert_eq!(plan.files[0].rule, rule);
        assert_eq!(plan.files[0].edit.pos, None, "the offset is kept");
    }
}

#[test]
fn without_a_manifest_the_images_are_enough() {
    for private in [true, false] {
        let path = if private {
            "/sys/fs/cgroup/cpu.stat".into()
        } else {
            format!("/sys/fs/cgroup{OLD}/cpu.stat")
        };
        let mut source = with_file(source(private), 3, &path, CGROUP_MOUNT, |_| {});
        source.manifest = None;
        let plan = planned(&source, 0, &[], &Policy::default());
        assert_eq!(
            plan.files[0].new_object.as_deref(),
            Some(format!("/sys/fs/cgroup{NEW}/cpu.stat").as_str())
        );
        assert!(
            plan.findings
                .iter()
                .any(|finding| finding.rule == Rule::Checkpoint)
        );
    }
}

#[test]
fn a_cgroup_file_that_is_absent_blocks_or_becomes_inert() {
    let gone = format!("/sys/fs/cgroup{NEW}/cpu.max");
    let read = with_file(
        source(true),
        3,
        "/sys/fs/cgroup/cpu.max",
        CGROUP_MOUNT,
        |_| {},
    );
    let plan = planned(&read, 0, &[&gone], &Policy::default());
    assert_eq!(blockers(&plan).len(), 1);
    assert!(
        blockers(&plan)[0].contains("fd 3 of process 1 on /sys/fs/cgroup/cpu.max"),
        "{:?}",
        blockers(&plan)
    );

    let ignore = Policy {
        cgroup_files: CgroupFiles::Ignore,
        ..Policy::default()
    };
    let plan = planned(&read, 0, &[&gone], &ignore);
    assert_eq!(blockers(&plan), [""; 0]);
    assert_eq!(plan.files[0].new.to_string(), "/dev/null");
    assert!(plan.files[0].edit.detach);

    let write = with_file(
        source(true),
        3,
        "/sys/fs/cgroup/cpu.max",
        CGROUP_MOUNT,
        |file| file.flags = libc::O_RDWR,
    );
    assert_eq!(
        blockers(&planned(&write, 0, &[&gone], &ignore)).len(),
        1,
        "a write descriptor stays a blocker"
    );
}

#[test]
fn a_file_the_runtime_manages_follows_the_new_pod() {
    let source = with_file(source(true), 3, "/etc/hosts", HOSTS_MOUNT, |file| {
        file.pos = 80;
    });
    let plan = planned(&source, 60, &[], &Policy::default());
    let file = &plan.files[0];
    assert_eq!(file.rule, Rule::RuntimeManaged);
    assert!(file.edit.drop_size && file.edit.drop_mode);
    assert_eq!(
        file.edit.pos,
        Some(60),
        "an offset behind the new end is clamped"
    );
    let inside = planned(&source, 200, &[], &Policy::default());
    assert_eq!(inside.files[0].edit.pos, None);
}

#[test]
fn a_file_on_a_volume_must_be_there_as_it_was() {
    let source = with_file(source(true), 3, "/data/log", DATA_MOUNT, |_| {});
    assert_eq!(
        blockers(&planned(&source, 100, &[], &Policy::default())),
        [""; 0]
    );
    let other_size = blockers(&planned(&source, 99, &[], &Policy::default()));
    assert!(
        other_size[0].contains("/pods/2222/data/log has 99 bytes and had 100"),
        "{other_size:?}"
    );
    let missing = blockers(&planned(
        &source,
        100,
        &["/pods/2222/data/log"],
        &Policy::default(),
    ));
    assert!(missing[0].contains("does not exist"), "{missing:?}");
}

#[test]
fn a_directory_on_a_volume_may_have_another_size() {
    let source = with_file(source(true), 3, "/data/dir", DATA_MOUNT, |file| {
        file.mode = Some(libc::S_IFDIR | 0o755);
    });
    let plan = planned(&source, 60, &[], &Policy::default());
    assert_eq!(blockers(&plan), [""; 0]);
    assert!(plan.files[0].edit.drop_size && !plan.files[0].edit.drop_mode);
}

#[test]
fn an_unlinked_file_is_left_to_criu() {
    let mut source = with_file(source(true), 3, "/data/gone", DATA_MOUNT, |_| {});
    source.remapped = BTreeSet::from([FileId(3)]);
    let plan = planned(&source, 0, &[], &Policy::default());
    assert!(plan.files.is_empty() && plan.possible());
}

#[test]
fn a_mount_the_new_pod_has_not_got_is_dropped_only_when_unused() {
    let mut without = target();
    without.mounts.retain(|mount| mount.key != "/data");
    let unused = plan(&source(true), &without, &Policy::default());
    assert_eq!(unused.dropped_mounts, [MountId(DATA_MOUNT)]);
    assert!(unused.possible());

    let used = with_file(source(true), 3, "/data/x", DATA_MOUNT, |_| {});
    let used = plan(&used, &without, &Policy::default());
    assert_eq!(used.dropped_mounts, []);
    let text = blockers(&used).join("\n");
    assert!(
        text.contains("mount /data (mnt_id 12)") && text.contains("fd 3 of process 1 (/data/x)"),
        "{text}"
    );
}

#[test]
fn a_mount_on_a_dropped_mount_goes_with_it() {
    let mut nested = source(true);
    nested.mounts.push(Mount {
        id: MountId(13),
        parent: MountId(DATA_MOUNT),
        mount_point: ContainerPath::new("/data/sub"),
        ext_key: None,
        ..nested.mounts[2].clone()
    });
    let mut without = target();
    without.mounts.retain(|mount| mount.key != "/data");
    assert_eq!(
        plan(&nested, &without, &Policy::default()).dropped_mounts,
        [MountId(DATA_MOUNT), MountId(13)]
    );
}

/// Gives the new pod further bind mounts, and the runtime's request a device besides.
fn with_mounts(mut target: Target, keys: &[&str]) -> Target {
    for key in keys {
        let source = HostPath::new(format!("/pods/2222/new{key}"));
        target.mounts.push(TargetMount {
            key: (*key).into(),
            source,
        });
        let options = vec!["rbind".to_owned(), "ro".to_owned()];
        let destination = ContainerPath::new(key);
        target.spec_mounts.push(SpecMount {
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

#[test]
fn a_mount_only_the_new_pod_has_is_attached_with_its_options_outer_ones_first() {
    let source = source(true);
    let more = with_mounts(target(), &["/extra/inner", "/extra"]);
    let plan = plan(
        &source,
        &looked_up(&source, more, 0, &[]),
        &Policy::default(),
    );
    let added: Vec<_> = plan
        .added_mounts
        .iter()
        .map(|mount| mount.mount_point.to_string())
        .collect();
    assert_eq!(added, ["/extra", "/extra/inner"]);
    assert!(plan.added_mounts[0].has("ro") && plan.added_mounts[0].expect.is_some());
    assert!(plan.possible());
}

#[test]
fn a_new_mount_that_would_hide_one_in_use_is_not_attached() {
    let mut source = source(true);
    source.mounts[2].mount_point = ContainerPath::new("/data/sub");
    source.mounts[2].ext_key = Some("/data/sub".into());
    let mut target = target();
    target.mounts[1].key = "/data/sub".into();
    let target = with_mounts(target, &["/data"]);
    let plan = plan(
        &source,
        &looked_up(&source, target, 0, &[]),
        &Policy::default(),
    );
    assert!(plan.added_mounts.is_empty());
    let warning = plan
        .findings
        .iter()
        .find(|finding| finding.rule == Rule::MountAdded)
        .unwrap();
    assert!(
        warning
            .to_string()
            .contains("it would hide the mount /data/sub"),
        "{warning}"
    );
}

#[test]
fn a_new_mount_without_its_source_blocks() {
    let source = source(true);
    let target = with_mounts(target(), &["/extra"]);
    let target = looked_up(&source, target, 0, &["/pods/2222/new/extra"]);
    assert!(blockers(&plan(&source, &target, &Policy::default()))[0].contains("does not exist"));
}

#[test]
fn the_host_name_is_the_new_pods_unless_the_policy_keeps_the_old() {
    let hostname = planned(&source(true), 0, &[], &Policy::default())
        .hostname
        .unwrap();
    assert_eq!(
        (
            hostname.old.as_str(),
            hostname.new.as_str(),
            hostname.namespace
        ),
        ("pod-a", "pod-b", 9)
    );
    let keep = Policy {
        hostname: Hostname::Source,
        ..Policy::default()
    };
    assert_eq!(planned(&source(true), 0, &[], &keep).hostname, None);
}

#[test]
fn a_task_in_a_sub_cgroup_goes_to_the_same_place_below_the_new_container() {
    let mut source = source(true);
    let member = CgroupMember {
        path: CgroupPath::new(format!("{OLD}/sub")),
        namespace_root: Some(CgroupPath::new(OLD)),
    };
    source
        .cgroup_sets
        .insert(3, BTreeMap::from([(Hierarchy::v2(), member)]));
    source.tasks.push(Task {
        pid: NsPid(2),
        cgroup_set: Some(3),
    });
    let plan = planned(&source, 0, &[], &Policy::default());
    let expected = Placement {
        pid: NsPid(2),
        hierarchy: Hierarchy::v2(),
        cgroup: CgroupPath::new(format!("{NEW}/sub")),
    };
    assert_eq!(plan.cgroup.placements, [expected]);
    let soft = Policy {
        manage_cgroups: ManageCgroups::Soft,
        ..Policy::default()
    };
    assert!(
        planned(&source, 0, &[], &soft).cgroup.placements.is_empty(),
        "CRIU's soft mode does it"
    );
}

#[test]
fn findings_come_most_severe_first_and_survive_json() {
    let gone = format!("/sys/fs/cgroup{NEW}/cpu.max");
    let source = with_file(
        source(true),
        3,
        "/sys/fs/cgroup/cpu.max",
        CGROUP_MOUNT,
        |_| {},
    );
    let plan = planned(&source, 0, &[&gone], &Policy::default());
    assert!(plan.findings.is_sorted_by(|a, b| a.severity >= b.severity));
    assert!(!plan.possible());
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn a_file_that_criu_puts_on_the_root_overlay_is_found_by_its_path() {
    let mut source = with_file(source(true), 3, "/etc/hosts", 1, |_| {});
    let root = Mount {
        id: MountId(1),
        mount_point: ContainerPath::new("/"),
        fs: FsType::Overlay,
        ext_key: Some("/".into()),
        ..source.mounts[1].clone()
    };
    source.mounts.insert(0, root);
    let plan = planned(&source, 200, &[], &Policy::default());
    assert_eq!(plan.files[0].rule, Rule::RuntimeManaged);
}

#[test]
fn a_v1_hierarchy_shows_the_new_container_whatever_source_the_runtime_gave() {
    let pids = Hierarchy("pids".into());
    let mut source = source(false);
    let member = CgroupMember {
        path: CgroupPath::new(OLD),
        namespace_root: None,
    };
    source
        .cgroup_sets
        .insert(2, BTreeMap::from([(pids.clone(), member)]));
    source.mounts.push(Mount {
        id: MountId(14),
        mount_point: ContainerPath::new("/sys/fs/cgroup/pids"),
        root: ContainerPath::new(OLD),
        fs: FsType::Cgroup,
        options: "rw,pids".into(),
        ext_key: Some("/sys/fs/cgroup/pids".into()),
        ..source.mounts[0].clone()
    });
    let source = with_file(source, 3, "/sys/fs/cgroup/pids/pids.max", 14, |_| {});
    let mut target = target();
    target.cgroups = BTreeMap::from([(pids.clone(), CgroupPath::new(NEW))]);
    let mount_point = HostPath::new("/sys/fs/cgroup/pids");
    let mount = CgroupMount {
        hierarchy: pids,
        root: CgroupPath::new("/"),
        mount_point,
    };
    target.cgroup_mounts = vec![mount];
    let given = HostPath::new("/sys/fs/cgroup/pids/system.slice");
    target.mounts.push(TargetMount {
        key: "/sys/fs/cgroup/pids".into(),
        source: given.clone(),
    });

    // The spec names the mount's source itself: it is followed, and the file is not in it.
    let named = plan(
        &source,
        &looked_up(&source, target.clone(), 0, &[]),
        &Policy::default(),
    );
    assert!(!named.possible());

    let destination = ContainerPath::new("/sys/fs/cgroup");
    target.spec_mounts = vec![SpecMount {
        destination,
        options: Vec::new(),
        cgroup: true,
    }];
    let plan = plan(
        &source,
        &looked_up(&source, target, 0, &[]),
        &Policy::default(),
    );
    assert_eq!(blockers(&plan), [""; 0]);
    let mount = plan
        .mounts
        .iter()
        .find(|mount| mount.mnt_id == MountId(14))
        .unwrap();
    assert_eq!(
        mount.source,
        HostPath::new(format!("/sys/fs/cgroup/pids{NEW}"))
    );
    assert_eq!(plan.files[0].new, plan.files[0].old);
    assert!(
        plan.findings
            .iter()
            .any(|finding| finding.text.contains(&given.to_string()))
    );
}

#[test]
fn a_token_follows_the_new_pods_version_of_its_volume() {
    let mut source = source(true);
    source.mounts[2].mount_point = ContainerPath::new("/run/token");
    source.mounts[2].ext_key = Some("/run/token".into());
    let source = with_file(
        source,
        3,
        "/run/token/..2024_05_06_07_08_09.1/token",
        DATA_MOUNT,
        |_| {},
    );
    let mut target = target();
    target.mounts[1].key = "/run/token".into();
    let volume = "/pods/2222/volumes/kubernetes.io~projected/token";
    target.mounts[1].source = HostPath::new(volume);
    let plan = plan(
        &source,
        &looked_up(&source, target, 7, &[]),
        &Policy::default(),
    );
    assert_eq!(plan.files[0].new.to_string(), "/run/token/..data/token");
    assert_eq!(
        plan.files[0].new_object.as_deref(),
        Some(format!("{volume}/..data/token").as_str())
    );
}

fn with_watch(mut source: Source, path: Option<&str>, mount: u32, ino: u64) -> Source {
    source.watches.push(Watch {
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
fn watched(source: &Source, mut target: Target, absent: &[&str]) -> Target {
    for (ino, lookup) in (1..).zip(watch_lookups(source, &target)) {
        let path = lookup.path();
        let there = !absent.contains(&path.to_string().as_str());
        target
            .watched
            .insert(path, there.then_some(WatchedObject { sdev: 1, ino }));
    }
    target
}

#[test]
fn a_watch_follows_its_cgroup_to_the_new_pod() {
    let source = with_watch(
        source(false),
        Some(&format!("/sys/fs/cgroup{OLD}/cgroup.events")),
        CGROUP_MOUNT,
        7,
    );
    let plan = plan(
        &source,
        &watched(&source, target(), &[]),
        &Policy::default(),
    );
    assert_eq!(
        plan.watches[0].new.to_string(),
        format!("/sys/fs/cgroup{NEW}/cgroup.events")
    );
    assert!(plan.watches[0].expect.is_some() && plan.possible());
}

#[test]
fn a_watch_on_a_file_that_is_a_mount_gets_the_path_that_the_image_lacks() {
    let mut source = with_watch(source(true), None, 0, 77);
    let mut mount = source.manifest.as_ref().unwrap().mounts[0].clone();
    mount.mnt_id = MountId(HOSTS_MOUNT);
    mount.mount_point = ContainerPath::new("/etc/hosts");
    (mount.dev, mount.ino) = (libc::makedev(8, 1), 77);
    source.manifest.as_mut().unwrap().mounts.push(mount);
    let target = watched(&source, target(), &[]);
    let found = plan(&source, &target, &Policy::default());
    let watch = &found.watches[0];
    assert_eq!(
        (watch.new.to_string().as_str(), watch.mnt_id),
        ("/etc/hosts", MountId(HOSTS_MOUNT))
    );

    source.manifest = None;
    let unknown = plan(&source, &target, &Policy::default());
    assert!(unknown.watches.is_empty());
    let warning = unknown
        .findings
        .iter()
        .find(|finding| finding.rule == Rule::Watch)
        .unwrap();
    assert!(
        warning.to_string().contains("watch 2 of fd 4 of process 1"),
        "{warning}"
    );
}

#[test]
fn a_watch_on_a_version_of_a_config_map_watches_the_newest() {
    let mut source = with_watch(
        source(true),
        Some("/cfg/..2024_05_06_07_08_09.1"),
        DATA_MOUNT,
        7,
    );
    source.mounts[2].mount_point = ContainerPath::new("/cfg");
    source.mounts[2].ext_key = Some("/cfg".into());
    let mut target = target();
    target.mounts[1].key = "/cfg".into();
    target.mounts[1].source = HostPath::new("/pods/2222/volumes/kubernetes.io~configmap/cfg");
    let plan = plan(&source, &watched(&source, target, &[]), &Policy::default());
    assert_eq!(plan.watches[0].new.to_string(), "/cfg/..data");
}

#[test]
fn a_watch_on_what_is_gone_blocks_or_becomes_inert() {
    let source = with_watch(
        source(true),
        Some("/sys/fs/cgroup/cpu.max"),
        CGROUP_MOUNT,
        7,
    );
    let target = watched(
        &source,
        target(),
        &[&format!("/sys/fs/cgroup{NEW}/cpu.max")],
    );
    let remap = blockers(&plan(&source, &target, &Policy::default()));
    assert!(
        remap[0].contains("watch 2 on /sys/fs/cgroup/cpu.max"),
        "{remap:?}"
    );
    let ignore = Policy {
        cgroup_files: CgroupFiles::Ignore,
        ..Policy::default()
    };
    let ignore = plan(&source, &target, &ignore);
    assert!(ignore.possible());
    assert_eq!(ignore.watches[0].new.to_string(), "/dev/null");
}

/// A read-only file that the dump found on this mount of the old node, under this path.
fn with_unreachable(mut source: Source, path: &str, mount: u32) -> Source {
    let path = ContainerPath::new(path);
    let holders = vec![Holder {
        pid: NsPid(1),
        fd: 3,
    }];
    let file = ManifestFile {
        mnt_id: MountId(mount),
        ino: 9,
        path,
        holders,
    };
    let key = file.key();
    source.manifest.as_mut().unwrap().unreachable.push(file);
    with_file(source, 3, &key, mount, |file| {
        file.mount = None;
        file.external = true;
    })
}

#[test]
fn a_file_of_a_removed_cgroup_is_mapped_blocks_or_becomes_inert() {
    let source = with_unreachable(
        source(true),
        "/sys/fs/cgroup/gone/cgroup.events",
        CGROUP_MOUNT,
    );
    let there = planned(&source, 0, &[], &Policy::default());
    assert_eq!(
        there.files[0].new.to_string(),
        "/sys/fs/cgroup/gone/cgroup.events"
    );
    assert!(there.files[0].edit.detach && there.possible());

    let path = format!("/sys/fs/cgroup{NEW}/gone/cgroup.events");
    let text = blockers(&planned(&source, 0, &[&path], &Policy::default())).join("\n");
    assert!(
        text.contains("on /sys/fs/cgroup/gone/cgroup.events"),
        "{text}"
    );
    let ignore = Policy {
        cgroup_files: CgroupFiles::Ignore,
        ..Policy::default()
    };
    let ignore = planned(&source, 0, &[&path], &ignore);
    assert!(ignore.possible());
    assert_eq!(ignore.files[0].new.to_string(), "/dev/null");
}

#[test]
fn a_file_on_a_foreign_mount_is_never_opened_by_the_path_the_checkpoint_tells() {
    let null = with_unreachable(source(true), "/dev/null", 99);
    let plan = planned(&null, 0, &[], &Policy::default());
    assert!(plan.possible() && plan.files[0].edit.detach);

    let secret = with_unreachable(source(true), "/etc/shadow", 99);
    let text = blockers(&planned(&secret, 0, &[], &Policy::default())).join("\n");
    assert!(
        text.contains("/etc/shadow") && text.contains("a mount that the container had not got"),
        "{text}"
    );
}

#[test]
fn an_external_file_that_the_runtime_hands_in_is_left_alone() {
    let source = with_unreachable(source(true), "/etc/shadow", 99);
    let mut target = target();
    target.inherited.insert("file[63:9]".into());
    let plan = plan(&source, &target, &Policy::default());
    assert!(plan.possible() && plan.files.is_empty());
}

#[test]
fn a_mount_whose_files_criu_puts_on_the_root_overlay_is_in_use_all_the_same() {
    let mut source = with_file(source(true), 3, "/data/f", 1, |_| {});
    let root = Mount {
        id: MountId(1),
        mount_point: ContainerPath::new("/"),
        fs: FsType::Overlay,
        ext_key: Some("/".into()),
        ..source.mounts[1].clone()
    };
    source.mounts.insert(0, root);
    let mut target = with_mounts(target(), &[]);
    target.mounts.retain(|mount| mount.key != "/data");
    target.mounts.push(TargetMount {
        key: "/".into(),
        source: HostPath::new("/rootfs"),
    });
    let plan = plan(
        &source,
        &looked_up(&source, target, 100, &[]),
        &Policy::default(),
    );
    assert!(plan.dropped_mounts.is_empty());
    assert!(
        blockers(&plan)
            .join("")
            .contains("fd 3 of process 1 (/data/f)"),
        "{:?}",
        plan.findings
    );
}

#[test]
fn a_cgroup_path_that_climbs_places_nobody() {
    let mut source = source(true);
    let path = CgroupPath::new(format!("{OLD}/../../../../../etc"));
    let member = CgroupMember {
        path,
        namespace_root: Some(CgroupPath::new(OLD)),
    };
    source
        .cgroup_sets
        .insert(3, BTreeMap::from([(Hierarchy::v2(), member)]));
    source.tasks.push(Task {
        pid: NsPid(2),
        cgroup_set: Some(3),
    });
    let plan = planned(&source, 0, &[], &Policy::default());
    assert!(plan.cgroup.placements.is_empty());
}
