//! OCI specs as containerd's CRI plugin writes them.

use serde_json::{Value, json};

use crate::node::CgroupView;

/// Whether a container has a cgroup namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupNamespace {
    /// Its own: `/proc/self/cgroup` is `0::/`.
    Private,
    /// The node's.
    Host,
}

/// A bind mount.
#[derive(Clone, Debug)]
pub struct Bind {
    /// A path of the node.
    pub source: String,
    /// A path of the container.
    pub target: String,
    /// Whether the container cannot write there.
    pub readonly: bool,
}

impl Bind {
    /// A writable bind mount.
    #[must_use]
    pub fn new(source: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            target: target.into(),
            readonly: false,
        }
    }

    /// The same, read-only.
    #[must_use]
    pub fn readonly(mut self) -> Self {
        self.readonly = true;
        self
    }

    fn json(&self) -> Value {
        let access = if self.readonly { "ro" } else { "rw" };
        json!({"destination": self.target, "type": "bind", "source": self.source, "options": ["rbind", "rprivate", access]})
    }
}

/// What decides a spec.
#[derive(Debug)]
pub struct SpecInput<'a> {
    /// The program and its arguments.
    pub args: &'a [String],
    /// The sandbox's process 1 in the node, or nothing for the sandbox itself.
    pub sandbox: Option<i32>,
    /// The host name, which only the sandbox sets.
    pub hostname: &'a str,
    /// The cgroup below the node's root.
    pub cgroups_path: &'a str,
    /// Whose cgroup namespace.
    pub cgroup_namespace: CgroupNamespace,
    /// What the node mounts: version 1 containers share its cgroup namespace.
    pub cgroup_view: CgroupView,
    /// Bind mounts of kubelet, sandbox and volumes, in order.
    pub binds: &'a [Bind],
    /// Everything allowed, cgroups writable.
    pub privileged: bool,
    /// Read-only root, hardly a capability, seccomp, no new privileges.
    pub hardened: bool,
    /// The user and group that its process is started as.
    pub user: u32,
    /// `linux.resources` beside the device rules.
    pub resources: &'a Value,
    /// All annotations.
    pub annotations: &'a Value,
}

/// The capabilities of a container that asks for none.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What a container that is not privileged does not see.
pub(crate) const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What a container that is not privileged cannot write.
pub(crate) const READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The spec for `input`.
#[must_use]
pub fn spec(input: &SpecInput) -> Value {
    let access = if input.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", access]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
    ];
    mounts.extend(input.binds.iter().map(Bind::json));
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": input.user, "gid": input.user, "additionalGids": [input.user]},
            "args": input.args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", format!("HOSTNAME={}", input.hostname)],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "noNewPrivileges": false,
        },
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "annotations": input.annotations,
        "linux": {
            "resources": input.resources,
            "cgroupsPath": input.cgroups_path,
            "namespaces": namespaces(input),
        },
    });
    if input.privileged {
        let all: Vec<&str> = CAPABILITIES
            .iter()
            .copied()
            .chain(["CAP_SYS_ADMIN"])
            .collect();
        spec["process"]["capabilities"] =
            json!({"bounding": all, "effective": all, "permitted": all});
    } else {
        spec["linux"]["maskedPaths"] = json!(MASKED);
        spec["linux"]["readonlyPaths"] = json!(READONLY);
    }
    if input.hardened {
        harden(&mut spec);
    }
    if input.sandbox.is_none() {
        spec["hostname"] = json!(input.hostname);
    }
    let allow = if input.privileged {
        json!([{"allow": true, "access": "rwm"}])
    } else {
        json!([{"allow": false, "access": "rwm"}])
    };
    spec["linux"]["resources"]["devices"] = allow;
    spec
}

/// What a pod asks for that follows the strictest of Kubernetes's security standards, but for the user.
fn harden(spec: &mut Value) {
    spec["root"]["readonly"] = json!(true);
    spec["process"]["noNewPrivileges"] = json!(true);
    let capabilities = ["CAP_KILL"];
    spec["process"]["capabilities"] =
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{
            "names": ["add_key", "keyctl", "request_key", "bpf", "mount", "umount2", "pivot_root", "reboot", "kexec_load", "userfaultfd"],
            "action": "SCMP_ACT_ERRNO",
        }],
    });
}

fn namespaces(input: &SpecInput) -> Vec<Value> {
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"})];
    for kind in ["ipc", "uts", "network"] {
        let mut namespace = json!({"type": kind});
        if let Some(pid) = input.sandbox {
            let file = if kind == "network" { "net" } else { kind };
            namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
        namespaces.push(namespace);
    }
    if input.cgroup_namespace == CgroupNamespace::Private && input.cgroup_view == CgroupView::V2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    namespaces
}
