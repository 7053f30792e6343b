//! The cgroups of a node, as the host sees them: one directory in every hierarchy that the host has mounted.
//!
//! A node gets a directory in the version 1 hierarchies also when it does not mount them: its tasks would otherwise sit in their
//! roots, which CRIU walks whole, so that a dump on a busy host takes seconds.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// One cgroup hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where the host has it mounted.
    pub mount: PathBuf,
    /// Controllers or `name=…` for version 1, nothing for version 2.
    pub v1: Option<String>,
}

/// Every cgroup hierarchy mounted on this host.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("Read /proc/self/mountinfo")?;
    Ok(parse_mountinfo(&text))
}

fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((fields, tail)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(root), Some(mount)) = (fields.split(' ').nth(3), fields.split(' ').nth(4)) else {
            continue;
        };
        let mut tail = tail.split(' ');
        let (Some(kind), _source, Some(options)) = (tail.next(), tail.next(), tail.next()) else {
            continue;
        };
        let v1 = match kind {
            "cgroup2" => None,
            "cgroup" => Some(
                options
                    .split(',')
                    .filter(|option| {
                        !matches!(
                            *option,
                            "rw" | "ro" | "xattr" | "noprefix" | "clone_children"
                        )
                    })
                    .filter(|option| !option.starts_with("release_agent="))
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            _ => continue,
        };
        if root == "/" && !found.iter().any(|hierarchy| hierarchy.v1 == v1) {
            found.push(Hierarchy {
                mount: PathBuf::from(mount),
                v1,
            });
        }
    }
    found
}

/// The cgroups of one node: `<hierarchy>/<name>` for each hierarchy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeCgroups {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

/// The cgroup below the node's own in which its own programs run, as a service would on a real node: in version 2 a cgroup with
/// processes cannot hand controllers to its children.
const SYSTEM_SLICE: &str = "system.slice";

impl NodeCgroups {
    /// Names, without creating, the cgroups of the node `name`.
    pub fn of(name: &str) -> Result<Self> {
        let hierarchies = hierarchies()?;
        if !hierarchies.iter().any(|hierarchy| hierarchy.v1.is_none()) {
            bail!(
                "No cgroup2 file system is mounted on this host: mount one (mount -t cgroup2 none /sys/fs/cgroup) and try again"
            );
        }
        Ok(Self {
            name: name.to_owned(),
            hierarchies,
        })
    }

    /// The node's root in the version 2 hierarchy, as a path of the host.
    #[must_use]
    pub fn v2(&self) -> PathBuf {
        self.roots()
            .find(|(hierarchy, _)| hierarchy.v1.is_none())
            .map(|(_, path)| path)
            .unwrap_or_default()
    }

    /// The node's root in the version 1 hierarchy that has `controller`, as a path of the host.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.roots()
            .find(|(hierarchy, _)| {
                hierarchy
                    .v1
                    .as_ref()
                    .is_some_and(|names| names.split(',').any(|name| name == controller))
            })
            .map(|(_, path)| path)
    }

    /// The version 1 hierarchies, for a node that mounts them.
    pub fn v1_hierarchies(&self) -> impl Iterator<Item = &str> {
        self.hierarchies
            .iter()
            .filter_map(|hierarchy| hierarchy.v1.as_deref())
    }

    fn roots(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies
            .iter()
            .map(|hierarchy| (hierarchy, hierarchy.mount.join(&self.name)))
    }

    /// Creates them.
    pub fn create(&self) -> Result<()> {
        for (hierarchy, path) in self.roots() {
            let make = |dir: &Path| {
                fs::create_dir_all(dir).with_context(|| {
                    format!(
                        "Create the cgroup {} (are you root, and is the hierarchy mounted writable?)",
                        dir.display()
                    )
                })
            };
            make(&path)?;
            let names = hierarchy.v1.as_deref().unwrap_or_default();
            if names.split(',').any(|name| name == "cpuset") {
                inherit_cpuset(&path)?;
            }
            make(&path.join(SYSTEM_SLICE))?;
        }
        Ok(())
    }

    /// Moves the calling process into the node's root cgroups, from where a cgroup namespace shows them as `/`.
    pub fn enter_root(&self) -> Result<()> {
        self.roots().try_for_each(|(_, path)| enter(&path))
    }

    /// Moves the calling process to where the node's own programs run.
    pub fn enter_system(&self) -> Result<()> {
        self.roots()
            .try_for_each(|(_, path)| enter(&path.join(SYSTEM_SLICE)))
    }

    /// Hands every controller that the host offers on to the node's cgroups.
    ///
    /// Only once the node's processes have left its root: version 2 lets no process into a cgroup that hands controllers on.
    pub fn delegate_controllers(&self) -> Result<()> {
        let path = self.v2();
        let controllers = path.join("cgroup.controllers");
        let text = fs::read_to_string(&controllers)
            .with_context(|| format!("Read {}", controllers.display()))?;
        let wanted = text
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect::<Vec<_>>()
            .join(" ");
        if wanted.is_empty() {
            return Ok(());
        }
        let control = path.join("cgroup.subtree_control");
        fs::write(&control, &wanted)
            .with_context(|| format!("Write {wanted:?} to {}", control.display()))
    }

    /// Whether any of them exists.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.roots().any(|(_, path)| path.exists())
    }

    /// Removes them with everything below. The kernel lets go of a cgroup a moment after its last task is gone, so this retries.
    pub fn remove(&self) -> Result<()> {
        for (_, path) in self.roots() {
            remove_tree(&path, Duration::from_secs(10))?;
        }
        Ok(())
    }
}

/// Tasks cannot enter a cpuset that has no processors and no memory nodes. All below gets them from here, also what CRIU makes:
/// under crun it makes the container's cgroup in hierarchies that a version 2 node does not even mount.
fn inherit_cpuset(path: &Path) -> Result<()> {
    let parent = path.parent().context("A cpuset cgroup has no parent")?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(parent.join(file))
            .with_context(|| format!("Read {file} of {}", parent.display()))?;
        fs::write(path.join(file), value.trim())
            .with_context(|| format!("Write {file} of {}", path.display()))?;
    }
    let clone = path.join("cgroup.clone_children");
    fs::write(&clone, "1").with_context(|| format!("Write {}", clone.display()))
}

fn enter(path: &Path) -> Result<()> {
    let procs = path.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("Enter the cgroup {}", path.display()))
}

/// Removes a cgroup and all below it.
pub fn remove_tree(path: &Path, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match try_remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("Remove the cgroup {}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn try_remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            match try_remove_tree(&entry.path()) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_have_named_and_unified_hierarchies() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:5 - cgroup cgroup rw,xattr,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                    42 31 0:38 /x /elsewhere rw,relatime - cgroup2 cgroup2 rw\n\
                    43 31 0:40 / /tmp rw - tmpfs tmpfs rw";
        let found = parse_mountinfo(text);
        let names: Vec<_> = found
            .iter()
            .map(|hierarchy| hierarchy.v1.as_deref())
            .collect();
        assert_eq!(names, [Some("cpu,cpuacct"), Some("name=systemd"), None]);
        assert_eq!(found[2].mount, Path::new("/sys/fs/cgroup/unified"));
    }
}
