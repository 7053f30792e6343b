//! `source.json`: what only the dump could know.
//!
//! The interposer writes it into the image directory while the tree is still frozen, so that it travels inside every
//! archive. A checkpoint without it (made by podman, CRI-O or stock containerd) still works with what the images hold.
//!
//! The format has a version. A reader takes its own version and all before it; a newer one is refused in words, not
//! guessed at.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Hierarchy;
use crate::finding::Holder;
use crate::ids::{CgroupPath, ContainerPath, MountId};

/// Name of the file in the image directory.
pub const FILE_NAME: &str = "source.json";

/// Version this code writes.
pub const VERSION: u32 = 1;

/// No honest manifest comes near this size, in bytes (a mount takes about 300).
pub const MAX_SIZE: u64 = 16 << 20;

/// The content of `source.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version, see [`VERSION`].
    pub version: u32,
    /// The program that wrote it, for example `restow 0.1.0`.
    pub writer: String,
    /// Time of the dump, seconds since the epoch.
    pub time: u64,
    /// The run of criu that made the images, as `inventory.img` names it.
    #[serde(default)]
    pub criu_run: Option<String>,
    /// The kernel's release (`uname -r`).
    pub kernel: String,
    /// The runtime that asked for the dump, for example `runc`.
    pub runtime: String,
    /// The container's id as the runtime knows it.
    pub container: Option<String>,
    /// The pod's and container's identity: annotations of the container's spec that name them.
    #[serde(default)]
    pub identity: BTreeMap<String, String>,
    /// Host name inside the container.
    pub hostname: String,
    /// Where the container's init was.
    pub cgroup: ManifestCgroup,
    /// The addresses of its network namespace, in the order of its interfaces.
    #[serde(default)]
    pub addresses: Vec<InterfaceAddress>,
    /// Files that CRIU could not look up and was told to take as external.
    #[serde(default)]
    pub unreachable: Vec<ManifestFile>,
    /// Volumes whose content travels in the image directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<CarriedVolume>,
    /// The container's mounts, as `/proc/<init>/mountinfo` listed them to a reader on the node.
    pub mounts: Vec<ManifestMount>,
}

/// An address of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
}

/// A volume whose content is in an archive in the image directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedVolume {
    /// Where the container had it.
    pub mount_point: ContainerPath,
    /// Name of the archive in the image directory.
    pub file: String,
    /// Size of the archive, in bytes.
    pub size: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Size of the tar inside, in bytes: no more than this is unpacked.
    pub content: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Where the container's init was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestCgroup {
    /// Whether the container had a cgroup namespace of its own.
    pub private_namespace: bool,
    /// Its cgroup in each hierarchy as the node sees it.
    pub paths: BTreeMap<Hierarchy, CgroupPath>,
    /// Hierarchies whose `/` was not the real root, but the root of the cgroup namespace in which criu ran. `None` in a
    /// manifest that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_roots: Option<BTreeSet<Hierarchy>>,
    /// Hierarchies in whose root the tree was, of which CRIU was told to record no directories: they would be those of the
    /// whole node. Empty in a manifest that does not say it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unrecorded: BTreeSet<Hierarchy>,
}

/// An open file on a mount that the container had not got, or of a cgroup that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// The mount it was opened on.
    pub mnt_id: MountId,
    /// Its inode number.
    pub ino: u64,
    /// Its path as the kernel showed it, without ` (deleted)`.
    pub path: ContainerPath,
    /// Its place among the cgroups, when it is a file of a cgroup on a mount that the container had not got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupFile>,
    /// Who held it.
    pub holders: Vec<Holder>,
}

/// A cgroup's directory or a file in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupFile {
    /// Which hierarchy.
    pub hierarchy: Hierarchy,
    /// Its path in the hierarchy, as the node saw it.
    pub path: CgroupPath,
}

impl ManifestFile {
    /// The name CRIU knows it by.
    pub fn key(&self) -> String {
        format!("file[{:x}:{:x}]", self.mnt_id.0, self.ino)
    }
}

