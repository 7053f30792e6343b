//! Services that have to read their configuration again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use restow::ids::HostPid;

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

/// A process of the node with the name `program` that was started before the last of `files` was written, and has not read that.
#[must_use]
pub fn older_than(node: &NodeRoot, program: &str, files: &[PathBuf]) -> Option<i32> {
    let written = files.iter().filter_map(|path| {
        let place = node.place(path, true).ok()?;
        place.metadata().ok()?.modified().ok()
    });
    let written = written.max()?;
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot = SystemTime::UNIX_EPOCH + Duration::from_secs(boot.trim().parse().ok()?);
    let mut processes = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim() == program && is_of(node, &entry.path())).then_some(pid)
    });
    processes.find(|pid| {
        // In hundredths of a second (USER_HZ).
        let ticks = restow::host::start_time(HostPid(*pid)).unwrap_or(u64::MAX);
        let started = boot.checked_add(Duration::from_millis(ticks.saturating_mul(10)));
        // btime is rounded to seconds.
        started.is_some_and(|started| started + Duration::from_secs(1) < written)
    })
}

/// Whether a process has the node's root directory. One that may not be looked at is taken for the node's: the container of a DaemonSet
/// may look at none.
fn is_of(node: &NodeRoot, process: &Path) -> bool {
    let own = fs::metadata(node.path()).map(|meta| (meta.dev(), meta.ino()));
    match fs::metadata(process.join("root")) {
        Ok(root) => own.is_ok_and(|own| own == (root.dev(), root.ino())),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}
