//! OOM scores that CRIU does not restore, set before the tree runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::ids::{HostPid, NsPid};
use crate::plan::OomScore;

/// Gives the processes of `scores` that are to have 0 this score: CRIU leaves zeros out, and they have what the runtime has.
///
/// # Errors
/// When a score cannot be written: lowering it below what somebody with `CAP_SYS_RESOURCE` has set needs that capability (proc(5)).
pub fn set_zeros(scores: &[OomScore], tasks: &BTreeMap<NsPid, HostPid>) -> io::Result<()> {
    for score in scores.iter().filter(|score| score.new == 0) {
        let Some(pid) = tasks.get(&score.pid) else {
            continue;
        };
        let path = format!("/proc/{pid}/oom_score_adj");
        // One that has ended meanwhile shows when the tree is verified.
        let Ok(found) = fs::read_to_string(&path) else {
            continue;
        };
        if found.trim() == "0" {
            continue;
        }
        fs::write(&path, "0").map_err(|error| {
            io::Error::new(error.kind(), format!("process {}: {error}", score.pid))
        })?;
    }
    Ok(())
}
