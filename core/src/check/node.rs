//! Rules about the node: criu, the kernel, the runtime.

use super::{Circumstances, Facts, Findings, Rule};

/// The oldest criu that Restow is tested with.
const TESTED: [u32; 3] = [4, 1, 0];
/// The first runc that passes CRIU the new container's cgroup.
const RUNC_WITH_CGROUP_ROOT: [u32; 3] = [1, 2, 0];

pub(super) fn check(facts: &Facts, circumstances: &Circumstances, findings: &mut Findings) {
    let node = &facts.node;
    if let Some(why) = &node.criu_missing {
        findings.blocker(Rule::NoCriu, "criu", None, why);
    }
    if let (Some(version), Some(path)) = (node.criu_version, &node.criu)
        && version < TESTED
    {
        findings.warning(
            Rule::OldCriu,
            path.display().to_string(),
            None,
            format!(
                "it is version {}; Restow is tested with 4.1 and newer",
                dotted(version)
            ),
        );
    }
    for what in &facts.unread {
        findings.warning(Rule::Unread, what, None, "it could not be looked at");
    }
    for missing in &node.kernel_missing {
        findings.blocker(
            Rule::Kernel,
            missing,
            None,
            "CRIU needs it, and it is not here",
        );
    }
    for missing in &node.capabilities_missing {
        // Without it only processes of other users are out of reach, which rule `user` tells.
        if *missing != "CAP_SYS_RESOURCE" {
            findings.blocker(
                Rule::Capability,
                *missing,
                None,
                "CRIU needs it, and this process has not got it",
            );
        }
    }
    if let Some((name, version)) = &node.runtime
        && name == "runc"
        && *version < RUNC_WITH_CGROUP_ROOT
        && circumstances.policy.is_none()
    {
        findings.warning(
            Rule::OldRuntime,
            format!("runc {}", dotted(*version)),
            None,
            "it restores a container into the cgroup of the old pod on cgroup v2",
        );
    }
}

fn dotted([major, minor, patch]: [u32; 3]) -> String {
    format!("{major}.{minor}.{patch}")
}
