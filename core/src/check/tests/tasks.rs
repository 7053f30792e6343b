//! Processes, namespaces and the node.

use super::{MNT, blocked_by, facts, only, restow, stock, task};
use crate::check::{Node, Rule, Task, check};
use crate::finding::Severity;

#[test]
fn processes_that_are_traced_stuck_or_of_another_session_or_user() {
    let with = |change: &dyn Fn(&mut Task)| {
        let mut child = task(101);
        change(&mut child);
        facts(vec![task(100), child])
    };
    assert_eq!(check(&with(&|_| {}), &stock()), []);
    let found = blocked_by(&with(&|task| task.tracer = 4711), Rule::Traced);
    assert!(found.text.contains("4711"));
    let found = only(&with(&|task| task.state = 'D'), &stock());
    assert_eq!(
        (found.rule, found.severity),
        (Rule::Uninterruptible, Severity::Warning)
    );
    blocked_by(&with(&|task| task.session = 0), Rule::SessionOutside);
    assert_eq!(check(&with(&|task| task.session = 77), &stock()), []);
    let mut root = facts(vec![task(100)]);
    root.tasks[0].session = 77;
    blocked_by(&root, Rule::SessionOutside);
    let mut user = with(&|task| task.uid = 1000);
    assert_eq!(check(&user, &stock()), []);
    user.node.capabilities_missing = vec!["CAP_SYS_RESOURCE"];
    blocked_by(&user, Rule::User);
}

#[test]
fn namespaces_of_its_own_but_mounts() {
    let with = |name: &'static str, id| {
        let mut child = task(101);
        child.namespaces.insert(name, id);
        facts(vec![task(100), child])
    };
    let found = blocked_by(&with("uts", 66), Rule::Namespace);
    assert_eq!(found.object, "uts:[66]");
    let mut net = with("net", 66);
    assert_eq!(only(&net, &stock()).severity, Severity::Warning);
    net.node.runtime = Some(("runc".into(), [1, 3, 0]));
    blocked_by(&net, Rule::Namespace);
    // The one that only its children will be in.
    assert_eq!(
        blocked_by(&with("time_for_children", 66), Rule::Namespace).object,
        "time:[66]"
    );
    assert_eq!(check(&with("mnt", 66), &stock()), []);
}

#[test]
fn processes_beside_the_tree_and_message_queues() {
    let mut facts = facts(vec![task(100)]);
    facts.beside.push(task(150));
    assert_eq!(only(&facts, &stock()).rule, Rule::Beside);
    facts.beside.clear();
    facts.mounts.get_mut(&MNT).unwrap()[3].has_queues = true;
    assert_eq!(blocked_by(&facts, Rule::MessageQueue).object, "/dev/mqueue");
}

#[test]
fn what_the_node_lacks() {
    let mut node = facts(vec![task(100)]);
    node.node = Node {
        criu_missing: Some("No criu found".into()),
        ..Node::default()
    };
    blocked_by(&node, Rule::NoCriu);
    node.node = Node {
        criu: Some("/c".into()),
        criu_version: Some([3, 17, 1]),
        ..Node::default()
    };
    assert_eq!(only(&node, &stock()).rule, Rule::OldCriu);
    node.node = Node {
        kernel_missing: vec!["kcmp(2)".into()],
        ..Node::default()
    };
    blocked_by(&node, Rule::Kernel);
    node.node = Node {
        capabilities_missing: vec!["CAP_SYS_ADMIN"],
        ..Node::default()
    };
    blocked_by(&node, Rule::Capability);
    node.node = Node {
        runtime: Some(("runc".into(), [1, 1, 15])),
        ..Node::default()
    };
    assert_eq!(only(&node, &stock()).rule, Rule::OldRuntime);
    assert_eq!(check(&node, &restow()), []);
    node.unread.push("unix sockets".into());
    assert_eq!(only(&node, &restow()).rule, Rule::Unread);
}
