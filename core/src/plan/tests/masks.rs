//! Paths that the new pod hides.

use super::super::*;
use super::{looked_up, source, target, with_mounts};
use crate::source::{FsType, Mount};

fn mount(id: u32, at: &str, key: Option<&str>) -> Mount {
    Mount {
        id: MountId(id),
        parent: MountId(1),
        mount_point: ContainerPath::new(at),
        root: ContainerPath::new("/"),
        fs: FsType::Other(1),
        options: String::new(),
        read_only: false,
        ext_key: key.map(str::to_owned),
    }
}

#[test]
fn what_criu_restores_is_left_and_what_it_does_not_is_masked() {
    let mut source = source(true);
    source.mounts.extend([
        // runc's directory, runc's and crun's file, crun's directory.
        mount(41, "/proc/acpi", None),
        mount(42, "/proc/keys", Some("/proc/keys")),
        mount(43, "/sys/firmware", Some("/sys/firmware")),
    ]);
    let mut target = with_mounts(target(), &[]);
    target.mounts.push(crate::target::TargetMount {
        key: "/proc/keys".into(),
        source: HostPath::new("/dev/null"),
    });
    target.masked = ["/proc/acpi", "/proc/keys", "/sys/firmware", "/proc/never"]
        .map(ContainerPath::new)
        .into();
    let plan = plan(
        &source,
        &looked_up(&source, target, 0, &[]),
        &Policy::default(),
    );
    let expected = ["/sys/firmware", "/proc/never"].map(ContainerPath::new);
    assert_eq!(plan.masked, expected);
    assert_eq!(plan.dropped_mounts, [MountId(43)]);
    let about: Vec<String> = plan
        .findings
        .iter()
        .map(ToString::to_string)
        .filter(|text| text.contains("/sys/firmware"))
        .collect();
    assert_eq!(
        about,
        [
            "note: mount /sys/firmware (mnt_id 43): the new pod masks it; it is masked before the container runs, if it is there [masked]"
        ]
    );
}
