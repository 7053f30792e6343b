//! The kinds of images: how their files are called, which magic number they start with (`criu/include/magic.h`), which
//! message their records hold and what follows each (`criu/image-desc.c`).

use std::fmt;

/// What follows the message of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    Plain,
    /// As many bytes as these `uint32` fields of the message say together.
    Sized(&'static [u32]),
    /// The segment's bytes, rounded up to 4, unless they are in a pagemap.
    SharedMemory,
    /// As many messages as field 3 says, each a length, an `ipc_msg` and its text, rounded up to 8.
    MessageQueue,
    /// As many 16-bit numbers as field 2 says, rounded up to 8 bytes.
    Semaphores,
    /// After a first record with `chunks`, each further one is followed by a chunk; else the first one by everything.
    Ghost,
}

/// Which magic number an image starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The inventory: its own magic number only.
    Inventory,
    /// Part of the set: the common magic number, then its own.
    Normal,
    /// Beside the set: the service magic number, then its own.
    Service,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $magic:literal, $pattern:literal, $name:literal, $message:literal
        $(, $class:ident)? $(=> $framing:expr)?;)*) => {
        /// A kind of record image.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The magic number of the kind.
            pub fn magic(self) -> u32 {
                match self { $(Self::$kind => $magic,)* }
            }

            /// What its files are called, without `.img` and with `*` for ids: `fdinfo-*`.
            pub fn pattern(self) -> &'static str {
                match self { $(Self::$kind => $pattern,)* }
            }

            /// What `crit` calls the kind in its JSON (`magic`).
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Which magic number comes first.
            pub fn class(self) -> Class {
                match self { $(Self::$kind => kinds!(@class $($class)?),)* }
            }

            /// What follows the message of a record.
            pub fn framing(self) -> Framing {
                match self { $(Self::$kind => kinds!(@framing $($framing)?),)* }
            }

            fn first_message(self) -> &'static str {
                match self { $(Self::$kind => $message,)* }
            }
        }
    };
    (@class) => { Class::Normal };
    (@class $class:ident) => { Class::$class };
    (@framing) => { Framing::Plain };
    (@framing $framing:expr) => { $framing };
}

