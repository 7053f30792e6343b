//! Nodes made of real programs, and the suites that run on them.
//!
//! A [`node::Node`] is a Debian root with containerd, runc, crun, podman and criu that runs in namespaces of its own on this machine,
//! starts in a fraction of a second and vanishes with the process that made it. An [`engine::Engine`] is a node with a runtime, with or
//! without Restow; on it there are [`pod::Pod`]s laid out as the kubelet does, and [`container::Container`]s in them that run a probe
//! which reports what it sees.

pub mod bench;
pub mod cgroup_names;
pub mod checkpoint;
pub mod container;
pub mod containerd;
pub mod engine;
pub mod foreign;
pub mod installation;
pub mod journey;
pub mod kubelet;
pub mod limit;
pub mod machine;
pub mod matrix;
pub mod network;
pub mod node;
pub mod pod;
pub mod podman;
pub mod programs;
pub mod record;
pub mod report;
pub mod root;
pub mod scenario;
pub mod scenarios;
pub mod shim;
pub mod spec;
pub mod stack;
pub mod suite;
pub mod took;
pub mod tools;
pub mod tree;
pub mod watch;
