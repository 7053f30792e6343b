//! What processes may do in the new container.

use super::super::*;
use super::{blockers, looked_up, source, target};
use crate::ids::NsPid;
use crate::policy::Privileges;
use crate::privileges::{Allowed, Capabilities, ProcessPrivileges};

const KILL: Capabilities = Capabilities(1 << 5);
const KILL_AND_ADMIN: Capabilities = Capabilities(1 << 5 | 1 << 21);

fn found(process: ProcessPrivileges, allowed: Option<Allowed>, policy: &Policy) -> Vec<String> {
    let mut source = source(true);
    source.privileges.insert(NsPid(7), process);
    let mut target = target();
    target.allowed = allowed;
    let plan = plan(&source, &looked_up(&source, target, 0, &[]), policy);
    blockers(&plan)
}

fn process() -> ProcessPrivileges {
    ProcessPrivileges {
        name: "web".into(),
        capabilities: KILL_AND_ADMIN,
        users: vec![0, 1000],
        groups: vec![0, 1000, 2000],
        no_new_privileges: false,
        seccomp: false,
    }
}

#[test]
fn a_process_that_may_do_more_than_the_new_container_is_named() {
    let policy = Policy::default();
    let strict = Allowed {
        capabilities: Some(KILL),
        user: 1000,
        groups: vec![1000, 1000],
        no_new_privileges: true,
        seccomp: true,
    };
    let all = found(process(), Some(strict.clone()), &policy);
    assert_eq!(all.len(), 5, "{all:?}");
    for (text, words) in all.iter().zip([
        "process 7: web has CAP_SYS_ADMIN, which the new container has not got",
        "process 7: web may gain privileges",
        "process 7: web runs as user 0, and the new container as 1000",
        "process 7: web is in groups 0, 2000, and the new container's processes are not",
        "process 7: web has no seccomp filter",
    ]) {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    let fitting = ProcessPrivileges {
        capabilities: Capabilities(0),
        users: vec![1000],
        groups: vec![1000],
        no_new_privileges: true,
        seccomp: true,
        ..process()
    };
    assert!(found(fitting, Some(strict.clone()), &policy).is_empty());
    let trusting = Policy {
        privileges: Privileges::Checkpoint,
        ..Policy::default()
    };
    assert!(found(process(), Some(strict), &trusting).is_empty());
}

#[test]
fn what_the_new_container_allows_is_no_finding() {
    let policy = Policy::default();
    assert!(found(process(), None, &policy).is_empty(), "no spec");
    let silent = Allowed::default();
    assert!(
        found(process(), Some(silent), &policy).is_empty(),
        "a spec that says nothing"
    );
    // It starts as root, so its processes may have become anyone.
    let root = Allowed {
        capabilities: Some(KILL_AND_ADMIN),
        no_new_privileges: true,
        ..Allowed::default()
    };
    let bound = ProcessPrivileges {
        no_new_privileges: true,
        ..process()
    };
    assert!(found(bound, Some(root), &policy).is_empty());
}

#[test]
fn a_first_process_without_a_group_of_the_new_pod_is_warned_of() {
    let warnings = |process: ProcessPrivileges, groups: &[u32]| -> Vec<String> {
        let mut source = source(true);
        let first = source.tasks[0].pid;
        source.privileges.insert(first, process);
        let mut target = target();
        target.allowed = Some(Allowed {
            groups: groups.to_vec(),
            ..Allowed::default()
        });
        let plan = plan(
            &source,
            &looked_up(&source, target, 0, &[]),
            &Policy::default(),
        );
        assert!(plan.possible());
        let findings = plan.findings.iter();
        let of_groups = findings.filter(|finding| finding.rule == Rule::Privileges);
        of_groups.map(ToString::to_string).collect()
    };
    let web = ProcessPrivileges {
        users: vec![1000],
        groups: vec![1000, 2000],
        ..process()
    };
    let said = warnings(web.clone(), &[1000, 3000]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("web is not in group 3000"), "{said:?}");
    assert!(warnings(web, &[1000, 2000]).is_empty());
    assert!(warnings(process(), &[3000]).is_empty(), "root");
}
