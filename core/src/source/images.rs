//! Reads a [`Source`] out of an image directory.
//!
//! What is needed of each image, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use criu_image::views::{
    CgroupEntry, CoreEntry, FanotifyFileEntry, FdinfoEntry, FileEntry, FsEntry, InotifyFileEntry,
    InventoryEntry, MmEntry, MntEntry, PstreeEntry, RemapFilePathEntry, SeccompEntry,
    TaskKobjIdsEntry, UtsnsEntry,
};
use criu_image::{Bytes, Kind, views};

use super::cgroup_dirs;
pub use super::image_dir::{Error, ImageDir, PARENT};
pub(crate) use super::image_dir::{MAX_RECORD, MAX_SIZE};
use super::manifest::{self, Manifest};
use super::{
    CgroupMember, CgroupSet, FsType, Hierarchy, LockMethod, Mount, OpenFile, Source, Task,
    UtsNamespace, Watch, WatchKind, WatchedObject,
};
use crate::finding::Holder;
use crate::ids::{CgroupPath, ContainerPath, FileId, MountId, NsPid};
use crate::privileges::ProcessPrivileges;

/// `enum fstype` of `mnt.proto`.
const FSTYPE_CGROUP: u32 = 12;
const FSTYPE_OVERLAYFS: u32 = 17;
const FSTYPE_CGROUP2: u32 = 23;

/// `enum fd_types` of `fdinfo.proto`: regular files, directories and links.
const FD_REG: u32 = 1;

/// The same: inotify instances.
const FD_INOTIFY: u32 = 8;

/// The same: fanotify groups.
const FD_FANOTIFY: u32 = 12;

/// The same: internet sockets.
const FD_INETSK: u32 = 4;

/// The same: unix sockets.
const FD_UNIXSK: u32 = 5;

/// States of a process that has ended (`COMPEL_TASK_DEAD`, `COMPEL_TASK_ZOMBIE` of `compel/include/uapi/task-state.h`).
const ENDED: [u32; 2] = [2, 6];

/// `SECCOMP_FILTER_FLAG_TSYNC` of `linux/seccomp.h`: installed in all threads of a process at once.
const IN_ALL_THREADS: u32 = 1;
/// `enum seccomp_mode` of `core.proto`: a filter.
const SECCOMP_FILTER: u32 = 2;

/// `MS_RDONLY` of `mount(2)`.
const MS_RDONLY: u32 = 1;

/// A VMA whose `shmid` is the id of a file (`VMA_FILE_PRIVATE`, `VMA_FILE_SHARED` of `criu/include/image.h`).
const VMA_FILE: u32 = 1 << 6 | 1 << 7;

