//! Nodes made of real programs, and the suites that run on them.
//!
//! A [`node::Node`] is a Debian root with containerd, runc, crun, podman and criu that runs in namespaces of its own on this machine,
//! starts in a fraction of a second and vanishes with the process that made it.

pub mod node;
pub mod root;
pub mod suite;
