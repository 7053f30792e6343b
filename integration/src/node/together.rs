//! Version 1 controllers in one hierarchy, as many hosts have `cpu,cpuacct`, on a host that has each in its own.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::cgroup::remove_tree;

/// Any directory will do: the mount hides it in this namespace only.
const AT: &str = "/mnt";

/// How long the kernel may take to let go of a hierarchy.
const PATIENCE: Duration = Duration::from_secs(10);

/// A hierarchy is the whole host's, so there is one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A hierarchy with several controllers, for the thread that made it and the nodes that it starts.
///
/// The kernel shows it to every process of the host (`/proc/<pid>/cgroup`), and crun fails on a node that does not mount it. So no
/// other node should run meanwhile, and dropping this waits until the hierarchy is gone.
#[derive(Debug)]
pub struct Together {
    controllers: String,
    _alone: MutexGuard<'static, ()>,
}

impl Together {
    /// Mounts `controllers` together in a mount namespace of this thread's own; `None` when the kernel has not got them or they are in
    /// use.
    pub fn mount(controllers: &str) -> Result<Option<Self>> {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        unshare(CloneFlags::CLONE_NEWNS).context("Make a mount namespace")?;
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).context("Keep mounts to this namespace")?;
        match attach(controllers) {
            Ok(()) => Ok(Some(Self {
                controllers: controllers.to_owned(),
                _alone: alone,
            })),
            Err(Errno::EBUSY | Errno::EINVAL | Errno::ENOENT) => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("Mount the controllers {controllers}"))
            }
        }
    }

    fn is_there(&self) -> bool {
        fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| text.contains(&self.controllers))
    }
}

fn attach(controllers: &str) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let cgroup = Some("cgroup");
    mount(cgroup, AT, cgroup, flags, Some(controllers))
}

impl Drop for Together {
    fn drop(&mut self) {
        // With a cgroup in it, it would stay without a mount.
        for entry in fs::read_dir(Path::new(AT)).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Err(error) = remove_tree(&entry.path(), PATIENCE)
            {
                eprintln!("{error:#}");
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let _ = umount2(AT, MntFlags::MNT_DETACH);
            thread::sleep(Duration::from_millis(50));
            if !self.is_there() {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("The hierarchy of {} stays on this host", self.controllers);
                return;
            }
            // A removed cgroup was still in use, by a socket say. The next last mount takes the hierarchy along.
            let _ = attach(&self.controllers);
        }
    }
}