impl Source {
    /// Reads everything the rules need.
    ///
    /// # Errors
    /// When the set is not whole, damaged, or of a version that is not known; the text names file, offset and what was
    /// expected.
    pub fn read(dir: &ImageDir) -> Result<Self, Error> {
        let inventory: InventoryEntry = dir.one("inventory.img", Kind::Inventory)?;
        let mut source = Self::default();
        read_manifest(dir, &mut source, &inventory)?;
        let Some(init) = read_tasks(dir, &mut source)? else {
            return Err(Error::Missing {
                dir: dir.path().to_path_buf(),
                name: "pstree.img with a process".into(),
            });
        };
        read_files(dir, &mut source)?;
        let locks = dir.image("filelocks.img", Kind::FileLocks)?;
        source.file_locks = locks.is_some_and(|image| image.records().next().is_some());
        source.sockets.give_holders();
        source.sockets.tcp_close = inventory.tcp_close.unwrap_or(false);
        // A namespace that the container shares with the criu that dumped it has no image.
        let of_criu = inventory.root_ids.unwrap_or_default();
        source.sockets.own_network = init.net_ns_id != of_criu.net_ns_id;
        if let Some(id) = init
            .mnt_ns_id
            .filter(|_| init.mnt_ns_id != of_criu.mnt_ns_id)
        {
            let mounts = dir.some(&format!("mountpoints-{id}.img"), Kind::Mountpoints)?;
            source.mounts = mounts.into_iter().map(mount).collect();
        } else {
            source.shares_mounts = true;
        }
        if let Some(id) = init
            .uts_ns_id
            .filter(|_| init.uts_ns_id != of_criu.uts_ns_id)
        {
            let entry: UtsnsEntry = dir.one(&format!("utsns-{id}.img"), Kind::Utsns)?;
            source.uts = Some(UtsNamespace {
                id,
                name: entry.nodename.to_string(),
            });
        }
        if let Some(entry) = dir.optional::<CgroupEntry>("cgroup.img", Kind::Cgroup)? {
            check_cgroups(dir, &entry)?;
            source.cgroup_dirs = cgroup_dirs::read(entry.controllers);
            let all = source.cgroup_dirs.values().flatten();
            if let Some(bad) = all.map(|cgroup| &cgroup.path).find(|path| path.climbs()) {
                let name = bad.to_string().as_str().into();
                return Err(climbs(
                    dir,
                    "cgroup.img",
                    "cgroup_dir_entry.dir_name",
                    &name,
                ));
            }
            source.cgroup_sets = entry
                .sets
                .into_iter()
                .map(|set| (set.id, cgroup_set(set.ctls)))
                .collect();
        }
        source.private_cgroup_namespace = match &source.manifest {
            Some(manifest) => manifest.cgroup.private_namespace,
            None => init.cgroup_ns_id.is_some() && init.cgroup_ns_id != of_criu.cgroup_ns_id,
        };
        Ok(source)
    }
}

/// Reads `source.json`. One that belongs to another dump into the same directory is not believed.
fn read_manifest(
    dir: &ImageDir,
    source: &mut Source,
    inventory: &InventoryEntry,
) -> Result<(), Error> {
    let Some(file) = dir.other(manifest::FILE_NAME)? else {
        return Ok(());
    };
    let manifest = Manifest::read(file)?;
    let run = inventory.dump_criu_run_id.as_ref().map(ToString::to_string);
    if run == manifest.criu_run {
        source.manifest = Some(manifest);
    } else {
        source.foreign_manifest = true;
    }
    Ok(())
}

/// How CRIU locked the network at the dump, and which run of it, as [`criu_run`].
///
/// # Errors
/// When there is no inventory, or it is damaged.
pub fn network_lock(dir: &ImageDir) -> Result<(LockMethod, Option<String>), Error> {
    let inventory: InventoryEntry = dir.one("inventory.img", Kind::Inventory)?;
    let method = inventory.network_lock_method.map(LockMethod);
    let run = inventory.dump_criu_run_id.map(|id| id.to_string());
    Ok((method.unwrap_or(LockMethod::IPTABLES), run))
}

/// What identifies the run of criu that made an image set; `None` for a criu that does not write it (before 4.1).
///
/// # Errors
/// When there is no inventory, or it is damaged.
pub fn criu_run(dir: &ImageDir) -> Result<Option<String>, Error> {
    let inventory: InventoryEntry = dir.one("inventory.img", Kind::Inventory)?;
    Ok(inventory.dump_criu_run_id.map(|id| id.to_string()))
}

