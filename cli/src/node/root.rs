//! The node that is worked on: this machine, or one whose root is mounted at a directory.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// The root directory of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRoot(PathBuf);

impl NodeRoot {
    /// The node whose root directory is `path`.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn new(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        if path.is_dir() {
            Ok(Self(path))
        } else {
            Err(io::Error::from(io::ErrorKind::NotADirectory))
        }
    }

    /// Its root directory, as a path of this process.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether it is what this process itself has as its root.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a path of the node is for this process. Links on the way are followed inside the node, the last component's only
    /// when `follow` says so. What is not there yet is taken as it is written.
    ///
    /// # Errors
    /// When links lead round in a circle.
    pub fn place(&self, path: &Path, follow: bool) -> io::Result<PathBuf> {
        let mut rest = components(path);
        let mut inside = PathBuf::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                inside.pop();
                continue;
            }
            let next = inside.join(&name);
            if !rest.is_empty() || follow {
                match self.0.join(&next).read_link() {
                    Ok(target) => {
                        links += 1;
                        if links > LINKS {
                            return Err(io::Error::from_raw_os_error(libc::ELOOP));
                        }
                        if target.is_absolute() {
                            inside = PathBuf::new();
                        }
                        rest.extend(components(&target));
                        continue;
                    }
                    // EINVAL: it is no link.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
                    Err(error) => return Err(error),
                }
            }
            inside = next;
        }
        Ok(self.0.join(inside))
    }

    /// A path of the node with all its links followed, as the node has it.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.place(path, true)?;
        let inside = place.strip_prefix(&self.0).unwrap_or(&place);
        Ok(Path::new("/").join(inside))
    }

    /// Whether there is something at a path of the node.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.place(path, true).is_ok_and(|path| path.exists())
    }

    /// The text of a file of the node; `None` when it is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, path: &Path) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.place(path, true)?) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The names in a path, the first one last.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeRoot::new(dir.path()).unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        fs::create_dir_all(at("usr/lib")).unwrap();
        symlink("/usr/lib", at("lib")).unwrap();
        symlink("../../../../../etc", at("usr/lib/up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let place = |path: &str| node.place(Path::new(path), true);
        assert_eq!(place("/lib/new/file").unwrap(), at("usr/lib/new/file"));
        assert_eq!(place("/lib/up/passwd").unwrap(), at("etc/passwd"));
        assert_eq!(place("/../../x").unwrap(), at("x"));
        assert_eq!(
            place("/loop").unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );
        assert_eq!(node.place(Path::new("/lib"), false).unwrap(), at("lib"));
    }
}
