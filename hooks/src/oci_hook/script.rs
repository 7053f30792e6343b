//! An action script of CRIU: `source.json` for checkpoints that are made without Restow's `criu`.
//!
//! `action-script` in the file that `org.criu.config` names, or in `/etc/criu/runc.conf` and `/etc/criu/crun.conf`, has CRIU call it. At
//! `post-dump` the tree is frozen and all images are written. criu up to 4.1.1 reads that file twice and calls twice; the second
//! call writes the same again.

use std::env;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::path::Path;

use restow::chain;
use restow::host::{self, Bundle, journal};
use restow::ids::HostPid;
use restow::source::Manifest;
use restow::source::images::{self, ImageDir};
use restow::source::manifest::FILE_NAME;

use crate::dump::identity;
use crate::node_config;
use crate::peer::Peer;

/// Set by Restow's `criu` in what it becomes: it writes more than can be known here.
const INTERPOSED: &str = "RESTOW_INTERPOSED";

pub(super) fn run(action: &str) -> Result<(), String> {
    if action != "post-dump" || env::var_os(INTERPOSED).is_some() {
        return Ok(());
    }
    let variable = |name: &str| env::var(name).map_err(|_| format!("CRIU gave no {name}"));
    let init = variable("CRTOOLS_INIT_PID")?;
    let init: i32 = init
        .parse()
        .map_err(|_| format!("CRTOOLS_INIT_PID is {init:?}, which is no process"))?;
    let (init, images) = (HostPid(init), variable("CRTOOLS_IMAGE_DIR")?);
    // criu is the parent of its scripts, the runtime is criu's.
    let Some(runtime) = parent_of(parent_id()) else {
        return Ok(());
    };
    let Ok(peer) = Peer::of_process(runtime) else {
        return Ok(());
    };
    // What cannot be found out is of no container that asked.
    let Some(bundle) = peer
        .dump_bundle(init)
        .and_then(|dir| Bundle::read(&dir, false).ok()?)
    else {
        return Ok(());
    };
    let config = node_config().unwrap_or_default();
    let policy = config
        .policy_for(&bundle.annotations)
        .map_err(|error| chain(&error))?;
    if policy.is_none() {
        return Ok(());
    }
    write(init, Path::new(&images), &peer, &bundle)
}

fn write(init: HostPid, images: &Path, peer: &Peer, bundle: &Bundle) -> Result<(), String> {
    let opened = File::open(images).map(OwnedFd::from);
    let images = opened.map_err(|error| {
        format!(
            "The image directory {} cannot be opened: {error}",
            images.display()
        )
    })?;
    let read = host::snapshot::manifest(init)
        .map_err(|error| format!("What the container is cannot be read: {error}"))?;
    let dir = images.try_clone().map_err(|error| error.to_string())?;
    let dir = ImageDir::open(dir).map_err(|error| chain(&error))?;
    let manifest = Manifest {
        criu_run: images::criu_run(&dir).map_err(|error| chain(&error))?,
        runtime: peer.runtime(),
        container: peer.container().map(str::to_owned),
        identity: identity(bundle),
        ..read
    };
    let bytes = manifest
        .to_bytes()
        .map_err(|error| format!("{FILE_NAME} cannot hold what was read: {error}"))?;
    journal::replace(images.as_fd(), FILE_NAME, &bytes)
        .map_err(|error| format!("{FILE_NAME} cannot be written to the image directory: {error}"))
}

/// The parent of a process (`proc_pid_stat(5)`).
fn parent_of(pid: u32) -> Option<HostPid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    rest.split_whitespace().nth(1)?.parse().ok().map(HostPid)
}