kinds! {
    /// The image set as a whole.
    Inventory = 0x5831_3116, "inventory", "INVENTORY", "inventory_entry", Inventory;
    /// Processes.
    Pstree = 0x5027_3030, "pstree", "PSTREE", "pstree_entry";
    /// What a process shares with others.
    Ids = 0x5443_2030, "ids-*", "IDS", "task_kobj_ids_entry";
    /// A thread.
    Core = 0x5505_3847, "core-*", "CORE", "core_entry";
    /// An address space.
    Mm = 0x5749_2820, "mm-*", "MM", "mm_entry";
    /// Which pages of memory a `pages` image holds; the first record names that image.
    Pagemap = 0x5608_4025, "pagemap-*", "PAGEMAP", "pagemap_head";
    /// Directories of a process.
    Fs = 0x5140_3912, "fs-*", "FS", "fs_entry";
    /// A descriptor table.
    Fdinfo = 0x5621_3732, "fdinfo-*", "FDINFO", "fdinfo_entry";
    /// Open files of all processes.
    Files = 0x5630_3138, "files", "FILES", "file_entry";
    /// Files that are not found by their path.
    RemapFpath = 0x5913_3954, "remap-fpath", "REMAP_FPATH", "remap_file_path_entry";
    /// The content of a file that has no name any more.
    GhostFile = 0x5258_3605, "ghost-file-*", "GHOST_FILE", "ghost_file_entry" => Framing::Ghost;
    /// Files in memory (`memfd_create(2)`).
    Memfd = 0x4845_3499, "memfd", "MEMFD_INODE", "memfd_inode_entry";
    /// What is in pipes.
    PipesData = 0x5645_3709, "pipes-data", "PIPES_DATA", "pipe_data_entry" => Framing::Sized(&[2]);
    /// What is in named pipes.
    FifoData = 0x5933_3054, "fifo-data", "FIFO_DATA", "pipe_data_entry" => Framing::Sized(&[2]);
    /// What is in the queues of unix sockets.
    SkQueues = 0x5626_4026, "sk-queues", "SK_QUEUES", "sk_packet_entry" => Framing::Sized(&[2]);
    /// An established TCP connection with its queues.
    TcpStream = 0x5146_5506, "tcp-stream-*", "TCP_STREAM", "tcp_stream_entry" => Framing::Sized(&[1, 3]);
    /// The content of BPF maps.
    BpfmapData = 0x6432_4033, "bpfmap-data", "BPFMAP_DATA", "bpfmap_data_entry" => Framing::Sized(&[2, 3]);
    /// BPF maps; criu 4 has them in `files`.
    BpfmapFile = 0x5750_6142, "bpfmap-file", "BPFMAP_FILE", "bpfmap_file_entry";
    /// Pidfds; criu 4 has them in `files`.
    Pidfd = 0x5443_5556, "pidfd", "PIDFD", "pidfd_entry";
    /// Terminals.
    TtyInfo = 0x5945_3036, "tty-info", "TTY_INFO", "tty_info_entry";
    /// What is in the queues of terminals.
    TtyData = 0x5941_3026, "tty-data", "TTY_DATA", "tty_data_entry";
    /// File locks.
    FileLocks = 0x5432_3616, "filelocks", "FILE_LOCKS", "file_lock_entry";
    /// A mount namespace.
    Mountpoints = 0x5556_3928, "mountpoints-*", "MNTS", "mnt_entry";
    /// An autofs mount.
    Autofs = 0x4935_3943, "autofs-*", "AUTOFS", "autofs_entry";
    /// Binary formats.
    BinfmtMisc = 0x6734_3323, "binfmt-misc*", "BINFMT_MISC", "binfmt_misc_entry";
    /// A UTS namespace.
    Utsns = 0x5447_3203, "utsns-*", "UTSNS", "utsns_entry";
    /// A pid namespace.
    Pidns = 0x6115_7326, "pidns-*", "PIDNS", "pidns_entry";
    /// A user namespace.
    Userns = 0x5547_4906, "userns-*", "USERNS", "userns_entry";
    /// A time namespace.
    Timens = 0x4311_4433, "timens-*", "TIMENS", "timens_entry";
    /// A network namespace.
    Netns = 0x5593_3752, "netns-*", "NETNS", "netns_entry";
    /// The devices of a network namespace.
    Netdev = 0x5737_3951, "netdev-*", "NETDEV", "net_device_entry";
    /// The settings of an IPC namespace.
    IpcVar = 0x5311_5007, "ipcns-var-*", "IPC_VAR", "ipc_var_entry";
    /// System V shared memory.
    IpcShm = 0x4628_3044, "ipcns-shm-*", "IPCNS_SHM", "ipc_shm_entry" => Framing::SharedMemory;
    /// System V message queues.
    IpcMsg = 0x5545_3737, "ipcns-msg-*", "IPCNS_MSG", "ipc_msg_entry" => Framing::MessageQueue;
    /// System V semaphores.
    IpcSem = 0x5957_3019, "ipcns-sem-*", "IPCNS_SEM", "ipc_sem_entry" => Framing::Semaphores;
    /// Cgroups.
    Cgroup = 0x5938_3330, "cgroup", "CGROUP", "cgroup_entry";
    /// The processor.
    Cpuinfo = 0x6140_4013, "cpuinfo", "CPUINFO", "cpuinfo_entry";
    /// Seccomp filters.
    Seccomp = 0x6441_3049, "seccomp", "SECCOMP", "seccomp_entry";
    /// AppArmor namespaces and policies.
    Apparmor = 0x5942_3047, "apparmor", "APPARMOR", "apparmor_entry";
    /// Times and counts of a dump or restore.
    Stats = 0x5709_3306, "stats-*", "STATS", "stats_entry", Service;
    /// Paths of watched inodes, found before the freeze.
    IrmapCache = 0x5700_4059, "irmap-cache", "IRMAP_CACHE", "irmap_cache_entry", Service;
}

/// Images without records: programs' own formats, and memory.
const RAW: &[&str] = &[
    "pages-*",
    "tmpfs-dev-*.tar.gz",
    "tmpfs-*.tar.gz",
    "ifaddr-*",
    "route-*",
    "route6-*",
    "rule-*",
    "iptables-*",
    "ip6tables-*",
    "nftables-*",
    "netns-ct-*",
    "netns-exp-*",
];

