//! What CRI-O and podman read to know our runtimes and hooks.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::change::{Change, Wanted};

/// CRI-O's file of ours.
pub const CRI_O: &str = "/etc/crio/crio.conf.d/50-restow.conf";
/// podman's file of ours.
pub const PODMAN: &str = "/etc/containers/containers.conf.d/50-restow.conf";

/// Where podman and CRI-O look for OCI hooks.
const HOOKS: &str = "/usr/share/containers/oci/hooks.d";
/// The shipped descriptions of ours, with their names there, and where they say that our programs are.
const SHIPPED_HOOKS: [(&str, &str); 3] = [
    (
        "restow-create.json",
        include_str!("../../../deploy/hooks.d/restow-create.json"),
    ),
    (
        "restow-poststop.json",
        include_str!("../../../deploy/hooks.d/restow-poststop.json"),
    ),
    (
        "restow-precreate.json",
        include_str!("../../../deploy/hooks.d/restow-precreate.json"),
    ),
];
const SHIPPED_DIRECTORY: &str = "/usr/local/lib/restow/";

const HEADER: &str = "# Made by `restow install`; `restow uninstall` removes it.\n";

/// A runtime of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// What users call it.
    pub name: String,
    /// Its program, as the node has it.
    pub program: PathBuf,
}

/// CRI-O's runtime handlers. Annotations of pods get into specs there without being named.
#[must_use]
pub fn cri_o(runtimes: &[Runtime]) -> Change {
    let mut text = HEADER.to_owned();
    for runtime in runtimes {
        let _ = write!(
            text,
            "\n[crio.runtime.runtimes.{}]\nruntime_path = \"{}\"\nruntime_type = \"oci\"\nruntime_root = \"/run/{0}\"\n",
            runtime.name,
            runtime.program.display()
        );
    }
    file(CRI_O, text, "CRI-O's runtime handlers")
}

/// podman's runtimes: each real one keeps its name, and has ours before it. podman writes the name into archives of
/// containers, and restores them with a runtime of that name only.
///
/// `runtimes` are ours with the real ones that they stand before, as the node has them.
#[must_use]
pub fn podman(runtimes: &[(Runtime, PathBuf)]) -> Change {
    let mut text = format!("{HEADER}\n[engine.runtimes]\n");
    for (runtime, real) in runtimes {
        let _ = writeln!(
            text,
            "{} = [\"{}\", \"{}\"]",
            runtime.name,
            runtime.program.display(),
            real.display()
        );
    }
    file(PODMAN, text, "podman's runtimes")
}

/// The OCI hooks, whose program is in `directory` of the node.
#[must_use]
pub fn hooks(directory: &Path) -> Vec<Change> {
    let directory = format!("{}/", directory.display());
    let hooks = SHIPPED_HOOKS.iter().map(|(name, text)| {
        let text = text.replace(SHIPPED_DIRECTORY, &directory);
        file(
            &format!("{HOOKS}/{name}"),
            text,
            "an OCI hook for podman and CRI-O",
        )
    });
    hooks.collect()
}

fn file(path: &str, text: String, what: &str) -> Change {
    Change {
        path: Path::new(path).to_owned(),
        wanted: Wanted::File(text),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cri_o_is_told_of_no_annotation() {
        // It takes none but its own there, and does not start otherwise.
        let shipped = include_str!("../../../deploy/cri-o/50-restow.conf");
        let runtime = Runtime {
            name: "restow".to_owned(),
            program: PathBuf::from("/usr/local/lib/restow/restow-runtime"),
        };
        let Wanted::File(made) = cri_o(&[runtime]).wanted else {
            panic!("It is a file");
        };
        for text in [shipped, &made] {
            assert!(text.contains("runtimes.restow]"), "{text}");
            assert!(!text.contains("allowed_annotations"), "{text}");
        }
    }
}
