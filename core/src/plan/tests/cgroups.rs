//! Cgroups: files in them, and where tasks go.

use super::*;
use crate::source::{CgroupDir, Owner};

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
fn threads_in_other_cgroups_than_their_process_are_told() {
    let mut source = source(true);
    let member = CgroupMember {
        path: CgroupPath::new(format!("{OLD}/threads")),
        namespace_root: Some(CgroupPath::new(OLD)),
    };
    source
        .cgroup_sets
        .insert(3, BTreeMap::from([(Hierarchy::v2(), member)]));
    let first = source.tasks[0].clone();
    let told = |source: &Source| -> Vec<String> {
        let plan = planned(source, 0, &[], &Policy::default());
        let findings = plan.findings.iter();
        let warnings = findings.filter(|finding| finding.severity == Severity::Warning);
        warnings.map(ToString::to_string).collect()
    };
    let same = first.cgroup_set.unwrap();
    let sets = BTreeMap::from([(NsPid(8), 3), (NsPid(9), 3), (NsPid(10), same)]);
    source.thread_sets.insert(first.pid, sets);
    let found = told(&source);
    assert_eq!(found.len(), 1, "{found:?}");
    let words = format!("its thread 8 and 1 more was in {OLD}/threads");
    assert!(found[0].contains(&words), "{found:?}");
    let staged = |policy: &Policy| planned(&source, 0, &[], policy).cgroup.threads.len();
    assert_eq!(staged(&Policy::default()), 3);
    let soft = Policy {
        manage_cgroups: ManageCgroups::Soft,
        ..Policy::default()
    };
    assert_eq!(staged(&soft), 0, "CRIU does it");
    source.thread_sets.clear();
    assert!(told(&source).is_empty());
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

/// The new pod mounts another part of the cgroups at the same place.
fn hidden(flags: i32) -> Plan {
    let mut source = with_file(
        source(false),
        3,
        &format!("/data{OLD}/cpu.stat"),
        DATA_MOUNT,
        |file| file.flags = flags,
    );
    source.mounts[2].fs = FsType::Cgroup2;
    let mut target = target();
    target.mounts[1].source = HostPath::new("/sys/fs/cgroup/other");
    plan(
        &source,
        &looked_up(&source, target, 0, &[]),
        &Policy::default(),
    )
}

#[test]
fn a_cgroup_file_that_no_mount_of_the_new_container_shows_is_handed_in_for_reading_only() {
    let read = hidden(libc::O_RDONLY);
    assert_eq!(blockers(&read), [""; 0]);
    let (key, lookup, file) = read.handed().next().unwrap();
    assert_eq!(key, "restow[3]");
    assert_eq!(
        lookup.path().to_string(),
        format!("/sys/fs/cgroup{NEW}/cpu.stat")
    );
    assert!(file.expect.is_some() && !file.inert());

    let write = hidden(libc::O_RDWR);
    assert_eq!(write.handed().count(), 0);
    let text = blockers(&write).join("\n");
    assert!(text.contains("does not show"), "{text}");
}

#[test]
fn more_files_than_a_request_holds_are_not_handed_in() {
    let source = with_file(
        source(false),
        3,
        &format!("/data{OLD}/cpu.stat"),
        DATA_MOUNT,
        |_| {},
    );
    let mut source = source;
    source.mounts[2].fs = FsType::Cgroup2;
    let file = source.files[&FileId(3)].clone();
    for id in 10..10 + 4096 {
        let id = FileId(id);
        source.files.insert(id, OpenFile { id, ..file.clone() });
    }
    let mut target = target();
    target.mounts[1].source = HostPath::new("/sys/fs/cgroup/other");
    let plan = plan(
        &source,
        &looked_up(&source, target, 0, &[]),
        &Policy::default(),
    );
    let text = blockers(&plan).join("\n");
    assert!(
        text.contains("4097 open files would have to be handed in"),
        "{text}"
    );
}

/// A file of a cgroup on a mount of the old node that the container had not got.
fn left_open(path: &str, flags: i32) -> Plan {
    let mut source = with_unreachable(source(true), "/x", 99);
    source.files.get_mut(&FileId(3)).unwrap().flags = flags;
    source.manifest.as_mut().unwrap().unreachable[0].cgroup = Some(CgroupFile {
        hierarchy: Hierarchy::v2(),
        path: CgroupPath::new(path),
    });
    planned(&source, 0, &[], &Policy::default())
}

#[test]
fn a_cgroup_file_that_was_left_open_follows_its_level_within_bounds() {
    for (path, new) in [
        (format!("{OLD}/cpu.stat"), format!("{NEW}/cpu.stat")),
        (
            "/kubepods/burstable/pod1111/cpu.stat".into(),
            "/kubepods/besteffort/pod2222/cpu.stat".into(),
        ),
        ("/kubepods/cpu.stat".into(), "/kubepods/cpu.stat".into()),
    ] {
        let plan = left_open(&path, libc::O_RDONLY);
        assert_eq!(blockers(&plan), [""; 0]);
        let (key, lookup, _) = plan.handed().next().unwrap();
        assert_eq!(key, "restow[3]");
        assert_eq!(lookup.path().to_string(), format!("/sys/fs/cgroup{new}"));
    }
    let own = left_open(&format!("{OLD}/cgroup.freeze"), libc::O_WRONLY);
    assert_eq!(own.handed().count(), 1);

    for (path, flags, word) in [
        (
            "/kubepods/burstable/pod3333/cpu.stat",
            libc::O_RDONLY,
            "belongs to neither pod",
        ),
        (
            "/kubepods/burstable/pod1111/cgroup.kill",
            libc::O_WRONLY,
            "not the container's own",
        ),
        (
            "/kubepods/cgroup.subtree_control",
            libc::O_RDWR,
            "not the container's own",
        ),
    ] {
        let plan = left_open(path, flags);
        assert_eq!(plan.handed().count(), 0);
        let text = blockers(&plan).join("\n");
        assert!(text.contains(word), "{text}");
    }
    let climbs = left_open("/kubepods/../x/cpu.stat", libc::O_RDONLY);
    assert!(!climbs.possible() && climbs.handed().count() == 0);
}

#[test]
fn cgroups_that_the_container_made_are_made_again_and_no_others() {
    let owner = Owner {
        mode: 0o755,
        uid: 7,
        gid: 8,
    };
    let dir = |path: String| CgroupDir {
        path: CgroupPath::new(path),
        owner: Some(owner),
    };
    let mut source = source(true);
    let dirs = ["/", "/kubepods/burstable/pod1111", "/kubepods/other"].map(str::to_owned);
    let own = ["", "/a/b", "/a"].map(|rest| format!("{OLD}{rest}"));
    source.cgroup_dirs = BTreeMap::from([(
        Hierarchy::v2(),
        dirs.into_iter().chain(own).map(dir).collect(),
    )]);
    let made =
        |source: &Source, policy: &Policy| planned(source, 0, &[], policy).cgroup.sub_cgroups;
    let found = made(&source, &Policy::default());
    let paths: Vec<String> = found.iter().map(|sub| sub.cgroup.to_string()).collect();
    assert_eq!(paths, [format!("{NEW}/a"), format!("{NEW}/a/b")]);
    assert_eq!(found[0].owner, Some(owner));

    // A dump that ignored cgroups does not list them; a file in one says that it was there.
    source.cgroup_dirs.clear();
    let source = with_file(
        source,
        3,
        "/sys/fs/cgroup/c/cgroup.events",
        CGROUP_MOUNT,
        |_| {},
    );
    let paths: Vec<String> = made(&source, &Policy::default())
        .iter()
        .map(|sub| sub.cgroup.to_string())
        .collect();
    assert_eq!(paths, [format!("{NEW}/c")]);
    let ignore = Policy {
        manage_cgroups: crate::policy::ManageCgroups::Ignore,
        ..Policy::default()
    };
    assert_eq!(made(&source, &ignore), []);
}

#[test]
fn a_checkpoint_cannot_fill_the_node_with_cgroups() {
    let mut source = source(true);
    let dirs = (0..5000).map(|number| CgroupDir {
        path: CgroupPath::new(format!("{OLD}/{number}")),
        owner: None,
    });
    source.cgroup_dirs = BTreeMap::from([(Hierarchy::v2(), dirs.collect())]);
    let plan = planned(&source, 0, &[], &Policy::default());
    assert_eq!(plan.cgroup.sub_cgroups.len(), 1000);
    assert!(
        blockers(&plan)[0].contains("made 5000 cgroups below its own"),
        "{:?}",
        blockers(&plan)
    );
}

#[test]
fn a_file_of_a_hierarchy_that_the_node_has_not_got_blocks_or_becomes_inert() {
    let pids = Hierarchy("cpu,cpuacct".into());
    let mut source = source(true);
    let member = CgroupMember {
        path: CgroupPath::new(OLD),
        namespace_root: None,
    };
    let sets = source.cgroup_sets.get_mut(&2).unwrap();
    sets.insert(pids, member);
    source.mounts.push(Mount {
        id: MountId(14),
        mount_point: ContainerPath::new("/sys/fs/cgroup/cpu,cpuacct"),
        root: ContainerPath::new(OLD),
        fs: FsType::Cgroup,
        options: "rw,cpu,cpuacct".into(),
        ext_key: Some("/sys/fs/cgroup/cpu,cpuacct".into()),
        ..source.mounts[0].clone()
    });
    let path = "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us";
    let planned = |policy: &Policy, flags: i32| {
        let source = with_file(source.clone(), 3, path, 14, |file| file.flags = flags);
        planned(&source, 0, &[], policy)
    };
    let found = blockers(&planned(&Policy::default(), libc::O_RDONLY));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("a cgroup hierarchy that this node does not mount"),
        "{found:?}"
    );

    let ignore = Policy {
        cgroup_files: crate::policy::CgroupFiles::Ignore,
        ..Policy::default()
    };
    let plan = planned(&ignore, libc::O_RDONLY);
    assert_eq!(blockers(&plan), [""; 0]);
    assert!(plan.files[0].inert());
    assert_eq!(plan.dropped_mounts, [MountId(14)]);
    assert_eq!(blockers(&planned(&ignore, libc::O_RDWR)).len(), 1);
}
