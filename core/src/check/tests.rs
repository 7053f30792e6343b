//! Each rule, and what lies just beside it and is no finding.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{
    Circumstances, Facts, FileKind, Finding, InetSocket, Mapping, Mount, Node, OpenFile, Rule,
    Task, UnixSocket, Verdict, check, verdict,
};
use crate::finding::Severity;
use crate::ids::{HostPid, MountId};
use crate::policy::{Policy, Tcp};

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
fn kernel_objects_that_criu_does_not_know_are_named_with_process_and_descriptor() {
    let found = blocked_by(
        &with_files(vec![file(3, "anon_inode:[io_uring]", 9)]),
        Rule::IoUring,
    );
    assert_eq!(
        (found.places[0].fd, found.places[0].container_pid),
        (Some(3), 1)
    );
    assert!(found.way_round.contains("UV_USE_IO_URING=0"));
    for object in [
        "[userfaultfd]",
        "[perf_event]",
        "bpf-prog",
        "bpf-map",
        "seccomp notify",
    ] {
        let file = file(3, &format!("anon_inode:{object}"), 9);
        let found = blocked_by(&with_files(vec![file]), Rule::AnonymousFile);
        assert_eq!(found.object, object.trim_matches(['[', ']']));
    }
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
fn mappings_of_such_objects_count_without_a_descriptor() {
    let mapped = |name: &str, kind, links, allocated| {
        facts(vec![Task {
            mappings: vec![Mapping {
                name: PathBuf::from(name),
                kind,
                links,
                allocated,
            }],
            ..task(100)
        }])
    };
    blocked_by(
        &mapped("anon_inode:[io_uring]", FileKind::Other, 1, 0),
        Rule::IoUring,
    );
    blocked_by(
        &mapped("anon_inode:[perf_event]", FileKind::Other, 1, 0),
        Rule::AnonymousMapping,
    );
    blocked_by(
        &mapped("/secretmem (deleted)", FileKind::Regular, 0, 0),
        Rule::SecretMemory,
    );
    let gpu = mapped("/dev/nvidia0", FileKind::Character(195, 0), 1, 0);
    assert!(
        blocked_by(&gpu, Rule::DeviceMapping)
            .text
            .contains("cuda_plugin")
    );
    blocked_by(
        &mapped("/old/program (deleted)", FileKind::Regular, 0, 2 << 20),
        Rule::UnlinkedLarge,
    );
    for nothing in [
        mapped("/dev/zero (deleted)", FileKind::Regular, 0, 9 << 20),
        mapped("/SYSV00001267 (deleted)", FileKind::Regular, 0, 9 << 20),
        mapped("/dev/zero", FileKind::Character(1, 5), 1, 0),
    ] {
        assert_eq!(check(&nothing, &stock()), []);
    }
}

#[test]
fn devices_are_told_with_the_plugin_that_would_be_needed() {
    let device = |path: &str, kind| {
        with_files(vec![OpenFile {
            kind,
            ..file(3, path, 1)
        }])
    };
    let found = blocked_by(
        &device("/dev/kfd", FileKind::Character(238, 0)),
        Rule::Device,
    );
    assert!(found.text.contains("238:0") && found.text.contains("amdgpu_plugin"));
    blocked_by(
        &device("/dev/fuse", FileKind::Character(10, 229)),
        Rule::Device,
    );
    blocked_by(&device("/dev/sda", FileKind::Block(8, 0)), Rule::Device);
    for (path, minor) in [("/dev/net/tun", 200), ("/dev/autofs", 235)] {
        assert_eq!(
            check(&device(path, FileKind::Character(10, minor)), &stock()),
            []
        );
    }
    assert_eq!(
        check(&device("/dev/pts/0", FileKind::Character(136, 0)), &stock()),
        []
    );
}

#[test]
fn what_restow_hands_over_is_a_warning_with_it_and_a_blocker_without() {
    let foreign = with_files(vec![file(3, "/run/log", 99)]);
    blocked_by(&foreign, Rule::ForeignFile);
    assert_eq!(only(&foreign, &restow()).severity, Severity::Warning);
    let removed = with_files(vec![OpenFile {
        lost: true,
        ..file(3, "/sys/fs/cgroup/gone/cgroup.events", 3)
    }]);
    blocked_by(&removed, Rule::RemovedCgroup);
    assert_eq!(only(&removed, &restow()).severity, Severity::Warning);
}

#[test]
fn a_file_below_a_later_mount_is_hidden() {
    let hidden = with_files(vec![file(3, "/data/old", 1)]);
    blocked_by(&hidden, Rule::HiddenFile);
    assert_eq!(
        check(&with_files(vec![file(3, "/data/old", 2)]), &stock()),
        []
    );
    assert_eq!(
        check(&with_files(vec![file(3, "/database", 1)]), &stock()),
        []
    );
    let mut stacked = with_files(vec![file(3, "/data/old", 2)]);
    let mounts = stacked.mounts.get_mut(&MNT).unwrap();
    let again = Mount {
        id: MountId(50),
        ..mounts[1].clone()
    };
    mounts.push(again);
    blocked_by(&stacked, Rule::HiddenFile);
}

#[test]
fn files_without_a_name_count_by_size_and_other_names() {
    let unlinked = |links, allocated| {
        with_files(vec![OpenFile {
            links,
            allocated,
            ..file(3, "/data/gone (deleted)", 2)
        }])
    };
    assert_eq!(check(&unlinked(0, 1 << 20), &stock()), []);
    let found = blocked_by(&unlinked(0, (1 << 20) + 512), Rule::UnlinkedLarge);
    assert_eq!(found.object, "/data/gone");
    blocked_by(&unlinked(1, 512), Rule::UnlinkedLinked);
}

#[test]
fn locks_watches_and_triggers() {
    let locked = with_files(vec![OpenFile {
        locks: vec!["FLOCK WRITE".into()],
        ..file(3, "/data/lock", 2)
    }]);
    let found = only(&locked, &stock());
    assert_eq!(
        (found.rule, found.severity),
        (Rule::FileLock, Severity::Warning)
    );
    assert!(found.text.contains("FLOCK WRITE"));

    let mut watched = with_files(vec![OpenFile {
        watches: vec![(0x57, 4)],
        ..file(3, "anon_inode:inotify", 9)
    }]);
    assert_eq!(check(&watched, &stock()), []);
    let mut mount = Mount {
        id: MountId(60),
        mount_point: "/etc/hosts".into(),
        fs_type: "tmpfs".into(),
        file: Some((0x57, 4)),
        has_queues: false,
    };
    watched.mounts.get_mut(&MNT).unwrap().push(mount.clone());
    assert_eq!(blocked_by(&watched, Rule::Watch).object, "/etc/hosts");
    mount.fs_type = "ext4".into();
    *watched.mounts.get_mut(&MNT).unwrap().last_mut().unwrap() = mount;
    assert_eq!(check(&watched, &stock()), []);

    let pressure = |writable, path: &str, mount| {
        with_files(vec![OpenFile {
            writable,
            ..file(3, path, mount)
        }])
    };
    for (path, mount) in [("/sys/fs/cgroup/cpu.pressure", 3), ("/proc/pressure/io", 1)] {
        let found = only(&pressure(true, path, mount), &stock());
        assert_eq!(
            (found.rule, found.severity),
            (Rule::PressureTrigger, Severity::Warning)
        );
        assert_eq!(check(&pressure(false, path, mount), &stock()), []);
    }
}

#[test]
fn a_memfd_in_huge_pages_needs_huge_pages() {
    let mut memfd = with_files(vec![OpenFile {
        huge: true,
        ..file(3, "/memfd:big (deleted)", 77)
    }]);
    blocked_by(&memfd, Rule::HugeMemfd);
    memfd.node.free_huge_pages = 8;
    assert_eq!(check(&memfd, &stock()), []);
}

#[test]
fn sockets_of_families_that_criu_does_not_know() {
    for protocol in ["AF_VSOCK", "MPTCP", "XDP", "ALG", "PING"] {
        let found = blocked_by(&with_files(vec![socket(3, protocol)]), Rule::SocketFamily);
        assert!(found.object.contains(protocol));
    }
}

#[test]
fn criu_4_1_asks_sockets_for_what_newer_kernels_refuse() {
    let mut old = with_files(vec![
        socket(3, "UDPv6"),
        socket(4, "UNIX-STREAM"),
        socket(5, "NETLINK"),
    ]);
    old.node.criu_version = Some([4, 1, 1]);
    let found = blocked_by(&old, Rule::SocketOptions);
    assert_eq!(found.places.len(), 1);
    old.node.kernel = Some([6, 15]);
    assert_eq!(check(&old, &stock()), []);
}

fn inet(local: &str, remote: &str, state: u8) -> InetSocket {
    InetSocket {
        tcp: true,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        state,
        waiting: 0,
    }
}

#[test]
fn connections_inside_and_outside() {
    let mut facts = with_files(vec![socket(3, "TCP"), socket(4, "TCP"), socket(5, "TCP")]);
    facts.inet = BTreeMap::from([
        (1003, inet("127.0.0.1:80", "127.0.0.1:5000", 1)),
        (1004, inet("127.0.0.1:5000", "127.0.0.1:80", 1)),
        (1005, inet("10.0.0.1:5001", "10.9.9.9:80", 8)),
        // Somebody else's.
        (4711, inet("10.0.0.1:5002", "10.9.9.9:80", 1)),
    ]);
    let findings = check(&facts, &stock());
    assert_eq!(
        rules(&findings),
        [(Rule::TcpEstablished, Severity::Warning); 3]
    );
    let inside = findings
        .iter()
        .filter(|finding| finding.text.contains("both ends"));
    assert_eq!(inside.count(), 2);
    assert_eq!(verdict(&findings), Verdict::Warnings);
    // Restow takes care of those inside, and of the others as the policy says.
    for (tcp, severity) in [
        (Tcp::Close, Severity::Warning),
        (Tcp::Keep, Severity::Warning),
        (Tcp::Refuse, Severity::Blocker),
    ] {
        let found = only(&facts, &with_tcp(tcp));
        assert_eq!((found.severity, found.places[0].fd), (severity, Some(5)));
    }
}

fn with_tcp(tcp: Tcp) -> Circumstances {
    Circumstances {
        policy: Some(Policy {
            tcp,
            ..Policy::default()
        }),
    }
}

#[test]
fn listeners_with_addresses_of_their_own_or_with_connections_that_wait() {
    let listening = |address: &str, waiting| {
        let mut facts = with_files(vec![socket(3, "TCP")]);
        let socket = InetSocket {
            waiting,
            ..inet(address, "0.0.0.0:0", 10)
        };
        facts.inet.insert(1003, socket);
        facts
    };
    for address in [
        "0.0.0.0:80",
        "127.0.0.1:80",
        "[::]:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        assert_eq!(check(&listening(address, 0), &stock()), [], "{address}");
    }
    for address in ["10.0.0.1:80", "[fd00::1]:80"] {
        assert_eq!(
            only(&listening(address, 0), &stock()).rule,
            Rule::ListenAddress
        );
    }
    assert_eq!(check(&listening("10.0.0.1:80", 0), &restow()), []);
    blocked_by(&listening("0.0.0.0:80", 2), Rule::TcpWaiting);
    let waiting = only(&listening("0.0.0.0:80", 2), &restow());
    assert_eq!(waiting.severity, Severity::Warning);
}

#[test]
fn unix_sockets_with_a_peer_outside() {
    let unix = |kind, peer, name: Option<&str>| UnixSocket {
        kind,
        peer,
        name: name.map(str::to_owned),
        pending: Vec::new(),
    };
    let mut facts = with_files(vec![socket(3, "UNIX-STREAM"), socket(4, "UNIX-STREAM")]);
    facts.unix = BTreeMap::from([
        (1003, unix(1, Some(1004), None)),
        (1004, unix(1, Some(1003), None)),
    ]);
    assert_eq!(check(&facts, &stock()), []);
    facts.unix.insert(1004, unix(1, Some(4711), None));
    blocked_by(&facts, Rule::UnixOutside);
    facts.unix.insert(1004, unix(2, Some(4711), None));
    facts.unix.insert(4711, unix(2, None, Some("/dev/log")));
    let found = only(&facts, &stock());
    assert_eq!(
        (found.object.as_str(), found.severity),
        ("/dev/log", Severity::Warning)
    );
    facts.unix.insert(
        1004,
        UnixSocket {
            pending: vec![0],
            ..unix(1, None, Some("/s"))
        },
    );
    blocked_by(&facts, Rule::UnixClosed);
}

#[test]
fn netlink_sockets_with_something_to_read() {
    let mut facts = with_files(vec![socket(3, "NETLINK"), socket(4, "NETLINK")]);
    facts.netlink_pending = BTreeSet::from([1004, 4711]);
    assert_eq!(
        blocked_by(&facts, Rule::NetlinkWaiting).places[0].fd,
        Some(4)
    );
}

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
