//! The checkpoint's images.

use super::Cause;

/// What to do about a checkpoint that cannot be read.
const TAKE_ANOTHER: &str = "the checkpoint is damaged or not complete: copy it again, or take another; `restow image info` shows what it has";

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "image-of-other-kind",
        lines: &[
            "Magic doesn't match for {image}",
            "Head magic doesn't match for {image}",
        ],
        object: "image {image}",
        meaning: "it does not start as an image of this name does: another file was put there, or it is compressed or encrypted",
        remedy: TAKE_ANOTHER,
        ..Cause::NEW
    },
    Cause {
        name: "image-cut-short",
        lines: &[
            "Read {got#} bytes while {wanted#} expected from {image}: {_}",
            "Read {got#} bytes while {wanted#} expected on {image}: {_}",
            "Img trimmed {got#}/{wanted#}",
        ],
        object: "image[ {image}]",
        meaning: "it ends in the middle of a record ({got} of {wanted} bytes): the checkpoint was not written or copied to its end",
        remedy: TAKE_ANOTHER,
        ..Cause::NEW
    },
    Cause {
        name: "image-garbled",
        lines: &["Failed unpacking object {_} from {image}"],
        object: "image {image}",
        meaning: "a record in it is not what this CRIU expects: it is damaged, or of a CRIU that writes it differently",
        remedy: TAKE_ANOTHER,
        ..Cause::NEW
    },
    Cause {
        name: "image-missing",
        lines: &[
            "Unexpected EOF on {image}",
            "Unexpected EOF",
            "No IDS for root task.",
            "Core info data missed for non-zombie",
        ],
        object: "[process {pid}: ]image",
        meaning: "an image is missing or empty (inventory.img, pstree.img, core-<pid>.img or ids-<pid>.img); also when the directory is \
                  not the one with the images",
        remedy: "see that the restore names the directory with inventory.img; otherwise the checkpoint is not complete: copy it again",
        ..Cause::NEW
    },
    Cause {
        name: "image-version",
        lines: &[
            "Not supported images version {version#}",
            "Too old image, no longer supported",
        ],
        object: "checkpoint[ of version {version}]",
        meaning: "it was written by a CRIU whose images this one does not read",
        remedy: "restore with the CRIU that made it, or with a newer one",
        ..Cause::NEW
    },
    Cause {
        name: "image-not-written",
        lines: &[
            "Unable to open {image}: Read-only file system",
            "Unable to open {image}: No space left on device",
            "Unable to open {image}: Permission denied",
            "Error flushing image: {error}",
            "Unable to spice data: {error}",
            "Can't write img file: {error}",
            "Can't send ghost to image: {error}",
            "Can't write {_} bytes: {error}",
        ],
        object: "image[ {image}]",
        meaning: "it cannot be written[: {error}]: the image directory is read-only or full",
        remedy: "make room or name another directory; the process tree goes on running",
        ..Cause::NEW
    },
    Cause {
        name: "image-directory-missing",
        lines: &["Can't open dir {path}: {error}"],
        object: "directory {path}",
        meaning: "the image or work directory cannot be opened: {error}",
        remedy: "make it, or name the right one",
        ..Cause::NEW
    },
    Cause {
        name: "other-architecture",
        lines: &["Core march mismatch {architecture#}"],
        object: "checkpoint",
        meaning: "it was made on another processor architecture (number {architecture} in CRIU's images)",
        remedy: "restore on a node of the same architecture",
        ..Cause::NEW
    },
    Cause {
        name: "plugin-missing",
        lines: &["Missing required plugin: {plugin}"],
        object: "plugin {plugin}",
        meaning: "the checkpoint was made with a plugin of CRIU's (mostly for GPUs) that this node has not got",
        remedy: "install it in CRIU's plugin directory (/usr/lib/criu)",
        ..Cause::NEW
    },
    Cause {
        name: "parent-missing",
        lines: &[
            "No parent image found, though parent directory is set: {error}",
            "Missing {_} in parent pagemap",
            "Invalid parent image directory provided: {error}",
            "No parent for snapshot pagemap",
        ],
        object: "parent checkpoint",
        meaning: "this checkpoint only has the pages that changed since an earlier one, which is missing[: {error}]",
        remedy: "keep all steps in directories beside each other; `restow image info` shows the parent link",
        ..Cause::NEW
    },
];
