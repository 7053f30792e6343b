//! Content of volumes that comes with the checkpoint.

use super::*;
use crate::policy::Volumes;
use crate::source::manifest::CarriedVolume;

const VOLUME: &str = "/var/lib/kubelet/pods/2222/volumes/kubernetes.io~empty-dir/data";

/// A checkpoint with the content of `/data`, and a new pod that has `at` there.
fn carried(at: &str, empty: bool, volumes: Volumes) -> Plan {
    let mut source = with_file(source(true), 3, "/data/log", DATA_MOUNT, |_| {});
    source.manifest.as_mut().unwrap().volumes = vec![CarriedVolume {
        mount_point: ContainerPath::new("/data"),
        file: "volume-0.tar.zst".into(),
        size: 1000,
        sha256: String::new(),
        content: 2000,
        entries: 7,
    }];
    let policy = Policy {
        volumes,
        ..Policy::default()
    };
    let mut target = target();
    target.mounts[1].source = HostPath::new(at);
    let asked = Questions::of(&source, &target, &policy);
    for directory in asked.directories {
        target.empty.insert(directory, empty);
    }
    // As the edge does it: what is not there is told, unless it is to come.
    for lookup in asked.files {
        if !is_carried(&source, &target, &policy, &lookup) {
            target.files.insert(lookup.path(), None);
        }
    }
    plan(&source, &target, &policy)
}

#[test]
fn what_is_to_come_is_not_missing() {
    let plan = carried(VOLUME, true, Volumes::Carry);
    assert_eq!(blockers(&plan), [""; 0]);
    assert_eq!(plan.carried[0].into.to_string(), VOLUME);
    let there = format!("{VOLUME}/log");
    assert_eq!(plan.files[0].new_object.as_deref(), Some(there.as_str()));
}

#[test]
fn content_goes_only_into_an_empty_volume_of_the_pods_own_and_only_on_request() {
    let full = carried(VOLUME, false, Volumes::Carry);
    let text = blockers(&full);
    assert!(
        text.len() == 1 && text[0].contains("which is not empty"),
        "{text:?}"
    );

    let other = carried("/mnt/share", true, Volumes::Carry);
    assert!(other.carried.is_empty() && !other.possible());
    let nested = carried(&format!("{VOLUME}/sub"), true, Volumes::Carry);
    assert!(nested.carried.is_empty() && !nested.possible());

    let check = carried(VOLUME, true, Volumes::Check);
    assert!(check.carried.is_empty() && !check.possible());
}

#[test]
fn a_volume_whose_content_was_left_behind_is_named() {
    let source = source(true);
    let mut target = target();
    target.mounts[1].source = HostPath::new(VOLUME);
    let policy = Policy {
        volumes: Volumes::Carry,
        ..Policy::default()
    };
    let plan = plan(&source, &looked_up(&source, target, 0, &[]), &policy);
    let told = plan
        .findings
        .iter()
        .find(|finding| finding.rule == Rule::Carry);
    assert_eq!(told.unwrap().severity, Severity::Warning);
}
