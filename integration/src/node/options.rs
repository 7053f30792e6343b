//! What a node can be asked for.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::suite::Suite;

/// Which cgroup file systems a node sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupView {
    /// Version 2 alone at `/sys/fs/cgroup`, as on a current distribution.
    #[default]
    V2,
    /// Version 1 controllers at `/sys/fs/cgroup/<controller>`, version 2 at `/sys/fs/cgroup/unified`.
    Hybrid,
}

impl fmt::Display for CgroupView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        })
    }
}

/// How to start a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOptions {
    /// The suite of its root.
    pub suite: Suite,
    /// Which cgroups it sees.
    pub cgroup_view: CgroupView,
    /// Its name, and its host name. One is made up when this is empty.
    pub id: Option<String>,
    /// Its root file system, when it is not that of the suite.
    pub root: Option<PathBuf>,
}

impl NodeOptions {
    /// A node of `suite` that sees cgroup version 2.
    #[must_use]
    pub fn new(suite: Suite) -> Self {
        Self {
            suite,
            cgroup_view: CgroupView::V2,
            id: None,
            root: None,
        }
    }

    /// The same with version 1 controllers.
    #[must_use]
    pub fn hybrid(mut self) -> Self {
        self.cgroup_view = CgroupView::Hybrid;
        self
    }

    /// The same with a name.
    #[must_use]
    pub fn named(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }
}
