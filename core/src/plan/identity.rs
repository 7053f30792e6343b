//! Who the processes are on the new side: their OOM scores, and their ids in a process namespace that the pod's containers
//! share.

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Object, Rule};
use crate::ids::NsPid;
use crate::source::Source;
use crate::target::Target;

/// A process's OOM score adjustment that CRIU alone would not get right: it changes, or it is 0. CRIU leaves out zeros
/// (`criu/cr-restore.c`, `prepare_proc_misc`), so that the process would keep what the runtime has.
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
    let (same, own): (Vec<_>, Vec<_>) = source
        .oom_scores
        .iter()
        .partition(|(_, score)| **score == old);
    if old != new {
        tell(old, new, &same, &own, findings);
    }
    let same = same.iter().map(|(pid, _)| OomScore {
        pid: **pid,
        old,
        new,
    });
    let own = own.iter().map(|(pid, score)| OomScore {
        pid: **pid,
        old: **score,
        new: **score,
    });
    same.chain(own)
        .filter(|score| score.old != score.new || score.new == 0)
        .collect()
}

/// Says which scores change and which do not.
fn tell(
    old: i32,
    new: i32,
    same: &[(&NsPid, &i32)],
    own: &[(&NsPid, &i32)],
    findings: &mut Vec<Finding>,
) {
    let object = Object::Process { pid: *same[0].0 };
    let text = format!(
        "the OOM score adjustment {old} becomes {new}, as the new pod has it, for {} of {} processes",
        same.len(),
        same.len() + own.len()
    );
    findings.push(Finding::note(Rule::OomScore, object, text));
    findings.extend(own.iter().map(|(pid, score)| {
        let text = format!("its OOM score adjustment {score} is its own and stays");
        Finding::note(Rule::OomScore, Object::Process { pid: **pid }, text)
    }));
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
