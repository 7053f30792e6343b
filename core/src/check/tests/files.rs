//! Open and mapped files.

use std::path::PathBuf;

use super::{MNT, blocked_by, facts, file, only, restow, stock, task, with_files};
use crate::check::{FileKind, Mapping, Mount, OpenFile, Rule, Task, check};
use crate::finding::Severity;
use crate::ids::MountId;

#[test]
fn kernel_objects_that_criu_does_not_know_are_named_with_process_and_descriptor() {
    let found = blocked_by(
        &with_files(vec![file(3, "anon_inode:[io_uring]", 9)]),
        Rule::IoUring,
    );
    assert_eq!(
        (found.places[0].fd, found.places[0].container_pid),
        (Some(3), 1)
    );
    assert!(found.way_round.contains("UV_USE_IO_URING=0"));
    for object in [
        "[userfaultfd]",
        "[perf_event]",
        "bpf-prog",
        "bpf-map",
        "seccomp notify",
    ] {
        let file = file(3, &format!("anon_inode:{object}"), 9);
        let found = blocked_by(&with_files(vec![file]), Rule::AnonymousFile);
        assert_eq!(found.object, object.trim_matches(['[', ']']));
    }
}

#[test]
fn mappings_of_such_objects_count_without_a_descriptor() {
    let mapped = |name: &str, kind, links, allocated| {
        facts(vec![Task {
            mappings: vec![Mapping {
                name: PathBuf::from(name),
                kind,
                links,
                allocated,
            }],
            ..task(100)
        }])
    };
    blocked_by(
        &mapped("anon_inode:[io_uring]", FileKind::Other, 1, 0),
        Rule::IoUring,
    );
    blocked_by(
        &mapped("anon_inode:[perf_event]", FileKind::Other, 1, 0),
        Rule::AnonymousMapping,
    );
    blocked_by(
        &mapped("/secretmem (deleted)", FileKind::Regular, 0, 0),
        Rule::SecretMemory,
    );
    let gpu = mapped("/dev/nvidia0", FileKind::Character(195, 0), 1, 0);
    assert!(
        blocked_by(&gpu, Rule::DeviceMapping)
            .text
            .contains("cuda_plugin")
    );
    // A container may have it under any name.
    for (major, plugin) in [(195, "cuda_plugin"), (226, "amdgpu_plugin")] {
        let gpu = mapped("/srv/accelerator", FileKind::Character(major, 0), 1, 0);
        assert!(blocked_by(&gpu, Rule::DeviceMapping).text.contains(plugin));
    }
    let no_gpu = mapped("/dev/fuse", FileKind::Character(10, 229), 1, 0);
    assert!(
        !blocked_by(&no_gpu, Rule::DeviceMapping)
            .text
            .contains("plugin")
    );
    blocked_by(
        &mapped("/old/program (deleted)", FileKind::Regular, 0, 2 << 20),
        Rule::UnlinkedLarge,
    );
    for nothing in [
        mapped("/dev/zero (deleted)", FileKind::Regular, 0, 9 << 20),
        mapped("/SYSV00001267 (deleted)", FileKind::Regular, 0, 9 << 20),
        mapped("/dev/zero", FileKind::Character(1, 5), 1, 0),
    ] {
        assert_eq!(check(&nothing, &stock()), []);
    }
}

#[test]
fn devices_are_told_with_the_plugin_that_would_be_needed() {
    let device = |path: &str, kind| {
        with_files(vec![OpenFile {
            kind,
            ..file(3, path, 1)
        }])
    };
    let found = blocked_by(
        &device("/dev/kfd", FileKind::Character(238, 0)),
        Rule::Device,
    );
    assert!(found.text.contains("238:0") && found.text.contains("amdgpu_plugin"));
    blocked_by(
        &device("/dev/fuse", FileKind::Character(10, 229)),
        Rule::Device,
    );
    blocked_by(&device("/dev/sda", FileKind::Block(8, 0)), Rule::Device);
    for (path, minor) in [("/dev/net/tun", 200), ("/dev/autofs", 235)] {
        assert_eq!(
            check(&device(path, FileKind::Character(10, minor)), &stock()),
            []
        );
    }
    assert_eq!(
        check(&device("/dev/pts/0", FileKind::Character(136, 0)), &stock()),
        []
    );
}

