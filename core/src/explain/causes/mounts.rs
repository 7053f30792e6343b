//! Mounts and file systems.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "mount-not-mapped",
        lines: &["No mapping for {mnt_id#}:{path} mountpoint"],
        object: "mount[ {mount}] (mnt_id {mnt_id})",
        meaning: "the checkpoint has a bind mount from outside, and the restore does not say what to mount there",
        remedy: "give the new container a mount at the same place, or remove it from the old one before the checkpoint",
        ..Cause::NEW
    },
    Cause {
        name: "mount-shared-with-outside",
        lines: &[
            "Mount {mnt_id#} {path} (master_id: {_} shared_id: {_}) has unreachable sharing. Try --enable-external-masters.",
            "Sharing group ({_}, {_}) has unreachable sharing. Try --enable-external-masters.",
            "Mount {mnt_id#}:{path} is autodetected external mount. Try \"--ext-mount-map auto\" to allow them.",
            "{mnt_id#}:{path} doesn't have a proper root mount",
        ],
        object: "mount[ {path}][ (mnt_id {mnt_id})]",
        meaning: "the mount comes from outside of the tree's mount namespace, or gets mounts from there",
        remedy: "declare it external (CRIU's option external with mnt[[…], which runtimes do for the mounts of the spec), make it private \
                 (mount --make-private), or remove it",
        ..Cause::NEW
    },
    Cause {
        name: "filesystem-not-supported",
        lines: &["FS mnt {path} dev {device} root {root} unsupported id {_}"],
        object: "mount {path}",
        meaning: "CRIU does not know the kind of its file system",
        remedy: "mount it into the container from outside (a volume), so that only the new one has to be there, or unmount it",
        ..Cause::NEW
    },
    Cause {
        name: "mount-source-missing",
        lines: &[
            "Failed to open_tree {source}: {error}",
            "Unable to mount {source} {path} (id={mnt_id#}): {error}",
            "Can't bind-mount at {path}: {error}",
            "Can't mount at {path}: {error}",
            "Unable to bind-mount {source} to {path}: {error}",
        ],
        object: "mount[ of {source}][ at {path}]",
        meaning: "it cannot be mounted: {error}",
        remedy: "see that its source is there on the node, and its mount point in the container's root file system",
        ..Cause::NEW
    },
    Cause {
        name: "mountpoint-missing",
        lines: &[
            "Failed to open {path} mountpoint: {error}",
            "Can't stat mountpoint {path}: {error}",
            "Unable to create mountpoint {path}: {error}",
            "Unable to mkdir mountpoint {path}: {error}",
        ],
        object: "mount point {path}",
        meaning: "it is not there and cannot be made: {error}",
        remedy: "see that the root file system has the directory or file",
        ..Cause::NEW
    },
    Cause {
        name: "mounts-not-visible",
        lines: &["Can't parse {pid#}'s mountinfo"],
        object: "process {pid}",
        meaning: "its /proc/<pid>/mountinfo shows no mounts: its root is a directory (chroot), not a mount of its mount namespace",
        remedy: "checkpoint programs that are confined by pivot_root or a runtime; with chroot, bind-mount the directory onto itself first",
        ..Cause::NEW
    },
    Cause {
        name: "mqueue-not-empty",
        lines: &["mqueue isn't empty"],
        object: "POSIX message queues",
        meaning: "there are message queues in the mqueue file system, which CRIU cannot save",
        remedy: "have the program remove them (mq_unlink; they are the files below /dev/mqueue)",
        ..Cause::NEW
    },
];
