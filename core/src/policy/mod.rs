//! What the pod and the node ask for: annotations on top of the node's configuration.
//!
//! * this file: the settings and their words.
//! * [`NodeConfig`]: where they come from, and what a pod may set.
//! * [`maps`]: explicit maps, which win over the rules.

mod config;
pub mod maps;

use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointName;

pub use config::{CONTAINER_NAME, Enable, Error, NodeConfig};
pub use maps::Maps;

/// Prefix of every annotation of ours.
pub const ANNOTATION_PREFIX: &str = "restow.dev/";

/// Where the node's configuration is read from unless `RESTOW_CONFIG` names another file.
pub const NODE_CONFIG: &str = "/etc/restow/config.toml";

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $first:ident = $first_text:literal, $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[allow(missing_docs, reason = "the variants are the words of the annotation, explained on the type")]
        pub enum $name { #[default] $first, $($variant),* }

        impl $name {
            const WORDS: &'static [(&'static str, Self)] = &[($first_text, Self::$first), $(($text, Self::$variant)),*];
        }

        impl Choice for $name {
            fn words() -> &'static [(&'static str, Self)] { Self::WORDS }
        }
    };
}

trait Choice: Sized + Copy + 'static {
    fn words() -> &'static [(&'static str, Self)];
}

choice!(
    /// What happens to an open cgroup file that the new container has not got: `remap` blocks the restore and names it,
    /// `ignore` makes read-only descriptors inert (reads give end of file).
    CgroupFiles { Remap = "remap", Ignore = "ignore" }
);
choice!(
    /// How tasks get into the new cgroup: `auto` lets Restow do it (right cgroup namespace on every CRIU), `soft` leaves
    /// it to CRIU with the new container as root, `ignore` is `auto` without re-creating sub-cgroups.
    ManageCgroups { Auto = "auto", Soft = "soft", Ignore = "ignore" }
);
choice!(
    /// Whose host name the container has after the restore: the new pod's (`target`) or the old one's (`source`).
    Hostname { Target = "target", Source = "source" }
);
choice!(
    /// What happens to established TCP connections with something outside the container: they end (`close`), go on with the
    /// old address, which the new pod must have (`keep`), or forbid the operation (`refuse`). Connections inside the container
    /// always go on.
    Tcp { Close = "close", Keep = "keep", Refuse = "refuse" }
);

choice!(
    /// Content of a pod's emptyDir volumes: `check` leaves it to whoever moves the pod and checks what is open of it, `carry`
    /// takes it along in the checkpoint and unpacks it at restore.
    Volumes { Check = "check", Carry = "carry" }
);

choice!(
    /// What happens when a container cannot be restored from the checkpoint that it asks for: its creation fails (`fail`), or it
    /// starts afresh, with the reason in the log (`start`).
    OnFailure { Fail = "fail", Start = "start" }
);

choice!(
    /// Processes may do in the new container what the pod's spec allows (`pod`), or what they could before (`checkpoint`). The
    /// node's to say, not the pod's.
    Privileges { Pod = "pod", Checkpoint = "checkpoint" }
);

/// The settings for one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Policy {
    /// See [`CgroupFiles`].
    pub cgroup_files: CgroupFiles,
    /// See [`ManageCgroups`].
    pub manage_cgroups: ManageCgroups,
    /// See [`Hostname`].
    pub hostname: Hostname,
    /// See [`Tcp`].
    pub tcp: Tcp,
    /// See [`Volumes`].
    pub volumes: Volumes,
    /// See [`Privileges`].
    pub privileges: Privileges,
    /// See [`OnFailure`].
    pub on_failure: OnFailure,
    /// The checkpoint that the container is restored from instead of being started.
    #[serde(skip)]
    pub restore_from: Option<RestoreFrom>,
    /// Explicit maps.
    #[serde(skip)]
    pub maps: Maps,
}

/// Which checkpoint a container is restored from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreFrom {
    /// Its name.
    pub name: CheckpointName,
    /// The annotation names this container, and not only the pod.
    pub for_container: bool,
}
