//! A runtime's own record of a container: where its bundle is, and which process is its init.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::ids::HostPid;

/// The bundle of the container `id` from the record below a runtime's state directory (`--root`), when the record names
/// `init` as the container's first process; `None` when this runtime keeps no record that is known here.
pub fn bundle_of(root: &Path, id: &str, init: HostPid) -> Option<PathBuf> {
    let dir = root.join(id);
    runc_bundle(&dir.join("state.json"), init).or_else(|| crun_bundle(&dir.join("status"), init))
}

/// runc's `state.json` has the pid and, among the labels, `bundle=<path>` (libcontainer/state_linux.go).
fn runc_bundle(record: &Path, init: HostPid) -> Option<PathBuf> {
    let state: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    (state["init_process_pid"].as_i64()? == i64::from(init.0)).then_some(())?;
    let labels = state["config"]["labels"].as_array()?;
    labels
        .iter()
        .filter_map(Value::as_str)
        .find_map(|label| label.strip_prefix("bundle="))
        .map(PathBuf::from)
}

/// crun's `status` has `pid` and `bundle` (src/libcrun/status.c).
fn crun_bundle(record: &Path, init: HostPid) -> Option<PathBuf> {
    let status: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    (status["pid"].as_i64()? == i64::from(init.0)).then_some(())?;
    status["bundle"].as_str().map(PathBuf::from)
}

/// Where runtimes keep their records unless told otherwise: those of runc and crun themselves, of containerd's shim
/// (a directory for each of its namespaces), Docker's, and podman's and CRI-O's, which leave the default.
const ROOTS: [&str; 2] = ["/run/runc", "/run/crun"];
const ROOTS_OF_NAMESPACES: [&str; 4] = [
    "/run/containerd/runc",
    "/run/containerd/crun",
    "/run/docker/runtime-runc",
    "/run/docker/runtime-crun",
];

/// A running container, as its runtime recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// `runc` or `crun`, by the kind of the record.
    pub runtime: &'static str,
    /// Its first process.
    pub init: HostPid,
    /// Its bundle, when the record names it.
    pub bundle: Option<PathBuf>,
    /// The state directory it was found in.
    pub root: PathBuf,
}

/// Why no container was found.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// Nothing has this id.
    #[error("No running container has an id that begins with {name} (searched {searched})")]
    None {
        /// What was looked for.
        name: String,
        /// The state directories.
        searched: String,
    },
    /// Several have.
    #[error("Several containers have an id that begins with {name}: {ids}")]
    Several {
        /// What was looked for.
        name: String,
        /// Their ids.
        ids: String,
    },
    /// The state directory that was named cannot be read.
    #[error("Cannot read the state directory {root}")]
    Root {
        /// The directory.
        root: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The running container whose id is `name`, or alone begins with it. With `root`, only that state directory counts.
///
/// # Errors
/// When there is none or more than one, or `root` cannot be read.
pub fn find(name: &str, root: Option<&Path>) -> Result<Container, NotFound> {
    let roots = roots(root)?;
    let mut found: Vec<Container> = containers(&roots)
        .into_iter()
        .filter(|container| container.id.starts_with(name))
        .collect();
    if let Some(exact) = found.iter().position(|container| container.id == name) {
        return Ok(found.swap_remove(exact));
    }
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            let ids = found
                .iter()
                .chain([&last])
                .map(|container| container.id.as_str());
            Err(NotFound::Several {
                name: name.to_owned(),
                ids: ids.collect::<Vec<_>>().join(", "),
            })
        }
        (None, _) => {
            let searched = roots.iter().map(|root| root.display().to_string());
            Err(NotFound::None {
                name: name.to_owned(),
                searched: searched.collect::<Vec<_>>().join(", "),
            })
        }
    }
}

/// The running container whose first process is `init`.
///
/// # Errors
/// When `root` cannot be read.
pub fn of_process(init: HostPid, root: Option<&Path>) -> Result<Option<Container>, NotFound> {
    let found = containers(&roots(root)?);
    Ok(found.into_iter().find(|container| container.init == init))
}

