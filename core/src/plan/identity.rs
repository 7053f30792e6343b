//! Who the processes are on the new side: their OOM scores, and their ids in a process namespace that the pod's containers
//! share.

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Object, Rule};
use crate::ids::NsPid;
use crate::source::Source;
use crate::target::Target;

/// A process's OOM score adjustment, which changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomScore {
    /// Which process.
    pub pid: NsPid,
    /// In the checkpoint.
    pub old: i32,
    /// After the restore.
    pub new: i32,
}

/// Processes that have the score of the container's init, which the old pod gave it, get the new pod's. What a program set
/// for a process of its own stays.
pub(super) fn oom_scores(
    source: &Source,
    target: &Target,
    findings: &mut Vec<Finding>,
) -> Vec<OomScore> {
    let first = source.tasks.first();
    let init = first.and_then(|init| source.oom_scores.get(&init.pid).copied());
    let (Some(old), Some(new)) = (init, target.oom_score) else {
        return Vec::new();
    };
    if old == new {
        return Vec::new();
    }
    let (same, own): (Vec<_>, Vec<_>) = source
        .oom_scores
        .iter()
        .partition(|(_, score)| **score == old);
    let object = Object::Process { pid: *same[0].0 };
    let text = format!(
        "the OOM score adjustment {old} becomes {new}, as the new pod has it, for {} of {} processes",
        same.len(),
        source.oom_scores.len()
    );
    findings.push(Finding::note(Rule::OomScore, object, text));
    findings.extend(own.iter().map(|(pid, score)| {
        let text = format!("its OOM score adjustment {score} is its own and stays");
        Finding::note(Rule::OomScore, Object::Process { pid: **pid }, text)
    }));
    same.iter()
        .map(|(pid, _)| OomScore {
            pid: **pid,
            old,
            new,
        })
        .collect()
}

/// In a process namespace that exists already, the ids of processes and threads must be free: CRIU gives each its old one.
pub(super) fn check_ids(source: &Source, target: &Target, findings: &mut Vec<Finding>) {
    for pid in &source.ids {
        let Some(holder) = target.occupied.get(pid) else {
            continue;
        };
        let text = format!(
            "its id is taken by {holder} in the process namespace that the new pod's containers share"
        );
        let way_out = "restore it before the pod's other containers start, or into a pod without a shared process namespace";
        findings.push(
            Finding::blocker(Rule::ProcessId, Object::Process { pid: *pid }, text).way_out(way_out),
        );
    }
}