/// Reads the processes, who holds which file, and what is in use otherwise. Returns the init's ids.
fn read_tasks(dir: &ImageDir, source: &mut Source) -> Result<Option<TaskKobjIdsEntry>, Error> {
    let mut init = None;
    let mut read_tables = BTreeSet::new();
    let filters: Vec<SeccompEntry> = dir.all("seccomp.img", Kind::Seccomp)?;
    for process in dir.some::<PstreeEntry>("pstree.img", Kind::Pstree)? {
        let pid = process.pid;
        source.ids.insert(NsPid(pid));
        source
            .ids
            .extend(process.threads.iter().copied().map(NsPid));
        let core: CoreEntry = dir.one(&format!("core-{pid}.img"), Kind::Core)?;
        // Since criu 3.17 each thread has its set; before, the task had one.
        let of_thread = core.thread_core.as_ref().and_then(|thread| thread.cg_set);
        let of_task = core.tc.as_ref().and_then(|task| task.cg_set);
        let task = Task {
            pid: NsPid(pid),
            cgroup_set: of_thread.or(of_task),
        };
        // Of a process that has ended and was not yet waited for there is no more than its end.
        if core
            .tc
            .as_ref()
            .is_some_and(|task| ENDED.contains(&task.task_state))
        {
            source.tasks.push(task);
            continue;
        }
        let mut sets = BTreeMap::new();
        let privileges = read_privileges(dir, &process, &core, &filters, &mut sets)?;
        sets.retain(|_, set| Some(*set) != task.cgroup_set);
        if !sets.is_empty() {
            source.thread_sets.insert(task.pid, sets);
        }
        source.privileges.insert(NsPid(pid), privileges);
        let score = core.tc.as_ref().and_then(|task| task.oom_score_adj);
        source
            .oom_scores
            .extend(score.map(|score| (NsPid(pid), score)));
        let ids: TaskKobjIdsEntry = dir.one(&format!("ids-{pid}.img"), Kind::Ids)?;
        source.tasks.push(task);
        if read_tables.insert(ids.files_id) {
            read_descriptors(dir, ids.files_id, NsPid(pid), source)?;
        }
        let fs: FsEntry = dir.one(&format!("fs-{pid}.img"), Kind::Fs)?;
        let mm: MmEntry = dir.one(&format!("mm-{pid}.img"), Kind::Mm)?;
        let mapped = mm.vmas.iter().filter(|vma| vma.status & VMA_FILE != 0);
        let mapped = mapped.filter_map(|vma| u32::try_from(vma.shmid).ok());
        for id in [fs.cwd_id, fs.root_id, mm.exe_file_id]
            .into_iter()
            .chain(mapped)
        {
            let users = source.in_use.entry(FileId(id)).or_default();
            users.insert(NsPid(pid));
        }
        init = init.or(Some(ids));
    }
    let all = source
        .holders
        .values_mut()
        .chain(source.watchers.values_mut());
    all.for_each(|holders| holders.sort_unstable());
    Ok(init)
}

/// What any thread of a process may do. The cgroup sets of those beside its first one are put into `sets`.
fn read_privileges(
    dir: &ImageDir,
    process: &PstreeEntry,
    core: &CoreEntry,
    filters: &[SeccompEntry],
    sets: &mut BTreeMap<NsPid, u32>,
) -> Result<ProcessPrivileges, Error> {
    let name = core.tc.as_ref().map(|task| task.comm.to_string());
    let mut all = ProcessPrivileges {
        name: name.unwrap_or_default(),
        no_new_privileges: true,
        seccomp: true,
        ..ProcessPrivileges::default()
    };
    let mut known = false;
    for thread in &process.threads {
        if *thread == process.pid {
            known |= add_privileges(&mut all, core);
        } else {
            let core: CoreEntry = dir.one(&format!("core-{thread}.img"), Kind::Core)?;
            known |= add_privileges(&mut all, &core);
            let set = core.thread_core.as_ref().and_then(|core| core.cg_set);
            sets.extend(set.map(|set| (NsPid(*thread), set)));
        }
    }
    all.no_new_privileges &= known;
    // Where all threads have the same filters, only the first is said to have them, and they are installed in all at once
    // (`criu/seccomp.c`, `try_use_tsync`).
    all.seccomp |= filter_of_all(core, filters);
    all.seccomp &= known;
    Ok(all)
}

