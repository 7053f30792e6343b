//! Services that have to read their configuration again.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::in_root;
use super::root::NodeRoot;

/// Restarts the units `names` of the node's systemd. Containers go on running: containerd's and CRI-O's do not end with them.
///
/// # Errors
/// With the first that cannot be restarted, and what systemd says.
pub fn restart(node: &NodeRoot, names: &[String]) -> Result<()> {
    for name in names {
        let Some(program) = in_root::find(node, "systemctl") else {
            bail!("There is no systemctl on this node to restart {name} with: restart it yourself");
        };
        let what = || format!("Cannot restart {name}; see `systemctl status {name}`");
        let output = in_root::command(node, &program)
            .args(["restart", name])
            .output()
            .with_context(what)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", what(), text.trim());
        }
    }
    Ok(())
}

/// Whether the node has a program of the name, or the directory of its configuration.
#[must_use]
pub fn present(node: &NodeRoot, program: &str, directory: &str) -> bool {
    in_root::find(node, program).is_some() || node.has(Path::new(directory))
}
