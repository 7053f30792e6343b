//! The messages that an engine reads and edits, field by field as CRIU's `images/*.proto` (MIT) have them.

use crate::text::Bytes;
use crate::view::{Sint32, Sint64, view};

mod files;

pub use crate::view::View;
pub use files::*;

view! {
    /// `inventory.img`: the image set as a whole.
    pub struct InventoryEntry = "inventory_entry" {
        /// Layout of the images; 2 is the only one read here.
        1 => img_version: u32,
        /// Descriptor tables have ids of their own; false only in sets made before 2012.
        2 => fdinfo_per_id: Option<bool>,
        /// Namespaces of the criu that dumped.
        3 => root_ids: Option<TaskKobjIdsEntry>,
        /// Cgroup set of the root task.
        5 => root_cg_set: Option<u32>,
        /// 0 none, 1 SELinux, 2 AppArmor.
        6 => lsmtype: Option<u32>,
        /// Uptime of the machine at dump, in microseconds.
        8 => dump_uptime: Option<u64>,
        /// Established connections were left out.
        10 => tcp_close: Option<bool>,
        /// How the network was locked: 0 iptables, 1 nftables, 2 not at all.
        11 => network_lock_method: Option<u32>,
        /// Identifies the run of criu.
        13 => dump_criu_run_id: Option<Bytes>,
    }

    /// `files.img`: one open file description of any kind; the field that is set tells which.
    pub struct FileEntry = "file_entry" {
        /// Kind (`enum fd_types`).
        1 => type_: u32,
        /// Id, unique together with the kind.
        2 => id: u32,
        /// A regular file, directory or symbolic link.
        3 => reg: Option<RegFileEntry>,
        /// An internet socket.
        4 => isk: Option<InetSkEntry>,
        /// A namespace.
        5 => nsf: Option<NsFileEntry>,
        /// An inotify instance.
        13 => ify: Option<InotifyFileEntry>,
        /// A fanotify group.
        14 => ffy: Option<FanotifyFileEntry>,
        /// A unix socket.
        16 => usk: Option<UnixSkEntry>,
        /// A named pipe.
        17 => fifo: Option<FifoEntry>,
        /// A terminal.
        19 => tty: Option<TtyFileEntry>,
    }

    /// A regular file, directory or symbolic link.
    pub struct RegFileEntry = "reg_file_entry" {
        /// Id.
        1 => id: u32,
        /// `open(2)` flags.
        2 => flags: u32,
        /// Offset, in bytes.
        3 => pos: u64,
        /// Owner for signals.
        5 => fown: FownEntry,
        /// Path in the container, or `file[mnt_id:inode]` for an external one.
        6 => name: Bytes,
        /// Mount it was opened on.
        7 => mnt_id: Option<Sint32>,
        /// Size in bytes, compared at restore.
        8 => size: Option<u64>,
        /// Handed in at restore.
        9 => ext: Option<bool>,
        /// `st_mode`, compared at restore.
        10 => mode: Option<u32>,
        /// Build id of an ELF file in 32-bit pieces, compared at restore.
        11 => build_id: Vec<u32>,
        /// CRC32C, compared at restore.
        12 => checksum: Option<u32>,
        /// What the checksum covers.
        13 => checksum_config: Option<u32>,
        /// Its parameter.
        14 => checksum_parameter: Option<u32>,
    }

    /// Who gets SIGIO for a file.
    pub struct FownEntry = "fown_entry" {
        /// User id.
        1 => uid: u32,
        /// Effective user id.
        2 => euid: u32,
        /// Signal.
        3 => signum: u32,
        /// `enum pid_type` of the kernel.
        4 => pid_type: u32,
        /// Process or group.
        5 => pid: u32,
    }

    /// An inotify instance.
    pub struct InotifyFileEntry = "inotify_file_entry" {
        /// Id.
        1 => id: u32,
        /// `open(2)` flags.
        2 => flags: u32,
        /// Owner for signals.
        4 => fown: FownEntry,
        /// Its watches.
        5 => wd: Vec<InotifyWdEntry>,
    }

    /// A watch.
    pub struct InotifyWdEntry = "inotify_wd_entry" {
        /// Id of its inotify instance.
        1 => id: u32,
        /// Inode of the watched object at dump.
        2 => i_ino: u64,
        /// Events.
        3 => mask: u32,
        /// Ignored events.
        4 => ignored_mask: u32,
        /// Device of the watched object at dump, as the kernel numbers devices internally.
        5 => s_dev: u32,
        /// Watch descriptor.
        6 => wd: u32,
        /// The watched object.
        7 => f_handle: FhEntry,
    }

    /// A file handle (`name_to_handle_at(2)`), or a path that counts before it.
    pub struct FhEntry = "fh_entry" {
        /// Length of the handle, in bytes.
        1 => bytes: u32,
        /// Its type.
        2 => type_: u32,
        /// The handle.
        3 => handle: Vec<u64>,
        /// Path to open instead.
        4 => path: Option<Bytes>,
        /// Mount the path is on; not zig-zag encoded, unlike that of a regular file.
        5 => mnt_id: Option<u32>,
    }

    /// `fdinfo-<id>.img`: one descriptor of a table.
    pub struct FdinfoEntry = "fdinfo_entry" {
        /// Id of the file.
        1 => id: u32,
        /// Descriptor flags (`FD_CLOEXEC`).
        2 => flags: u32,
        /// Kind of the file (`enum fd_types`).
        3 => type_: u32,
        /// Its number.
        4 => fd: u32,
    }

    /// `mountpoints-<id>.img`: one mount of a mount namespace.
    pub struct MntEntry = "mnt_entry" {
        /// File system (`enum fstype`).
        1 => fstype: u32,
        /// Id at dump.
        2 => mnt_id: u32,
        /// Device, as the kernel numbers devices internally.
        3 => root_dev: u32,
        /// The mount it sits on.
        4 => parent_mnt_id: u32,
        /// `mount(2)` flags.
        5 => flags: u32,
        /// The part of the file system that is mounted.
        6 => root: Bytes,
        /// Where, in the container.
        7 => mountpoint: Bytes,
        /// Device or name of the file system.
        8 => source: Bytes,
        /// Super block options.
        9 => options: Bytes,
        /// Peer group.
        10 => shared_id: Option<u32>,
        /// Peer group it receives from.
        11 => master_id: Option<u32>,
        /// Name of a file system without a number of its own.
        14 => fsname: Option<Bytes>,
        /// Key under which a source is given at restore.
        18 => ext_key: Option<Bytes>,
    }

    /// `cgroup.img`: where tasks were, and what those cgroups were like.
    pub struct CgroupEntry = "cgroup_entry" {
        /// Sets of cgroups that tasks were in.
        1 => sets: Vec<CgSetEntry>,
        /// Hierarchies with their directories.
        2 => controllers: Vec<CgControllerEntry>,
    }

    /// A task's cgroups, one in each hierarchy.
    pub struct CgSetEntry = "cg_set_entry" {
        /// Id, which tasks name.
        1 => id: u32,
        /// The cgroups.
        2 => ctls: Vec<CgMemberEntry>,
    }

    /// A place in one hierarchy.
    pub struct CgMemberEntry = "cg_member_entry" {
        /// The hierarchy, as `/proc/<pid>/cgroup` names it.
        1 => name: Bytes,
        /// Path from the root of criu's cgroup namespace.
        2 => path: Bytes,
        /// Length, in bytes, of the part of the path above the task's cgroup namespace.
        3 => cgns_prefix: Option<u32>,
    }

    /// A hierarchy with its directories.
    pub struct CgControllerEntry = "cg_controller_entry" {
        /// Its controllers.
        1 => cnames: Vec<Bytes>,
        /// Its directories.
        2 => dirs: Vec<CgroupDirEntry>,
        /// Threads may be in different cgroups.
        3 => is_threaded: Option<bool>,
    }

    /// A cgroup.
    pub struct CgroupDirEntry = "cgroup_dir_entry" {
        /// Its path.
        1 => dir_name: Bytes,
        /// Cgroups in it.
        2 => children: Vec<CgroupDirEntry>,
        /// Its files with their content.
        3 => properties: Vec<CgroupPropEntry>,
        /// Who owns its directory.
        4 => dir_perms: Option<CgroupPerms>,
    }

    /// Owner and mode of a cgroup's directory or file.
    pub struct CgroupPerms = "cgroup_perms" {
        /// Mode; of a file, bits above the permissions may be anything.
        1 => mode: u32,
        /// User.
        2 => uid: u32,
        /// Group.
        3 => gid: u32,
    }

    /// A file of a cgroup.
    pub struct CgroupPropEntry = "cgroup_prop_entry" {
        /// Its name.
        1 => name: Bytes,
        /// Its content.
        2 => value: Bytes,
    }

    /// `utsns-<id>.img`: a UTS namespace.
    pub struct UtsnsEntry = "utsns_entry" {
        /// Host name.
        1 => nodename: Bytes,
        /// NIS domain name.
        2 => domainname: Bytes,
    }

    /// `pstree.img`: a process.
    pub struct PstreeEntry = "pstree_entry" {
        /// Process id, in its pid namespace.
        1 => pid: u32,
        /// Parent.
        2 => ppid: u32,
        /// Process group.
        3 => pgid: u32,
        /// Session.
        4 => sid: u32,
        /// Threads, the first with the process's id.
        5 => threads: Vec<u32>,
    }

    /// `ids-<pid>.img`: what a process shares with others; equal numbers are one object.
    pub struct TaskKobjIdsEntry = "task_kobj_ids_entry" {
        /// Address space.
        1 => vm_id: u32,
        /// Descriptor table.
        2 => files_id: u32,
        /// Working directory, root and umask.
        3 => fs_id: u32,
        /// Signal handlers.
        4 => sighand_id: u32,
        /// Pid namespace.
        5 => pid_ns_id: Option<u32>,
        /// Network namespace.
        6 => net_ns_id: Option<u32>,
        /// IPC namespace.
        7 => ipc_ns_id: Option<u32>,
        /// UTS namespace.
        8 => uts_ns_id: Option<u32>,
        /// Mount namespace.
        9 => mnt_ns_id: Option<u32>,
        /// User namespace.
        10 => user_ns_id: Option<u32>,
        /// Cgroup namespace.
        11 => cgroup_ns_id: Option<u32>,
        /// Time namespace.
        12 => time_ns_id: Option<u32>,
    }

    /// `core-<pid>.img`: a thread's state, as far as it is not registers.
    pub struct CoreEntry = "core_entry" {
        /// The process's part; only in the first thread's image.
        3 => tc: Option<TaskCoreEntry>,
        /// The thread's part.
        5 => thread_core: Option<ThreadCoreEntry>,
    }

    /// The part of `core` that belongs to the process.
    pub struct TaskCoreEntry = "task_core_entry" {
        /// 1 alive, 2 dead, 3 stopped, 6 zombie.
        1 => task_state: u32,
        /// Exit code of a dead one.
        2 => exit_code: u32,
        /// Name.
        6 => comm: Bytes,
        /// Cgroup set; in images made before 3.17.
        9 => cg_set: Option<u32>,
        /// Seccomp mode of all threads; in images made before 3.9.
        11 => old_seccomp_mode: Option<u32>,
        /// Adjustment of the OOM killer's score.
        14 => oom_score_adj: Option<i32>,
    }

    /// The part of `core` that belongs to the thread.
    pub struct ThreadCoreEntry = "thread_core_entry" {
        /// Users, groups and capabilities.
        10 => creds: Option<CredsEntry>,
        /// 1 strict, 2 a filter.
        11 => seccomp_mode: Option<u32>,
        /// The last of its filters, by its place in `seccomp.img`.
        12 => seccomp_filter: Option<u32>,
        /// Name.
        13 => comm: Option<Bytes>,
        /// Cgroup set.
        16 => cg_set: Option<u32>,
    }

    /// `seccomp.img`: the filters of all threads.
    pub struct SeccompEntry = "seccomp_entry" {
        /// One by one.
        1 => seccomp_filters: Vec<SeccompFilter>,
    }

    /// A seccomp filter, without its program.
    pub struct SeccompFilter = "seccomp_filter" {
        /// The one that was installed before it.
        2 => prev: Option<u32>,
        /// `SECCOMP_FILTER_FLAG_*`.
        3 => flags: Option<u32>,
    }

    /// Users, groups and capabilities of a thread. A set of capabilities is two words, the lower first.
    pub struct CredsEntry = "creds_entry" {
        /// Real user id.
        1 => uid: u32,
        /// Real group id.
        2 => gid: u32,
        /// Effective user id.
        3 => euid: u32,
        /// Effective group id.
        4 => egid: u32,
        /// Saved user id.
        5 => suid: u32,
        /// Saved group id.
        6 => sgid: u32,
        /// User id for files.
        7 => fsuid: u32,
        /// Group id for files.
        8 => fsgid: u32,
        /// Inheritable capabilities.
        9 => cap_inh: Vec<u32>,
        /// Permitted capabilities.
        10 => cap_prm: Vec<u32>,
        /// Effective capabilities.
        11 => cap_eff: Vec<u32>,
        /// Bounding set.
        12 => cap_bnd: Vec<u32>,
        /// Supplementary groups.
        14 => groups: Vec<u32>,
        /// Whether nothing can be gained by running a program.
        18 => no_new_privs: Option<u32>,
        /// Ambient capabilities.
        19 => cap_amb: Vec<u32>,
    }

    /// `fs-<pid>.img`: directories of a process.
    pub struct FsEntry = "fs_entry" {
        /// File id of the working directory.
        1 => cwd_id: u32,
        /// File id of the root directory.
        2 => root_id: u32,
        /// Umask.
        3 => umask: Option<u32>,
    }

    /// `mm-<pid>.img`: an address space.
    pub struct MmEntry = "mm_entry" {
        /// File id of the executable.
        12 => exe_file_id: u32,
        /// Its mappings.
        14 => vmas: Vec<VmaEntry>,
    }

    /// A mapping.
    pub struct VmaEntry = "vma_entry" {
        /// First address.
        1 => start: u64,
        /// Address behind the last.
        2 => end: u64,
        /// Offset in the file, in bytes.
        3 => pgoff: u64,
        /// File id for a file's mapping, id of shared memory otherwise.
        4 => shmid: u64,
        /// `mmap(2)` protection.
        5 => prot: u32,
        /// `mmap(2)` flags.
        6 => flags: u32,
        /// Kind (`VMA_*` of `criu/include/image.h`).
        7 => status: u32,
        /// Not used.
        8 => fd: Sint64,
    }

    /// `remap-fpath.img`: a file that is not found by its path.
    pub struct RemapFilePathEntry = "remap_file_path_entry" {
        /// File id of the file.
        1 => orig_id: u32,
        /// What stands in for it: a file id (linked), a ghost file's id or a process.
        2 => remap_id: u32,
        /// 0 linked, 1 ghost, 2 procfs.
        3 => remap_type: Option<u32>,
    }
}
