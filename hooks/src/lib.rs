//! The program named `criu` that stands before the real one in the runtime's PATH.
//!
//! ```text
//!   runc, crun, podman ──A── criu (ours): peek, decide ──▶ no DUMP or RESTORE, no opt-in: exec the real criu
//!                                │
//!                                │ restore: plan, stage, rewrite the request (any error: a failed result, nothing started)
//!                                ├─ fork ─▶ relay (sockets A and B) ──B──┐   dump: look at the tree, rewrite the request
//!                                │                                       │
//!                                └─ enter cgroup, exec ─▶ real criu ─────┘   same pid, same parent
//! ```
//!
//! * [`interpose`]: the decision. [`launch`]: the order of the steps above.
//! * [`peer`]: who came before.
//! * [`rpc`], [`seqpacket`]: CRIU's messages and the socket they travel on.
//! * [`operation`], [`dump`], [`restore`], [`connections`]: what is prepared, and what is done at each notification.
//! * [`failure`]: why CRIU failed, said to whoever called.
//! * [`hold`]: a container that is to be created, not started.
//! * [`relay`], [`helper`]: the process that stays between the two.
//!
//! Beside it, [`runtime`]: the OCI runtime that puts this `criu` first in the PATH of the real one,
//! and [`oci_hook`], which is the same program under another name.

pub mod connections;
pub mod dump;
pub mod failure;
pub mod helper;
pub mod hold;
pub mod interpose;
pub mod launch;
pub mod oci_hook;
pub mod operation;
pub mod peer;
pub mod precheck;
pub mod relay;
pub mod restore;
pub mod rpc;
pub mod runtime;
pub mod seqpacket;

use std::path::PathBuf;

use restow::policy::{self, NODE_CONFIG, NodeConfig};

/// Names another file than [`NODE_CONFIG`].
const CONFIG_VARIABLE: &str = "RESTOW_CONFIG";

/// The node's configuration.
fn node_config() -> Result<NodeConfig, policy::Error> {
    let path =
        std::env::var_os(CONFIG_VARIABLE).map_or_else(|| PathBuf::from(NODE_CONFIG), PathBuf::from);
    NodeConfig::read(&path)
}
