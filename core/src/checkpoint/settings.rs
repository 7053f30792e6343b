//! What the node's configuration says about checkpoints.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The table `[checkpoints]` of the node's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Settings {
    /// Directories with one directory for each namespace, in which its checkpoints are. New ones are put into the first.
    pub roots: Vec<PathBuf>,
    /// Directories with archives of all namespaces, such as the kubelet's; whose an archive is, it says itself.
    pub flat_roots: Vec<PathBuf>,
    /// Whether a pod may be restored from a checkpoint of another namespace.
    pub cross_namespace: bool,
    /// Where images are unpacked. On the same file system as the roots, memory pages need not be copied.
    pub unpack: PathBuf,
    /// How large a checkpoint may be when it is unpacked, in GiB.
    pub max_size_gib: u64,
    /// How many entries an archive may have, and how many the changes of a root file system.
    pub max_entries: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roots: vec!["/var/lib/restow/checkpoints".into()],
            flat_roots: Vec::new(),
            cross_namespace: false,
            unpack: "/var/lib/restow/unpacked".into(),
            max_size_gib: 1024,
            max_entries: 4 << 20,
        }
    }
}

impl Settings {
    /// How many bytes a checkpoint may have when it is unpacked.
    #[must_use]
    pub fn max_size(&self) -> u64 {
        self.max_size_gib.saturating_mul(1 << 30)
    }
}
