//! What the new pod lets the container write.

use super::super::*;
use super::{blockers, looked_up, source, target, with_file, with_mounts};

/// `/data` is a writable volume in the checkpoint.
fn planned(options: &str, flags: i32) -> Plan {
    let source = with_file(source(true), 3, "/data/f", 12, |file| file.flags = flags);
    let mut target = with_mounts(target(), &["/data"]);
    for mount in &mut target.spec_mounts {
        mount.options = options.split(',').map(str::to_owned).collect();
    }
    target.read_only_paths = vec![ContainerPath::new("/proc/sys")];
    plan(
        &source,
        &looked_up(&source, target, 100, &[]),
        &Policy::default(),
    )
}

#[test]
fn a_mount_that_the_new_pod_has_read_only_becomes_so() {
    let plan = planned("rbind,ro", libc::O_RDONLY);
    assert_eq!(plan.read_only_mounts, [ContainerPath::new("/data")]);
    assert_eq!(plan.read_only_paths, [ContainerPath::new("/proc/sys")]);
    assert_eq!(blockers(&plan), [""; 0]);
    assert!(
        planned("rbind,rw", libc::O_RDWR)
            .read_only_mounts
            .is_empty()
    );
    assert!(planned("rbind", libc::O_RDWR).read_only_mounts.is_empty());
}

#[test]
fn what_is_open_for_writing_on_it_blocks() {
    let found = blockers(&planned("rbind,ro", libc::O_RDWR));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("fd 3 of process 1") && found[0].contains("/data is read-only"),
        "{found:?}"
    );
}
