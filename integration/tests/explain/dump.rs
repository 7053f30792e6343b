//! Things that CRIU does not dump.

use restow_integration::suite::Suite;

use crate::lab::{Provocation, Where};

const MPTCP: Where = Where::If(
    "[ -e /proc/sys/net/mptcp/enabled ]",
    "this kernel has no multipath TCP",
);

pub(crate) const ALL: &[Provocation] = &[
    Provocation::dump(
        "removed-file-too-large",
        "ghost $W/ghost 2048",
        "fd 3 of process $PID: file $W/ghost",
    ),
    Provocation::dump(
        "removed-file-has-other-links",
        "renamed $W/first",
        "fd 3 of process $PID: file $W/first",
    ),
    Provocation::dump(
        "file-locked",
        "flock $W/locked",
        "process $PID: file lock on inode ",
    ),
    Provocation::dump(
        "file-locked",
        "posix-lock $W/locked",
        "process $PID: file lock on inode ",
    ),
    Provocation::dump(
        "file-locked",
        "lease $W/leased",
        "process $PID: file lock on inode ",
    ),
    Provocation::dump("pipe-of-packets", "packet-pipe", "of process $PID: pipe"),
    Provocation::dump(
        "fd-overmounted",
        "overmounted $W/over",
        "fd 3 of process $PID: file $W/over/hidden on mnt_id ",
    ),
    Provocation::dump(
        "fd-on-foreign-mount",
        "foreign-mount $W/foreign",
        "of process $PID: file /elsewhere on mnt_id ",
    ),
    Provocation::dump(
        "epoll-of-closed-fd",
        "epoll-closed",
        "fd 3 of process $PID: in epoll ",
    ),
    Provocation::dump(
        "fd-of-perf-event",
        "perf",
        "fd 3 of process $PID: perf event",
    ),
    Provocation::dump(
        "fd-of-bpf",
        "bpf",
        "fd 3 of process $PID: BPF object bpf-prog",
    ),
    Provocation::dump(
        "fd-of-userfaultfd",
        "userfaultfd",
        "fd 3 of process $PID: userfaultfd",
    ),
    Provocation::dump(
        "fd-kind-not-supported",
        "landlock",
        "fd 3 of process $PID: anon anon_inode:[landlock-ruleset]",
    ),
    Provocation::dump(
        "fd-kind-not-supported",
        "fsopen",
        "fd 3 of process $PID: anon anon_inode:[fscontext]",
    ),
    Provocation::dump("fds-not-handed-over", "io-uring-fd", "process $PID"),
    Provocation::dump("io-uring", "io-uring", "process $PID: io_uring at "),
    Provocation::dump(
        "mapping-not-supported",
        "secret-memory",
        "process $PID: mapping of /secretmem",
    ),
    Provocation::dump(
        "terminal-from-outside",
        "half-terminal",
        "terminal /dev/pts/",
    ),
    Provocation::script(
        "watch-target-not-found",
        "",
        "mkdir t; mount -t tmpfs n $W/t; echo > t/x; pid=$(/opt/snag watch $W/t/x); mount -t tmpfs n $W/t; \
         criu dump -t $pid -D $I -o criu.log -v4; umount $W/t; umount -l $W/t",
        "watch",
    ),
    Provocation::dump(
        "socket-family-not-supported",
        "socket 44 3 0",
        "fd 3 of process $PID: socket of address family 44",
    ),
    Provocation::dump(
        "mptcp",
        "socket 2 1 262",
        "fd 3 of process $PID: MPTCP socket",
    )
    .only(MPTCP),
    Provocation::dump(
        "socket-options-refused",
        "tcp-listener 127.0.0.1:7000",
        "fd 3 of process $PID: socket",
    )
    .only(Where::Only(
        Suite::Stable,
        "criu 4.2 does not ask for the option",
    )),
    Provocation::dump(
        "tcp-established",
        "tcp 127.0.0.1:7001",
        "of process $PID: TCP connection",
    ),
    Provocation::dump(
        "tcp-in-flight",
        "tcp-in-flight 127.0.0.1:7002",
        "fd 3 of process $PID: listening TCP socket",
    ),
    Provocation::script(
        "socket-protocol-not-supported",
        "",
        "echo 0 0 > /proc/sys/net/ipv4/ping_group_range; pid=$(/opt/snag socket 2 2 1); \
         criu dump -t $pid -D $I -o criu.log -v4",
        "internet socket of protocol 1",
    )
    .only(Where::Only(
        Suite::Stable,
        "criu 4.2 dumps sockets for ICMP echo",
    )),
    Provocation::dump(
        "udp-corked",
        "udp-corked",
        "fd 3 of process $PID: UDP socket",
    ),
    Provocation::dump(
        "netlink-unread",
        "netlink-data",
        "fd 3 of process $PID: netlink socket",
    ),
    Provocation::dump("unix-peer-outside", "unix-half", "unix socket with inode "),
    Provocation::dump(
        "unix-in-flight",
        "unix-in-flight $W/socket",
        "fd 3 of process $PID: listening unix socket",
    ),
    Provocation::dump(
        "sysv-shm-outside",
        "sysv-shm",
        "process $PID: System V shared memory at ",
    ),
    Provocation::dump("session-leader-outside", "foreign-session", "process $PID"),
    Provocation::dump("process-traced", "traced", "process $PID"),
    Provocation::script(
        "process-gone",
        "nothing",
        "kill -9 $PID; while kill -0 $PID; do :; done 2>&-; criu dump -t $PID -D $I -o criu.log -v4",
        "process $PID",
    ),
    Provocation::dump("nested-namespace", "nested ipc", ": ipc namespace"),
    Provocation::dump("nested-namespace", "nested user", ": user namespace"),
    Provocation::dump(
        "nested-namespace",
        "namespaces time",
        "process $PID: time namespace",
    ),
    Provocation::dump("user-namespace-ids", "namespaces user", "user namespace"),
    Provocation::dump(
        "pidfd-of-foreign-process",
        "pidfd 1",
        "fd 3 of process $PID: pidfd of process 1",
    ),
    Provocation::dump(
        "pidfd-of-thread",
        "thread-pidfd",
        "fd 3 of process $PID: pidfd",
    ),
    Provocation::dump("zombie-with-threads", "zombie-thread", "process"),
    Provocation::script(
        "criu-in-tree",
        "",
        "setsid sh -c 'criu dump -t $$ -D $I -o criu.log -v4; true'",
        "criu",
    ),
    Provocation::script(
        "pid-namespace-without-init",
        "",
        // The second process in the namespace is dumped, the first one is its init.
        "unshare -pf --kill-child sh -c '/opt/snag nothing > ready; while :; do sleep 1; done' & \
         until [ -s ready ]; do sleep 0.01; done; pid=$(pgrep -P $(pgrep -P $!) -x snag); criu dump -t $pid -D $I -o criu.log -v4",
        "pid namespace",
    ),
];