/// Whether the filter of a process's first thread is installed in all of them.
fn filter_of_all(core: &CoreEntry, filters: &[SeccompEntry]) -> bool {
    let Some(thread) = &core.thread_core else {
        return false;
    };
    let place = thread
        .seccomp_filter
        .and_then(|place| usize::try_from(place).ok());
    let mut filters = filters.iter().flat_map(|entry| &entry.seccomp_filters);
    thread.seccomp_mode == Some(SECCOMP_FILTER)
        && place
            .and_then(|place| filters.nth(place))
            .is_some_and(|filter| filter.flags.unwrap_or(0) & IN_ALL_THREADS != 0)
}

/// Adds a thread's; `false` when its image has none.
fn add_privileges(all: &mut ProcessPrivileges, core: &CoreEntry) -> bool {
    let Some(thread) = &core.thread_core else {
        return false;
    };
    // Before criu 3.9 the process had one for all its threads.
    let task = core.tc.as_ref().and_then(|task| task.old_seccomp_mode);
    all.seccomp &= thread.seccomp_mode.or(task) == Some(SECCOMP_FILTER);
    let Some(creds) = &thread.creds else {
        return false;
    };
    for set in [
        &creds.cap_inh,
        &creds.cap_prm,
        &creds.cap_eff,
        &creds.cap_bnd,
        &creds.cap_amb,
    ] {
        for (word, bits) in set.iter().take(2).enumerate() {
            all.capabilities.0 |= u64::from(*bits) << (32 * word);
        }
    }
    all.users
        .extend([creds.uid, creds.euid, creds.suid, creds.fsuid]);
    all.users.sort_unstable();
    all.users.dedup();
    all.groups
        .extend([creds.gid, creds.egid, creds.sgid, creds.fsgid]);
    all.groups.extend(&creds.groups);
    all.groups.sort_unstable();
    all.groups.dedup();
    all.no_new_privileges &= creds.no_new_privs.unwrap_or(0) != 0;
    true
}

/// Reads one descriptor table. Tables that several processes share are told under the first of them.
fn read_descriptors(
    dir: &ImageDir,
    table: u32,
    pid: NsPid,
    source: &mut Source,
) -> Result<(), Error> {
    for entry in dir.all::<FdinfoEntry>(&format!("fdinfo-{table}.img"), Kind::Fdinfo)? {
        let holder = Holder { pid, fd: entry.fd };
        let holders = match entry.type_ {
            FD_REG => &mut source.holders,
            FD_INOTIFY | FD_FANOTIFY => &mut source.watchers,
            FD_INETSK => &mut source.sockets.inet_holders,
            FD_UNIXSK => &mut source.sockets.unix_holders,
            _ => continue,
        };
        holders.entry(FileId(entry.id)).or_default().push(holder);
    }
    Ok(())
}

fn read_files(dir: &ImageDir, source: &mut Source) -> Result<(), Error> {
    let image = dir.required("files.img", Kind::Files)?;
    let mut files = Vec::new();
    for record in image.records() {
        let entry = record?.view::<FileEntry>()?;
        source
            .watches
            .extend(entry.ify.into_iter().flat_map(watches));
        if let Some(group) = entry.ffy {
            marks(group, source);
        }
        if let Some(socket) = &entry.isk {
            source.sockets.add_inet(socket);
        }
        if let Some(socket) = &entry.usk {
            source.sockets.add_unix(socket);
        }
        let Some(reg) = entry.reg else { continue };
        let id = FileId(reg.id);
        let path = ContainerPath::new(&reg.name);
        if path.climbs() {
            return Err(climbs(dir, "files.img", "reg_file_entry.name", &reg.name));
        }
        let file = OpenFile {
            id,
            path,
            mount: reg
                .mnt_id
                .and_then(|id| u32::try_from(id.0).ok())
                .map(MountId),
            flags: reg.flags.cast_signed(),
            pos: reg.pos,
            size: reg.size,
            mode: reg.mode,
            external: reg.ext.unwrap_or(false),
        };
        files.push((id, file));
    }
    // As a whole: one by one, in order, they would fill little more than half of the map's memory.
    source.files = files.into_iter().collect();
    let remaps = dir.all::<RemapFilePathEntry>("remap-fpath.img", Kind::RemapFpath)?;
    source.remapped = remaps
        .into_iter()
        .map(|remap| FileId(remap.orig_id))
        .collect();
    Ok(())
}

