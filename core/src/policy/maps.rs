//! Explicit maps: what a user says about one object or a whole prefix, and that wins over every rule.
//!
//! ```text
//! path:/old/prefix=/new/prefix        files and watches below a path of the container are below another
//! cgroup:/old=/new                    a cgroup, as the node sees it, with all below
//! mount:/mount/point=/on/the/node     a mount's source
//! mount:mnt_id=12=/on/the/node        the same, by its id in the checkpoint
//! file:/old=/new                      one open file, at another path of the container
//! file:/old=node:/on/the/node         one open file, handed in from the node
//! file:12:345=…                       the same, by mnt_id and inode (file[c:159] in CRIU's hexadecimal spelling)
//! ```

use std::fmt;
use std::path::Path;

use crate::ids::{CgroupPath, ContainerPath, HostPath, MountId};

/// What a user says about objects of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Map {
    /// Files and watches at and below a path of the container.
    Path(ContainerPath, ContainerPath),
    /// A cgroup, as the node sees it, and all below.
    Cgroup(CgroupPath, CgroupPath),
    /// The source of a mount.
    Mount(WhichMount, HostPath),
    /// One open file.
    File(WhichFile, Place),
}

/// A mount of the checkpoint, or one that only the new pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhichMount {
    /// By its mount point in the container.
    Point(ContainerPath),
    /// By its id in the checkpoint.
    Id(MountId),
}

/// An open file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhichFile {
    /// By its path in the container, or as the old node showed it.
    Path(ContainerPath),
    /// By mount and inode number: for a file on a mount that the container had not got.
    Inode(MountId, u64),
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a path of the new container.
    Container(ContainerPath),
    /// At a path of the node.
    Node(HostPath),
}

/// Who says it; the later wins over the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The node's configuration.
    Node,
    /// An annotation of the pod.
    Pod,
    /// An annotation for this container.
    Container,
    /// The command line, or the environment of the runtime.
    Command,
}

/// A map with who says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// What is said.
    pub map: Map,
    /// By whom.
    pub origin: Origin,
    /// Where, in words: `annotation restow.dev/map`.
    pub place: String,
    /// It may match nothing.
    pub optional: bool,
    /// The directory on the node that a place on the node must not leave; `None` for whom the node trusts.
    pub root: Option<HostPath>,
}

/// Why a map cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: the map {text:?} {why}")]
pub struct Error {
    /// Where it is said.
    pub place: String,
    /// What is said.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

/// All maps for one container, those that win first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maps(Vec<Said>);

impl Map {
    /// Parses one map.
    ///
    /// # Errors
    /// With what is wrong with it, to be read after the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').ok_or_else(unknown)?;
        let (from, to) = split(rest)?;
        match kind {
            "path" => Ok(Self::Path(container(from)?, container(to)?)),
            "cgroup" => Ok(Self::Cgroup(
                clean(from).map(CgroupPath::new)?,
                clean(to).map(CgroupPath::new)?,
            )),
            "mount" => {
                let which = match from.strip_prefix("mnt_id=") {
                    Some(id) => WhichMount::Id(MountId(number(id, 10)?)),
                    None => WhichMount::Point(container(from)?),
                };
                let source = to.strip_prefix("node:").unwrap_or(to);
                Ok(Self::Mount(which, clean(source).map(HostPath::new)?))
            }
            "file" => {
                let which = match inode(from)? {
                    Some((mount, ino)) => WhichFile::Inode(mount, ino),
                    None => WhichFile::Path(container(from)?),
                };
                let place = match to.strip_prefix("node:") {
                    Some(path) => Place::Node(clean(path).map(HostPath::new)?),
                    None => Place::Container(container(to)?),
                };
                Ok(Self::File(which, place))
            }
            _ => Err(unknown()),
        }
    }

    /// Its kind, as it is written.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Path(..) => "path",
            Self::Cgroup(..) => "cgroup",
            Self::Mount(..) => "mount",
            Self::File(..) => "file",
        }
    }

    /// The place on the node that it names.
    pub fn on_node(&self) -> Option<&HostPath> {
        match self {
            Self::Mount(_, path) | Self::File(_, Place::Node(path)) => Some(path),
            Self::Path(..) | Self::Cgroup(..) | Self::File(_, Place::Container(_)) => None,
        }
    }

    /// Whether both are about the same.
    fn same_subject(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(a, _), Self::Path(b, _)) => a == b,
            (Self::Cgroup(a, _), Self::Cgroup(b, _)) => a == b,
            (Self::Mount(a, _), Self::Mount(b, _)) => a == b,
            (Self::File(a, _), Self::File(b, _)) => a == b,
            _ => false,
        }
    }

    /// The more specific has the larger number.
    fn specific(&self) -> (u8, usize) {
        match self {
            Self::Cgroup(from, _) => (0, from.depth()),
            Self::Path(from, _) => (1, from.depth()),
            Self::Mount(WhichMount::Point(at), _) => (2, at.depth()),
            Self::Mount(WhichMount::Id(_), _) => (3, 0),
            Self::File(WhichFile::Path(_), _) => (4, 0),
            Self::File(WhichFile::Inode(..), _) => (5, 0),
        }
    }
}

