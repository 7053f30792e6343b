//! What is at the paths that a plan wants to know about.
//!
//! The planner names paths ([`crate::plan::lookups`], [`crate::plan::watch_lookups`]) and takes the answers as facts; this
//! is where they are looked up, for the interposer and for `restow plan` alike.

use std::io;

use super::{look_up, watched_object};
use crate::ids::HostPath;
use crate::plan::{self, Plan};
use crate::policy::Policy;
use crate::source::Source;
use crate::target::Target;

/// A path on the node that could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {action} {path}")]
pub struct Error {
    /// What was tried.
    action: &'static str,
    /// On which path.
    path: HostPath,
    /// Why it failed.
    source: io::Error,
}

/// Looks at everything the plan wants to know about, and plans.
///
/// # Errors
/// When the kernel does not let us look at a path for another reason than its absence.
pub fn plan(source: &Source, target: &mut Target, policy: &Policy) -> Result<Plan, Error> {
    gather(source, target)?;
    Ok(plan::plan(source, target, policy))
}

/// Looks at everything the plan wants to know about.
///
/// # Errors
/// When the kernel does not let us look at a path for another reason than its absence.
pub fn gather(source: &Source, target: &mut Target) -> Result<(), Error> {
    for lookup in plan::lookups(source, target) {
        let path = lookup.path();
        let fact = look_up(&lookup).map_err(failed("look at", &path))?;
        target.files.insert(path, fact);
    }
    for lookup in plan::watch_lookups(source, target) {
        let path = lookup.path();
        let found = watched_object(&lookup).map_err(failed("watch", &path))?;
        target.watched.insert(path, found);
    }
    Ok(())
}

fn failed(action: &'static str, path: &HostPath) -> impl FnOnce(io::Error) -> Error {
    move |source| Error {
        action,
        path: path.clone(),
        source,
    }
}
