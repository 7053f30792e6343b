//! Checkpoints that are damaged, not complete, or not for this node.

use serde_json::json;

use crate::lab::{How, Provocation, Where};

/// A checkpoint of which an image is edited.
const fn edited(
    cause: &'static str,
    image: &'static str,
    edit: fn(&mut serde_json::Value),
    object: &'static str,
) -> Provocation {
    Provocation {
        cause,
        object,
        how: How::Edited {
            dump: "",
            image,
            edit,
            options: "",
        },
        place: Where::Both,
    }
}

pub(crate) const ALL: &[Provocation] = &[
    Provocation::restore(
        "image-of-other-kind",
        "nothing",
        "cp $I/core-$PID.img $I/pstree.img",
        "image pstree.img",
    ),
    Provocation::restore(
        "image-of-other-kind",
        "nothing",
        "gzip < $I/inventory.img > z; mv z $I/inventory.img",
        "image inventory.img",
    ),
    Provocation::restore(
        "image-cut-short",
        "nothing",
        "truncate -s 20 $I/core-$PID.img",
        "core-$PID.img",
    ),
    Provocation::restore(
        "image-garbled",
        "nothing",
        "yes | dd of=$I/mm-$PID.img bs=1 seek=14 count=40 conv=notrunc status=none",
        "mm-$PID.img",
    ),
    Provocation::restore("image-missing", "nothing", "rm $I/core-$PID.img", "image"),
    Provocation::restore("image-missing", "nothing", "rm $I/inventory.img", "image"),
    Provocation::restore("image-missing", "nothing", ": > $I/pstree.img", "image"),
    Provocation::restore("image-missing", "nothing", "rm $I/ids-$PID.img", "image"),
    Provocation::restore(
        "pages-missing",
        "nothing",
        "rm $I/pages-1.img",
        "process $PID: memory pages",
    ),
    Provocation::restore(
        "killed-during-restore",
        "nothing",
        "rm $I/files.img",
        "process $PID",
    ),
    Provocation::restore("criu-ended-early", "nothing", "rm $I/pstree.img", "criu"),
    edited(
        "image-version",
        "inventory.img",
        |inventory| inventory["img_version"] = json!(3),
        "checkpoint of version 3",
    ),
    edited(
        "other-architecture",
        "core-$PID.img",
        |core| core["mtype"] = json!("AARCH64"),
        "checkpoint",
    ),
    edited(
        "plugin-missing",
        "inventory.img",
        |inventory| inventory["plugins_entry"] = json!({"plugins": ["frobnicator"]}),
        "plugin frobnicator",
    )
    .restore_options("--libdir $W"),
    edited(
        "lsm-differs",
        "core-$PID.img",
        |core| core["thread_core"]["creds"]["lsm_profile"] = json!("docker-default"),
        "process $PID: security profile",
    ),
    edited(
        "cpu-lacks-features",
        "cpuinfo.img",
        |cpu| {
            let words = cpu["x86_entry"][0]["capability"].as_array_mut();
            words
                .into_iter()
                .flatten()
                .for_each(|word| *word = json!(u32::MAX));
        },
        "processor",
    )
    .dump_options("--cpu-cap")
    .restore_options("--cpu-cap")
    .only(Where::If(
        "[ $(uname -m) = x86_64 ]",
        "the words are those of x86",
    )),
];
