//! Process trees without a container: no mounts in the images, paths as criu sees them.

use super::*;

/// The parent of a tree in `cgroup`, dumped by a criu that saw version 2 at `/sys/fs/cgroup`, with `/` the root of a
/// cgroup namespace or the real one.
fn tree(cgroup: &str, namespaced: bool) -> Source {
    let member = CgroupMember {
        path: CgroupPath::new(cgroup),
        namespace_root: None,
    };
    let mut manifest = manifest(false);
    manifest.cgroup.namespace_roots = Some(namespaced.then(Hierarchy::v2).into_iter().collect());
    let mount = |mnt_id, at: &str, fs_type: &str| ManifestMount {
        mnt_id: MountId(mnt_id),
        mount_point: ContainerPath::new(at),
        root: "/".into(),
        fs_type: fs_type.into(),
        options: String::new(),
        dev: 0,
        ino: 0,
    };
    manifest.mounts.insert(0, mount(1, "/", "overlay"));
    manifest.mounts.extend([
        mount(2, "/proc", "proc"),
        mount(3, "/etc/hosts", "ext4"),
        mount(4, "/data", "ext4"),
        mount(5, "/token", "tmpfs"),
    ]);
    Source {
        mounts: Vec::new(),
        uts: None,
        shares_mounts: true,
        private_cgroup_namespace: false,
        cgroup_sets: BTreeMap::from([(2, BTreeMap::from([(Hierarchy::v2(), member)]))]),
        manifest: Some(manifest),
        ..source(false)
    }
}

fn here(cgroup: &str, namespaced: bool) -> Target {
    Target {
        cgroups: BTreeMap::from([(Hierarchy::v2(), CgroupPath::new(cgroup))]),
        namespace_roots: namespaced.then(Hierarchy::v2).into_iter().collect(),
        mounts: Vec::new(),
        hostname: None,
        ..target()
    }
}

fn held(source: Source, path: &str) -> Source {
    with_file(source, 3, path, 0, |file| {
        file.mount = None;
        file.pos = 7;
    })
}

/// Where a file of the tree ends, or why it cannot.
fn moved(from: Source, to: Target, path: &str) -> Result<(String, Rule), String> {
    let source = held(from, path);
    let plan = plan(
        &source,
        &looked_up(&source, to, 100, &[]),
        &Policy::default(),
    );
    if let Some(blocker) = plan.blockers().next() {
        return Err(blocker.to_string());
    }
    let file = plan.files.first().ok_or("not planned")?;
    assert!(file.expect.is_some(), "{path}: nothing to verify");
    assert!(plan.mounts.is_empty() && plan.dropped_mounts.is_empty());
    Ok((file.new.to_string(), file.rule))
}

#[test]
fn a_path_that_names_the_old_pod_follows_each_level() {
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
            "/cgroup.stat".into(),
            "/cgroup.stat".into(),
            Rule::CgroupShared,
        ),
    ] {
        let found = moved(
            tree(OLD, false),
            here(NEW, false),
            &format!("/sys/fs/cgroup{old}"),
        );
        assert_eq!(found, Ok((format!("/sys/fs/cgroup{new}"), rule)));
    }
}

#[test]
fn between_two_private_cgroup_namespaces_paths_stay() {
    assert_eq!(
        moved(tree("/", true), here("/", true), "/sys/fs/cgroup/cpu.stat"),
        Ok(("/sys/fs/cgroup/cpu.stat".into(), Rule::CgroupContainer))
    );
}

#[test]
fn from_the_nodes_view_into_a_private_namespace() {
    let from = || tree(OLD, false);
    assert_eq!(
        moved(
            from(),
            here("/", true),
            &format!("/sys/fs/cgroup{OLD}/sub/cpu.stat")
        ),
        Ok(("/sys/fs/cgroup/sub/cpu.stat".into(), Rule::CgroupContainer))
    );
    // The node's own file has the name that is the pod's here, and is not to be seen.
    let blocker = moved(from(), here("/", true), "/sys/fs/cgroup/cpu.stat").unwrap_err();
    assert!(blocker.contains("does not show"), "{blocker}");
}

