//! Open files, pipes, watches, locks.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "file-missing",
        lines: &[
            "Can't open file {path} on restore: No such file or directory",
            "Can't open file {path}: No such file or directory",
        ],
        object: "[{holder}: ]file {path}",
        meaning: "the file was open or mapped at the checkpoint and is not there now",
        remedy: "give the new container the same root file system and volumes with this file in them, or close it before the checkpoint",
        ..Cause::NEW
    },
    Cause {
        name: "file-not-opened",
        lines: &[
            "Can't open file {path} on restore: {error}",
            "Can't open file {path}: {error}",
        ],
        object: "[{holder}: ]file {path}",
        meaning: "the file cannot be opened as it was at the checkpoint: {error}",
        remedy: "see that it is the same kind of file as then, on a file system that may be read or written as the process had it",
        ..Cause::NEW
    },
    Cause {
        name: "file-size-changed",
        lines: &["File {path} has bad size {size#} (expect {expected#})"],
        object: "[{holder}: ]file {path}",
        meaning: "the file is {size} bytes long and was {expected} at the checkpoint: CRIU takes it for another file",
        remedy: "put the file back as it was (same image, same volume content); what the runtime or the kubelet writes for each pod \
                 (/etc/hosts, tokens, config maps) is followed by Restow, for containers that ask for it",
        ..Cause::NEW
    },
    Cause {
        name: "file-mode-changed",
        lines: &["File {path} has bad mode 0{mode#} (expect 0{expected#})"],
        object: "[{holder}: ]file {path}",
        meaning: "the file has mode {mode} and had {expected} at the checkpoint",
        remedy: "give it the old mode (chmod), or CRIU the option skip-file-rwx-check when only permissions differ",
        ..Cause::NEW
    },
    Cause {
        name: "file-build-id-changed",
        lines: &[
            "File {path} has bad build-ID length {length#} (expect {expected#})",
            "File {path} has bad build-ID",
        ],
        object: "[{holder}: ]file {path}",
        meaning: "the program or library is another build than at the checkpoint; its code in memory would not fit",
        remedy: "restore with exactly the same image (by digest, not by tag), on a node with the same files",
        ..Cause::NEW
    },
    Cause {
        name: "removed-file-too-large",
        lines: &["Can't dump ghost file {path} of {size#} size, increase limit"],
        object: "[{holder}: ]file {path}",
        meaning: "the file has no name any more, so that its content ({size} bytes) has to go into the checkpoint, and that is above \
                  CRIU's limit (1 MiB by default)",
        remedy: "give CRIU the option ghost-limit with a larger size, or have the program close or truncate the file",
        ..Cause::NEW
    },
    Cause {
        name: "removed-file-has-other-links",
        lines: &["Can't create link remap for {path}. Use link-remap option."],
        object: "[{holder}: ]file {path}",
        meaning: "the file's name is gone but the file has another one, so that CRIU has to give it a temporary name on its file system",
        remedy: "give CRIU the option link-remap; checkpoint and restore then have to see the same file system",
        ..Cause::NEW
    },
    Cause {
        name: "removed-file-not-linked",
        lines: &[
            "Can't link {temporary} -> {path}: {error}",
            "Can't link remap to {path}: {error}",
            "Can't create even fake link!: {error}",
        ],
        object: "[{holder}: ]file {path}",
        meaning: "the file had no name at the checkpoint and cannot be made there now: {error}",
        remedy: "see that its directory is there, can be written, and holds what the checkpoint left in it (link_remap.*)",
        ..Cause::NEW
    },
    Cause {
        name: "file-locked",
        lines: &[
            "Some file locks are hold by dumping tasks! You can try --file-locks to dump them.",
            "Some file locks are hold by dumping tasks!You can try --file-locks to dump them.",
        ],
        object: "[process {lock_pid}: ]file lock[ on inode {lock_inode} of device {lock_device}]",
        meaning: "a process of the tree holds a file lock or a lease, which CRIU saves only when asked to",
        remedy: "checkpoint and restore with --file-locks (runc, crun) or CRIU's option file-locks; nobody outside of the tree may want \
                 the same lock",
        ..Cause::NEW
    },
    Cause {
        name: "fd-on-foreign-mount",
        lines: &["Can't lookup mount={mnt_id#} for fd={fd#} path={path}"],
        object: "[{holder}: ]file {path} on mnt_id {mnt_id}",
        meaning: "the file is on a mount that is in no mount namespace of the tree: it was opened elsewhere and handed in, its mount was \
                  detached, or it belongs to the host",
        remedy: "close it before the checkpoint, or declare it external to CRIU (file[[mnt_id:inode], hexadecimal), which Restow does by \
                 itself for containers that ask for it",
        ..Cause::NEW
    },
    Cause {
        name: "fd-overmounted",
        lines: &[
            "Open files on overmounted mounts are not supported yet; mount={mnt_id#} fd={fd#} path={path}",
            "The mount {mnt_id#} is overmounted so paths are invisible",
        ],
        object: "[{holder}: ]file {path} on mnt_id {mnt_id}",
        meaning: "something was mounted over the file's mount after it was opened, so that no path leads to it",
        remedy: "close it, or remove the mount that hides it",
        ..Cause::NEW
    },
    Cause {
        name: "fd-of-userfaultfd",
        lines: &["Can't dump file {fd#} of that type [{mode}] ({_} anon_inode:[userfaultfd])"],
        object: "[{holder}: ]userfaultfd",
        meaning: "CRIU cannot save userfaultfd: page faults of the process are answered by a program",
        remedy: "have the program close it (garbage collectors and sandboxes that use it have a setting)",
        ..Cause::NEW
    },
    Cause {
        name: "fd-of-perf-event",
        lines: &["Can't dump file {fd#} of that type [{mode}] ({_} anon_inode:[perf_event])"],
        object: "[{holder}: ]perf event",
        meaning: "CRIU cannot save performance counters",
        remedy: "stop the profiler in the process",
        ..Cause::NEW
    },
    Cause {
        name: "fd-of-bpf",
        lines: &[
            "Can't dump file {fd#} of that type [{mode}] ({_} anon_inode:bpf{kind})",
            "Can't dump file {fd#} of that type [{mode}] ({_} anon_inode:[bpf{kind})",
        ],
        object: "[{holder}: ]BPF object bpf{kind}",
        meaning: "CRIU cannot save BPF programs and links",
        remedy: "load them from a process that is not checkpointed",
        ..Cause::NEW
    },
    Cause {
        name: "fd-kind-not-supported",
        lines: &["Can't dump file {fd#} of that type [{mode}] ({kind} {what})"],
        object: "[{holder}: ]{kind} {what}",
        meaning: "CRIU cannot save a descriptor of this kind (a device, or something of the kernel that has no state it can read)",
        remedy: "close it before the checkpoint; for a device there may be a plugin of CRIU's",
        ..Cause::NEW
    },
    Cause {
        name: "fds-not-handed-over",
        lines: &["send_fds failed ({error})"],
        object: "[process {pid}]",
        meaning: "one of its descriptors cannot be handed to CRIU through a socket; io_uring instances are so since Linux 6.7",
        remedy: "have the program close its io_uring (libuv before 1.49, Node.js: UV_USE_IO_URING=0; databases have a setting), or forbid io_uring_setup in the container's seccomp profile",
        ..Cause::NEW
    },
    Cause {
        name: "pipe-of-packets",
        lines: &["The packetized mode for pipes is not supported yet"],
        object: "[{holder}: ]pipe",
        meaning: "the pipe was made with O_DIRECT and keeps the borders of what is written, which CRIU cannot restore",
        remedy: "have the program make the pipe without O_DIRECT",
        ..Cause::NEW
    },
    Cause {
        name: "epoll-of-closed-fd",
        lines: &[
            "Escaped/closed fd descriptor {fd#} on pid {pid#}",
            "Dump eventpoll (pid: {pid#}) failed",
        ],
        object: "[{holder}: ]in epoll[ {epoll}]",
        meaning: "an epoll instance watches a file whose descriptor was closed in this process while another process still has it",
        remedy: "have the program remove descriptors from epoll before it closes them (EPOLL_CTL_DEL)",
        ..Cause::NEW
    },
    Cause {
        name: "fifo-missing",
        lines: &[
            "Can't open fake fifo {_} [{path}]: {error}",
            "Can't open fifo {_} [{path}]: {error}",
        ],
        object: "[{holder}: ]named pipe {path}",
        meaning: "the named pipe was open at the checkpoint and cannot be opened now: {error}",
        remedy: "have it there before the restore (mkfifo), or restore with the same root file system and volumes",
        ..Cause::NEW
    },
    Cause {
        name: "watch-target-missing",
        lines: &["Unable to open {path}: No such file or directory"],
        object: "[{holder}: ]watch on {path}",
        meaning: "what an inotify or fanotify watch is on is not there",
        remedy: "have a file or directory there before the restore",
        ..Cause::NEW
    },
    Cause {
        name: "watch-target-not-found",
        lines: &[
            "Can't find suitable path for handle (dev {device} ino {inode}): {_}",
            "Can't dump that handle",
        ],
        object: "[{holder}: ]watch[ on inode {inode} of device {device}]",
        meaning: "CRIU finds no path for what an inotify or fanotify watch is on",
        remedy: "give CRIU the option force-irmap with irmap-scan-path for its directory, or have the program remove the watch",
        ..Cause::NEW
    },
];
