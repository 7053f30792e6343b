//! Error lines that explain nothing: consequences of an earlier one, and what is in logs of operations that succeed.

use super::pattern;

/// What CRIU writes about each function that an error passes through on its way up.
const CONSEQUENCES: &[&str] = &[
    "Dumping FAILED.",
    "Pre-dumping FAILED.",
    "Restoring FAILED.",
    "Killing processes because of failure on restore.",
    "{pid#} exited, status={_}",
    "exited, status={_}",
    "{pid#} killed by signal 9: Killed",
    "{pid#} exited with non-zero code",
    "Dump core (pid: {pid#}) failed",
    "Dump files (pid: {pid#}) failed",
    "Dump mappings (pid: {pid#}) failed",
    "Dump fs (pid: {pid#}) failed",
    "Dump ids (pid: {pid#}) failed",
    "Collect mappings (pid: {pid#}) failed",
    "Collect fds (pid: {pid#}) failed",
    "Unable to open fd={fd#} id={_}",
    "Can't open cwd",
    "Can't open root",
    "`- Can't open vma",
    "Can't make {_} id",
    "Unable to detach from {pid#}: {_}",
    "Can't retrieve FD from socket",
    "Can't retrieve FDs from socket",
    "Message reply from daemon is trimmed",
    "Namespaces dumping finished with error",
    "One of more action scripts failed",
    "Aborting restore due to {_} script ret code",
    "Couldn't open image dir {_}",
    "invalid argument for --{_}: {_}",
    "In-flight connections can be ignored with the --{_} option.",
    "For Go programs, consider using \"GODEBUG=multipathtcp=0\" to disable MPTCP",
    "For details visit https://criu.org/Deprecation",
    "Images corrupted or too old criu was used for dump.",
    "Can't dump tmpfs content",
    "Can't dump page with parasite",
    "Can't open {pid#}'s mapfile link {_}: {_}",
    "Restorer fail {_}",
    "Can't unshare net-namespace: {_}",
    "Can't remove the directory {_}",
    // A helper that outlives CRIU's first process, and so the log's last line.
    "cgroupd: recv req error: {_}",
    "Failed to lock TCP connection {_}",
    "Can't restore tmpfs content",
    "Can't wait or bad status: errno={_}",
];

/// What is in logs where nothing went wrong.
const NOISE: &[&str] = &[
    // Without CAP_SYS_RESOURCE CRIU keeps the limit that it has (criu/util.c, rlimit_unlimit_nofile).
    "rlimit: Can't setup RLIMIT_NOFILE for self: {_}",
    "Can't setup RLIMIT_NOFILE for self: {_}",
];

/// Why an error line explains nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiet {
    /// Something before it does.
    Consequence,
    /// It is in every log.
    Noise,
}

/// Whether an error line explains nothing, and why.
pub(super) fn of(message: &str) -> Option<Quiet> {
    let one_of = |patterns: &[&str]| {
        patterns
            .iter()
            .any(|pattern| pattern::find(pattern, message).is_some())
    };
    if one_of(NOISE) {
        Some(Quiet::Noise)
    } else {
        one_of(CONSEQUENCES).then_some(Quiet::Consequence)
    }
}
