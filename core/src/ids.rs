//! Identifiers and paths that look alike but mean different things.
//!
//! A path inside the container, a path on the node and a cgroup's path are all byte strings with slashes; mixing
//! them up is the classic bug of this field, so each has a type.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

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

/// Whether a path needs no cleaning: it is relative, with no empty component and no `.`.
fn is_clean(relative: &[u8]) -> bool {
    relative
        .split(|byte| *byte == b'/')
        .all(|part| !part.is_empty() && part != b".")
}

/// `base` with the components of `rest` behind it.
fn joined(base: &Path, rest: &Path) -> Arc<Path> {
    let bytes = rest.as_os_str().as_bytes();
    if bytes.is_empty() {
        return base.into();
    }
    // One that is already clean, as nearly all are, is copied as a whole.
    if is_clean(bytes) {
        return base.join(rest).into();
    }
    let mut clean = base.to_path_buf();
    for part in rest.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => clean.push(".."),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean.into()
}

macro_rules! path {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// In JSON it is text; bytes that are not UTF-8 appear as U+FFFD. A clone shares the text: of a container with many
        /// open files each path is in memory once. Two are compared byte by byte, which says the same as component by
        /// component, because each has one spelling.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(from = "PathBuf")]
        pub struct $name(Arc<Path>);

        impl From<PathBuf> for $name {
            fn from(path: PathBuf) -> Self {
                Self::new(path)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0.to_str() {
                    Some(text) => serializer.serialize_str(text),
                    None => serializer.collect_str(self),
                }
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.bytes() == other.bytes()
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.bytes().cmp(other.bytes())
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.bytes().hash(state);
            }
        }

        impl $name {
            /// Takes the path as it is, made absolute; `//`, `.` and trailing slashes are dropped, `..` is kept (see
            /// [`Self::climbs`]).
            pub fn new(path: impl AsRef<Path>) -> Self {
                let path = path.as_ref();
                let relative = path.strip_prefix("/").unwrap_or(path);
                match path.as_os_str().as_bytes() {
                    [b'/', rest @ ..] if is_clean(rest) => Self(path.into()),
                    _ => Self(joined(Path::new("/"), relative)),
                }
            }

            fn bytes(&self) -> &[u8] {
                self.0.as_os_str().as_bytes()
            }

            /// The path as the standard library's type.
            pub fn as_path(&self) -> &Path {
                &self.0
            }

            /// This path with `rest` below it; an empty or absolute `rest` is taken as relative.
            #[must_use]
            pub fn join(&self, rest: impl AsRef<Path>) -> Self {
                Self(joined(&self.0, rest.as_ref()))
            }

            /// What is left of this path below `prefix` (whole components), or `None` when it is not below it. A path
            /// with `..` in it is below nothing: it leads who knows where.
            pub fn strip(&self, prefix: &Self) -> Option<&Path> {
                let rest = if prefix.is_root() {
                    &self.bytes()[1..]
                } else {
                    match self.bytes().strip_prefix(prefix.bytes())? {
                        [] => &[],
                        [b'/', rest @ ..] => rest,
                        _ => return None,
                    }
                };
                (!self.climbs()).then(|| Path::new(OsStr::from_bytes(rest)))
            }

            /// Whether there is a `..` in it.
            pub fn climbs(&self) -> bool {
                // Nearly no path has two dots in a row anywhere.
                self.bytes().windows(2).any(|two| two == b"..")
                    && self.0.components().any(|part| part == Component::ParentDir)
            }

            /// The directory this path is in; `None` for `/`.
            pub fn parent(&self) -> Option<Self> {
                self.0.parent().map(|parent| Self(parent.into()))
            }

            /// The last component, empty for `/`.
            pub fn name(&self) -> String {
                self.0.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }

            /// Whether this is `/`.
            pub fn is_root(&self) -> bool {
                self.bytes() == b"/"
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
        assert_eq!(pod.strip(&pod), Some(Path::new("")));
        let root = CgroupPath::new("/");
        assert_eq!(pod.strip(&root), Some(Path::new("kubepods/pod1")));
        assert_eq!(root.strip(&root), Some(Path::new("")));
        assert_eq!(root.strip(&pod), None);
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
        for path in ["", "/", "//", ".", "/.", "/./"] {
            assert!(ContainerPath::new(path).is_root(), "{path:?}");
        }
        for path in ["/a/b/", "/a//b", "/./a/b", "/a/b/.", "a/./b"] {
            assert_eq!(ContainerPath::new(path).to_string(), "/a/b", "{path:?}");
            assert_eq!(
                ContainerPath::new("/").join(path).to_string(),
                "/a/b",
                "{path:?}"
            );
        }
        assert_eq!(ContainerPath::new("/a/../b").to_string(), "/a/../b");
        assert!(!ContainerPath::new("/a/..data/..b").climbs());
        assert_eq!(CgroupPath::new("/").depth(), 0);
        assert_eq!(CgroupPath::new("/a/b").depth(), 2);
    }
}
