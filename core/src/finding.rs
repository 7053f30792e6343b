//! What the engine has to say about one object, in words a user can act on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::host::journal::LOG;
use crate::ids::{CgroupPath, ContainerPath, MountId, NsPid};

/// How much a [`Finding`] matters, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something was changed as the rules say; nothing to do.
    Note,
    /// The container goes on, but something it had is different or gone.
    Warning,
    /// The restore does not start (or is vetoed before the container runs).
    Blocker,
}

/// The rule under which an object was treated. The names are stable: they appear in `--json` and in the docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Mounts are joined old ↔ new by container mount point.
    MountJoined,
    /// A mount that only the old pod had.
    MountGone,
    /// A mount that only the new pod has.
    MountAdded,
    /// A path that the new pod hides from its container.
    Masked,
    /// A mount or path is writable or read-only as the new pod has it.
    Access,
    /// Tasks go to the new container's cgroup.
    CgroupPlacement,
    /// A file of the container's cgroup follows the container.
    CgroupContainer,
    /// A file of the pod's cgroup follows the pod.
    CgroupPod,
    /// A file of the QoS level's cgroup follows the pod's QoS level.
    CgroupQos,
    /// A cgroup file above the QoS level is the same for both pods.
    CgroupShared,
    /// A cgroup file that does not exist for the new container.
    CgroupFileGone,
    /// A file the runtime or kubelet writes for each pod.
    RuntimeManaged,
    /// A file on a mount that the container had not got.
    Foreign,
    /// A file on a volume.
    Volume,
    /// Content of a volume that travels in the checkpoint.
    Carry,
    /// An inotify watch on something that is not a pod's own.
    Watch,
    /// The host name.
    Hostname,
    /// A process's OOM score adjustment.
    OomScore,
    /// A process's id in a namespace that is shared.
    ProcessId,
    /// A process's capabilities and users, and whether it can gain more.
    Privileges,
    /// A process's seccomp filter.
    Seccomp,
    /// A socket keeps its place, with the new pod's address instead of the old one's.
    Socket,
    /// An established TCP connection.
    Connection,
    /// What an explicit map says.
    Map,
    /// The checkpoint itself (its age, completeness, origin).
    Checkpoint,
    /// What was found after the restore, before the container ran.
    Verify,
    /// What CRIU says in its log.
    Criu,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MountJoined => "mount-joined",
            Self::MountGone => "mount-gone",
            Self::MountAdded => "mount-added",
            Self::Masked => "masked",
            Self::Access => "access",
            Self::CgroupPlacement => "cgroup-placement",
            Self::CgroupContainer => "cgroup-container",
            Self::CgroupPod => "cgroup-pod",
            Self::CgroupQos => "cgroup-qos",
            Self::CgroupShared => "cgroup-shared",
            Self::CgroupFileGone => "cgroup-file-gone",
            Self::RuntimeManaged => "runtime-managed",
            Self::Foreign => "foreign",
            Self::Volume => "volume",
            Self::Carry => "carry",
            Self::Watch => "watch",
            Self::Hostname => "hostname",
            Self::OomScore => "oom-score",
            Self::ProcessId => "process-id",
            Self::Privileges => "privileges",
            Self::Seccomp => "seccomp",
            Self::Socket => "socket",
            Self::Connection => "connection",
            Self::Map => "map",
            Self::Checkpoint => "checkpoint",
            Self::Verify => "verify",
            Self::Criu => "criu",
        })
    }
}

/// One descriptor that holds a file: process (as the container counts) and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The process, in the container's pid namespace.
    pub pid: NsPid,
    /// The descriptor's number.
    pub fd: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd {} of process {}", self.fd, self.pid)
    }
}

/// What a [`Finding`] is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Object {
    /// An open file.
    File {
        /// Where the container has it.
        path: ContainerPath,
        /// Who holds it; may be empty for a mapped file, a working directory or an executable.
        holders: Vec<Holder>,
    },
    /// An inotify watch.
    Watch {
        /// Its watch descriptor.
        wd: u32,
        /// Where the watched object is in the container, when that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<ContainerPath>,
        /// Who holds the inotify instance.
        holders: Vec<Holder>,
    },
    /// A fanotify mark.
    Mark {
        /// Where the marked object is in the container, when that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<ContainerPath>,
        /// Who holds the fanotify group.
        holders: Vec<Holder>,
    },
    /// A mount.
    Mount {
        /// Its mount point in the container.
        mount_point: ContainerPath,
        /// Its id in the checkpoint; absent for a mount only the new pod has.
        #[serde(skip_serializing_if = "Option::is_none")]
        mnt_id: Option<MountId>,
    },
    /// A socket.
    Socket {
        /// What it speaks: `tcp`, `udp`, `ip`, `unix`.
        protocol: String,
        /// The address or name it is bound to.
        local: String,
        /// The address it is connected to.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// Who holds it.
        holders: Vec<Holder>,
    },
    /// A cgroup.
    Cgroup {
        /// Its path.
        path: CgroupPath,
    },
    /// A process of the container.
    Process {
        /// Its id in the container's pid namespace.
        pid: NsPid,
    },
    /// The host name.
    Hostname,
    /// An explicit map.
    Map {
        /// The map, as it is written.
        map: String,
        /// Where it is said.
        place: String,
    },
    /// The checkpoint as a whole.
    Checkpoint,
    /// What CRIU's log names.
    Reported {
        /// As people read it: `fd 3 of process 12: file /var/lib/app`.
        name: String,
    },
}

