//! Processes and threads.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "process-gone",
        warnings: &["Unable to interrupt task: {pid#} (No such process)"],
        object: "process {pid}",
        meaning: "there is no such process, or it ended before CRIU could stop it",
        remedy: "see whether the container still runs",
        vague: true,
        ..Cause::NEW
    },
    Cause {
        name: "process-traced",
        warnings: &["Unable to interrupt task: {pid#} ({error})"],
        object: "process {pid}",
        meaning: "CRIU may not stop it ({error}): another process traces it (a debugger, strace, a sandbox), it has ended as a zombie, or CRIU lacks rights \
                  (CAP_SYS_PTRACE, the Yama setting kernel.yama.ptrace_scope)",
        remedy: "end the tracer: TracerPid in /proc/<pid>/status is its process number",
        vague: true,
        ..Cause::NEW
    },
    Cause {
        name: "session-leader-outside",
        lines: &[
            "The root process {pid#} is not a session leader. Consider using --shell-job option",
            "A session leader of {pid#}({_}) is outside of its pid namespace",
            "A session leader of zombie process {pid#}({_}) is outside of its pid namespace",
            "Can't find a session leader for {_}",
        ],
        object: "[process {pid}]",
        meaning: "it belongs to a session whose leader is not part of the tree: it was started by a shell or through `exec`",
        remedy: "start it with setsid, checkpoint from the session leader on, or use --shell-job (runc, crun) on both sides",
        ..Cause::NEW
    },
    Cause {
        name: "zombie-with-threads",
        lines: &[
            "Zombies with threads are not supported",
            "Zombie thread not supported",
        ],
        object: "process[ {pid}] of the tree",
        meaning: "the first thread of a process has ended while others go on, which CRIU cannot restore",
        remedy: "have the program end its first thread last; `ps -eLf` shows it as defunct",
        ..Cause::NEW
    },
    Cause {
        name: "pid-in-use",
        lines: &[
            "Can't fork for {pid#}: File exists",
            "Pid {pid#} do not match expected {_}",
            "First PID in a PID namespace needs to be {_} and not {pid#}",
        ],
        object: "process {pid}",
        meaning: "its number is in use already (or it, its session or its process group still runs)",
        remedy: "end the old processes first; restore trees into a pid namespace of their own, as containers have",
        ..Cause::NEW
    },
    Cause {
        name: "pidfd-of-foreign-process",
        lines: &["pidfd pid {target#} is not a part of process tree.."],
        object: "[{holder}: ]pidfd of process {target}",
        meaning: "the descriptor stands for a process outside of the tree",
        remedy: "have the program close it before the checkpoint",
        ..Cause::NEW
    },
    Cause {
        name: "pidfd-of-thread",
        lines: &["PIDFD_THREAD flag is currently not supported"],
        object: "[{holder}: ]pidfd of a thread",
        meaning: "CRIU cannot save descriptors of single threads (PIDFD_THREAD, Linux 6.9)",
        remedy: "have the program close it before the checkpoint",
        ..Cause::NEW
    },
    Cause {
        name: "criu-in-tree",
        lines: &["The criu itself is within dumped tree."],
        object: "criu",
        meaning: "the tree to be checkpointed has criu in it",
        remedy: "start criu from outside of the tree",
        ..Cause::NEW
    },
    Cause {
        name: "capability-missing",
        lines: &[
            "Can't get rlimit {_}: Operation not permitted",
            "You need to be root to run this command",
            "can't dump unprivileged task whose /proc doesn't belong to it",
        ],
        object: "[process {pid}: ]criu",
        meaning: "criu lacks rights over the process: of another user's it needs CAP_SYS_RESOURCE, CAP_SYS_PTRACE and CAP_SYS_ADMIN",
        remedy: "run the runtime with all capabilities, or the processes as the same user",
        ..Cause::NEW
    },
    Cause {
        name: "killed-during-restore",
        lines: &["{pid#} killed by signal {signal#}: {name}"],
        object: "process {pid}",
        meaning: "it died while it was restored ({name})",
        remedy: "signal 11 or 7 mostly means a damaged or incomplete checkpoint, 31 a seccomp filter, 9 the memory limit of the new cgroup",
        vague: true,
        ..Cause::NEW
    },
];
