//! What only the dump can know of a frozen tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    cgroup_mounts, cgroups, hostname_in, kernel_release, mountinfo, namespace_roots, network,
    recorded_mounts, share_namespace,
};
use crate::ids::HostPid;
use crate::source::Manifest;
use crate::source::manifest::{ManifestCgroup, VERSION};

/// What `/proc` says of the tree below `init`. Who it was, which run of criu this is and what that was told not to record,
/// are left for the caller to fill in.
///
/// This process must have one thread, and be in the node's cgroup namespace.
///
/// # Errors
/// When the tree is gone or may not be looked at.
pub fn manifest(init: HostPid) -> io::Result<Manifest> {
    let paths = cgroups(init)?;
    let own = HostPid(nix::unistd::getpid().as_raw());
    let uts = File::open(format!("/proc/{init}/ns/uts"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Manifest {
        version: VERSION,
        writer: concat!("restow ", env!("CARGO_PKG_VERSION")).to_owned(),
        time: now.unwrap_or_default().as_secs(),
        criu_run: None,
        kernel: kernel_release(),
        runtime: String::new(),
        container: None,
        identity: BTreeMap::new(),
        hostname: hostname_in(&uts)?,
        cgroup: ManifestCgroup {
            private_namespace: !share_namespace(init, own, "cgroup")?,
            namespace_roots: Some(namespace_roots(&cgroup_mounts(&mountinfo(own)?, &paths))),
            paths,
            unrecorded: BTreeSet::new(),
        },
        addresses: network::addresses(&File::open(format!("/proc/{init}/ns/net"))?)?,
        unreachable: Vec::new(),
        volumes: Vec::new(),
        mounts: recorded_mounts(init)?,
    })
}
