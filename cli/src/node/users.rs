//! Processes that run a program which is to be removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::journal::Journal;
use super::programs::SHIM;
use super::root::NodeRoot;

/// Shims of ours that run, by process number. containerd calls the same program to end a container: without it, it cannot.
///
/// Only processes that this one can see count.
#[must_use]
pub fn shims(node: &NodeRoot, journal: &Journal) -> Vec<i32> {
    let installed = journal.entries.iter();
    let installed = installed.filter(|entry| entry.path.ends_with(SHIM));
    let ids: BTreeSet<(u64, u64)> = installed
        .filter_map(|entry| fs::metadata(node.place(&entry.path, true).ok()?).ok())
        .map(|meta| (meta.dev(), meta.ino()))
        .collect();
    if ids.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let processes = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // The file itself: the path may be of another mount namespace.
        let meta = fs::metadata(entry.path().join("exe")).ok()?;
        ids.contains(&(meta.dev(), meta.ino())).then_some(pid)
    });
    let mut found: Vec<i32> = processes.collect();
    found.sort_unstable();
    found
}
