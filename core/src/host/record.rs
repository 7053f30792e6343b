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
}