/// One mount of the container as the node saw it at dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestMount {
    /// Its id; the same as in the images.
    pub mnt_id: MountId,
    /// Where it is in the container.
    pub mount_point: ContainerPath,
    /// The part of its file system that is mounted. For cgroups this is the real path, which the images do not have.
    pub root: String,
    /// File system type.
    pub fs_type: String,
    /// Super block options of a cgroup mount, which name the controllers of version 1; empty for others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// Device number of what is mounted, as `st_dev` gives it.
    pub dev: u64,
    /// Inode number of what is mounted.
    pub ino: u64,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("Cannot read {FILE_NAME}")]
    Read(#[source] std::io::Error),
    /// It is larger than any honest one.
    #[error("{FILE_NAME} is larger than {MAX_SIZE} bytes")]
    TooLarge,
    /// It is not what we write.
    #[error("{FILE_NAME} is damaged")]
    Damaged(#[source] serde_json::Error),
    /// It comes from a newer Restow.
    #[error(
        "{FILE_NAME} has version {0}, newer than {VERSION}, the newest this Restow reads; update Restow on this node"
    )]
    Newer(u32),
}

impl Manifest {
    /// Reads a manifest, bounded by [`MAX_SIZE`].
    ///
    /// # Errors
    /// When it cannot be read, is too large, damaged or from a newer Restow.
    pub fn read(input: impl Read) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        input
            .take(MAX_SIZE + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::Read)?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(Error::TooLarge);
        }
        // The version first: the rest may have changed shape.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(&bytes).map_err(Error::Damaged)?;
        if version > VERSION {
            return Err(Error::Newer(version));
        }
        serde_json::from_slice(&bytes).map_err(Error::Damaged)
    }

    /// The manifest as text, ready to be written.
    ///
    /// # Errors
    /// When a path in it is not UTF-8, which JSON cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            version: VERSION,
            writer: "restow 0.1.0".into(),
            time: 1,
            criu_run: None,
            kernel: "6.18".into(),
            runtime: "runc".into(),
            container: Some("c".into()),
            identity: BTreeMap::new(),
            hostname: "pod-a".into(),
            cgroup: ManifestCgroup {
                private_namespace: true,
                paths: BTreeMap::from([(Hierarchy::v2(), CgroupPath::new("/kubepods/podA/c"))]),
                namespace_roots: Some(BTreeSet::new()),
                unrecorded: BTreeSet::from([Hierarchy("cpuset".into())]),
            },
            addresses: vec![InterfaceAddress {
                interface: "eth0".into(),
                address: "10.88.0.15".parse().unwrap(),
            }],
            unreachable: Vec::new(),
            volumes: Vec::new(),
            mounts: vec![ManifestMount {
                mnt_id: MountId(7),
                mount_point: ContainerPath::new("/etc/hosts"),
                root: "/x".into(),
                fs_type: "ext4".into(),
                options: String::new(),
                dev: 1,
                ino: 2,
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(Manifest::read(bytes.as_slice()).unwrap(), sample());
    }

    #[test]
    fn an_external_file_has_the_key_that_criu_compares() {
        let path = ContainerPath::new("/x");
        let file = ManifestFile {
            mnt_id: MountId(0x9f),
            ino: 0x5eb3,
            path,
            cgroup: None,
            holders: Vec::new(),
        };
        assert_eq!(file.key(), "file[9f:5eb3]");
    }

    #[test]
    fn a_newer_version_is_refused_in_words() {
        let newer = br#"{"version": 2, "all": "different"}"#;
        let error = Manifest::read(newer.as_slice()).unwrap_err();
        assert!(
            error.to_string().contains("version 2, newer than 1"),
            "{error}"
        );
    }

    #[test]
    fn damage_and_size_are_told_apart() {
        assert!(matches!(
            Manifest::read(b"{".as_slice()),
            Err(Error::Damaged(_))
        ));
        let endless = std::io::repeat(b' ');
        assert!(matches!(Manifest::read(endless), Err(Error::TooLarge)));
    }
}
