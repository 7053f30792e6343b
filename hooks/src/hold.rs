//! Holding a restored container back until it is started.
//!
//! `create` of an OCI runtime makes a container in which nothing has run yet; a restore lets it run at once. In between there is one
//! place where the whole tree stands still and needs no instruction of its own any more: `pre-resume`, after which CRIU
//! only detaches from the tasks (`criu/cr-restore.c`, `finalize_restore_detach`). A cgroup that is frozen there catches each task
//! before it returns to its program. criu itself and its helpers, which are in that cgroup because the tasks were born there, have to
//! leave it first: they would be frozen too. The runtime shows such a container as paused, and its `resume` starts it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use restow::host::{self, cgroup};
use restow::ids::{CgroupPath, HostPath, HostPid};
use restow::source::Hierarchy;
use restow::target::Target;

/// In the environment of `criu`: the container is to be held back. `restow-runtime` sets it; runtimes hand their environment on.
pub const VARIABLE: &str = "RESTOW_HOLD";

/// Whether the container is to be held back.
#[must_use]
pub fn asked() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// The switch that freezes a container, ready to be turned.
#[derive(Debug)]
pub struct Hold {
    hierarchy: Hierarchy,
    dir: HostPath,
    /// The restored processes.
    tasks: BTreeSet<HostPid>,
    switch: File,
    word: &'static [u8],
}

impl Hold {
    /// Finds the freezer that the runtime pauses the container with: of version 1 where the container has a cgroup of its own in
    /// it, else of version 2. `own` are the cgroups that are the container's alone, `tasks` its processes.
    ///
    /// # Errors
    /// In words, when there is none.
    pub fn ready(
        own: &BTreeMap<Hierarchy, CgroupPath>,
        tasks: BTreeSet<HostPid>,
        target: &Target,
    ) -> Result<Self, String> {
        // Hierarchies that are mounted nowhere here are nobody's freezer.
        let found = |wanted: &dyn Fn(&Hierarchy) -> bool| {
            own.iter()
                .filter(|(hierarchy, _)| wanted(hierarchy))
                .find_map(|(hierarchy, path)| {
                    Some((
                        hierarchy.clone(),
                        target.cgroup_path_on_host(hierarchy, path)?,
                    ))
                })
        };
        let v1 = |hierarchy: &Hierarchy| hierarchy.0.split(',').any(|word| word == "freezer");
        let ((hierarchy, dir), file, word) = match (found(&v1), found(&Hierarchy::is_v2)) {
            (Some(v1), _) => (v1, "freezer.state", &b"FROZEN"[..]),
            (None, Some(v2)) => (v2, "cgroup.freeze", &b"1"[..]),
            (None, None) => {
                return Err("The container has no cgroup of its own, so that it cannot be held back until it is started".into());
            }
        };
        let path = HostPath::new(dir.as_path().join(file));
        let switch = OpenOptions::new().write(true).open(path.as_path());
        let switch = switch.map_err(|error| {
            format!("The container cannot be held back until it is started: {path}: {error}")
        })?;
        Ok(Self {
            hierarchy,
            dir,
            tasks,
            switch,
            word,
        })
    }

    /// Freezes it. Every task that is stopped now is frozen when it is let go.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn freeze(&mut self, target: &Target) -> io::Result<()> {
        let own = host::cgroups(HostPid(nix::unistd::getpid().as_raw()))?;
        let place = own.get(&self.hierarchy).cloned();
        let place =
            place.ok_or_else(|| io::Error::other("the relay has no cgroup to move criu to"))?;
        let place = BTreeMap::from([(self.hierarchy.clone(), place)]);
        let procs = std::fs::read_to_string(self.dir.as_path().join("cgroup.procs"))?;
        for pid in procs
            .lines()
            .filter_map(|line| line.parse().ok().map(HostPid))
        {
            if self.tasks.contains(&pid) {
                continue;
            }
            match cgroup::move_process(pid, &place, target) {
                // A helper that has just ended.
                Err(_) if !Path::new("/proc").join(pid.to_string()).exists() => {}
                moved => moved?,
            }
        }
        self.switch.write_all(self.word)
    }
}
