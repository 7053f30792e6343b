//! Mounts and file systems.

use crate::lab::Provocation;

pub(crate) const ALL: &[Provocation] = &[
    Provocation::dump(
        "mount-shared-with-outside",
        "namespaces mnt",
        "mount /",
    )
    .first("nsenter -t $PID -m mount --make-rslave /"),
    Provocation::dump(
        "mount-shared-with-outside",
        "namespaces mnt",
        "mount $W/to (mnt_id ",
    )
    .first(
        "mkdir t to; nsenter -t $PID -m sh -c 'mount --make-rprivate /; mount -t tmpfs n $W/t; mkdir $W/t/sub; \
         mount --bind $W/t/sub $W/to; umount $W/t'",
    ),
    Provocation::dump(
        "filesystem-not-supported",
        "mounted ramfs $W/ram",
        "mount $W/ram",
    ),
    Provocation::dump("mounts-not-visible", "chroot $W/root", "process $PID"),
    Provocation::script(
        "mqueue-not-empty",
        "namespaces mnt",
        "/opt/snag mqueue > /dev/null; nsenter -t $PID -m mount --make-rprivate /; criu dump -t $PID -D $I -o criu.log -v4; \
         rm /dev/mqueue/snag",
        "message queues",
    ),
    Provocation::script(
        "criu-stopped-itself",
        "namespaces mnt",
        "nsenter -t $PID -m mount --make-rprivate /; criu dump -t $PID -D $I -o dump.log && \
         criu restore -d -D $I -o criu.log -v4",
        "criu at ",
    ),
    Provocation::script(
        "mount-not-mapped",
        "namespaces mnt",
        "mkdir from to; nsenter -t $PID -m mount --make-rprivate /; nsenter -t $PID -m mount --bind $W/from $W/to; \
         criu dump -t $PID -D $I -o dump.log --external 'mnt[$W/to]:key' && criu restore -d -D $I -o criu.log -v4 --root /",
        "(mnt_id ",
    ),
    Provocation::script(
        "mount-source-missing",
        "namespaces mnt",
        "mkdir from to; nsenter -t $PID -m mount --make-rprivate /; nsenter -t $PID -m mount --bind $W/from $W/to; \
         criu dump -t $PID -D $I -o dump.log --external 'mnt[$W/to]:key' && \
         criu restore -d -D $I -o criu.log -v4 --root / --external 'mnt[key]:$W/none'",
        "mount of $W/none",
    ),
    Provocation::script(
        "mountpoint-missing",
        "namespaces mnt",
        "nsenter -t $PID -m mount --make-rprivate /; criu dump -t $PID -D $I -o dump.log && \
         criu restore -d -D $I -o criu.log -v4 --root $W",
        "mount point /",
    ),
];
