//! Which criu is found, by whom, and what it says of this kernel.

use std::fs;
use std::path::{Path, PathBuf};

use restow::host::live;
use restow::host::real_program::DEFAULT_PATH;

use super::super::programs::CRIU;
use super::super::{in_root, state::Digest};
use super::own::directory;
use super::{Lines, Node};

/// The oldest that Restow is tested with.
const TESTED: [u32; 3] = [4, 1, 0];
/// In every copy of ours, of whatever version.
const OURS: &[u8] = b"RESTOW_INTERPOSED";
const INSTALL: &str = "install criu 4.1 or newer (apt-get install criu), or name it with criu = \"/path\" in /etc/restow/config.toml";

pub(super) fn examine(node: &Node<'_>, lines: &mut Lines) {
    let (ours, real) = copies(node);
    order(node, &ours, &real, lines);
    let used = match &node.config.criu {
        Some(path) => {
            let program = node.root.place(path, true).ok();
            if !program.is_some_and(|program| is_program(&program)) {
                lines.fail(
                    "criu",
                    format!("the configured criu {} cannot be run", path.display()),
                    "correct criu in /etc/restow/config.toml, or take it out to have PATH searched",
                );
                return;
            }
            path.clone()
        }
        None => {
            let Some(first) = real.first() else {
                lines.fail(
                    "criu",
                    "there is no criu on this node besides Restow's own",
                    INSTALL,
                );
                return;
            };
            first.clone()
        }
    };
    if let [first, others @ ..] = &real[..]
        && !others.is_empty()
        && node.config.criu.is_none()
    {
        let others: Vec<String> = others
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        lines.warn(
            "criu",
            format!(
                "{} is used, and {} is there too",
                first.display(),
                others.join(", ")
            ),
            "remove one, or name the right one with criu = \"/path\" in /etc/restow/config.toml",
        );
    }
    version(node, &used, lines);
}

/// All programs named criu in PATH, ours and others, in the order of PATH.
fn copies(node: &Node<'_>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut seen = Vec::new();
    let (mut ours, mut real) = (Vec::new(), Vec::new());
    for dir in DEFAULT_PATH.split(':') {
        let path = Path::new(dir).join(CRIU);
        let Ok(place) = node.root.place(&path, true) else {
            continue;
        };
        // /sbin leads to /usr/sbin, and a link of ours to our directory.
        if !is_program(&place) || seen.contains(&place) {
            continue;
        }
        let list = if is_ours(&place) {
            &mut ours
        } else {
            &mut real
        };
        list.push(path);
        seen.push(place);
    }
    (ours, real)
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_ours(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| memchr::memmem::find(&bytes, OURS).is_some())
}

/// Copies of ours in everybody's PATH: after the real one they do nothing, and an older one does other things.
fn order(node: &Node<'_>, ours: &[PathBuf], real: &[PathBuf], lines: &mut Lines) {
    let place = |path: &Path| node.root.place(path, true).ok();
    let digest = |path: &Path| place(path).and_then(|place| Digest::of_file(&place).ok());
    let installed = directory(node).and_then(|dir| digest(&dir.join(CRIU)));
    let rank = |path: &Path| {
        DEFAULT_PATH
            .split(':')
            .position(|dir| path.starts_with(dir))
    };
    for path in ours {
        let name = path.display();
        if installed.is_some() && digest(path) != installed {
            lines.warn(
                "criu",
                format!("{name} is Restow's, and not the one that is installed"),
                format!("remove {name}; `restow install --criu-in-path` puts the right one there"),
            );
        } else if let Some(first) = real.first().filter(|first| rank(first) < rank(path)) {
            lines.warn(
                "criu",
                format!(
                    "{name} is Restow's, and {} comes before it in PATH",
                    first.display()
                ),
                format!("remove {name}, or move {}", first.display()),
            );
        } else {
            lines.ok(
                "criu",
                format!("{name} is Restow's, before the real one in everybody's PATH"),
            );
        }
    }
}

fn version(node: &Node<'_>, program: &Path, lines: &mut Lines) {
    let name = program.display();
    let Some(version) = live::version_of(in_root::command(node.root, program).arg("--version"))
    else {
        lines.fail(
            "criu",
            format!("{name} does not tell its version"),
            format!("see what `{name} --version` says; a library may be missing"),
        );
        return;
    };
    let [major, minor, patch] = version;
    let text = format!("{name} is version {major}.{minor}.{patch}");
    if version < TESTED {
        lines.warn(
            "criu",
            format!("{text}; Restow is tested with 4.1 and newer"),
            INSTALL,
        );
    } else {
        lines.ok("criu", text);
    }
    let output = in_root::command(node.root, program).arg("check").output();
    match output {
        Ok(output) if output.status.success() => lines.ok("criu check", "looks good"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let mut errors = text.lines().rev().filter(|line| line.contains("Error"));
            let last = errors.next().unwrap_or("it says nothing").trim();
            lines.fail(
                "criu check",
                format!("{name} check fails: {last}"),
                "docs/errors.md has what its words mean; mostly the kernel has no CONFIG_CHECKPOINT_RESTORE, or this is not root",
            );
        }
        Err(error) => lines.fail(
            "criu check",
            format!("{name} cannot be run: {error}"),
            INSTALL,
        ),
    }
}
