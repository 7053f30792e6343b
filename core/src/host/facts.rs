//! What is at the paths that a plan wants to know about.
//!
//! The planner names paths ([`Questions`]) and takes the answers as facts; this is where they are looked up, for the
//! interposer and for `restow plan` alike.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::carry::is_empty;
use super::{Failed, absent_as_none, fact_of, look_up, network, open_in, own_dir, watched_object};
use crate::ids::HostPath;
use crate::plan::{self, Lookup, Plan, Questions};
use crate::policy::Policy;
use crate::shares::in_shares;
use crate::source::Source;
use crate::target::{FileFact, Target, TargetNetwork};

/// Looks at everything the plan wants to know about, and plans.
///
/// # Errors
/// When the kernel does not let us look at a path for another reason than its absence.
pub fn plan(source: &Source, target: &mut Target, policy: &Policy) -> Result<Plan, Failed> {
    gather(source, target, policy)?;
    Ok(plan::plan(source, target, policy))
}

/// Looks at everything the plan wants to know about.
///
/// # Errors
/// When the kernel does not let us look at a path for another reason than its absence.
pub fn gather(source: &Source, target: &mut Target, policy: &Policy) -> Result<(), Failed> {
    target.maps = policy.maps.clone();
    plan::place_container(source, target);
    let asked = Questions::of(source, target, policy);
    for directory in asked.directories {
        let empty = is_empty(&directory).map_err(failed("read", &directory))?;
        target.empty.insert(directory, empty);
    }
    let to_come = ToCome::new(asked.cgroups_to_come);
    let mut lookups = asked.files.into_iter();
    let mut facts = Vec::with_capacity(lookups.len());
    loop {
        let batch: Vec<Lookup> = lookups.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let found = look_up_all(&batch)?;
        for (lookup, (path, fact)) in batch.iter().zip(found) {
            let promised =
                || to_come.promises(&path) || plan::is_carried(source, target, policy, lookup);
            if fact.is_some() || !promised() {
                facts.push((path, fact));
            }
        }
    }
    // As a whole: one by one, in order, they would fill little more than half of the map's memory.
    target.files.append(&mut facts.into_iter().collect());
    for lookup in asked.watches {
        let path = lookup.path();
        let found = watched_object(&lookup).map_err(failed("watch", &path))?;
        let promised =
            || to_come.promises(&path) || plan::is_carried(source, target, policy, &lookup);
        if found.is_some() || !promised() {
            target.watched.insert(path, found);
        }
    }
    // Without one of its own, the container has the runtime's, which is this process's.
    let shared = || (!source.sockets.own_network).then(|| HostPath::new("/proc/self/ns/net"));
    let sockets = !source.sockets.inet.is_empty() || !source.sockets.unix.is_empty();
    let namespace = target.network_namespace.clone().or_else(shared);
    if let Some(path) = namespace.filter(|_| sockets) {
        let failed = || failed("look into the network namespace", &path);
        let namespace = File::open(&path).map_err(failed())?;
        let addresses = network::addresses(&namespace).map_err(failed())?;
        let known = target.network.insert(TargetNetwork {
            addresses,
            ..TargetNetwork::default()
        });
        let asked = plan::endpoints(source, known);
        known.trials = network::try_endpoints(&namespace, &asked).map_err(failed())?;
    }
    Ok(())
}

/// Cgroups that do not exist yet. What is in them cannot be looked at, but foretold: the kernel makes the same files in all
/// cgroups below one.
struct ToCome(BTreeSet<HostPath>);

impl ToCome {
    fn new(made: BTreeSet<HostPath>) -> Self {
        let absent = made.into_iter().filter(|dir| !dir.as_path().exists());
        Self(absent.collect())
    }

    /// Whether something is going to be at a path where nothing is.
    fn promises(&self, path: &HostPath) -> bool {
        let Some(dir) = path.parent().filter(|dir| self.0.contains(dir)) else {
            return self.0.contains(path);
        };
        self.0.contains(path) || appears(&dir, &path.name())
    }
}

/// Whether a file is going to be in a cgroup that is made at `dir`: it is in one beside it, or in the one above (the root
/// has files of its own, and has not all).
fn appears(dir: &HostPath, name: &str) -> bool {
    let mut above = dir.parent();
    while let Some(parent) = above {
        if parent.as_path().is_dir() {
            let beside = std::fs::read_dir(&parent).into_iter().flatten().flatten();
            let mut there = beside.map(|entry| entry.path().join(name));
            return there.any(|file| file.exists()) || parent.as_path().join(name).exists();
        }
        above = parent.parent();
    }
    false
}

/// So many paths are looked at before what was found is taken in: memory for more would be needed at once.
const BATCH: usize = 16_384;