#[test]
fn what_restow_hands_over_is_a_warning_with_it_and_a_blocker_without() {
    let foreign = with_files(vec![file(3, "/run/log", 99)]);
    blocked_by(&foreign, Rule::ForeignFile);
    assert_eq!(only(&foreign, &restow()).severity, Severity::Warning);
    let removed = with_files(vec![OpenFile {
        lost: true,
        ..file(3, "/sys/fs/cgroup/gone/cgroup.events", 3)
    }]);
    blocked_by(&removed, Rule::RemovedCgroup);
    assert_eq!(only(&removed, &restow()).severity, Severity::Warning);
}

#[test]
fn a_file_below_a_later_mount_is_hidden() {
    let hidden = with_files(vec![file(3, "/data/old", 1)]);
    blocked_by(&hidden, Rule::HiddenFile);
    assert_eq!(
        check(&with_files(vec![file(3, "/data/old", 2)]), &stock()),
        []
    );
    assert_eq!(
        check(&with_files(vec![file(3, "/database", 1)]), &stock()),
        []
    );
    let mut stacked = with_files(vec![file(3, "/data/old", 2)]);
    let mounts = stacked.mounts.get_mut(&MNT).unwrap();
    let again = Mount {
        id: MountId(50),
        ..mounts[1].clone()
    };
    mounts.push(again);
    blocked_by(&stacked, Rule::HiddenFile);
}

#[test]
fn files_without_a_name_count_by_size_and_other_names() {
    let unlinked = |links, allocated| {
        with_files(vec![OpenFile {
            links,
            allocated,
            ..file(3, "/data/gone (deleted)", 2)
        }])
    };
    assert_eq!(check(&unlinked(0, 1 << 20), &stock()), []);
    let found = blocked_by(&unlinked(0, (1 << 20) + 512), Rule::UnlinkedLarge);
    assert_eq!(found.object, "/data/gone");
    blocked_by(&unlinked(1, 512), Rule::UnlinkedLinked);
}

#[test]
fn locks_watches_and_triggers() {
    let locked = with_files(vec![OpenFile {
        locks: vec!["FLOCK WRITE".into()],
        ..file(3, "/data/lock", 2)
    }]);
    let found = only(&locked, &stock());
    assert_eq!(
        (found.rule, found.severity),
        (Rule::FileLock, Severity::Warning)
    );
    assert!(found.text.contains("FLOCK WRITE"));

    let mut watched = with_files(vec![OpenFile {
        watches: vec![(0x57, 4)],
        ..file(3, "anon_inode:inotify", 9)
    }]);
    assert_eq!(check(&watched, &stock()), []);
    let mut mount = Mount {
        id: MountId(60),
        mount_point: "/etc/hosts".into(),
        fs_type: "tmpfs".into(),
        file: Some((0x57, 4)),
        has_queues: false,
    };
    watched.mounts.get_mut(&MNT).unwrap().push(mount.clone());
    assert_eq!(blocked_by(&watched, Rule::Watch).object, "/etc/hosts");
    mount.fs_type = "ext4".into();
    *watched.mounts.get_mut(&MNT).unwrap().last_mut().unwrap() = mount;
    assert_eq!(check(&watched, &stock()), []);

    let pressure = |writable, path: &str, mount| {
        with_files(vec![OpenFile {
            writable,
            ..file(3, path, mount)
        }])
    };
    for (path, mount) in [("/sys/fs/cgroup/cpu.pressure", 3), ("/proc/pressure/io", 1)] {
        let found = only(&pressure(true, path, mount), &stock());
        assert_eq!(
            (found.rule, found.severity),
            (Rule::PressureTrigger, Severity::Warning)
        );
        assert_eq!(check(&pressure(false, path, mount), &stock()), []);
    }
}

#[test]
fn a_memfd_in_huge_pages_needs_huge_pages() {
    let mut memfd = with_files(vec![OpenFile {
        huge: true,
        ..file(3, "/memfd:big (deleted)", 77)
    }]);
    blocked_by(&memfd, Rule::HugeMemfd);
    memfd.node.free_huge_pages = 8;
    assert_eq!(check(&memfd, &stock()), []);
}
