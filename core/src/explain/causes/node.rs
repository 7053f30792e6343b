//! The node: kernel, CRIU, programs, options.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "cpu-lacks-features",
        lines: &[
            "CPU instruction capabilities do not match run time",
            "CPU capabilities do not match run time",
            "CPU xfeatures has unsupported bits ({_})",
            "CPU xsave size mismatch ({_})",
            "CPU xsave max size mismatch ({_})",
            "FPU feature required by image is not supported on host ({_})",
        ],
        object: "processor",
        meaning: "it lacks instructions or registers that the processor of the checkpoint has",
        remedy: "restore on a node of the same kind or a newer one; CRIU's option cpu-cap=none ignores it, and programs may then die",
        ..Cause::NEW
    },
    Cause {
        name: "cpuinfo-missing",
        lines: &["No cpuinfo image"],
        object: "checkpoint",
        meaning: "the restore is to compare processors, and the checkpoint says nothing about its own",
        remedy: "checkpoint with cpu-cap as well, or restore without it",
        ..Cause::NEW
    },
    Cause {
        name: "lsm-differs",
        lines: &[
            "mismatched lsm types and lsm profile specified",
            "apparmor LSM specified but apparmor not supported by kernel",
            "selinux LSM specified but selinux not supported by kernel",
            "unknown lsm {lsm}",
            "can't write lsm profile {_}",
            "can't render profile {_} for lsmtype {_}",
        ],
        object: "[process {pid}: ]security profile",
        meaning: "the process had an AppArmor profile or SELinux label, and this node has no such security module or not this profile",
        remedy: "load the profile on the node, restore on a node with the same security module, or name another (CRIU's option lsm-profile)",
        ..Cause::NEW
    },
    Cause {
        name: "inherited-fd-wrong",
        lines: &[
            "Invalid inherit fd argument: {argument}",
            "Can't fstat inherit fd {argument}: {error}",
        ],
        object: "inherit-fd {argument}",
        meaning: "the descriptor that is to take the place of a saved one is not open, or the option is not fd[[<number>]:<key>",
        remedy: "open it before criu starts; keys are paths without the leading slash, pipe:[[…], socket:[[…] or the key of an external file",
        ..Cause::NEW
    },
    Cause {
        name: "option-unknown",
        lines: &[
            "Unknown cgroups mode `{option}' selected",
            "Unknown file validation method `{option}' selected",
            "Unknown FPU mode `{option}' selected",
            "Invalid value for --network-lock: {option}",
            "invalid argument for -{option}",
            "Unknown feature {option}",
            "unknown command: {option}",
        ],
        object: "option {option}",
        meaning: "this criu does not know it",
        remedy: "look at criu --help, and into /etc/criu (default.conf, runc.conf, crun.conf) where options can come from as well",
        vague: true,
        ..Cause::NEW
    },
    Cause {
        name: "plugin-not-loaded",
        lines: &[
            "Unable to load {path}: {error}",
            "Corrupted plugin {path}",
            "Can't load plugin {path}",
            "Failed in init({_}) of \"{path}\"",
        ],
        object: "plugin {path}",
        meaning: "CRIU cannot use the plugin[: {error}]",
        remedy: "install the one that belongs to this criu, or remove it from CRIU's plugin directory (/usr/lib/criu) when no GPU is used",
        ..Cause::NEW
    },
    Cause {
        name: "program-missing",
        lines: &["execvp(\"{program}\", ...) failed: {error}"],
        object: "program {program}",
        meaning: "CRIU needs it and cannot run it: {error}",
        remedy: "install it on the node and see that the runtime's PATH has it (ip: iproute2, iptables-restore: iptables, tar: tar)",
        ..Cause::NEW
    },
    Cause {
        name: "action-script-failed",
        lines: &["Script {path} exited with {code#}"],
        object: "action script {path}",
        meaning: "it says that the operation must not go on",
        remedy: "look at what the script checks; it is named in CRIU's configuration (/etc/criu) or the runtime's",
        ..Cause::NEW
    },
    Cause {
        name: "runtime-said-no",
        lines: &["RPC client reported script error"],
        object: "runtime",
        meaning: "whoever started criu (the runtime, a hook, Restow) answered a notification with a failure",
        remedy: "look at the runtime's own message and at restow.log",
        vague: true,
        ..Cause::NEW
    },
    Cause {
        name: "tcp-repair-refused",
        lines: &[
            "Can't turn TCP repair mode ON: {error}",
            "Unable to set TCP_REPAIR: {error}",
        ],
        object: "[{holder}: ]TCP connection",
        meaning: "the kernel does not let criu look into TCP connections: {error}",
        remedy: "criu needs CAP_NET_ADMIN in the network namespace",
        ..Cause::NEW
    },
    Cause {
        name: "criu-stopped-itself",
        lines: &[
            "BUG at {place}",
            "The --root option is required to restore a mount namespace",
        ],
        object: "criu[ at {place}]",
        meaning: "it ran into a check of its own and stopped; known for the restore of a mount namespace without CRIU's option root",
        remedy: "restore through the runtime that made the checkpoint, or name a root; otherwise report it with this log",
        vague: true,
        ..Cause::NEW
    },
    super::UNFINISHED,
];
