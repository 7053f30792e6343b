//! Cgroups of strangers: a container that sits in the root of version 1 hierarchies which others use too.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::container::Container;
use crate::node::{Node, remove_tree};

/// The name that all of them are below, and that nothing else has.
pub const FOREIGN: &str = "foreign-to-the-container";

/// Cgroups in version 1 hierarchies of a node, below directories of their own. Dropping this removes them.
#[derive(Debug)]
pub struct ForeignCgroups(Vec<PathBuf>);

impl ForeignCgroups {
    /// Makes `count` in all, shared out among the hierarchies with these controllers.
    pub fn make(node: &Node, controllers: &[&str], count: usize) -> Result<Self> {
        let mut made = Self(Vec::new());
        let roots: Vec<PathBuf> = controllers
            .iter()
            .filter_map(|controller| node.cgroup_v1_root(controller))
            .map(|root| root.join(FOREIGN))
            .collect();
        ensure!(
            !roots.is_empty(),
            "This host has none of the version 1 hierarchies {controllers:?}"
        );
        for root in &roots {
            fs::create_dir(root).with_context(|| format!("Make the cgroup {}", root.display()))?;
            made.0.push(root.clone());
        }
        for number in 0..count {
            let path = roots[number % roots.len()].join(format!("service-{number}"));
            fs::create_dir(&path).with_context(|| format!("Make the cgroup {}", path.display()))?;
        }
        Ok(made)
    }
}

impl Drop for ForeignCgroups {
    fn drop(&mut self) {
        for root in &self.0 {
            if let Err(error) = remove_tree(root, Duration::from_secs(10)) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Moves a container's tasks to the node's root in every version 1 hierarchy, where the tasks of a real node are whose runtime uses
/// version 2 only. The container has to have the node's cgroup namespace: in one of its own that began elsewhere, CRIU takes such a
/// place for a mistake.
pub fn sit_in_roots(node: &Node, container: &Container<'_>) -> Result<()> {
    let procs = container.cgroup_dir().join("cgroup.procs");
    let tasks = fs::read_to_string(&procs).with_context(|| format!("Read {}", procs.display()))?;
    for hierarchy in node.state().cgroups.v1_hierarchies() {
        // Of co-mounted controllers any names the hierarchy.
        let controller = hierarchy.split(',').next().unwrap_or(hierarchy);
        let Some(root) = node.cgroup_v1_root(controller) else {
            continue;
        };
        for task in tasks.lines() {
            let path = root.join("cgroup.procs");
            fs::write(&path, task)
                .with_context(|| format!("Move process {task} to {}", path.display()))?;
        }
    }
    Ok(())
}
