//! The Debian suites a node can be made from, and what is installed in each.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// A Debian suite that a node's root file system is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Debian 13: runc 1.1, crun 1.21, criu 4.1, containerd 1.7.
    Stable,
    /// The next Debian: runc 1.3, crun 1.28, criu 4.2, containerd 2.1.
    Testing,
}

impl Suite {
    /// Every suite, the older first.
    pub const ALL: [Self; 2] = [Self::Stable, Self::Testing];

    /// The name of the suite in Debian's archive.
    ///
    /// Stable goes by its code name: the versions above belong to it, not to whatever is stable next year.
    #[must_use]
    pub fn archive_name(self) -> &'static str {
        match self {
            Self::Stable => "trixie",
            Self::Testing => "testing",
        }
    }

    /// What is installed, beside apt and the essential packages.
    ///
    /// crun loads libcriu2 when it is asked for a checkpoint and cannot make one without it; criu 4.2 locks the network of what it
    /// dumps with iptables. containerd gives sandboxes their network with the plugins of `containernetworking-plugins`.
    #[must_use]
    pub fn packages(self) -> &'static [&'static str] {
        &[
            "containerd",
            "containernetworking-plugins",
            "runc",
            "crun",
            "podman",
            "criu",
            "libcriu2",
            "iproute2",
            "iptables",
            "mount",
            "procps",
        ]
    }

    /// Options for apt that only this suite needs.
    #[must_use]
    pub fn apt_options(self) -> &'static [&'static str] {
        match self {
            Self::Stable => &[],
            // A mirror that is not refreshed serves a Release file past its Valid-Until.
            Self::Testing => &["Acquire::Check-Valid-Until \"false\""],
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Testing => "testing",
        })
    }
}

impl FromStr for Suite {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "stable" | "trixie" => Ok(Self::Stable),
            "testing" => Ok(Self::Testing),
            other => bail!("There is no suite {other:?}: choose stable or testing"),
        }
    }
}
