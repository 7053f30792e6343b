//! Namespaces.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "nested-namespace",
        lines: &["Can't dump nested {kind} namespace for {pid#}"],
        object: "process {pid}: {kind} namespace",
        meaning: "the process has a {kind} namespace other than the first process of the tree (a container in a container, a sandbox, \
                  unshare)",
        remedy: "only mount and network namespaces may be nested: stop what makes the namespace (systemd units, browsers, build tools)",
        ..Cause::NEW
    },
    Cause {
        name: "user-namespace-ids",
        lines: &[
            "Unable to convert uid or gid",
            "One or more namespaces doesn't belong to the target user namespace",
        ],
        object: "user namespace[ of process {pid}]",
        meaning: "the tree's user namespace maps not all ids that its files and processes have, or owns not all of its namespaces",
        remedy: "make the user namespace first and all others in it, with a map for every id in use (also 0)",
        ..Cause::NEW
    },
    Cause {
        name: "pid-namespace-without-init",
        lines: &[
            "Can't dump a pid namespace without the process init",
            "Can't restore pid namespace without the process init",
        ],
        object: "pid namespace",
        meaning: "the process to be checkpointed is in a pid namespace whose first process is not in the tree",
        remedy: "checkpoint the whole container from its first process, not an `exec` session or a child; a container in the host's or \
                 another's pid namespace cannot be checkpointed so",
        ..Cause::NEW
    },
    Cause {
        name: "namespace-to-join-missing",
        lines: &[
            "Can't access join-ns file {path}: {error}",
            "Invalid join_ns pid: {path} not found",
        ],
        object: "namespace {path}",
        meaning: "the namespace that the restored tree is to join is not there: {error}",
        remedy: "see that the sandbox of the new pod runs; its namespaces are in the runtime's spec",
        ..Cause::NEW
    },
    Cause {
        name: "external-namespace-missing",
        lines: &[
            "Unable to find an external netns: {error}",
            "Unable to find an external pidns: {error}",
        ],
        object: "external namespace",
        meaning: "the checkpoint leaves a namespace to its surroundings, and the restore names none: {error}",
        remedy: "restore through the runtime with a spec that names the sandbox's namespace, or with inherit-fd extRootNetNS",
        ..Cause::NEW
    },
    Cause {
        name: "sysv-shm-outside",
        lines: &["Task {pid#} with SysVIPC shmem map @{area} doesn't live in IPC ns"],
        object: "process {pid}: System V shared memory at {area}",
        meaning: "the process has System V shared memory of an ipc namespace that is not checkpointed with it",
        remedy: "run the container in an ipc namespace of its own, or have the program use POSIX shared memory",
        ..Cause::NEW
    },
];
