//! Terminals.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "terminal-from-outside",
        lines: &[
            "Found slave peer index {index#} without correspond master peer",
            "Found dangling tty with sid {sid#} pgid {pgid#} ({terminal}) on peer fd {fd#}.",
            "Unable to find a master for {terminal}",
        ],
        object: "terminal[ /dev/pts/{index}][ {terminal}]",
        meaning: "a process of the tree uses a terminal whose other end is outside of the tree (a shell, an ssh session, kubectl exec)",
        remedy: "start the program without a terminal, end shells and `exec` sessions in the container, or checkpoint with --shell-job \
                 when the terminal is to be that of the restore",
        ..Cause::NEW
    },
    Cause {
        name: "terminal-not-inherited",
        lines: &["Don't have tty to inherit session from, aborting"],
        object: "[{holder}: ]terminal",
        meaning: "the checkpoint was made with shell-job and wants the terminal of whoever restores it, which has none",
        remedy: "restore from a terminal (not from a service), or checkpoint the program without one",
        ..Cause::NEW
    },
];
