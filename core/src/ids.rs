//! Identifiers and paths that look alike but mean different things.
//!
//! A path inside the container, a path on the node and a cgroup's path are all byte strings with slashes; mixing
//! them up is the classic bug of this field, so each has a type.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A mount's id (`mnt_id`) in the dumped mount namespace. It means nothing outside its image set.
    MountId, u32
);
number!(
    /// The id of an open file description in `files.img`; descriptors of several tasks may share one.
    FileId, u32
);
number!(
    /// A process id as the container's own pid namespace counts it.
    NsPid, u32
);
number!(
    /// A process id as this process's pid namespace counts it.
    HostPid, i32
);

macro_rules! path {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// In JSON it is text; bytes that are not UTF-8 appear as U+FFFD.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(from = "PathBuf")]
        pub struct $name(PathBuf);

        impl From<PathBuf> for $name {
            fn from(path: PathBuf) -> Self {
                Self::new(path)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl $name {
            /// Takes the path as it is, made absolute; `//`, `.` and trailing slashes are dropped, `..` is kept (see
            /// [`Self::climbs`]).
            pub fn new(path: impl AsRef<Path>) -> Self {
                let mut clean = PathBuf::from("/");
                for part in path.as_ref().components() {
                    match part {
                        Component::Normal(name) => clean.push(name),
                        Component::ParentDir => clean.push(".."),
                        Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                    }
                }
                Self(clean)
            }

            /// The path as the standard library's type.
            pub fn as_path(&self) -> &Path {
                &self.0
            }

            /// This path with `rest` below it; an empty or absolute `rest` is taken as relative.
            #[must_use]
            pub fn join(&self, rest: impl AsRef<Path>) -> Self {
                let mut joined = self.0.clone();
                for part in rest.as_ref().components() {
                    match part {
                        Component::Normal(name) => joined.push(name),
                        Component::ParentDir => joined.push(".."),
                        Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                    }
                }
                Self(joined)
            }

            /// What is left of this path below `prefix` (whole components), or `None` when it is not below it. A path
            /// with `..` in it is below nothing: it leads who knows where.
            pub fn strip(&self, prefix: &Self) -> Option<&Path> {
                let rest = self.0.strip_prefix(&prefix.0).ok()?;
                (!self.climbs()).then_some(rest)
            }

            /// Whether there is a `..` in it.
            pub fn climbs(&self) -> bool {
                self.0.components().any(|part| part == Component::ParentDir)
            }

            /// The directory this path is in; `None` for `/`.
            pub fn parent(&self) -> Option<Self> {
                self.0.parent().map(|parent| Self(parent.to_path_buf()))
            }

            /// The last component, empty for `/`.
            pub fn name(&self) -> String {
                self.0.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }

            /// Whether this is `/`.
            pub fn is_root(&self) -> bool {
                self.0.as_os_str().as_bytes() == b"/"
            }

            /// Number of components below `/`.
            pub fn depth(&self) -> usize {
                self.0.components().count().saturating_sub(1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.display().fmt(f)
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                &self.0
            }
        }
    };
}

path!(
    /// A path as the container sees it, from its root.
    ContainerPath
);
path!(
    /// A path as the node (the runtime's and CRIU's mount namespace) sees it.
    HostPath
);
path!(
    /// A cgroup's path in its hierarchy, from the root of the node's cgroup namespace. Never a file's path.
    CgroupPath
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_whole_components() {
        let pod = CgroupPath::new("/kubepods/pod1");
        assert_eq!(
            CgroupPath::new("/kubepods/pod1/c").strip(&pod),
            Some(Path::new("c"))
        );
        assert_eq!(CgroupPath::new("/kubepods/pod12/c").strip(&pod), None);
    }

    #[test]
    fn a_path_that_climbs_is_below_nothing() {
        let pod = CgroupPath::new("/kubepods/pod1");
        assert_eq!(
            CgroupPath::new("/kubepods/pod1/../../etc").strip(&pod),
            None
        );
        assert_eq!(CgroupPath::new("/../x").strip(&CgroupPath::new("/")), None);
    }

    #[test]
    fn a_path_that_is_not_utf8_is_still_text_in_json() {
        use std::os::unix::ffi::OsStrExt;
        let path = ContainerPath::new(Path::new(std::ffi::OsStr::from_bytes(b"/a\xff")));
        assert_eq!(serde_json::to_string(&path).unwrap(), "\"/a\u{fffd}\"");
    }

    #[test]
    fn spelling_does_not_matter() {
        assert_eq!(
            ContainerPath::new("a//b/./c/"),
            ContainerPath::new("/a/b/c")
        );
        assert_eq!(
            ContainerPath::new("/a").join("/b"),
            ContainerPath::new("/a/b")
        );
        assert_eq!(ContainerPath::new("/a").join(""), ContainerPath::new("/a"));
        assert_eq!(CgroupPath::new("/").depth(), 0);
        assert_eq!(CgroupPath::new("/a/b").depth(), 2);
    }
}
