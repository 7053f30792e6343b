//! What the runtime and the kubelet write for each container, known by where it is mounted or comes from.

use std::path::{Component, Path, PathBuf};

use crate::ids::{ContainerPath, HostPath};

/// Mount points whose content the runtime or the kubelet writes anew for each container.
pub(in crate::plan) const MANAGED: [&str; 6] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/termination-log",
    "/run/.containerenv",
    "/run/secrets",
];

/// Directories below `…/pods/<uid>/volumes/` whose content the kubelet writes.
const MANAGED_VOLUMES: [&str; 4] = [
    "kubernetes.io~projected",
    "kubernetes.io~secret",
    "kubernetes.io~configmap",
    "kubernetes.io~downward-api",
];

/// Whether what is mounted from this source is written anew for each container.
pub(super) fn is_managed(mount_point: &ContainerPath, source: &HostPath) -> bool {
    let source = source.to_string();
    MANAGED
        .iter()
        .any(|managed| mount_point.as_path() == Path::new(managed))
        || MANAGED_VOLUMES
            .iter()
            .any(|volume| source.contains(&format!("/volumes/{volume}/")))
        || is_termination_log(&source)
        || is_of_containers_storage(&source)
}

/// What podman and CRI-O write for a container into its `…/overlay-containers/<id>/userdata` (containers/storage), wherever
/// the container has it: `hosts`, `resolv.conf`, `hostname`, `.containerenv`, `run/secrets`, `secrets`.
fn is_of_containers_storage(source: &str) -> bool {
    const WRITTEN: [&str; 6] = [
        "hosts",
        "resolv.conf",
        "hostname",
        ".containerenv",
        "secrets",
        "run",
    ];
    let storage = source.split_once("-containers/");
    let file = storage.and_then(|(_, rest)| rest.split_once("/userdata/"));
    file.is_some_and(|(id, file)| {
        let first = file.split('/').next().unwrap_or_default();
        !id.contains('/') && WRITTEN.contains(&first)
    })
}

/// The kubelet writes each version of a projected volume into a directory named after the time, `..2024_05_06_07_08_09.1`,
/// and lets the link `..data` lead to the newest (`pkg/volume/util/atomic_writer.go`). A name in the image has the
/// directory of the old pod; in the new one the link leads to the same file.
pub(in crate::plan) fn current_version(rest: &Path) -> PathBuf {
    let mut parts = rest.components();
    let version = parts.next().filter(|first| {
        let name = first.as_os_str().to_string_lossy();
        name.strip_prefix("..")
            .is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()))
    });
    match version {
        Some(_) => std::iter::once(Component::Normal("..data".as_ref()))
            .chain(parts)
            .collect(),
        None => rest.to_path_buf(),
    }
}

/// The kubelet's `…/pods/<uid>/containers/<name>/<8 hexadecimal digits>`, whatever `terminationMessagePath` says.
fn is_termination_log(source: &str) -> bool {
    let Some((_, pod)) = source.split_once("/pods/") else {
        return false;
    };
    let parts: Vec<&str> = pod.split('/').collect();
    matches!(parts[..], [_, "containers", _, file] if file.len() == 8 && file.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_a_projected_volume_becomes_the_newest() {
        let current = |path: &str| current_version(Path::new(path)).display().to_string();
        assert_eq!(
            current("..2024_05_06_07_08_09.123456/token"),
            "..data/token"
        );
        assert_eq!(current("..2024_05_06_07_08_09.123456"), "..data");
        for path in ["token", "..data/token", "dir/..2024_05/x", "", "..x/y"] {
            assert_eq!(current(path), path);
        }
    }

    #[test]
    fn the_kubelets_files_are_known_by_where_they_come_from() {
        let etc = ContainerPath::new("/etc/hosts");
        let data = ContainerPath::new("/data");
        assert!(is_managed(&etc, &HostPath::new("/anything")));
        assert!(is_managed(
            &data,
            &HostPath::new("/var/lib/kubelet/pods/u/containers/web/0a1b2c3d")
        ));
        assert!(is_managed(
            &data,
            &HostPath::new("/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/key")
        ));
        for written in ["hosts", "run/secrets", "secrets/key"] {
            let userdata = "/run/containers/storage/overlay-containers/0a1b/userdata";
            let source = HostPath::new(format!("{userdata}/{written}"));
            assert!(is_managed(&data, &source), "{source}");
        }
        for other in [
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/data",
            "/run/containers/storage/overlay-containers/0a1b/userdata/shm",
            "/srv/userdata/hosts",
        ] {
            assert!(!is_managed(&data, &HostPath::new(other)), "{other}");
        }
    }
}
