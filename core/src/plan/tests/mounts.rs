//! Mounts.

use super::*;

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
fn stacked_mounts_are_joined_from_the_top() {
    let mut stacked = source(true);
    let lower = stacked.mounts[2].clone();
    stacked.mounts.push(Mount {
        id: MountId(13),
        parent: MountId(DATA_MOUNT),
        ..lower
    });
    let of = |sources: &[&str]| {
        let mut target = target();
        target.mounts.retain(|mount| mount.key != "/data");
        target
            .mounts
            .extend(sources.iter().map(|source| TargetMount {
                key: "/data".into(),
                source: HostPath::new(source),
            }));
        let mut plan = plan(&stacked, &target, &Policy::default());
        assert!(plan.possible());
        plan.mounts
            .retain(|mount| mount.mount_point == ContainerPath::new("/data"));
        let mounts = plan.mounts.into_iter();
        mounts
            .map(|mount| (mount.mnt_id.0, mount.key, mount.source.to_string()))
            .collect::<Vec<_>>()
    };
    let joined = |lower: &str, upper: &str| {
        vec![
            (DATA_MOUNT, "restow-12".to_owned(), lower.to_owned()),
            (13, "/data".to_owned(), upper.to_owned()),
        ]
    };
    assert_eq!(of(&["/l", "/u"]), joined("/l", "/u"));
    assert_eq!(of(&["/only"]), joined("/only", "/only"));
    assert_eq!(of(&["/hidden", "/l", "/u"]), joined("/l", "/u"));
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
        source: given,
    });

    // The spec names the mount's source itself: it is followed, and the file is not in it, so it is handed in.
    let named = plan(
        &source,
        &looked_up(&source, target.clone(), 0, &[]),
        &Policy::default(),
    );
    assert_eq!(named.handed().count(), 1);

    let destination = ContainerPath::new("/sys/fs/cgroup");
    target.spec_mounts = vec![SpecMount {
        kind: "cgroup".into(),
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
