//! Files that are not of cgroups, the host name, and findings.

use super::*;

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
    assert!(other_size[0].contains("shorter"), "{other_size:?}");
    let missing = blockers(&planned(
        &source,
        100,
        &["/pods/2222/data/log"],
        &Policy::default(),
    ));
    assert!(missing[0].contains("does not exist"), "{missing:?}");
}

#[test]
fn a_log_on_a_volume_goes_on_whatever_its_length() {
    let log = |access: i32| {
        with_file(source(true), 3, "/data/log", DATA_MOUNT, |file| {
            file.flags = access | libc::O_APPEND;
            file.pos = 90;
        })
    };
    for (access, size, pos) in [
        (libc::O_WRONLY, 60, None),
        (libc::O_RDWR, 60, Some(60)),
        (libc::O_RDWR, 300, None),
    ] {
        let plan = planned(&log(access), size, &[], &Policy::default());
        assert!(plan.possible(), "{:?}", plan.findings);
        let edit = &plan.files[0].edit;
        assert!(edit.drop_size && !edit.drop_mode);
        assert_eq!(edit.pos, pos);
        let noted = |finding: &Finding| finding.text.contains("only appended to");
        assert!(plan.findings.iter().any(noted), "{:?}", plan.findings);
    }
    let same = planned(&log(libc::O_RDWR), 100, &[], &Policy::default());
    assert!(!same.files[0].edit.drop_size, "CRIU checks what it can");
    // Who maps a file reads it at offsets of its own.
    let mut mapped = log(libc::O_RDWR);
    mapped.in_use.insert(FileId(3), BTreeSet::from([NsPid(7)]));
    let refused = blockers(&planned(&mapped, 60, &[], &Policy::default()));
    assert!(
        refused[0].contains("has 60 bytes and had 100"),
        "{refused:?}"
    );
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