fn roots(root: Option<&Path>) -> Result<Vec<PathBuf>, NotFound> {
    if let Some(root) = root {
        return match std::fs::read_dir(root) {
            Ok(_) => Ok(vec![root.into()]),
            Err(source) => Err(NotFound::Root {
                root: root.into(),
                source,
            }),
        };
    }
    let mut roots: Vec<PathBuf> = ROOTS.iter().map(PathBuf::from).collect();
    for dir in ROOTS_OF_NAMESPACES {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        roots.extend(entries.map(|entry| entry.path()));
    }
    Ok(roots)
}

/// All containers whose recorded process is still there.
fn containers(roots: &[PathBuf]) -> Vec<Container> {
    let entries = roots.iter().flat_map(|root| {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        entries.map(move |entry| (root, entry))
    });
    let mut found: Vec<Container> = entries
        .filter_map(|(root, entry)| {
            let id = entry.file_name().into_string().ok()?;
            let dir = entry.path();
            let (record, runtime, pid, start) = [
                (
                    "state.json",
                    "runc",
                    "init_process_pid",
                    "init_process_start",
                ),
                ("status", "crun", "pid", "process-start-time"),
            ]
            .into_iter()
            .find_map(|(file, runtime, pid, start)| {
                let bytes = std::fs::read(dir.join(file)).ok()?;
                let record: Value = serde_json::from_slice(&bytes).ok()?;
                Some((record, runtime, pid, start))
            })?;
            let init = HostPid(i32::try_from(record[pid].as_i64()?).ok()?);
            // Of another process that has its number now, the record says nothing.
            let started = start_time(init)?;
            let recorded = record[start].as_u64().filter(|time| *time != 0);
            recorded.is_none_or(|time| time == started).then_some(())?;
            let bundle = match runtime {
                "runc" => runc_bundle(&dir.join("state.json"), init),
                _ => crun_bundle(&dir.join("status"), init),
            };
            Some(Container {
                id,
                runtime,
                init,
                bundle,
                root: root.clone(),
            })
        })
        .collect();
    found.sort_by(|a, b| (&a.id, &a.root).cmp(&(&b.id, &b.root)));
    found
}

/// When a process started, in the kernel's ticks since boot: field 22 of `proc_pid_stat(5)`.
fn start_time(pid: HostPid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything.
    text.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_only_for_the_process_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let runc = dir.path().join("state.json");
        std::fs::write(
            &runc,
            r#"{"init_process_pid": 7, "config": {"labels": ["a=b", "bundle=/run/b"]}}"#,
        )
        .unwrap();
        assert_eq!(runc_bundle(&runc, HostPid(7)), Some("/run/b".into()));
        assert_eq!(runc_bundle(&runc, HostPid(8)), None);
        let crun = dir.path().join("status");
        std::fs::write(&crun, r#"{"pid": 7, "bundle": "/run/c"}"#).unwrap();
        assert_eq!(crun_bundle(&crun, HostPid(7)), Some("/run/c".into()));
        assert_eq!(crun_bundle(&crun, HostPid(8)), None);
    }

    #[test]
    fn a_container_is_found_by_a_prefix_that_only_it_has() {
        let root = tempfile::tempdir().unwrap();
        let own = HostPid(nix::unistd::getpid().as_raw());
        let start = start_time(own).unwrap();
        let write = |id: &str, start: u64| {
            let dir = root.path().join(id);
            std::fs::create_dir(&dir).unwrap();
            let text =
                format!(r#"{{"pid": {own}, "process-start-time": {start}, "bundle": "/run/b"}}"#);
            std::fs::write(dir.join("status"), text).unwrap();
        };
        write("abc1", start);
        write("abd2", start);
        write("abd2-old", start + 1);
        let find = |name: &str| find(name, Some(root.path()));
        assert_eq!(find("abc").unwrap().id, "abc1");
        // The other one with this prefix is of a process that is gone.
        assert_eq!(find("abd").unwrap().bundle, Some("/run/b".into()));
        assert!(find("ab").unwrap_err().to_string().contains("abc1, abd2"));
        assert!(
            find("x")
                .unwrap_err()
                .to_string()
                .starts_with("No running container")
        );
        assert!(of_process(own, Some(root.path())).unwrap().is_some());
        assert!(of_process(HostPid(1), Some(root.path())).unwrap().is_none());
    }
}
