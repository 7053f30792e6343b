//! No process may do more in the new container than one that the runtime starts there.
//!
//! CRIU restores capabilities, users, groups, `no_new_privs` and seccomp filters as they were (`criu/pie/restorer.c`,
//! `restore_creds`), whatever the new container's spec says: a checkpoint of a privileged container would stay one. And a
//! process that is not root has not got the groups that the new pod gives its processes, by which volumes are open to them.

use std::collections::BTreeSet;

use crate::finding::{Finding, Object, Rule};
use crate::ids::NsPid;
use crate::policy::{Policy, Privileges};
use crate::source::Source;
use crate::target::Target;

const WAY_OUT: &str = "Restore it in a pod that could have made this checkpoint, or, where the checkpoints are trusted, set privileges = \
                       \"checkpoint\" below [defaults] in the node's configuration";

/// Blockers for processes that may do more.
pub(super) fn check(
    source: &Source,
    target: &Target,
    policy: &Policy,
    findings: &mut Vec<Finding>,
) {
    let (Some(allowed), Privileges::Pod) = (&target.allowed, policy.privileges) else {
        return;
    };
    // What is the same of many processes is said once.
    let mut all: Vec<(Rule, String, NsPid, usize)> = Vec::new();
    for (pid, process) in &source.privileges {
        let mut found = |rule, text: String| {
            let text = format!("{} {text}", process.name);
            match all.iter_mut().find(|(_, said, ..)| *said == text) {
                Some((.., more)) => *more += 1,
                None => all.push((rule, text, *pid, 0)),
            }
        };
        let more = allowed
            .capabilities
            .map(|bounding| process.capabilities.beyond(bounding));
        if let Some(more) = more.filter(|more| !more.is_empty()) {
            let names: Vec<String> = more.names().collect();
            found(
                Rule::Privileges,
                format!(
                    "has {}, which the new container has not got",
                    names.join(", ")
                ),
            );
        }
        if allowed.no_new_privileges && !process.no_new_privileges {
            found(
                Rule::Privileges,
                "may gain privileges by running a program, and the new container's processes may not (noNewPrivileges)".into(),
            );
        }
        // Without new privileges nobody can become another user in a container that does not start as root.
        let other = process
            .users
            .iter()
            .find(|user| u64::from(**user) != allowed.user);
        if let (Some(other), true, true) = (other, allowed.no_new_privileges, allowed.user != 0) {
            found(
                Rule::Privileges,
                format!(
                    "runs as user {other}, and the new container as {}",
                    allowed.user
                ),
            );
        }
        // The same goes for groups.
        let other = beyond(&process.groups, &allowed.groups);
        if !other.is_empty() && allowed.no_new_privileges && allowed.user != 0 {
            found(
                Rule::Privileges,
                format!(
                    "is in {}, and the new container's processes are not",
                    named(&other)
                ),
            );
        }
        if allowed.seccomp && !process.seccomp {
            found(
                Rule::Seccomp,
                "has no seccomp filter, and the new container's processes have one".into(),
            );
        }
    }
    findings.extend(all.into_iter().map(|(rule, text, pid, more)| {
        let text = match more {
            0 => text,
            more => format!("{text}; the same goes for {more} more processes of this name"),
        };
        Finding::blocker(rule, Object::Process { pid }, text).way_out(WAY_OUT)
    }));
}

/// A warning when the container's first process lacks groups that the runtime would give it; others may have left them.
/// Root needs none.
pub(super) fn check_groups(source: &Source, target: &Target, findings: &mut Vec<Finding>) {
    let Some(allowed) = &target.allowed else {
        return;
    };
    let first = source.tasks.first().map(|task| task.pid);
    let Some((pid, process)) = first.and_then(|pid| Some((pid, source.privileges.get(&pid)?)))
    else {
        return;
    };
    let lacking = beyond(&allowed.groups, &process.groups);
    if lacking.is_empty() || process.groups.is_empty() || process.users.contains(&0) {
        return;
    }
    let text = format!(
        "{} is not in {}, as the new container's processes are: it may not open what is only theirs on a volume",
        process.name,
        named(&lacking)
    );
    let finding = Finding::warning(Rule::Privileges, Object::Process { pid }, text);
    findings.push(finding.way_out(
        "Give the new pod the groups of the old one (fsGroup, supplementalGroups, runAsGroup)",
    ));
}

/// The groups that are not among others.
fn beyond(groups: &[u32], others: &[u32]) -> BTreeSet<u32> {
    let more = groups.iter().filter(|group| !others.contains(group));
    more.copied().collect()
}

fn named(groups: &BTreeSet<u32>) -> String {
    let word = if groups.len() == 1 { "group" } else { "groups" };
    let ids: Vec<String> = groups.iter().map(ToString::to_string).collect();
    format!("{word} {}", ids.join(", "))
}
