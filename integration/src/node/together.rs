//! Version 1 controllers in one hierarchy, as many hosts have `cpu,cpuacct`, on a host that has each in its own.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// A hierarchy with several controllers, for the thread that made it and the nodes that it starts.
#[derive(Debug)]
pub struct Together(());

/// Any directory will do: the mount hides it in this namespace only.
const AT: &str = "/mnt";

impl Together {
    /// Mounts `controllers` together in a mount namespace of this thread's own; `None` when the kernel has not got them or they are in
    /// use. The kernel shows the hierarchy to every process of the host (`/proc/<pid>/cgroup`) as long as it is mounted, but nobody
    /// else can make a cgroup in it.
    pub fn mount(controllers: &str) -> Result<Option<Self>> {
        unshare(CloneFlags::CLONE_NEWNS).context("Make a mount namespace")?;
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).context("Keep mounts to this namespace")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let cgroup = Some("cgroup");
        match mount(cgroup, AT, cgroup, flags, Some(controllers)) {
            Ok(()) => Ok(Some(Self(()))),
            Err(Errno::EBUSY | Errno::EINVAL | Errno::ENOENT) => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("Mount the controllers {controllers}"))
            }
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        // With its last mount the hierarchy goes.
        let _ = umount2(AT, MntFlags::MNT_DETACH);
    }
}
