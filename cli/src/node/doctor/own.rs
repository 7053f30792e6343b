//! Our own programs, the node's configuration, and where checkpoints are.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use restow::policy::NodeConfig;

use super::super::journal::{JOURNAL, Journal, Phase};
use super::super::programs::{CRIU, Layout};
use super::super::root::NodeRoot;
use super::super::state::State;
use super::{Lines, Node, config_path};

/// Others may write.
const OTHERS_WRITE: u32 = 0o022;

pub(super) fn configuration(root: &NodeRoot, lines: &mut Lines) -> Option<NodeConfig> {
    let path = config_path();
    let name = path.display();
    let place = root.place(&path, true).ok()?;
    if !place.exists() {
        lines.ok(
            "configuration",
            format!("{name} is not there, which is the default"),
        );
        return None;
    }
    guarded(&place, &path, "configuration", lines);
    match NodeConfig::read(&place) {
        Ok(config) => {
            lines.ok("configuration", format!("{name} is valid"));
            Some(config)
        }
        Err(error) => {
            lines.fail(
                "configuration",
                restow::chain(&error).trim().replace('\n', " "),
                "correct it: docs/configuration.md has every setting; until then operations on containers that ask for Restow fail",
            );
            None
        }
    }
}

/// Says when somebody else than root may change what root runs or believes.
fn guarded(place: &Path, path: &Path, check: &'static str, lines: &mut Lines) -> bool {
    let Ok(meta) = fs::metadata(place) else {
        return false;
    };
    let name = path.display();
    if meta.permissions().mode() & OTHERS_WRITE != 0 && meta.permissions().mode() & 0o1000 == 0 {
        lines.fail(
            check,
            format!("{name} can be written to by others than root"),
            format!("chmod go-w {name}"),
        );
        return false;
    }
    if meta.uid() != 0 {
        lines.fail(
            check,
            format!("{name} belongs to user {}, not to root", meta.uid()),
            format!("chown root:root {name}"),
        );
        return false;
    }
    true
}

pub(super) fn journal(root: &NodeRoot, lines: &mut Lines) -> Option<Journal> {
    match Journal::read(root) {
        Ok(Some(journal)) => {
            let (restow, phase) = (&journal.restow, journal.phase);
            match phase {
                Phase::Installed => {
                    lines.ok(
                        "installation",
                        format!("version {restow}, as {JOURNAL} says"),
                    );
                }
                Phase::Installing => lines.fail(
                    "installation",
                    "it was interrupted",
                    "run `restow install` again, or `restow uninstall`",
                ),
                Phase::Removing => lines.fail(
                    "installation",
                    "taking it back was interrupted",
                    "run `restow uninstall` again, or `restow install`",
                ),
            }
            Some(journal)
        }
        Ok(None) => None,
        Err(error) => {
            lines.fail(
                "installation",
                restow::chain(&error),
                "see whether the file can be read and is whole",
            );
            None
        }
    }
}

/// The directory of our programs, as the node has it: where the installation put them, or a package.
pub(super) fn directory(node: &Node<'_>) -> Option<PathBuf> {
    if let Some(dir) = &node.config.lib_dir {
        return Some(dir.clone());
    }
    let placed = node.journal.iter().flat_map(|journal| &journal.entries);
    let mut placed = placed.filter(|entry| entry.path.ends_with(Path::new("restow").join(CRIU)));
    let placed = placed.next().and_then(|entry| entry.path.parent());
    let packaged = || {
        let dirs =
            ["/usr/local", "/usr"].map(|prefix| Layout::below(Path::new(prefix)).directory());
        dirs.into_iter().find(|dir| node.root.has(&dir.join(CRIU)))
    };
    placed.map(Path::to_owned).or_else(packaged)
}

pub(super) fn programs(node: &Node<'_>, lines: &mut Lines) {
    let mut whole = true;
    for entry in node.journal.iter().flat_map(|journal| &journal.entries) {
        let now = node.root.place(&entry.path, false);
        let now = now
            .and_then(|place| State::at(&place))
            .unwrap_or(State::Absent);
        let name = entry.path.display();
        if now == State::Absent {
            whole = false;
            lines.fail(
                "installation",
                format!("{name} is missing ({})", entry.what),
                "run `restow install` again",
            );
        } else if !entry.marks.iter().any(|mark| mark.is(&now)) {
            whole = false;
            lines.warn(
                "installation",
                format!("{name} was changed since ({})", entry.what),
                "see that what you want is in it; `restow install` puts our part in again",
            );
        }
    }
    let Some(dir) = directory(node) else {
        lines.warn(
            "programs",
            "Restow is not installed on this node",
            "run `restow install`",
        );
        return;
    };
    let Ok(place) = node.root.place(&dir, true) else {
        return;
    };
    let Ok(entries) = fs::read_dir(&place) else {
        lines.fail(
            "programs",
            format!("{} cannot be read", dir.display()),
            "run `restow install` again; a configured lib-dir has to be there",
        );
        return;
    };
    let mut safe = guarded(&place, &dir, "programs", lines);
    for entry in entries.flatten() {
        let path = dir.join(entry.file_name());
        let Ok(meta) = fs::metadata(entry.path()) else {
            continue;
        };
        safe &= guarded(&entry.path(), &path, "programs", lines);
        if meta.permissions().mode() & 0o111 != 0o111 {
            safe = false;
            lines.fail(
                "programs",
                format!("{} cannot be run by everybody", path.display()),
                format!("chmod 755 {}", path.display()),
            );
        }
    }
    if safe && whole {
        lines.ok("programs", format!("in {}", dir.display()));
    }
}

/// Directories that pods are restored from: who can write there decides what runs.
pub(super) fn checkpoints(node: &Node<'_>, lines: &mut Lines) {
    let settings = &node.config.checkpoints;
    for root in settings.roots.iter().chain(&settings.flat_roots) {
        let name = root.display();
        let Ok(place) = node.root.place(root, true) else {
            continue;
        };
        match fs::metadata(&place) {
            Ok(meta) if meta.is_dir() => {
                if guarded(&place, root, "checkpoints", lines) {
                    lines.ok("checkpoints", format!("in {name}"));
                }
            }
            Ok(_) => lines.fail(
                "checkpoints",
                format!("{name} is no directory"),
                "correct checkpoints.roots in /etc/restow/config.toml",
            ),
            // The first is made when it is needed.
            Err(_) if settings.roots.first() == Some(root) => {
                lines.ok(
                    "checkpoints",
                    format!("in {name}, which is made with the first"),
                );
            }
            Err(_) => lines.warn(
                "checkpoints",
                format!("{name} is not there"),
                format!("mkdir -p {name}, or take it out of /etc/restow/config.toml"),
            ),
        }
    }
}
