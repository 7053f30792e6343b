//! The options that criu has.

/// Long options of criu 4.1 and 4.2 that take a value.
pub const WITH_VALUE: [&str; 42] = [
    "action-script",
    "address",
    "cgroup-dump-controller",
    "cgroup-props",
    "cgroup-props-file",
    "cgroup-root",
    "cgroup-yard",
    "close",
    "config",
    "empty-ns",
    "enable-fs",
    "ext-mount-map",
    "external",
    "feature",
    "file-validation",
    "freeze-cgroup",
    "ghost-limit",
    "images-dir",
    "inherit-fd",
    "irmap-scan-path",
    "join-ns",
    "libdir",
    "log-file",
    "lsm-mount-context",
    "lsm-profile",
    "network-lock",
    "pidfile",
    "port",
    "pre-dump-mode",
    "prev-images-dir",
    "ps-socket",
    "root",
    "skip-mnt",
    "status-fd",
    "timeout",
    "tls-cacert",
    "tls-cacrl",
    "tls-cert",
    "tls-key",
    "tree",
    "veth-pair",
    "work-dir",
];

/// Those that take one after `=` only.
pub const WITH_OPTIONAL_VALUE: [&str; 4] =
    ["cpu-cap", "ext-unix-sk", "manage-cgroups", "verbosity"];

/// Those that take none.
pub const WITHOUT_VALUE: [&str; 66] = [
    "all",
    "allow-uprobes",
    "auto-dedup",
    "daemon",
    "deprecated",
    "display-stats",
    "enable-external-masters",
    "enable-external-sharing",
    "evasive-devices",
    "exec-cmd",
    "experimental",
    "extra",
    "file-locks",
    "force-irmap",
    "ghost-fiemap",
    "help",
    "lazy-pages",
    "leave-running",
    "leave-stopped",
    "link-remap",
    "log-pid",
    "mntns-compat-mode",
    "ms",
    "no-allow-uprobes",
    "no-auto-dedup",
    "no-daemon",
    "no-default-config",
    "no-deprecated",
    "no-display-stats",
    "no-evasive-devices",
    "no-experimental",
    "no-extra",
    "no-file-locks",
    "no-force-irmap",
    "no-ghost-fiemap",
    "no-link-remap",
    "no-log-pid",
    "no-mntns-compat-mode",
    "no-page-server",
    "no-restore-detached",
    "no-restore-sibling",
    "no-shell-job",
    "no-skip-file-rwx-check",
    "no-skip-in-flight",
    "no-stream",
    "no-tcp-close",
    "no-tcp-established",
    "no-tls",
    "no-track-mem",
    "no-unprivileged",
    "no-weak-sysctls",
    "page-server",
    "restore-detached",
    "restore-sibling",
    "shell-job",
    "skip-file-rwx-check",
    "skip-in-flight",
    "stream",
    "tcp-close",
    "tcp-established",
    "tls",
    "tls-no-cn-verify",
    "track-mem",
    "unprivileged",
    "version",
    "weak-sysctls",
];

/// Short options with the long ones they stand for.
pub(super) const SHORT: [(u8, &str); 18] = [
    (b'd', "restore-detached"),
    (b'S', "restore-sibling"),
    (b's', "leave-stopped"),
    (b'R', "leave-running"),
    (b't', "tree"),
    (b'h', "help"),
    (b'D', "images-dir"),
    (b'o', "log-file"),
    (b'v', "verbosity"),
    (b'x', "ext-unix-sk"),
    (b'V', "version"),
    (b'r', "root"),
    (b'j', "shell-job"),
    (b'J', "join-ns"),
    (b'l', "file-locks"),
    (b'W', "work-dir"),
    (b'L', "libdir"),
    (b'M', "ext-mount-map"),
];

/// How an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Attached,
    Value,
}

pub(super) fn takes(name: &str) -> Takes {
    if WITH_VALUE.contains(&name) {
        Takes::Value
    } else if WITH_OPTIONAL_VALUE.contains(&name) {
        Takes::Attached
    } else {
        Takes::Nothing
    }
}

/// The long option that a name stands for: itself, or the only one it abbreviates.
pub(super) fn long(name: &str) -> Option<&'static str> {
    let all = || {
        WITH_VALUE
            .into_iter()
            .chain(WITH_OPTIONAL_VALUE)
            .chain(WITHOUT_VALUE)
    };
    if let Some(exact) = all().find(|known| *known == name) {
        return Some(exact);
    }
    let mut abbreviated = all().filter(|known| known.starts_with(name));
    abbreviated.next().filter(|_| abbreviated.next().is_none())
}