fn unknown() -> String {
    "is none of path:/OLD=/NEW, cgroup:/OLD=/NEW, mount:/MOUNT/POINT=/SOURCE, mount:mnt_id=ID=/SOURCE, file:/OLD=/NEW, \
     file:MNT_ID:INODE=/NEW; a NEW on the node is node:/PATH"
        .into()
}

/// At the first `=` behind which a path begins: a path may have an `=` in it.
fn split(text: &str) -> Result<(&str, &str), String> {
    let at = ["=/", "=node:/"]
        .iter()
        .filter_map(|word| text.find(word))
        .min()
        .ok_or("has no = with an absolute path behind it")?;
    Ok((&text[..at], &text[at + 1..]))
}

fn clean(path: &str) -> Result<&Path, String> {
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(format!(
            "has {:?}, which is no absolute path",
            path.display()
        ));
    }
    if ContainerPath::new(path).climbs() {
        return Err(format!("has {:?}, a path with \"..\"", path.display()));
    }
    Ok(path)
}

fn container(path: &str) -> Result<ContainerPath, String> {
    clean(path).map(ContainerPath::new)
}

fn number<T: TryFrom<u64>>(text: &str, radix: u32) -> Result<T, String> {
    let number = u64::from_str_radix(text, radix).ok();
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("has {text:?}, which is no number"))
}

/// `MNT_ID:INODE` in decimal, or CRIU's `file[MNT_ID:INODE]` in hexadecimal; `None` when it is a path.
fn inode(text: &str) -> Result<Option<(MountId, u64)>, String> {
    if text.starts_with('/') {
        return Ok(None);
    }
    let spelled = text.strip_prefix("file").unwrap_or(text);
    let hexadecimal = spelled
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let radix = if hexadecimal.is_some() { 16 } else { 10 };
    let Some((mount, ino)) = hexadecimal.unwrap_or(text).split_once(':') else {
        return Err(format!(
            "has {text:?}, which is neither an absolute path nor MNT_ID:INODE"
        ));
    };
    Ok(Some((MountId(number(mount, radix)?), number(ino, radix)?)))
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(from, to) => write!(f, "path:{from}={to}"),
            Self::Cgroup(from, to) => write!(f, "cgroup:{from}={to}"),
            Self::Mount(WhichMount::Point(at), to) => write!(f, "mount:{at}={to}"),
            Self::Mount(WhichMount::Id(id), to) => write!(f, "mount:mnt_id={id}={to}"),
            Self::File(which, to) => {
                match which {
                    WhichFile::Path(path) => write!(f, "file:{path}=")?,
                    WhichFile::Inode(mount, ino) => write!(f, "file:{mount}:{ino}=")?,
                }
                match to {
                    Place::Container(path) => path.fmt(f),
                    Place::Node(path) => write!(f, "node:{path}"),
                }
            }
        }
    }
}

impl Maps {
    /// Adds what is said at one place, one map a line; empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    /// With the first map that is none, or that contradicts another of the same place.
    pub fn add(&mut self, text: &str, origin: Origin, place: &str) -> Result<(), Error> {
        self.add_said(text, origin, place, false, |_| Ok(None))
    }