#[test]
fn from_a_private_namespace_to_the_nodes_view() {
    assert_eq!(
        moved(tree("/", true), here(NEW, false), "/sys/fs/cgroup/cpu.stat"),
        Ok((
            format!("/sys/fs/cgroup{NEW}/cpu.stat"),
            Rule::CgroupContainer
        ))
    );
    // What was beside it inside the old namespace is nowhere here.
    let blocker = moved(
        tree("/sub", true),
        here(NEW, false),
        "/sys/fs/cgroup/cpu.stat",
    );
    assert!(blocker.unwrap_err().contains("does not show"));
}

#[test]
fn without_source_json_the_mounts_here_are_taken() {
    let mut from = tree(OLD, false);
    from.manifest = None;
    assert_eq!(
        moved(
            from,
            here(NEW, false),
            &format!("/sys/fs/cgroup{OLD}/cpu.stat")
        ),
        Ok((
            format!("/sys/fs/cgroup{NEW}/cpu.stat"),
            Rule::CgroupContainer
        ))
    );
}

#[test]
fn another_mount_point_of_the_hierarchy_is_found() {
    let mut to = here(NEW, false);
    to.cgroup_mounts[0].mount_point = HostPath::new("/sys/fs/cgroup/unified");
    assert_eq!(
        moved(
            tree(OLD, false),
            to,
            &format!("/sys/fs/cgroup{OLD}/cpu.stat")
        ),
        Ok((
            format!("/sys/fs/cgroup/unified{NEW}/cpu.stat"),
            Rule::CgroupContainer
        ))
    );
}

#[test]
fn the_pods_own_files_follow_and_the_rest_is_compared() {
    let found = |path: &str| moved(tree(OLD, false), here(NEW, false), path);
    assert_eq!(
        found("/etc/hosts"),
        Ok(("/etc/hosts".into(), Rule::RuntimeManaged))
    );
    assert_eq!(
        found("/token/..2024_05_06_07_08_09.1/token"),
        Ok(("/token/..data/token".into(), Rule::RuntimeManaged))
    );
    assert_eq!(found("/data/x"), Ok(("/data/x".into(), Rule::Volume)));
    // A size of its own: CRIU compares what is in the root file system, and knows what /proc means.
    assert_eq!(found("/usr/bin/x"), Err("not planned".into()));
    assert_eq!(found("/proc/7/status"), Err("not planned".into()));
}

#[test]
fn what_the_user_hands_in_is_left_alone() {
    let mut to = here(NEW, false);
    to.inherited.insert(format!("sys/fs/cgroup{OLD}/cpu.stat"));
    let found = moved(
        tree(OLD, false),
        to,
        &format!("/sys/fs/cgroup{OLD}/cpu.stat"),
    );
    assert_eq!(found, Err("not planned".into()));
}

#[test]
fn children_in_sub_cgroups_of_a_namespace_root_keep_their_place() {
    let mut source = tree("/", true);
    let member = CgroupMember {
        path: CgroupPath::new("/sub"),
        namespace_root: None,
    };
    source
        .cgroup_sets
        .insert(3, BTreeMap::from([(Hierarchy::v2(), member)]));
    source.tasks.push(Task {
        pid: NsPid(2),
        cgroup_set: Some(3),
    });
    let plan = plan(&source, &here(NEW, false), &Policy::default());
    let placed: Vec<_> = plan
        .cgroup
        .placements
        .iter()
        .map(|placement| (placement.pid, placement.cgroup.to_string()))
        .collect();
    assert_eq!(placed, [(NsPid(2), format!("{NEW}/sub"))]);
}

#[test]
fn a_watch_has_a_path_and_no_mount() {
    let mut source = with_watch(
        tree(OLD, false),
        Some(&format!("/sys/fs/cgroup{OLD}/cgroup.events")),
        0,
        9,
    );
    source.watches[0].mount = None;
    let plan = plan(
        &source,
        &watched(&source, here(NEW, false), &[]),
        &Policy::default(),
    );
    assert_eq!(plan.watches[0].mnt_id, None);
    assert_eq!(
        plan.watches[0].new,
        ContainerPath::new(format!("/sys/fs/cgroup{NEW}/cgroup.events"))
    );
}
