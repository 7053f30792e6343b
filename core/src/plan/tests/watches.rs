//! Watches.

use super::*;

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
        ("/etc/hosts", Some(MountId(HOSTS_MOUNT)))
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

#[test]
fn a_fanotify_mark_follows_as_a_watch_does_and_one_on_a_mount_keeps_that_mount() {
    let mut source = with_watch(source(true), Some("/etc/hosts"), HOSTS_MOUNT, 9);
    source.watches[0].kind = WatchKind::Fanotify;
    let marked = plan(
        &source,
        &watched(&source, target(), &[]),
        &Policy::default(),
    );
    assert_eq!(marked.watches[0].kind, WatchKind::Fanotify);
    assert_eq!(marked.watches[0].rule, Rule::RuntimeManaged);
    assert!(marked.watches[0].expect.is_some());

    source.marked_mounts.insert(MountId(DATA_MOUNT), FileId(5));
    let mut without = watched(&source, target(), &[]);
    without.mounts.retain(|mount| mount.key != "/data");
    let text = blockers(&plan(&source, &without, &Policy::default())).join("\n");
    assert!(
        text.contains("mount /data") && text.contains("a fanotify mark on the mount"),
        "{text}"
    );
}