    /// As [`Self::add`], of maps that may match nothing (`optional`), with a judge that says below which directory of the
    /// node a map has to stay, or why it is not allowed.
    ///
    /// # Errors
    /// The same, and what the judge says.
    pub fn add_said(
        &mut self,
        text: &str,
        origin: Origin,
        place: &str,
        optional: bool,
        judge: impl Fn(&Map) -> Result<Option<HostPath>, String>,
    ) -> Result<(), Error> {
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why| Error {
                place: place.to_owned(),
                text: line.to_owned(),
                why,
            };
            let map = Map::parse(line).map_err(wrong)?;
            let root = judge(&map).map_err(wrong)?;
            self.push(Said {
                map,
                origin,
                place: place.to_owned(),
                optional,
                root,
            })
            .map_err(wrong)?;
        }
        Ok(())
    }

    fn push(&mut self, said: Said) -> Result<(), String> {
        let mut known = self.0.iter();
        if let Some(other) = known.find(|other| other.map.same_subject(&said.map)) {
            if other.map == said.map || other.origin > said.origin {
                return Ok(());
            }
            if other.origin == said.origin {
                return Err(format!("contradicts {} ({})", other.map, other.place));
            }
            self.0.retain(|other| !other.map.same_subject(&said.map));
        }
        self.0.push(said);
        self.0
            .sort_by_key(|said| std::cmp::Reverse(said.map.specific()));
        Ok(())
    }

    /// All of them, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Said> {
        self.0.iter()
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The new path for a path of the container, and who says so.
    pub fn path(&self, path: &ContainerPath) -> Option<(ContainerPath, &Said)> {
        self.iter().find_map(|said| match &said.map {
            Map::Path(from, to) => Some((to.join(path.strip(from)?), said)),
            _ => None,
        })
    }

    /// The new path for a cgroup, and who says so.
    pub fn cgroup(&self, path: &CgroupPath) -> Option<(CgroupPath, &Said)> {
        self.iter().find_map(|said| match &said.map {
            Map::Cgroup(from, to) => Some((to.join(path.strip(from)?), said)),
            _ => None,
        })
    }

    /// What is said of a mount.
    pub fn mount(&self, id: Option<MountId>, at: &ContainerPath) -> Option<(&HostPath, &Said)> {
        self.iter().find_map(|said| match &said.map {
            Map::Mount(WhichMount::Point(point), source) if point == at => Some((source, said)),
            Map::Mount(WhichMount::Id(known), source) if Some(*known) == id => Some((source, said)),
            _ => None,
        })
    }

    /// What is said of an open file, by its inode or else by its path.
    pub fn file(
        &self,
        inode: Option<(MountId, u64)>,
        path: &ContainerPath,
    ) -> Option<(&Place, &Said)> {
        self.iter().find_map(|said| match &said.map {
            Map::File(WhichFile::Inode(mount, ino), place) if inode == Some((*mount, *ino)) => {
                Some((place, said))
            }
            Map::File(WhichFile::Path(known), place) if known == path => Some((place, said)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for text in [
            "path:/old=/new",
            "path:/a=b=/c",
            "cgroup:/kubepods/pod1=/kubepods/pod2",
            "mount:/data=/srv/data",
            "mount:mnt_id=12=/srv/data",
            "file:/var/run/x=/run/y",
            "file:/x=node:/srv/x",
            "file:12:345=node:/srv/x",
        ] {
            assert_eq!(Map::parse(text).unwrap().to_string(), text);
        }
        let hexadecimal = Map::parse("file:file[c:159]=node:/srv/x").unwrap();
        assert_eq!(hexadecimal, Map::parse("file:12:345=node:/srv/x").unwrap());
        assert_eq!(hexadecimal, Map::parse("file:[c:159]=node:/srv/x").unwrap());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_place() {
        for (text, why) in [
            ("/a=/b", "is none of path:"),
            ("volume:/a=/b", "is none of path:"),
            ("path:/a", "has no = with an absolute path"),
            ("path:a=/b", "no absolute path"),
            ("path:/a=/b/../c", "a path with"),
            ("mount:mnt_id=x=/b", "no number"),
            ("mount:mnt_id=4294967296=/b", "no number"),
            ("file:12=/b", "neither an absolute path nor MNT_ID:INODE"),
            ("file:[c:xyz]=/b", "no number"),
        ] {
            let mut maps = Maps::default();
            let error = maps
                .add(
                    &format!("\n# a comment\n{text}"),
                    Origin::Pod,
                    "annotation x",
                )
                .unwrap_err();
            let words = error.to_string();
            assert!(
                words.starts_with("annotation x: the map ")
                    && words.contains(why)
                    && error.text == text,
                "{words}"
            );
        }
    }

    #[test]
    fn who_is_nearer_wins_and_one_place_must_not_contradict_itself() {
        let mut maps = Maps::default();
        maps.add("path:/a=/node", Origin::Node, "n").unwrap();
        maps.add("path:/a=/container", Origin::Container, "c")
            .unwrap();
        maps.add("path:/a=/pod", Origin::Pod, "p").unwrap();
        let (path, said) = maps.path(&ContainerPath::new("/a/x")).unwrap();
        assert_eq!(
            (path.to_string().as_str(), said.place.as_str()),
            ("/container/x", "c")
        );
        let error = maps
            .add("path:/a=/other", Origin::Container, "d")
            .unwrap_err();
        assert!(
            error.why.contains("contradicts path:/a=/container (c)"),
            "{error}"
        );
        maps.add("path:/a=/container", Origin::Container, "again")
            .unwrap();
    }

    #[test]
    fn the_more_specific_comes_first() {
        let mut maps = Maps::default();
        let text = "path:/=/root\npath:/a/b=/ab\npath:/a=/a2\nmount:/m=/point\nmount:mnt_id=7=/id";
        maps.add(text, Origin::Command, "x").unwrap();
        let path = |path: &str| maps.path(&ContainerPath::new(path)).unwrap().0.to_string();
        assert_eq!(path("/a/b/c"), "/ab/c");
        assert_eq!(path("/a/c"), "/a2/c");
        assert_eq!(path("/ab"), "/root/ab");
        let at = ContainerPath::new("/m");
        let mount = |id| maps.mount(id, &at).unwrap().0.to_string();
        assert_eq!(mount(Some(MountId(7))), "/id");
        assert_eq!(mount(Some(MountId(8))), "/point");
        assert_eq!(mount(None), "/point");
    }
}
