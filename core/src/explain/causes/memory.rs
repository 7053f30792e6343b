//! Memory.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "io-uring",
        lines: &["Unknown shit {mode#} (anon_inode:[io_uring])"],
        object: "[process {pid}: ]io_uring[ at {area}]",
        meaning: "the process uses io_uring, which CRIU cannot save",
        remedy: "run the program without it (libuv before 1.49, Node.js: UV_USE_IO_URING=0; PostgreSQL: io_method=worker), or forbid io_uring_setup in the container's seccomp profile (containerd 2's RuntimeDefault does), or set kernel.io_uring_disabled=2",
        ..Cause::NEW
    },
    Cause {
        name: "mapping-not-supported",
        lines: &[
            "Unknown shit {mode#} ({what})",
            "Can't handle non-regular mapping on {pid#}'s map {area}",
            "Unsupported mapping found {area}",
        ],
        object: "[process {pid}: ]mapping[ of {what}][ at {area}]",
        meaning: "CRIU cannot save memory of this kind (secret memory, rings and buffers of drivers and the kernel)",
        remedy: "have the program unmap it before the checkpoint; devices need a plugin of CRIU's",
        ..Cause::NEW
    },
    Cause {
        name: "memory-tracking-missing",
        lines: &["Tracking memory is not available. Consider omitting --track-mem option."],
        object: "kernel",
        meaning: "it cannot say which pages have changed (CONFIG_MEM_SOFT_DIRTY), which a pre-dump needs",
        remedy: "checkpoint at once, without pre-dump",
        ..Cause::NEW
    },
    Cause {
        name: "pages-missing",
        lines: &[
            "Can't read pages data ({code#})",
            "Can't read mapping page {_}: {_}",
            "Reached EOF unexpectedly while reading page from image",
        ],
        object: "[process {pid}: ]memory pages",
        meaning: "the file with memory pages (pages-<n>.img) is missing or too short",
        remedy: "the checkpoint is not complete: take it from its archive again, with its parents when it was made in steps",
        ..Cause::NEW
    },
];
