//! What a scenario runs on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::node::CgroupView;
use crate::suite::Suite;

/// Whether Restow takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The distribution's runtime and CRIU alone.
    Stock,
    /// Restow's `criu` is the first in the runtime's PATH, and containers ask for it.
    Restow,
}

impl Mode {
    /// The word for it in the environment (`RESTOW_MODES`).
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Restow => "restow",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stock => "stock",
            Self::Restow => "Restow",
        })
    }
}

/// An OCI runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The one in Go, of the Open Container Initiative.
    Runc,
    /// The one in C.
    Crun,
}

impl Runtime {
    /// Every runtime.
    pub const ALL: [Self; 2] = [Self::Runc, Self::Crun];

    /// The one that scenarios are to be run with: `RESTOW_RUNTIME` in the environment, or runc.
    #[must_use]
    pub fn chosen() -> Self {
        match std::env::var("RESTOW_RUNTIME").as_deref() {
            Ok("crun") => Self::Crun,
            _ => Self::Runc,
        }
    }

    /// Its program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

/// What makes pods and containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// The suite itself, which lays pods out as the kubelet does and calls the OCI runtime.
    #[default]
    Suite,
    /// containerd, which a kubelet's client calls over the container runtime interface.
    Containerd,
}

impl Manager {
    /// What scenarios are to be run with: `RESTOW_MANAGER` in the environment, or the suite itself.
    #[must_use]
    pub fn chosen() -> Self {
        match std::env::var("RESTOW_MANAGER").as_deref() {
            Ok("containerd") => Self::Containerd,
            _ => Self::Suite,
        }
    }
}

/// A combination that scenarios run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The Debian suite, which decides all versions.
    pub suite: Suite,
    /// Which cgroups the node sees.
    pub cgroup_view: CgroupView,
    /// The runtime.
    pub runtime: Runtime,
    /// What calls it.
    pub manager: Manager,
}

impl Stack {
    /// The suite with cgroup version 2 alone.
    #[must_use]
    pub fn v2(suite: Suite) -> Self {
        Self {
            suite,
            cgroup_view: CgroupView::V2,
            runtime: Runtime::chosen(),
            manager: Manager::chosen(),
        }
    }

    /// The suite with version 1 controllers.
    #[must_use]
    pub fn hybrid(suite: Suite) -> Self {
        Self {
            suite,
            cgroup_view: CgroupView::Hybrid,
            runtime: Runtime::chosen(),
            manager: Manager::chosen(),
        }
    }
}
