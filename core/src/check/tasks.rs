//! Rules about processes and their namespaces.

use crate::finding::Severity;

use super::{Facts, Findings, Place, Rule, Task};

/// Namespaces that CRIU knows only once in a tree (`criu/namespaces.c`, `generate_ns_id`). There can be a second network
/// namespace unless the runtime asks CRIU for an empty one, as runc does. Mount namespaces nest.
const ONCE: [&str; 7] = ["pid", "net", "uts", "ipc", "user", "cgroup", "time"];

pub(super) fn check(facts: &Facts, findings: &mut Findings) {
    for task in &facts.tasks {
        let here = || Some(Place::of(task, None));
        if task.tracer != 0 {
            findings.blocker(
                Rule::Traced,
                format!("process {}", task.pid),
                here(),
                format!(
                    "it is traced by process {}, so CRIU cannot seize it",
                    task.tracer
                ),
            );
        }
        if task.state == 'D' {
            findings.warning(
                Rule::Uninterruptible,
                format!("process {}", task.pid),
                here(),
                "it waits in the kernel and cannot be interrupted; CRIU gives up after 10 s if it stays so",
            );
        }
        let root = task.pid == facts.root;
        // In a pid namespace of its own, that is what is wrong with it.
        let same = facts
            .tasks
            .first()
            .is_some_and(|root| root.namespaces.get("pid") == task.namespaces.get("pid"));
        let astray = task.session == 0 || (root && task.session != task.ns_pid);
        if task.state != 'Z' && same && astray {
            findings.blocker(
                Rule::SessionOutside,
                format!("process {}", task.pid),
                here(),
                if task.session == 0 {
                    "its session was started outside of its pid namespace"
                } else {
                    "it is the root of the tree and not the leader of its session"
                },
            );
        }
        if task.uid != 0
            && facts
                .node
                .capabilities_missing
                .contains(&"CAP_SYS_RESOURCE")
        {
            findings.blocker(
                Rule::User,
                format!("user {}", task.uid),
                here(),
                "CRIU cannot dump a process of another user than root without CAP_SYS_RESOURCE",
            );
        }
    }
    if let Some(root) = facts.tasks.first() {
        namespaces(root, facts, findings);
    }
    for task in &facts.beside {
        findings.warning(
            Rule::Beside,
            format!("process {}", task.pid),
            Some(Place::of(task, None)),
            "it is in the container, but not below its first process: it is not dumped and ends with the container",
        );
    }
    for mount in facts
        .mounts
        .values()
        .flatten()
        .filter(|mount| mount.has_queues)
    {
        findings.blocker(
            Rule::MessageQueue,
            mount.mount_point.display().to_string(),
            None,
            "there are POSIX message queues in the IPC namespace, which CRIU cannot dump",
        );
    }
}

fn namespaces(root: &Task, facts: &Facts, findings: &mut Findings) {
    let runtime = facts.node.runtime.as_ref();
    let under_runc = runtime.is_some_and(|(name, _)| name == "runc");
    for task in &facts.tasks {
        for kind in ONCE {
            let own = task.namespaces.get(kind);
            // The namespace for children counts as well: CRIU looks at it for time namespaces.
            let children = match kind {
                "time" => task.namespaces.get("time_for_children"),
                _ => own,
            };
            let expected = root.namespaces.get(kind);
            if let (Some(own), Some(expected)) = (own, expected)
                && (own != expected || children.is_some_and(|id| id != expected))
            {
                let id = if own == expected {
                    children.unwrap_or(own)
                } else {
                    own
                };
                let (severity, what) = match kind {
                    "net" if !under_runc => (
                        Severity::Warning,
                        "runc could not have it dumped, and its interfaces are CRIU's to make again",
                    ),
                    _ => (Severity::Blocker, "CRIU cannot nest it"),
                };
                findings.add(
                    severity,
                    Rule::Namespace,
                    format!("{kind}:[{id}]"),
                    Some(Place::of(task, None)),
                    format!("it is in a {kind} namespace of its own; {what}"),
                );
            }
        }
    }
}
