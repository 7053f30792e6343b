//! The kinds of record images, with the magic number each starts with (`criu/include/magic.h`).

use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $magic:literal, $name:literal;)*) => {
        /// A kind of image.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

            /// What its files are called, with `*` for ids: `fdinfo-*`.
            pub fn pattern(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// The image set as a whole.
    Inventory = 0x5831_3116, "inventory";
    /// Open files of all processes.
    Files = 0x5630_3138, "files";
    /// A descriptor table.
    Fdinfo = 0x5621_3732, "fdinfo-*";
    /// A mount namespace.
    Mountpoints = 0x5556_3928, "mountpoints-*";
    /// Cgroups.
    Cgroup = 0x5938_3330, "cgroup";
    /// A thread.
    Core = 0x5505_3847, "core-*";
    /// What a process shares with others.
    Ids = 0x5443_2030, "ids-*";
    /// An address space.
    Mm = 0x5749_2820, "mm-*";
    /// Directories of a process.
    Fs = 0x5140_3912, "fs-*";
    /// Processes.
    Pstree = 0x5027_3030, "pstree";
    /// Files that are not found by their path.
    RemapFpath = 0x5913_3954, "remap-fpath";
    /// A UTS namespace.
    Utsns = 0x5447_3203, "utsns-*";
}

impl Kind {
    /// The kind with this magic number.
    pub fn of_magic(magic: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.magic() == magic)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pattern())
    }
}
