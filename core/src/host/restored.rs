//! A restored tree that has not run yet, as `/proc` shows it.

// kcmp(2) has no wrapper.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use nix::sys::stat::stat;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::socket_table::{SocketTable, socket_inode};
use super::{cgroup, cgroups, file_fact, hostname_in, open_in, parse};
use crate::ids::{CgroupPath, ContainerPath, HostPid, NsPid};
use crate::plan::CgroupPlan;
use crate::source::{Hierarchy, WatchedObject};
use crate::target::{ObjectId, Target};
use crate::verify::{Descriptor, InetLine, Restored, UnixLine};

/// A restored tree. Must be read from outside the container's cgroup namespace.
#[derive(Debug)]
pub struct RestoredTree {
    init: HostPid,
    tasks: BTreeMap<NsPid, HostPid>,
    sockets: OnceCell<SocketTable>,
}

impl RestoredTree {
    /// Lists the tree below its init.
    ///
    /// # Errors
    /// When the init is gone.
    pub fn of(init: HostPid) -> io::Result<Self> {
        let mut tasks = BTreeMap::new();
        let mut waiting = vec![init];
        while let Some(pid) = waiting.pop() {
            let status = match std::fs::read_to_string(format!("/proc/{pid}/status")) {
                Ok(status) => status,
                // A helper of CRIU's that ended meanwhile; a task that is really missing shows in verify().
                Err(_) if pid != init => continue,
                Err(error) => return Err(error),
            };
            // One that has ended and is not buried has nothing any more, and its cgroups of version 1 are the roots.
            if let Some(ns_pid) = parse::innermost_pid(&status).filter(|_| !parse::ended(&status)) {
                tasks.insert(ns_pid, pid);
            }
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                let text =
                    std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                waiting.extend(parse::children(&text));
            }
        }
        Ok(Self {
            init,
            tasks,
            sockets: OnceCell::new(),
        })
    }

    /// The same, with every task in its cgroup of the plan where that is not CRIU's business.
    ///
    /// # Errors
    /// In words, when the init is gone or a task cannot be moved.
    pub fn placed(init: HostPid, plan: &CgroupPlan, target: &Target) -> Result<Self, String> {
        let tree = Self::of(init)
            .map_err(|error| format!("The restored tree cannot be looked at: {error}"))?;
        if !plan.by_criu {
            cgroup::place(&plan.placements, &tree.tasks, target).map_err(|error| {
                format!("A restored process cannot be moved to its sub-cgroup: {error}")
            })?;
        }
        Ok(tree)
    }
}

impl RestoredTree {
    /// The sockets of its network namespace, read once.
    fn socket_table(&self) -> io::Result<&SocketTable> {
        if let Some(table) = self.sockets.get() {
            return Ok(table);
        }
        let table = SocketTable::of(self.init)?;
        Ok(self.sockets.get_or_init(|| table))
    }

    fn inode(&self, pid: HostPid, fd: u32) -> io::Result<u64> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let inode = socket_inode(Path::new(&path))?;
        inode.ok_or_else(|| io::Error::other("it is no socket"))
    }
}

impl Restored for RestoredTree {
    fn tasks(&self) -> &BTreeMap<NsPid, HostPid> {
        &self.tasks
    }

    fn descriptor(&self, pid: HostPid, fd: u32) -> io::Result<Descriptor> {
        let stat = stat(Path::new(&format!("/proc/{pid}/fd/{fd}")))?;
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
        let (pos, flags) = parse::pos_and_flags(&info).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "its fdinfo has no offset or no flags",
            )
        })?;
        let device = [libc::S_IFCHR, libc::S_IFBLK].contains(&(stat.st_mode & libc::S_IFMT));
        let id = ObjectId {
            dev: stat.st_dev,
            ino: stat.st_ino,
        };
        Ok(Descriptor {
            id,
            rdev: device.then_some(stat.st_rdev),
            pos,
            flags,
        })
    }

    fn compare(&self, a: (HostPid, u32), b: (HostPid, u32)) -> Option<Ordering> {
        /// `KCMP_FILE` of `linux/kcmp.h`.
        const FILE: libc::c_int = 0;
        let (first, second) = (libc::c_ulong::from(a.1), libc::c_ulong::from(b.1));
        // SAFETY: all arguments are numbers.
        let order = unsafe { libc::syscall(libc::SYS_kcmp, a.0.0, b.0.0, FILE, first, second) };
        match order {
            0 => Some(Ordering::Equal),
            1 => Some(Ordering::Less),
            2 => Some(Ordering::Greater),
            _ => None,
        }
    }

    fn watches(&self, pid: HostPid, fd: u32) -> io::Result<BTreeMap<u32, WatchedObject>> {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
        let watches = parse::watches(&info);
        Ok(if watches.is_empty() {
            parse::marks(&info)
        } else {
            watches
        })
    }

    fn inet_socket(&self, pid: HostPid, fd: u32) -> io::Result<Option<InetLine>> {
        let inode = self.inode(pid, fd)?;
        Ok(self.socket_table()?.inet.get(&inode).copied())
    }

    fn unix_socket(&self, pid: HostPid, fd: u32) -> io::Result<Option<UnixLine>> {
        let inode = self.inode(pid, fd)?;
        Ok(self.socket_table()?.unix.get(&inode).cloned())
    }

    fn cgroups(&self, pid: HostPid) -> io::Result<BTreeMap<Hierarchy, CgroupPath>> {
        cgroups(pid)
    }

    fn mount_point(&self, path: &ContainerPath) -> io::Result<ObjectId> {
        let root = format!("/proc/{}/root", self.init);
        let rest = path.as_path().strip_prefix("/").unwrap_or(path.as_path());
        Ok(file_fact(&open_in(Path::new(&root), rest)?)?.id)
    }

    fn oom_score(&self, pid: HostPid) -> io::Result<i32> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
        let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        text.trim().parse().map_err(wrong)
    }

    fn read_only_root(&self) -> io::Result<bool> {
        let flags = statvfs(format!("/proc/{}/root", self.init).as_str())?.flags();
        Ok(flags.contains(FsFlags::ST_RDONLY))
    }

    fn own_cgroup_namespace(&self) -> io::Result<bool> {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/cgroup"));
        Ok(link(&self.init.to_string())? != link("self")?)
    }

    fn hostname(&self) -> io::Result<String> {
        hostname_in(&File::open(format!("/proc/{}/ns/uts", self.init))?)
    }
}
