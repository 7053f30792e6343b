//! Runtimes, and what makes containers with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use restow::host::live;
use serde_json::Value;

use super::super::containerd::{DROP_IN, MAIN, plugin};
use super::super::programs::SHIM;
use super::super::snippets::{CRI_O, PODMAN};
use super::super::{in_root, services};
use super::{Lines, Node};

/// The first runc that names the new container's cgroup to criu.
const RUNC_WITH_CGROUP_ROOT: [u32; 3] = [1, 2, 0];
/// Where libcriu may be.
const LIBRARIES: [&str; 6] = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
];

pub(super) fn examine(node: &Node<'_>, lines: &mut Lines) {
    runtimes(node, lines);
    if services::present(node.root, "containerd", "/etc/containerd") {
        containerd(node, lines);
    }
    if services::present(node.root, "crio", "/etc/crio") {
        snippet(node, "CRI-O", CRI_O, "cri-o", lines);
    }
    if services::present(node.root, "podman", "/etc/containers") {
        snippet(node, "podman", PODMAN, "podman", lines);
    }
}

fn runtimes(node: &Node<'_>, lines: &mut Lines) {
    let mut some = false;
    for name in ["runc", "crun"] {
        let Some(program) = in_root::find(node.root, name) else {
            continue;
        };
        some = true;
        let shown = program.display();
        let output = in_root::command(node.root, &program)
            .arg("--version")
            .output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = live::version_of(in_root::command(node.root, &program).arg("--version"));
        let (Ok(text), Some(version)) = (text, version) else {
            lines.fail(
                "runtime",
                format!("{shown} does not tell its version"),
                format!("see what `{shown} --version` says"),
            );
            continue;
        };
        let dotted = version.map(|part| part.to_string()).join(".");
        match name {
            "crun" if !text.contains("+CRIU") => lines.warn(
                "runtime",
                format!("{shown} {dotted} is built without criu: it can neither checkpoint nor restore"),
                "use runc, or a crun whose --version says +CRIU",
            ),
            "crun" if !has_libcriu(node) => lines.warn(
                "runtime",
                format!("{shown} {dotted} finds no libcriu.so.2: it can neither checkpoint nor restore"),
                "install libcriu (apt-get install libcriu2)",
            ),
            "runc" if version < RUNC_WITH_CGROUP_ROOT => lines.ok(
                "runtime",
                format!("{shown} {dotted} (without Restow it restores into the old pod's cgroup: only containers that ask for Restow are right)"),
            ),
            _ => lines.ok("runtime", format!("{shown} {dotted}")),
        }
    }
    if !some {
        lines.fail(
            "runtime",
            "there is neither runc nor crun on this node",
            "install one (apt-get install runc)",
        );
    }
}

/// crun loads it when it is asked for a checkpoint.
fn has_libcriu(node: &Node<'_>) -> bool {
    LIBRARIES.into_iter().any(|dir| {
        let Ok(place) = node.root.place(Path::new(dir), true) else {
            return false;
        };
        // Debian has a directory for each architecture.
        let below = fs::read_dir(&place).into_iter().flatten().flatten();
        let below = below.map(|entry| entry.path()).filter(|path| path.is_dir());
        [place]
            .into_iter()
            .chain(below)
            .any(|dir| dir.join("libcriu.so.2").exists())
    })
}

const INSTALL: &str = "run `restow install --restart`";

fn containerd(node: &Node<'_>, lines: &mut Lines) {
    let Some(program) = in_root::find(node.root, "containerd") else {
        lines.warn(
            "containerd",
            "there is /etc/containerd and no containerd",
            "install it, or ignore this",
        );
        return;
    };
    let mut command = in_root::command(node.root, &program);
    if node.root.has(Path::new(MAIN)) {
        command.args(["--config", MAIN]);
    }
    let output = command.args(["config", "dump"]).output();
    let text = match &output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout),
        _ => {
            let why = output.map_or_else(
                |error| error.to_string(),
                |output| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            );
            lines.fail(
                "containerd",
                format!("it cannot read its configuration: {why}"),
                format!("correct {MAIN}"),
            );
            return;
        }
    };
    let Ok(config) = toml::from_str::<Value>(&text) else {
        lines.warn(
            "containerd",
            "what `containerd config dump` prints is not understood",
            "look at it yourself",
        );
        return;
    };
    let disabled = config["disabled_plugins"].as_array().into_iter().flatten();
    if disabled
        .filter_map(Value::as_str)
        .any(|name| name == "cri" || name.contains(".cri"))
    {
        lines.warn(
            "containerd",
            "its CRI plugin is off (disabled_plugins): the kubelet cannot use it",
            format!(
                "take cri out of disabled_plugins in {MAIN}, where Kubernetes is meant to use it"
            ),
        );
    }
    let version = config["version"].as_i64().unwrap_or(2);
    let runtimes = &config["plugins"][plugin(version)]["containerd"]["runtimes"];
    let runtimes = runtimes.as_object().into_iter().flatten();
    let ours: BTreeMap<&String, PathBuf> = runtimes
        .clone()
        .filter_map(|(name, handler)| {
            let path = Path::new(handler["runtime_path"].as_str()?);
            path.ends_with(SHIM).then(|| (name, path.to_owned()))
        })
        .collect();
    if ours.is_empty() {
        lines.warn(
            "containerd",
            "it has no runtime handler with Restow's shim",
            INSTALL,
        );
        return;
    }
    for (name, handler) in runtimes.filter(|(name, _)| ours.contains_key(name)) {
        let shim = &ours[name];
        let annotations = handler["pod_annotations"].as_array().into_iter().flatten();
        let mut annotations = annotations.filter_map(Value::as_str);
        if !node.root.has(shim) {
            lines.fail(
                "containerd",
                format!(
                    "handler {name} names {}, which is not there",
                    shim.display()
                ),
                INSTALL,
            );
        } else if !annotations.any(|one| one.starts_with("restow.dev/") || one == "*") {
            lines.fail(
                "containerd",
                format!("handler {name} lets no restow.dev/* annotation through to containers"),
                format!("add pod_annotations = [\"restow.dev/*\"] to it in {MAIN}"),
            );
        } else {
            lines.ok("containerd", format!("handler {name} has Restow's shim"));
        }
    }
    let files = [MAIN, DROP_IN].map(PathBuf::from);
    if let Some(pid) = services::older_than(node.root, "containerd", &files) {
        lines.warn(
            "containerd",
            format!("it runs (process {pid}) since before its configuration was changed"),
            "systemctl restart containerd; containers go on running",
        );
    }
}

fn snippet(node: &Node<'_>, engine: &str, path: &str, check: &'static str, lines: &mut Lines) {
    let Ok(Some(text)) = node.root.text(Path::new(path)) else {
        lines.warn(
            check,
            format!("{engine} does not know Restow's runtimes"),
            format!("run `restow install --for {check}`"),
        );
        return;
    };
    let programs = text
        .split('"')
        .filter(|word| word.starts_with('/') && word.contains("/lib/restow/"));
    let missing: Vec<&str> = programs
        .filter(|path| !node.root.has(Path::new(path)))
        .collect();
    if missing.is_empty() {
        lines.ok(check, format!("{path} names Restow's runtimes"));
    } else {
        lines.fail(
            check,
            format!("{path} names {}, which is not there", missing.join(", ")),
            "run `restow install`",
        );
    }
}