/// More holders than this are counted, not listed.
const LISTED_HOLDERS: usize = 4;

fn list_holders(f: &mut fmt::Formatter<'_>, holders: &[Holder]) -> fmt::Result {
    for (index, holder) in holders.iter().take(LISTED_HOLDERS).enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{holder}")?;
    }
    if holders.len() > LISTED_HOLDERS {
        write!(f, " and {} more", holders.len() - LISTED_HOLDERS)?;
    }
    Ok(())
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, holders } if holders.is_empty() => write!(f, "file {path}"),
            Self::File { path, holders } => {
                list_holders(f, holders)?;
                write!(f, " on {path}")
            }
            Self::Watch { wd, path, holders } => {
                write!(f, "watch {wd}")?;
                if let Some(path) = path {
                    write!(f, " on {path}")?;
                }
                if !holders.is_empty() {
                    f.write_str(" of ")?;
                }
                list_holders(f, holders)
            }
            Self::Mark { path, holders } => {
                f.write_str("fanotify mark")?;
                if let Some(path) = path {
                    write!(f, " on {path}")?;
                }
                if !holders.is_empty() {
                    f.write_str(" of ")?;
                }
                list_holders(f, holders)
            }
            Self::Mount {
                mount_point,
                mnt_id: Some(id),
            } => write!(f, "mount {mount_point} (mnt_id {id})"),
            Self::Mount {
                mount_point,
                mnt_id: None,
            } => write!(f, "mount {mount_point}"),
            Self::Socket {
                protocol,
                local,
                peer,
                holders,
            } => {
                list_holders(f, holders)?;
                let space = if holders.is_empty() { "" } else { ", " };
                write!(f, "{space}{protocol} socket {local}")?;
                peer.iter()
                    .try_for_each(|peer| write!(f, " connected to {peer}"))
            }
            Self::Cgroup { path } => write!(f, "cgroup {path}"),
            Self::Process { pid } => write!(f, "process {pid}"),
            Self::Hostname => f.write_str("host name"),
            Self::Map { map, place } => write!(f, "map {map} ({place})"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Reported { name } => f.write_str(name),
        }
    }
}

/// One object, what will be done with it, and why.
///
/// Its text is one line: `blocker: fd 7 of process 12 on /sys/fs/cgroup/cpu.max: … [cgroup-file-gone]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub object: Object,
    /// What was found and what is done about it; no trailing period.
    pub text: String,
    /// What a user can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
    /// The rule that applied.
    pub rule: Rule,
}

impl Finding {
    /// A note.
    pub fn note(rule: Rule, object: Object, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            object,
            text: text.into(),
            way_out: None,
            rule,
        }
    }

    /// A warning.
    pub fn warning(rule: Rule, object: Object, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            object,
            text: text.into(),
            way_out: None,
            rule,
        }
    }

    /// A blocker.
    pub fn blocker(rule: Rule, object: Object, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Blocker,
            object,
            text: text.into(),
            way_out: None,
            rule,
        }
    }
}

impl Finding {
    /// The same with what a user can do about it; in one line it follows the text.
    #[must_use]
    pub fn way_out(mut self, text: impl Into<String>) -> Self {
        self.way_out = Some(text.into());
        self
    }

    /// What was found, and what a user can do about it.
    fn words(&self) -> String {
        match &self.way_out {
            Some(way_out) => format!("{}; {way_out}", self.text),
            None => self.text.clone(),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Blocker => "blocker",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {} [{}]",
            self.severity,
            self.object,
            self.words(),
            self.rule
        )
    }
}

/// More findings than this are not listed in one text.
const LISTED_FINDINGS: usize = 8;

/// Findings in one text, for where there is room for one line only; the log has them all.
pub fn list<'a>(what: &str, findings: impl Iterator<Item = &'a Finding>) -> String {
    let all: Vec<String> = findings
        .map(|finding| format!("{}: {}", finding.object, finding.words()))
        .collect();
    let shown = all[..all.len().min(LISTED_FINDINGS)].join("; ");
    match all.len().saturating_sub(LISTED_FINDINGS) {
        0 => format!("{what}: {shown}"),
        more => format!("{what}: {shown}; and {more} more in {LOG}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_who_holds_what_under_which_rule() {
        let holders = (1..=6)
            .map(|n| Holder {
                pid: NsPid(12),
                fd: n,
            })
            .collect();
        let finding = Finding::blocker(
            Rule::CgroupFileGone,
            Object::File {
                path: ContainerPath::new("/sys/fs/cgroup/cpu.max"),
                holders,
            },
            "it does not exist for the new container",
        );
        assert_eq!(
            finding.to_string(),
            "blocker: fd 1 of process 12, fd 2 of process 12, fd 3 of process 12, fd 4 of process 12 and 2 more on \
             /sys/fs/cgroup/cpu.max: it does not exist for the new container [cgroup-file-gone]"
        );
    }
}