/// Images of layouts that CRIU left behind, with their magic numbers: `files`, `core` and `mm` hold these records now.
const OLD: &[(u32, &str)] = &[
    (0x5036_3636, "reg-files"),
    (0x5925_5641, "ext-files"),
    (0x6139_4011, "ns-files"),
    (0x4452_3722, "eventfd"),
    (0x4502_3858, "eventpoll"),
    (0x4443_3746, "eventpoll-tfd"),
    (0x5732_3820, "signalfd"),
    (0x4842_4431, "inotify"),
    (0x5456_2009, "inotify-wd"),
    (0x5509_6122, "fanotify"),
    (0x5650_6035, "fanotify-mark"),
    (0x5651_3555, "pipes"),
    (0x5836_4939, "fifo"),
    (0x5437_3943, "unixsk"),
    (0x5644_3851, "inetsk"),
    (0x6045_4618, "packetsk"),
    (0x5800_5614, "netlinksk"),
    (0x5943_3025, "tty"),
    (0x5714_3751, "tunfile"),
    (0x5049_3712, "timerfd"),
    (0x5412_3737, "vmas-*"),
    (0x5534_4201, "sigacts-*"),
    (0x5746_4056, "itimers-*"),
    (0x5260_3957, "posix-timers-*"),
    (0x5402_3547, "creds-*"),
    (0x5711_3925, "rlimit-*"),
    (0x5925_5647, "signal-s-*"),
    (0x5925_5647, "signal-p-*"),
];

/// What a file of an image directory is by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// An image of records.
    Record(Kind),
    /// An image without records, which is passed through as it is: memory, archives, output of `ip` and `iptables`.
    Raw,
    /// An image of a layout that CRIU 4 does not write any more.
    Old,
    /// Not one of CRIU's images: a log, a plugin's file.
    Other,
}

impl Named {
    /// Tells by the name of a file, `core-12.img`.
    pub fn of(file_name: &str) -> Self {
        let Some(stem) = file_name.strip_suffix(".img") else {
            return Self::Other;
        };
        // Before the kinds: `netns-ct-1` looks like `netns-*`.
        if RAW.iter().any(|pattern| matches(pattern, stem)) {
            return Self::Raw;
        }
        if let Some(kind) = Kind::ALL.iter().find(|kind| matches(kind.pattern(), stem)) {
            return Self::Record(*kind);
        }
        if OLD.iter().any(|(_, pattern)| matches(pattern, stem)) {
            Self::Old
        } else {
            Self::Other
        }
    }
}

/// Whether a name fits a pattern with at most one `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => {
            name.len() >= before.len() + after.len()
                && name.starts_with(before)
                && name.ends_with(after)
        }
    }
}

/// The name pattern of an old layout's image.
pub(crate) fn old_image(magic: u32) -> Option<&'static str> {
    OLD.iter()
        .find(|(old, _)| *old == magic)
        .map(|(_, pattern)| *pattern)
}

impl Kind {
    /// The kind with this magic number.
    pub fn of_magic(magic: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.magic() == magic)
    }

    /// The kind that `crit` calls so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The message of the record with this index, by its name in CRIU's schema. Only `pagemap` and `ghost-file` have
    /// two.
    pub fn message(self, index: usize) -> &'static str {
        match (self, index) {
            (_, 0) => self.first_message(),
            (Self::Pagemap, _) => "pagemap_entry",
            (Self::GhostFile, _) => "ghost_chunk_entry",
            _ => self.first_message(),
        }
    }

    /// The name of a file of this kind; `id` goes where the pattern has a `*`.
    pub fn file_name(self, id: impl fmt::Display) -> String {
        format!("{}.img", self.pattern().replace('*', &id.to_string()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pattern())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_and_names_tell_kinds_apart() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_magic(kind.magic()), Some(*kind));
            assert_eq!(Kind::of_name(kind.name()), Some(*kind));
            assert_eq!(
                Named::of(&kind.file_name("7")),
                Named::Record(*kind),
                "{kind}"
            );
            assert!(old_image(kind.magic()).is_none());
        }
    }

    #[test]
    fn raw_old_and_other_files_are_told_by_their_names() {
        for (name, named) in [
            ("pages-1.img", Named::Raw),
            ("netns-ct-12.img", Named::Raw),
            ("tmpfs-dev-73.tar.gz.img", Named::Raw),
            ("pagemap-shmem-4.img", Named::Record(Kind::Pagemap)),
            ("ghost-file-1f.img", Named::Record(Kind::GhostFile)),
            ("reg-files.img", Named::Old),
            ("dump.log", Named::Other),
            ("amdgpu-kfd-3.img", Named::Other),
        ] {
            assert_eq!(Named::of(name), named, "{name}");
        }
    }
}
