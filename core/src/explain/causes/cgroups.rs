//! Cgroups.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "cgroup-missing",
        lines: &[
            "Cgroup dir {cgroup} doesn't exist",
            "Can't move {_} into {cgroup} ({_}): {error}",
            "Can't move into {cgroup} ({_}): {error}",
        ],
        object: "cgroup {cgroup}",
        meaning: "the cgroup of the checkpoint is not there, or a task cannot be moved to it",
        remedy: "restore with CRIU's option manage-cgroups set to soft or ignore, or through Restow, which puts tasks into the new \
                 container's cgroup",
        ..Cause::NEW
    },
    Cause {
        name: "cgroup-exists",
        lines: &["Abort restore of existing cgroups"],
        object: "cgroups of the checkpoint",
        meaning: "they are there already, and manage-cgroups=strict does not allow that",
        remedy: "use another mode of CRIU's option manage-cgroups (soft, ignore), or remove the old cgroups",
        ..Cause::NEW
    },
    Cause {
        name: "cgroup-property-not-written",
        lines: &["Failed writing {value} to {path}: {error}"],
        object: "cgroup file {path}",
        meaning: "the limit {value} of the old cgroup cannot be written to the new one: {error}",
        remedy: "restore with manage-cgroups soft or ignore: limits are the new container's",
        ..Cause::NEW
    },
    Cause {
        name: "cgroup-freezer-missing",
        lines: &[
            "Neither a cgroupv1 (freezer.state) or cgroupv2 (cgroup.freeze) control file found.",
        ],
        object: "freezer cgroup",
        meaning: "the cgroup that is to be frozen during the checkpoint is no cgroup, or its hierarchy has no freezer",
        remedy: "see that the container's cgroup is there (it may have been removed by hand), or name none (CRIU's option freeze-cgroup)",
        ..Cause::NEW
    },
    Cause {
        name: "cgroup-not-frozen",
        lines: &[
            "Unable to freeze cgroup {cgroup} ({_}",
            "Timeout reached. Try to interrupt: {_}",
            "Unseizable non-zombie {pid#} found, state {state}, err {_}",
        ],
        object: "[process {pid}][cgroup {cgroup}]",
        meaning: "the tree does not come to rest[ (state {state})]: a process waits in the kernel (D), is traced, or is in another cgroup \
                  than the one that was frozen",
        remedy: "look at its /proc/<pid>/stack and /proc/<pid>/status; give CRIU a longer timeout for slow storage, or resume a frozen cgroup",
        ..Cause::NEW
    },
];
