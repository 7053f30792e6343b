//! Each rule, and what lies just beside it and is no finding.

mod files;
mod sockets;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Circumstances, Facts, FileKind, Finding, Mount, Node, OpenFile, Rule, Task, Verdict, check,
    verdict,
};
use crate::finding::Severity;
use crate::ids::{HostPid, MountId};
use crate::policy::Policy;

const NET: u64 = 5;

const MNT: u64 = 4;

fn task(pid: i32) -> Task {
    Task {
        pid: HostPid(pid),
        ns_pid: u32::try_from(pid - 99).unwrap(),
        command: "app".into(),
        state: 'S',
        session: 1,
        tracer: 0,
        uid: 0,
        namespaces: BTreeMap::from([
            ("mnt", MNT),
            ("net", NET),
            ("uts", 6),
            ("time", 7),
            ("time_for_children", 7),
        ]),
        files: Vec::new(),
        mappings: Vec::new(),
    }
}

fn facts(tasks: Vec<Task>) -> Facts {
    let mount = |id, at: &str, fs_type: &str| Mount {
        id: MountId(id),
        mount_point: at.into(),
        fs_type: fs_type.into(),
        file: None,
        has_queues: false,
    };
    Facts {
        root: HostPid(100),
        own_pid_namespace: true,
        tasks,
        beside: Vec::new(),
        mounts: BTreeMap::from([(
            MNT,
            vec![
                mount(1, "/", "overlay"),
                mount(2, "/data", "ext4"),
                mount(3, "/sys/fs/cgroup", "cgroup2"),
                mount(4, "/dev/mqueue", "mqueue"),
            ],
        )]),
        inet: BTreeMap::new(),
        unix: BTreeMap::new(),
        netlink_pending: BTreeSet::new(),
        unread: Vec::new(),
        node: Node {
            criu: Some("/usr/sbin/criu".into()),
            criu_version: Some([4, 2, 1]),
            kernel: Some([6, 18]),
            ..Node::default()
        },
    }
}

fn file(fd: u32, link: &str, mount: u32) -> OpenFile {
    OpenFile {
        fd,
        link: link.into(),
        kind: if link.starts_with('/') {
            FileKind::Regular
        } else {
            FileKind::Other
        },
        mnt_id: Some(MountId(mount)),
        inode: u64::from(fd) + 1000,
        links: 1,
        allocated: 4096,
        writable: false,
        lost: false,
        huge: false,
        protocol: None,
        locks: Vec::new(),
        watches: Vec::new(),
    }
}

fn socket(fd: u32, protocol: &str) -> OpenFile {
    OpenFile {
        kind: FileKind::Socket,
        protocol: Some(protocol.into()),
        ..file(fd, &format!("socket:[{}]", fd + 1000), 9)
    }
}

fn with_files(files: Vec<OpenFile>) -> Facts {
    facts(vec![Task { files, ..task(100) }])
}

fn restow() -> Circumstances {
    Circumstances {
        policy: Some(Policy::default()),
    }
}

fn stock() -> Circumstances {
    Circumstances::default()
}

fn rules(findings: &[Finding]) -> Vec<(Rule, Severity)> {
    findings
        .iter()
        .map(|finding| (finding.rule, finding.severity))
        .collect()
}

/// The only finding.
fn only(facts: &Facts, circumstances: &Circumstances) -> Finding {
    let mut findings = check(facts, circumstances);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.remove(0)
}

fn blocked_by(facts: &Facts, rule: Rule) -> Finding {
    let finding = only(facts, &stock());
    assert_eq!((finding.rule, finding.severity), (rule, Severity::Blocker));
    assert!(!finding.way_round.is_empty());
    finding
}

#[test]
fn a_plain_tree_can_be_moved() {
    let files = vec![
        file(0, "/data/file", 2),
        file(1, "/memfd:x (deleted)", 77),
        file(2, "anon_inode:[eventfd]", 9),
        file(3, "anon_inode:inotify", 9),
        file(4, "anon_inode:[pidfd]", 9),
        file(5, "/sys/fs/cgroup/cgroup.events", 3),
        file(6, "net:[4026531840]", 8),
        socket(7, "TCP"),
        socket(8, "NETLINK"),
        OpenFile {
            kind: FileKind::Character(1, 3),
            ..file(9, "/dev/null", 1)
        },
        OpenFile {
            links: 0,
            ..file(10, "/data/gone (deleted)", 2)
        },
    ];
    let findings = check(&with_files(files), &stock());
    assert_eq!(findings, []);
    assert_eq!(verdict(&findings), Verdict::Yes);
}

#[test]
fn one_object_that_many_hold_is_told_once() {
    let tasks = (100..103).map(|pid| Task {
        files: vec![file(3, "anon_inode:[io_uring]", 9)],
        ..task(pid)
    });
    assert_eq!(
        blocked_by(&facts(tasks.collect()), Rule::IoUring)
            .places
            .len(),
        3
    );
}

#[test]
fn the_most_severe_come_first() {
    let facts = with_files(vec![
        OpenFile {
            locks: vec!["FLOCK WRITE".into()],
            ..file(3, "/data/lock", 2)
        },
        file(4, "anon_inode:[userfaultfd]", 9),
    ]);
    let findings = check(&facts, &stock());
    assert_eq!(
        rules(&findings),
        [
            (Rule::AnonymousFile, Severity::Blocker),
            (Rule::FileLock, Severity::Warning)
        ]
    );
    assert_eq!(verdict(&findings), Verdict::No);
}

/// The table of `docs/check.md`, as it has to be.
fn table() -> String {
    let mut text =
        String::from("| rule | severity | what it finds | the way round |\n|---|---|---|---|\n");
    for rule in Rule::ALL {
        let (name, severity) = (rule.name(), rule.severity());
        text += &format!(
            "| `{name}` | {severity} | {} | {} |\n",
            rule.what(),
            rule.way_round()
        );
    }
    text
}

#[test]
fn the_docs_have_the_same_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/check.md");
    let docs = std::fs::read_to_string(path).unwrap();
    assert!(
        docs.contains(&table()),
        "docs/check.md should have this table:\n{}",
        table()
    );
}
