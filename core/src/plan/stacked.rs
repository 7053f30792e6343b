//! Mounts that are stacked on one mount point.
//!
//! The runtime names each of them to CRIU by its mount point, and CRIU takes the last source of several for one key
//! (`criu/mount.c`, `ext_mount_lookup`), so that all would be the same one. Those below the topmost get keys of their own.

use std::collections::BTreeMap;

use crate::ids::{HostPath, MountId};
use crate::source::Mount;
use crate::target::Target;

/// What one external mount gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// `None` when the new pod has nothing at the mount point.
    pub(super) source: Option<HostPath>,
    /// Others that have the same key are mounted over it.
    pub(super) below: bool,
}

/// The source of each external mount. Stacks are joined from the top, which is what can be seen; where the new pod stacks
/// fewer, those at the bottom all get its lowest.
pub(super) fn sources(mounts: &[Mount], target: &Target) -> BTreeMap<MountId, Given> {
    let mut stacks: BTreeMap<&str, Vec<&Mount>> = BTreeMap::new();
    for mount in mounts {
        if let Some(key) = mount.ext_key.as_deref() {
            stacks.entry(key).or_default().push(mount);
        }
    }
    let mut given = BTreeMap::new();
    for (key, mut stack) in stacks {
        if stack.len() > 1 {
            // Each sits on the one below; the image may have them in any order.
            stack.sort_by_cached_key(|mount| depth(mount, mounts));
        }
        let sources = target.mounts.iter().filter(|mount| mount.key == key);
        let sources: Vec<&HostPath> = sources.map(|mount| &mount.source).collect();
        for (from_top, mount) in stack.into_iter().rev().enumerate() {
            let nth = sources.len().saturating_sub(from_top + 1);
            let source = sources.get(nth).map(|source| (*source).clone());
            let below = from_top > 0;
            given.insert(mount.id, Given { source, below });
        }
    }
    given
}

/// How many mounts are below this one at the same mount point.
fn depth(mount: &Mount, mounts: &[Mount]) -> usize {
    let mut at = mount;
    // No more than there are, whatever a checkpoint says of its mounts.
    for depth in 0..mounts.len() {
        let mut all = mounts.iter();
        let parent = all.find(|other| other.id == at.parent && other.id != at.id);
        match parent.filter(|parent| parent.mount_point == mount.mount_point) {
            Some(parent) => at = parent,
            None => return depth,
        }
    }
    mounts.len()
}
