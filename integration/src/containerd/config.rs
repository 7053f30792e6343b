//! What a node's containerd is told: `config.toml` as each version wants it.

use std::fmt::Write as _;

use super::{PAUSE_IMAGE, RESTOW_DIR, Shim, handler};
use crate::stack::Runtime;
use crate::suite::Suite;

/// A network as most clusters have it: a bridge, an address of each family, a default route.
///
/// Masquerading is left out: nothing here reaches another machine.
pub(super) const NETWORK: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "restow",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    }
  ]
}
"#;

/// `config.toml` for the containerd of `suite`.
pub(super) fn containerd(suite: Suite) -> String {
    let (version, runtime, head) = match suite {
        Suite::Stable => (
            2,
            "io.containerd.grpc.v1.cri",
            format!("sandbox_image = \"{PAUSE_IMAGE}\"\n"),
        ),
        Suite::Testing => (3, "io.containerd.cri.v1.runtime", String::new()),
    };
    let mut text = format!(
        "version = {version}\n\n[plugins.\"{runtime}\"]\n{head}\
         # What a process may do to its OOM score needs CAP_SYS_RESOURCE, which not every machine gives.\n\
         restrict_oom_score_adj = true\ndisable_apparmor = true\n\n\
         [plugins.\"{runtime}\".cni]\nconf_dir = \"/etc/cni/net.d\"\n\n\
         [plugins.\"{runtime}\".containerd]\ndefault_runtime_name = \"runc\"\n"
    );
    for oci in Runtime::ALL {
        for shim in [Shim::Stock, Shim::Restow] {
            text.push_str(&runtime_handler(runtime, oci, shim));
        }
    }
    if suite == Suite::Testing {
        let _ = write!(
            text,
            "\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"{PAUSE_IMAGE}\"\n"
        );
    }
    text
}

fn runtime_handler(plugin: &str, runtime: Runtime, shim: Shim) -> String {
    let name = handler(runtime, shim);
    let path = match shim {
        Shim::Stock => String::new(),
        Shim::Restow => format!("runtime_path = \"{RESTOW_DIR}/containerd-shim-restow-v2\"\n"),
    };
    let program = match (runtime, shim) {
        // containerd 2.1 gives `restore` a flag that crun has not got.
        (Runtime::Crun, Shim::Restow) => format!("{RESTOW_DIR}/restow-crun"),
        _ => runtime.program().to_owned(),
    };
    format!(
        "\n[plugins.\"{plugin}\".containerd.runtimes.{name}]\nruntime_type = \"io.containerd.runc.v2\"\n{path}\
         pod_annotations = [\"restow.dev/*\"]\ncontainer_annotations = [\"restow.dev/*\"]\n\
         [plugins.\"{plugin}\".containerd.runtimes.{name}.options]\nBinaryName = \"{program}\"\nSystemdCgroup = false\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration in the documentation is the one that the suite runs with, but for names and places.
    #[test]
    fn the_documented_configuration_is_this_one() {
        let text = include_str!("../../../docs/kubernetes.md");
        let blocks: Vec<&str> = text
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .collect();
        assert_eq!(blocks.len(), 2, "one for each major version");
        for (block, suite) in blocks.iter().zip([Suite::Testing, Suite::Stable]) {
            let ours = containerd(suite);
            for line in block.lines().filter(|line| !line.is_empty()) {
                let line = line
                    .replace("runtimes.restow", "runtimes.restow-runc")
                    .replace("/usr/local/lib/restow", RESTOW_DIR);
                assert!(
                    ours.lines().any(|own| own == line),
                    "{line} is not in {ours}"
                );
            }
        }
    }

    #[test]
    fn each_handler_is_there_once_and_only_restows_have_a_path() {
        for suite in Suite::ALL {
            let text = containerd(suite);
            for name in ["runc", "crun", "restow-runc", "restow-crun"] {
                let table = format!("runtimes.{name}]\n");
                assert_eq!(text.matches(&table).count(), 1, "{name} in {text}");
            }
            assert_eq!(text.matches("runtime_path").count(), 2, "{text}");
            assert_eq!(text.matches(PAUSE_IMAGE).count(), 1, "{text}");
        }
    }
}
