//! What the planner wants to know of the node before it plans.

use std::collections::BTreeSet;

use super::resolve::{Lookup, Resolver};
use super::{carry, explicit, files, mounts, placement, sockets, watches};
use crate::ids::HostPath;
use crate::policy::Policy;
use crate::shares::in_shares;
use crate::source::{OpenFile, Source};
use crate::target::Target;

/// The paths that [`super::plan`] needs facts about. An edge looks ([`crate::host::facts`]) and puts the answers into the target.
#[derive(Debug, Default)]
pub struct Questions {
    /// What is there? ([`Target::files`])
    pub files: BTreeSet<Lookup>,
    /// What would a watch on it watch? ([`Target::watched`])
    pub watches: BTreeSet<Lookup>,
    /// Is it empty? ([`Target::empty`])
    pub directories: BTreeSet<HostPath>,
    /// No questions: cgroups that are there when the container is restored, and may not be yet.
    pub cgroups_to_come: BTreeSet<HostPath>,
}

impl Questions {
    /// Those that a restore of `source` in `target` raises.
    pub fn of(source: &Source, target: &Target, policy: &Policy) -> Self {
        let resolver = Resolver::new(source, target);
        let open: Vec<&OpenFile> = source.open_files().collect();
        let of_files = in_shares(&open, |files| -> Vec<Lookup> {
            files
                .iter()
                .filter_map(|file| files::lookup(&resolver.resolve(file)).cloned())
                .collect()
        });
        let mut asked: BTreeSet<Lookup> = of_files.into_iter().flatten().collect();
        asked.extend(mounts::lookups(source, target, &resolver));
        asked.extend(explicit::lookups(target));
        asked.extend(sockets::lookups(source, &resolver));
        Self {
            files: asked,
            watches: watches::lookups(source, &resolver).into_iter().collect(),
            directories: carry::directories(source, target),
            cgroups_to_come: placement::to_make(source, target, policy, &resolver),
        }
    }
}
