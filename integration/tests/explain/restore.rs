//! Restores into a world that has changed.

use restow_integration::suite::Suite;

use crate::lab::{Provocation, Where};

const NET: Where = Where::Only(
    Suite::Testing,
    "criu 4.1 cannot dump internet sockets on Linux 6.16 and later at all",
);

pub(crate) const ALL: &[Provocation] = &[
    Provocation::restore(
        "file-missing",
        "open $W/f",
        "rm f",
        "fd 3 of process $PID: file $W/f",
    )
    .first("echo hello > f"),
    Provocation::restore(
        "file-missing",
        "cwd $W/dir",
        "rmdir dir",
        "the working directory of process $PID: file $W/dir",
    ),
    Provocation::restore(
        "file-missing",
        "mapped $W/f",
        "rm f",
        "a mapping of process $PID: file $W/f",
    )
    .first("head -c 8192 /dev/zero > f"),
    Provocation::restore(
        "file-not-opened",
        "open-rw $W/f",
        "rm f; mkdir f",
        "fd 3 of process $PID: file $W/f",
    )
    .first("echo hello > f"),
    Provocation::restore(
        "file-size-changed",
        "open /dev/null $W/f",
        "echo more >> f",
        "fd 5 of process $PID: file $W/f",
    )
    .first("echo hello > f"),
    Provocation::restore(
        "file-mode-changed",
        "open $W/f",
        "chmod 600 f",
        "fd 3 of process $PID: file $W/f",
    )
    .first("echo hello > f; chmod 644 f"),
    Provocation::script(
        "file-build-id-changed",
        "",
        // The id is in a note: its name is GNU, then come twenty bytes.
        "cp /opt/snag $W/app; pid=$($W/app nothing); criu dump -t $pid -D $I -o dump.log || exit; cp app new; \
         at=$(grep -obUaP '\\x03\\0\\0\\0GNU\\0' new | head -1 | cut -d: -f1); \
         printf 'XXXX' | dd of=new bs=1 seek=$((at + 8)) conv=notrunc status=none; mv new app; \
         criu restore -d -D $I -o criu.log -v4",
        "a mapping of process ",
    ),
    Provocation::restore(
        "removed-file-not-linked",
        "renamed $W/dir/f",
        "rm -r dir",
        "fd 3 of process $PID: file $W/dir/f",
    )
    .first("mkdir dir")
    .dump_options("--link-remap"),
    Provocation::restore(
        "fifo-missing",
        "fifo $W/fifo",
        "rm fifo",
        "fd 3 of process $PID: named pipe $W/fifo",
    ),
    Provocation::restore(
        "watch-target-missing",
        "watch $W/f",
        "rm f",
        "fd 3 of process $PID: watch on $W/f",
    )
    .first("echo > f"),
    Provocation::restore("terminal-not-inherited", "half-terminal", "", "terminal")
        .dump_options("--shell-job")
        .restore_options("--shell-job"),
    Provocation::restore(
        "pid-in-use",
        "nothing",
        "until [ \"$last\" = $PID ]; do echo $(($PID - 1)) > /proc/sys/kernel/ns_last_pid; sleep 30 & last=$!; \
         [ $last = $PID ] || kill $last; done",
        "process $PID",
    ),
    Provocation::restore(
        "unix-path-missing",
        "unix-listener $W/dir/s",
        "rm -r dir",
        "fd 3 of process $PID: unix socket $W/dir/s",
    )
    .first("mkdir dir"),
    Provocation::restore(
        "unix-path-in-use",
        "unix-listener $W/s",
        "rm s; mkdir s; echo > s/x",
        "fd 3 of process $PID: unix socket $W/s",
    ),
    Provocation::restore(
        "unix-peer-missing",
        "unix-client $W/s",
        "",
        "unix socket with inode ",
    )
    .first("/opt/snag unix-listener $W/s > /dev/null")
    .dump_options("--ext-unix-sk"),
    Provocation::restore(
        "port-in-use",
        "tcp-listener 127.0.0.1:7010",
        "/opt/snag tcp-listener 127.0.0.1:7010",
        "fd 3 of process $PID: socket of 127.0.0.1 port 7010",
    )
    .only(NET),
    Provocation::restore(
        "address-not-here",
        "udp 10.99.0.1:7011",
        "ip address del 10.99.0.1/32 dev lo",
        "fd 3 of process $PID: socket of 10.99.0.1 port 7011",
    )
    .first("ip link set lo up; ip address add 10.99.0.1/32 dev lo")
    .only(NET),
    Provocation::restore(
        "tcp-established-in-image",
        "tcp 127.0.0.1:7012",
        "",
        "of process $PID: TCP connection of 127.0.0.1 port ",
    )
    .dump_options("--tcp-established")
    .only(NET),
    Provocation::script(
        "cgroup-missing",
        "nothing",
        "mkdir /sys/fs/cgroup/lost; echo $PID > /sys/fs/cgroup/lost/cgroup.procs; criu dump -t $PID -D $I -o dump.log; \
         rmdir /sys/fs/cgroup/lost; criu restore -d -D $I -o criu.log -v4 --manage-cgroups=none",
        "cgroup unified/lost",
    ),
    Provocation::script(
        "cgroup-exists",
        "nothing",
        "mkdir /sys/fs/cgroup/there; echo $PID > /sys/fs/cgroup/there/cgroup.procs; criu dump -t $PID -D $I -o dump.log; \
         criu restore -d -D $I -o criu.log -v4 --manage-cgroups=strict; rmdir /sys/fs/cgroup/there",
        "cgroups of the checkpoint",
    ),
    Provocation::script(
        "cgroup-property-not-written",
        "nothing",
        // The image has the property as text; one of the same length that the kernel refuses is put there.
        "mkdir /sys/fs/cgroup/full; echo 777777 > /sys/fs/cgroup/full/cgroup.max.depth; \
         echo $PID > /sys/fs/cgroup/full/cgroup.procs; criu dump -t $PID -D $I -o dump.log --manage-cgroups=full; \
         rmdir /sys/fs/cgroup/full; sed -i s/777777/abcdef/ $I/cgroup.img; \
         criu restore -d -D $I -o criu.log -v4 --manage-cgroups=full; rmdir /sys/fs/cgroup/full",
        "cgroup file /unified/full/cgroup.max.depth",
    ),
    Provocation::restore(
        "external-namespace-missing",
        "namespaces net",
        "",
        "external namespace",
    )
    .dump_options("--external net[$(stat -Lc %i /proc/$PID/ns/net)]:extnet"),
    Provocation::restore(
        "namespace-to-join-missing",
        "nothing",
        "",
        "namespace /nonexistent",
    )
    .restore_options("--join-ns net:/nonexistent"),
    Provocation::restore("inherited-fd-wrong", "nothing", "", "inherit-fd 99")
        .restore_options("--inherit-fd fd[99]:tmp/x"),
    Provocation::restore("option-unknown", "nothing", "", "option frob")
        .restore_options("--manage-cgroups=frob"),
    Provocation::restore(
        "action-script-failed",
        "nothing",
        "printf '#!/bin/sh\\n[ $CRTOOLS_SCRIPT_ACTION != post-restore ]\\n' > no; chmod +x no",
        "action script $W/no",
    )
    .restore_options("--action-script $W/no"),
    Provocation::restore("cpuinfo-missing", "nothing", "", "checkpoint")
        .restore_options("--cpu-cap")
        .only(Where::Only(
            Suite::Testing,
            "criu 4.1 only says that an image is empty",
        )),
];
