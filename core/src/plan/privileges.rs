//! No process may do more in the new container than one that the runtime starts there.
//!
//! CRIU restores capabilities, users, `no_new_privs` and seccomp filters as they were (`criu/pie/restorer.c`,
//! `restore_creds`), whatever the new container's spec says: a checkpoint of a privileged container would stay one.

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
