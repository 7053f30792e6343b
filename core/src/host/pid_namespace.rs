//! Who is in a process namespace.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::parse;
use crate::ids::NsPid;

/// The ids that processes and threads have in the namespace behind a file, each with its name. Processes in namespaces below
/// it are not seen.
///
/// # Errors
/// When the file cannot be looked at. Processes that end meanwhile are left out.
pub(super) fn occupied(namespace: &Path) -> io::Result<BTreeMap<NsPid, String>> {
    let wanted = std::fs::metadata(namespace)?;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let process = entry.path();
        let same = std::fs::metadata(process.join("ns/pid"))
            .is_ok_and(|own| (own.dev(), own.ino()) == (wanted.dev(), wanted.ino()));
        if !same {
            continue;
        }
        for thread in std::fs::read_dir(process.join("task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let name = status.lines().find_map(|line| line.strip_prefix("Name:"));
            if let Some(pid) = parse::innermost_pid(&status) {
                found.insert(pid, name.unwrap_or_default().trim().to_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_its_own_namespace() {
        let found = occupied(Path::new("/proc/self/ns/pid")).unwrap();
        let own = NsPid(std::process::id());
        assert!(found.contains_key(&own), "{found:?}");
        assert!(!found[&own].is_empty());
    }
}