fn climbs(dir: &ImageDir, image: &str, field: &'static str, value: &Bytes) -> Error {
    Error::Climbs {
        path: dir.path().join(image),
        field,
        value: value.to_string(),
    }
}

/// A cgroup's path decides where directories are made and tasks are moved.
fn check_cgroups(dir: &ImageDir, entry: &CgroupEntry) -> Result<(), Error> {
    let mut members = entry.sets.iter().flat_map(|set| &set.ctls);
    match members.find(|member| CgroupPath::new(&member.path).climbs()) {
        Some(member) => Err(climbs(
            dir,
            "cgroup.img",
            "cg_member_entry.path",
            &member.path,
        )),
        None => Ok(()),
    }
}

fn watches(instance: InotifyFileEntry) -> impl Iterator<Item = Watch> {
    let id = FileId(instance.id);
    instance.wd.into_iter().map(move |entry| Watch {
        kind: WatchKind::Inotify,
        instance: id,
        wd: entry.wd,
        path: entry.f_handle.path.map(ContainerPath::new),
        mount: entry.f_handle.mnt_id.map(MountId),
        object: WatchedObject {
            sdev: entry.s_dev,
            ino: entry.i_ino,
        },
    })
}

/// The marks of a fanotify group.
fn marks(group: FanotifyFileEntry, source: &mut Source) {
    let instance = FileId(group.id);
    for (wd, mark) in (0..).zip(group.mark) {
        if let Some(inode) = mark.ie {
            source.watches.push(Watch {
                kind: WatchKind::Fanotify,
                instance,
                wd,
                path: inode.f_handle.path.map(ContainerPath::new),
                mount: inode.f_handle.mnt_id.map(MountId),
                object: WatchedObject {
                    sdev: mark.s_dev,
                    ino: inode.i_ino,
                },
            });
        } else if let Some(mount) = mark.me {
            source.marked_mounts.insert(MountId(mount.mnt_id), instance);
        }
    }
}

fn mount(entry: MntEntry) -> Mount {
    let fs = match entry.fstype {
        FSTYPE_CGROUP => FsType::Cgroup,
        FSTYPE_CGROUP2 => FsType::Cgroup2,
        FSTYPE_OVERLAYFS => FsType::Overlay,
        other => FsType::Other(other),
    };
    Mount {
        id: MountId(entry.mnt_id),
        parent: MountId(entry.parent_mnt_id),
        mount_point: ContainerPath::new(entry.mountpoint),
        root: ContainerPath::new(entry.root),
        fs,
        options: entry.options.to_string(),
        read_only: entry.flags & MS_RDONLY != 0,
        ext_key: entry.ext_key.as_ref().map(ToString::to_string),
    }
}

/// One cgroup set. `cgns_prefix` is the length in bytes of the part of `path` that is above the container's cgroup
/// namespace (`criu/cgroup.c`, `dump_sets`).
fn cgroup_set(members: Vec<views::CgMemberEntry>) -> CgroupSet {
    let mut set = BTreeMap::new();
    for member in members {
        let path = member.path.to_string();
        let prefix = member
            .cgns_prefix
            .and_then(|length| path.get(..usize::try_from(length).ok()?));
        let namespace_root = prefix.map(CgroupPath::new);
        // v2 has no name in /proc/<pid>/cgroup; CRIU keeps it so.
        let hierarchy = Hierarchy(member.name.to_string());
        set.insert(
            hierarchy,
            CgroupMember {
                path: CgroupPath::new(&path),
                namespace_root,
            },
        );
    }
    set
}
