//! Which cgroup a container will get, from its spec's `cgroupsPath`.

use super::Runtime;
use crate::ids::CgroupPath;

/// Where containers go when the systemd driver is asked for no slice.
const DEFAULT_SLICE: &str = "system.slice";

/// The cgroup for `cgroupsPath` in a hierarchy in which the runtime is in `own`.
///
/// `slice:prefix:name` is how the systemd driver is told (runc's `--systemd-cgroup`), everything else is a path for the
/// cgroupfs driver. An absolute one is below the root; without one, or with a relative one, runc goes beside its own
/// cgroup on v2 and below it on v1, and crun below the root (libcontainer/cgroups/fs2/defaultpath.go, fs/paths.go;
/// src/libcrun/cgroup-cgroupfs.c, `make_cgroup_path`).
pub(super) fn cgroup_of(
    path: Option<&str>,
    id: &str,
    runtime: Runtime,
    v2: bool,
    own: &CgroupPath,
) -> CgroupPath {
    let path = path.unwrap_or(id);
    if let Some(scope) = scope(path) {
        return match runtime {
            // It makes a cgroup below the scope (run.oci.systemd.subgroup).
            Runtime::Crun if v2 => scope.join("container"),
            Runtime::Crun | Runtime::Runc => scope,
        };
    }
    if path.starts_with('/') || runtime == Runtime::Crun {
        return CgroupPath::new(path);
    }
    let base = if v2 { own.parent() } else { Some(own.clone()) };
    base.unwrap_or_else(|| CgroupPath::new("/")).join(path)
}

/// `slice:prefix:name` as a path: the slices one below the other (`systemd.slice(5)`), then the scope.
fn scope(path: &str) -> Option<CgroupPath> {
    let mut parts = path.split(':');
    let (slice, prefix, name) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || slice.contains('/') {
        return None;
    }
    let slice = if slice.is_empty() {
        DEFAULT_SLICE
    } else {
        slice
    };
    let unit = match prefix {
        _ if name.ends_with(".slice") => name.to_owned(),
        "" => format!("{name}.scope"),
        _ => format!("{prefix}-{name}.scope"),
    };
    Some(expanded(slice).join(unit))
}

/// `a-b.slice` is at `/a.slice/a-b.slice`, `-.slice` is the root.
fn expanded(slice: &str) -> CgroupPath {
    let mut path = CgroupPath::new("/");
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut whole = String::new();
    for part in name.split('-').filter(|part| !part.is_empty()) {
        if !whole.is_empty() {
            whole.push('-');
        }
        whole.push_str(part);
        path = path.join(format!("{whole}.slice"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: Option<&str>, runtime: Runtime, v2: bool) -> String {
        let own = CgroupPath::new("/system.slice/containerd.service");
        cgroup_of(path, "id", runtime, v2, &own).to_string()
    }

    #[test]
    fn an_absolute_path_is_below_the_root() {
        for runtime in [Runtime::Runc, Runtime::Crun] {
            for v2 in [true, false] {
                let path = "/kubepods/burstable/pod1/c";
                assert_eq!(found(Some(path), runtime, v2), path);
            }
        }
    }

    #[test]
    fn the_systemd_driver_has_slices_in_slices() {
        let path = Some("kubepods-burstable-pod1b_2c.slice:cri-containerd:abc");
        let scope = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b_2c.slice/cri-containerd-abc.scope";
        assert_eq!(found(path, Runtime::Runc, true), scope);
        assert_eq!(found(path, Runtime::Crun, false), scope);
        assert_eq!(
            found(path, Runtime::Crun, true),
            format!("{scope}/container")
        );
        assert_eq!(
            found(Some(":runc:abc"), Runtime::Runc, true),
            "/system.slice/runc-abc.scope"
        );
        assert_eq!(
            found(Some("-.slice::abc"), Runtime::Runc, true),
            "/abc.scope"
        );
    }

    #[test]
    fn without_an_absolute_path_the_runtimes_differ() {
        let runc = "/system.slice/containerd.service";
        assert_eq!(found(None, Runtime::Runc, true), "/system.slice/id");
        assert_eq!(
            found(Some("x/y"), Runtime::Runc, false),
            format!("{runc}/x/y")
        );
        assert_eq!(found(None, Runtime::Crun, true), "/id");
        assert_eq!(found(Some("x/y"), Runtime::Crun, true), "/x/y");
    }
}
