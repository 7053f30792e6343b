//! What `/proc` says of a running tree, as plain data.
//!
//! Everything here is a moment's view: the tree goes on while it is read, and what vanished meanwhile is simply not there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::ids::{HostPid, MountId};

/// A process tree, and the node it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The process that would be named to CRIU.
    pub root: HostPid,
    /// It is the first process of a pid namespace of its own, so that ids in the container are free elsewhere.
    pub own_pid_namespace: bool,
    /// The tree, the root first.
    pub tasks: Vec<Task>,
    /// Processes in the tree's pid namespace that are not below its root, such as those of `runc exec`.
    pub beside: Vec<Task>,
    /// Mounts, by mount namespace.
    pub mounts: BTreeMap<u64, Vec<Mount>>,
    /// Internet sockets of the tree's network namespaces, by inode.
    pub inet: BTreeMap<u64, InetSocket>,
    /// Unix sockets of these, by inode.
    pub unix: BTreeMap<u64, UnixSocket>,
    /// Netlink sockets with bytes that nobody has read, by inode.
    pub netlink_pending: BTreeSet<u64>,
    /// What could not be looked at, in words.
    pub unread: Vec<String>,
    /// What CRIU and the kernel can do here.
    pub node: Node,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id here.
    pub pid: HostPid,
    /// Its id in its innermost pid namespace.
    pub ns_pid: u32,
    /// Its command name.
    pub command: String,
    /// Its state's letter (`proc_pid_stat(5)`).
    pub state: char,
    /// Its session, as its innermost pid namespace counts it; 0 when the leader is outside of that.
    pub session: u32,
    /// Who traces it, 0 for nobody.
    pub tracer: i32,
    /// Its effective user id.
    pub uid: u32,
    /// Namespaces by name in `/proc/<pid>/ns`, as inode numbers.
    pub namespaces: BTreeMap<&'static str, u64>,
    /// Its open files.
    pub files: Vec<OpenFile>,
    /// Its mappings that are of files or devices, one for each file.
    pub mappings: Vec<Mapping>,
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Character device with these numbers.
    Character(u32, u32),
    /// Block device with these numbers.
    Block(u32, u32),
    /// Socket.
    Socket,
    /// Pipe or named pipe.
    Pipe,
    /// Anything else: what has no type of its own.
    Other,
}

/// One open file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// The descriptor.
    pub fd: u32,
    /// Where `/proc/<pid>/fd/<fd>` leads, as the kernel writes it.
    pub link: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// The mount it was opened on.
    pub mnt_id: Option<MountId>,
    /// Its inode.
    pub inode: u64,
    /// Number of names.
    pub links: u64,
    /// Bytes it has on disk.
    pub allocated: u64,
    /// Opened for writing.
    pub writable: bool,
    /// Its path does not lead to it any more. Asked of files of cgroups only, of which the kernel does not always say
    /// that they are gone.
    pub lost: bool,
    /// It is on hugetlbfs. Asked of memfds only.
    pub huge: bool,
    /// A socket's protocol as the kernel names it (`system.sockprotoname`), such as `TCPv6` or `UNIX-STREAM`.
    pub protocol: Option<String>,
    /// Locks on it, as `fdinfo` lists them: class and type, such as `FLOCK WRITE`.
    pub locks: Vec<String>,
    /// Watches of an inotify instance: device in the kernel's encoding, and inode.
    pub watches: Vec<(u32, u64)>,
}

/// A mapped file, device or object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// As `maps` names it.
    pub name: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Number of names; 1 when it could not be asked.
    pub links: u64,
    /// Bytes it has on disk.
    pub allocated: u64,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id.
    pub id: MountId,
    /// Where.
    pub mount_point: PathBuf,
    /// File system type.
    pub fs_type: String,
    /// Device in the kernel's encoding, and inode, of the object at the mount point, when that is a file.
    pub file: Option<(u32, u64)>,
    /// It is a mount of POSIX message queues with at least one queue.
    pub has_queues: bool,
}

/// An internet socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InetSocket {
    /// `tcp` or `udp`.
    pub tcp: bool,
    /// Its own address.
    pub local: SocketAddr,
    /// The peer's; unspecified when there is none.
    pub remote: SocketAddr,
    /// The kernel's state number (`include/net/tcp_states.h`).
    pub state: u8,
    /// Bytes that wait to be read; of a listening socket, connections that wait to be accepted.
    pub waiting: u32,
}

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub kind: u8,
    /// The peer's inode.
    pub peer: Option<u64>,
    /// Its name, abstract ones after `@`.
    pub name: Option<String>,
    /// Inodes of the sockets whose connection it has not accepted; 0 for one that is closed already.
    pub pending: Vec<u64>,
}

/// What CRIU and the kernel can do here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The criu that would be used.
    pub criu: Option<PathBuf>,
    /// Why none was found.
    pub criu_missing: Option<String>,
    /// Its version: major, minor, patch.
    pub criu_version: Option<[u32; 3]>,
    /// The kernel's version: major, minor.
    pub kernel: Option<[u32; 2]>,
    /// Kernel interfaces that CRIU needs and that are not here.
    pub kernel_missing: Vec<String>,
    /// Capabilities that CRIU needs and this process lacks.
    pub capabilities_missing: Vec<&'static str>,
    /// Huge pages of the default size that nobody uses.
    pub free_huge_pages: u64,
    /// The runtime, and its version, when the tree is a container of one.
    pub runtime: Option<(String, [u32; 3])>,
}
