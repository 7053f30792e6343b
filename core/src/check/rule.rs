//! The rules: a stable name, what is found, and the way round. `docs/check.md` has the same table.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! rules {
    ($($variant:ident, $name:literal, $severity:literal, $what:literal, $way:literal;)*) => {
        /// A rule of `restow check`. Its name is stable: it appears in `--json` and in the docs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each variant says what it is in Rule::what")]
        pub enum Rule { $($variant),* }

        impl Rule {
            /// All of them, in the order of the docs.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// How severe its findings are, in words.
            pub fn severity(self) -> &'static str {
                match self { $(Self::$variant => $severity),* }
            }

            /// What it finds, and what CRIU makes of that.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => $what),* }
            }

            /// What a user can do.
            pub fn way_round(self) -> &'static str {
                match self { $(Self::$variant => $way),* }
            }
        }
    };
}

// Severities and texts are what criu 4.1.1 and 4.2.1 were seen to do under runc (integration/tests/check.rs).
rules! {
    IoUring, "io-uring", "blocker",
        "an io_uring instance or its mapped rings, which CRIU cannot dump",
        "Run the program without io_uring (libuv before 1.49, Node.js: UV_USE_IO_URING=0), or forbid io_uring_setup in the container's seccomp profile (containerd 2's RuntimeDefault does)";
    AnonymousFile, "anonymous-file", "blocker",
        "a userfaultfd, perf event, BPF program or map, seccomp listener, or another kernel object without a name that CRIU cannot dump",
        "Close it before the checkpoint, or run the program without the feature that opens it";
    AnonymousMapping, "anonymous-mapping", "blocker",
        "a mapping of such a kernel object",
        "Unmap it before the checkpoint, or run the program without the feature that maps it";
    SecretMemory, "secret-memory", "blocker",
        "memory of memfd_secret, which nobody but its owner can read",
        "Run the program without secret memory";
    HugeMemfd, "huge-memfd", "blocker",
        "a memfd in huge pages that the node has not got, which CRIU cannot tell from a file of another mount",
        "Give the node huge pages (vm.nr_hugepages), or run the program without MFD_HUGETLB";
    Device, "device", "blocker",
        "a device that CRIU cannot dump without a plugin for it",
        "Close it before the checkpoint; for a GPU, install CRIU's plugin (cuda_plugin with cuda-checkpoint, amdgpu_plugin) on both nodes";
    DeviceMapping, "device-mapping", "blocker",
        "mapped memory of a device, which CRIU cannot dump without a plugin for it",
        "Unmap it before the checkpoint; for a GPU, install CRIU's plugin (cuda_plugin with cuda-checkpoint, amdgpu_plugin) on both nodes";
    SocketFamily, "socket-family", "blocker",
        "a socket of a family or protocol other than TCP, UDP, raw, unix, netlink and packet",
        "Close it before the checkpoint, or use another protocol (Go: GODEBUG=multipathtcp=0 for MPTCP)";
    SocketOptions, "socket-options", "blocker",
        "an internet or packet socket with criu before 4.2 on Linux 6.16 or newer, which refuses it SO_PASSCRED",
        "Install criu 4.2 or newer";
    TcpWaiting, "tcp-waiting", "blocker; warning with Restow unless restow.dev/tcp is keep or refuse",
        "a listening TCP socket with connections that the program has not accepted",
        "Try again when it has accepted them, or opt in to Restow (restow.dev/enabled), which drops them";
    TcpEstablished, "tcp-established", "warning; with Restow none when both ends are in the tree, and a blocker when restow.dev/tcp=refuse",
        "a TCP connection: refused without --tcp-established, and elsewhere its peer does not find it",
        "Let the program reconnect (restow.dev/tcp=close), or keep the address (restow.dev/tcp=keep); without Restow, checkpoint with --tcp-established";
    ListenAddress, "listen-address", "warning; none with Restow",
        "a socket bound to an address of this pod or node, which another has not got",
        "Bind to any address (0.0.0.0, ::), opt in to Restow (restow.dev/enabled), or restore where the address is the same";
    UnixOutside, "unix-outside", "blocker; warning for datagrams",
        "a unix socket connected to a process outside of the tree",
        "Close the connection before the checkpoint; for datagrams to a named socket, dump with --ext-unix-sk";
    UnixClosed, "unix-closed", "blocker",
        "a listening unix socket with a connection that was closed before it was accepted",
        "Try again when the program has accepted it";
    NetlinkWaiting, "netlink-waiting", "blocker",
        "a netlink socket with messages that the program has not read",
        "Try again when it has read them";
    ForeignFile, "foreign-file", "blocker; warning with Restow",
        "a file on a mount that the container has not got",
        "Opt in to Restow (restow.dev/enabled), which hands it over; what cannot be found in the new pod becomes inert or blocks the restore (restow.dev/cgroup-files)";
    RemovedCgroup, "removed-cgroup", "blocker; warning with Restow",
        "a file of a cgroup that was removed",
        "Close it, or opt in to Restow (restow.dev/enabled); with restow.dev/cgroup-files=ignore a read-only descriptor becomes inert at the restore";
    HiddenFile, "hidden-file", "blocker",
        "a file that another mount hides",
        "Close it, or unmount what hides it";
    UnlinkedLarge, "unlinked-large", "blocker",
        "a file without a name that is larger than 1 MiB, CRIU's limit for carrying one along",
        "Truncate or close it, or raise the limit in CRIU's configuration (ghost-limit 100M in /etc/criu/runc.conf, or a file named by the annotation org.criu.config)";
    UnlinkedLinked, "unlinked-linked", "blocker",
        "a file that lost the name it was opened by and has another one",
        "Reopen it under its other name, or set link-remap in CRIU's configuration; that leaves a hard link in the old volume, which has to go along";
    FileLock, "file-lock", "warning",
        "a lock or lease on a file, which is refused without --file-locks; it is taken anew in the new pod, where others may hold it",
        "Checkpoint with --file-locks, or release it before";
    Watch, "watch", "blocker",
        "an inotify watch on a file that is a mount of its own, of a tmpfs",
        "Watch the directory it is in, or keep the volume on a disk";
    PressureTrigger, "pressure-trigger", "warning",
        "a file of pressure information opened for writing: the trigger behind it, which poll() waits for, is lost at the restore",
        "Have the program write its trigger again when it is told that it moved";
    MessageQueue, "message-queue", "blocker",
        "POSIX message queues in the tree's IPC namespace, which CRIU cannot dump",
        "Remove them (ls /dev/mqueue in the pod) before the checkpoint";
    Traced, "traced", "blocker",
        "a process under a debugger or tracer, which CRIU cannot seize",
        "Detach strace, gdb or whatever traces it";
    Namespace, "namespace", "blocker; warning for a network namespace unless the runtime is runc",
        "a process in a namespace of its own below the container's, of a kind that CRIU cannot nest",
        "Run that program in the container's namespaces; only mount namespaces can be nested";
    SessionOutside, "session-outside", "blocker",
        "a tree whose root does not lead its session, or a session that was started outside of the pid namespace",
        "Start the tree with setsid, or dump with --shell-job";
    Beside, "beside", "warning",
        "a process in the container that is not below its first one, such as one of `exec`: it is not dumped and ends with the container",
        "Wait until it has ended, or start it again in the new pod";
    Uninterruptible, "uninterruptible", "warning",
        "a process that waits in the kernel and cannot be interrupted (state D): if it stays so, CRIU gives up freezing after 10 s",
        "Look for hanging storage; try again when it runs";
    User, "user", "blocker",
        "a process of another user than root, while this process lacks CAP_SYS_RESOURCE, which CRIU needs for it",
        "Give the runtime CAP_SYS_RESOURCE";
    Unread, "unread", "warning",
        "something that could not be looked at, so that rules about it say nothing",
        "Run it as root in the node's namespaces";
    NoCriu, "no-criu", "blocker",
        "no criu that could be run",
        "Install criu, or name it with criu = \"/path\" in the node's configuration";
    OldCriu, "old-criu", "warning",
        "a criu before 4.1, with which Restow is not tested",
        "Install criu 4.1 or newer";
    Kernel, "kernel", "blocker",
        "a kernel interface that CRIU needs and that is not here",
        "Use a kernel with CONFIG_CHECKPOINT_RESTORE";
    Capability, "capability", "blocker",
        "a capability that CRIU needs and that this process lacks",
        "Run it as root in the node's user namespace";
    OldRuntime, "old-runtime", "warning; none with Restow",
        "runc before 1.2, which restores a container into the cgroup of the old pod on cgroup v2",
        "Opt in to Restow (restow.dev/enabled), or install runc 1.2 or newer";
}

impl Rule {
    /// Whether CRIU refuses what this rule blocks on whatever its options and plugins are, and for as long as the tree is
    /// as it is. Only such a finding ends a checkpoint before it starts.
    pub fn certain(self) -> bool {
        matches!(
            self,
            Self::IoUring | Self::AnonymousMapping | Self::SecretMemory | Self::Namespace
        )
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