/// The whole path and what is there, of each, in the same order. The kernel answers on several processors at once.
fn look_up_all(lookups: &[Lookup]) -> Result<Vec<(HostPath, Option<FileFact>)>, Failed> {
    let shares = in_shares(lookups, look_up_each);
    let mut found = Vec::with_capacity(lookups.len());
    for share in shares {
        found.extend(share?);
    }
    Ok(found)
}

fn look_up_each(lookups: &[Lookup]) -> Result<Vec<(HostPath, Option<FileFact>)>, Failed> {
    let mut looker = Looker::default();
    let found = lookups.iter().map(|lookup| {
        let path = lookup.path();
        let fact = looker.look_up(lookup).map_err(failed("look at", &path))?;
        Ok((path, fact))
    });
    found.collect()
}

/// Looks at one path after the other. The directory of one stays open for the next in it: with many open files, they are
/// mostly in few directories.
#[derive(Default)]
struct Looker {
    /// Below which root which directory it is; nothing when it does not exist.
    open: Option<(HostPath, PathBuf, Option<OwnedFd>)>,
}

impl Looker {
    /// As [`look_up`].
    fn look_up(&mut self, lookup: &Lookup) -> io::Result<Option<FileFact>> {
        let (Some(parent), Some(name)) = (lookup.rest.parent(), lookup.rest.file_name()) else {
            return look_up(lookup);
        };
        let Some(dir) = self.directory(&lookup.root, parent)? else {
            return Ok(None);
        };
        match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // It may lead anywhere, and is followed inside the root only.
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFLNK => look_up(lookup),
            Ok(stat) => Ok(Some(fact_of(&stat))),
            Err(errno) => absent_as_none(errno.into()),
        }
    }

    fn directory(&mut self, root: &HostPath, path: &Path) -> io::Result<Option<&OwnedFd>> {
        let known = self.open.as_ref().is_some_and(|(known, directory, _)| {
            known == root && directory.as_os_str() == path.as_os_str()
        });
        if !known {
            let opened = open_in(root.as_path(), path)
                .map(Some)
                .or_else(absent_as_none)?;
            self.open = Some((root.clone(), path.to_path_buf(), opened));
        }
        Ok(self
            .open
            .as_ref()
            .and_then(|(_, _, opened)| opened.as_ref()))
    }
}

fn failed(action: &'static str, path: &HostPath) -> impl FnOnce(io::Error) -> Failed {
    own_dir::failed(action, path.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::WORTH_A_THREAD;

    #[test]
    fn what_is_found_is_in_the_order_that_was_asked_and_the_first_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostPath::new(dir.path());
        let count = 4 * WORTH_A_THREAD + 1;
        let name = |number: usize| format!("{}/{number}", number % 7);
        for number in 0..count {
            let path = dir.path().join(name(number));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if number % 3 != 0 {
                std::fs::write(path, vec![0; number]).unwrap();
            }
        }
        let lookup = |rest: String| Lookup {
            root: root.clone(),
            rest: rest.into(),
        };
        let mut lookups: Vec<Lookup> = (0..count).map(|number| lookup(name(number))).collect();
        let found = look_up_all(&lookups).unwrap();
        assert_eq!(found.len(), count);
        for (number, (path, fact)) in found.into_iter().enumerate() {
            assert_eq!(path, root.join(Path::new(&name(number))));
            let size = fact.map(|fact| fact.size);
            assert_eq!(size, (number % 3 != 0).then_some(number as u64));
        }
        lookups[WORTH_A_THREAD / 2] = lookup("x".repeat(300));
        lookups[3 * WORTH_A_THREAD] = lookup("y".repeat(300));
        let error = look_up_all(&lookups).unwrap_err();
        assert!(error.to_string().contains("/xxx"), "{error}");
    }

    #[test]
    fn files_of_a_cgroup_to_come_are_those_of_the_ones_around_it() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        std::fs::create_dir_all(pod.join("sandbox")).unwrap();
        std::fs::write(pod.join("sandbox/cgroup.events"), "").unwrap();
        std::fs::write(pod.join("cpu.stat"), "").unwrap();
        let at = |path: &str| HostPath::new(pod.join(path));
        let made = ["", "sandbox", "new", "new/sub"].map(at);
        let to_come = ToCome::new(made.into());
        for path in [
            "new",
            "new/cgroup.events",
            "new/cpu.stat",
            "new/sub",
            "new/sub/cpu.stat",
        ] {
            assert!(to_come.promises(&at(path)), "{path}");
        }
        for path in [
            "new/memory.max",
            "new/other/cpu.stat",
            "sandbox/memory.max",
            "x",
        ] {
            assert!(!to_come.promises(&at(path)), "{path}");
        }
    }
}
