//! What the node lacks: room, rights, programs, kernel features.

use restow_integration::suite::Suite;

use crate::lab::{Provocation, Where};

pub(crate) const ALL: &[Provocation] = &[
    Provocation::script(
        "image-not-written",
        "nothing",
        "mount -t tmpfs -o ro n $I; criu dump -t $PID -D $I -W $W -o criu.log -v4; cat criu.log; umount $I",
        "image ",
    ),
    Provocation::script(
        "image-not-written",
        "nothing",
        "mount -t tmpfs -o size=64k n $I; criu dump -t $PID -D $I -W $W -o criu.log -v4; cat criu.log; umount $I",
        "image",
    ),
    Provocation::script(
        "image-directory-missing",
        "nothing",
        "criu dump -t $PID -D $W/none -o criu.log -v4",
        "directory $W/none",
    ),
    Provocation::dump("parent-missing", "nothing", "parent checkpoint").dump_options("--prev-images-dir ../none"),
    Provocation::dump("memory-tracking-missing", "nothing", "kernel")
        .dump_options("--track-mem")
        .only(Where::If(
            "! criu check --feature mem_dirty_track",
            "this kernel tracks memory",
        )),
    Provocation::dump("cgroup-freezer-missing", "nothing", "freezer cgroup").dump_options("--freeze-cgroup $W"),
    Provocation::script(
        "cgroup-not-frozen",
        "nothing",
        "mkdir /sys/fs/cgroup/elsewhere; criu dump -t $PID -D $I -o criu.log -v4 --freeze-cgroup /sys/fs/cgroup/elsewhere; \
         rmdir /sys/fs/cgroup/elsewhere",
        "process $PID",
    ),
    Provocation::script(
        "capability-missing",
        "user 1000",
        "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource criu dump -t $PID -D $I -o criu.log -v4",
        "process $PID: criu",
    ),
    Provocation::restore("plugin-not-loaded", "nothing", "echo > x.so", "plugin $W/x.so")
        .restore_options("--libdir $W"),
    Provocation::script(
        "tcp-repair-refused",
        "tcp 127.0.0.1:7020",
        "setpriv --bounding-set=-net_admin --inh-caps=-net_admin criu dump -t $PID -D $I -o criu.log -v4 --tcp-established \
         --network-lock skip",
        "of process $PID: TCP connection",
    )
    .only(Where::Only(
        Suite::Testing,
        "criu 4.1 cannot dump internet sockets on Linux 6.16 and later at all",
    )),
    Provocation::script(
        "program-missing",
        "namespaces mnt",
        "mkdir t; nsenter -t $PID -m mount --make-rprivate /;  nsenter -t $PID -m mount -t tmpfs n $W/t; \
         PATH=$W /usr/sbin/criu dump -t $PID -D $I -o criu.log -v4",
        "program tar",
    ),
    Provocation::script(
        "network-device-not-supported",
        "namespaces net",
        "nsenter -t $PID -n ip link add vx0 type vxlan id 1 dstport 4789 dev lo; criu dump -t $PID -D $I -o criu.log -v4",
        "of kind vxlan",
    )
    .only(Where::If(
        "ip link add vxtest type vxlan id 1 dstport 4789 dev lo && ip link del vxtest",
        "this kernel has no vxlan",
    )),
    Provocation::script(
        "network-not-locked",
        "namespaces net",
        "mkdir bin; printf '#!/bin/sh\\nexit 1\\n' > bin/iptables-restore; cp bin/iptables-restore bin/ip6tables-restore; \
         chmod +x bin/*; PATH=$W/bin:$PATH criu dump -t $PID -D $I -o criu.log -v4",
        "network namespace",
    ),
];
