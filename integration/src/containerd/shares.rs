//! containerd gives every sandbox CPU shares. On a machine whose version 2 hierarchy has no cpu controller (it is bound to version 1),
//! runtimes refuse that, so that no pod can be made on a node that sees version 2 alone. There a script stands before each runtime that
//! takes the shares out of the spec; nothing else is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};

use super::Containerd;
use crate::node::CgroupView;
use crate::stack::Runtime;

/// Before the directories of Debian's runtimes in PATH.
const DIR: &str = "/usr/local/sbin";

/// Puts the scripts in place where they are needed.
pub(super) fn leave_out(containerd: &Containerd) -> Result<()> {
    let node = containerd.node();
    let controllers = node.cgroup_root().join("cgroup.controllers");
    let controllers = fs::read_to_string(&controllers)
        .with_context(|| format!("Read {}", controllers.display()))?;
    if node.state().cgroup_view == CgroupView::Hybrid
        || controllers.split_whitespace().any(|name| name == "cpu")
    {
        return Ok(());
    }
    for runtime in Runtime::ALL {
        let program = runtime.program();
        let real = containerd.run("sh", &["-c", &format!("command -v {program}")])?;
        let path = format!("{DIR}/{program}");
        containerd.write(&path, &script(real.trim()))?;
        fs::set_permissions(node.path(&path), fs::Permissions::from_mode(0o755))
            .with_context(|| format!("Make {path} executable in the node"))?;
    }
    Ok(())
}

fn script(real: &str) -> String {
    format!(
        "#!/bin/sh\n\
         # The cpu controller is not in this node's cgroup version 2 hierarchy: CPU shares are left out.\n\
         case \" $* \" in *\" create \"*|*\" restore \"*)\n\
         before=\n\
         for word; do\n\
         [ \"$before\" = --bundle ] && sed -i 's/\"shares\":[0-9]*,\\{{0,1\\}}//' \"$word/config.json\"\n\
         before=$word\n\
         done\n\
         esac\n\
         exec {real} \"$@\"\n"
    )
}
