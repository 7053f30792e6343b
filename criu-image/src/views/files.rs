//! Files that are not regular ones: as far as an engine reads or edits them.
//!
//! These views leave out what no engine edits (socket options, queues), so [`View::to_message`](super::View::to_message)
//! makes no whole message of them; writing into one that was read is what they are for.

use super::FhEntry;
use crate::text::Bytes;
use crate::view::{Sint32, view};

view! {
    /// An internet socket.
    pub struct InetSkEntry = "inet_sk_entry" {
        /// Id.
        1 => id: u32,
        /// Inode, which `tcp-stream-<ino in hexadecimal>.img` is named after.
        2 => ino: u32,
        /// Address family: 2 IPv4, 10 IPv6.
        3 => family: u32,
        /// 1 stream, 2 datagram, 3 raw.
        4 => type_: u32,
        /// IP protocol: 6 TCP, 17 UDP.
        5 => proto: u32,
        /// State of TCP: 1 established, 7 closed, 10 listening, ...
        6 => state: u32,
        /// Local port.
        7 => src_port: u32,
        /// Remote port, 0 when not connected.
        8 => dst_port: u32,
        /// Local address: one number for IPv4, four for IPv6, in network byte order.
        11 => src_addr: Vec<u32>,
        /// Remote address, likewise.
        12 => dst_addr: Vec<u32>,
        /// An IPv6 socket takes no IPv4 connections.
        15 => v6only: Option<bool>,
        /// Interface of a link-local address.
        17 => ifname: Option<Bytes>,
        /// Network namespace.
        18 => ns_id: Option<u32>,
        /// Directions that are shut down: 1 reading, 2 writing, 3 both.
        19 => shutdown: Option<u32>,
    }

    /// A unix socket.
    pub struct UnixSkEntry = "unix_sk_entry" {
        /// Id.
        1 => id: u32,
        /// Inode.
        2 => ino: u32,
        /// 1 stream, 2 datagram, 5 sequential packets.
        3 => type_: u32,
        /// 1 established, 7 closed, 10 listening.
        4 => state: u32,
        /// Inode of the peer, 0 without one.
        8 => peer: u32,
        /// Path, or a zero byte and an abstract name.
        11 => name: Bytes,
        /// Directory that a relative path was bound in.
        14 => name_dir: Option<Bytes>,
        /// The path is gone.
        15 => deleted: Option<bool>,
        /// Network namespace.
        16 => ns_id: Option<u32>,
        /// Mount that the path is on; zig-zag encoded as for regular files.
        17 => mnt_id: Option<Sint32>,
    }

    /// A fanotify group.
    pub struct FanotifyFileEntry = "fanotify_file_entry" {
        /// Id.
        1 => id: u32,
        /// Its marks.
        6 => mark: Vec<FanotifyMarkEntry>,
    }

    /// A mark of a fanotify group.
    pub struct FanotifyMarkEntry = "fanotify_mark_entry" {
        /// Id of its group.
        1 => id: u32,
        /// 1 an inode, 2 a mount.
        2 => type_: u32,
        /// Events.
        4 => mask: u32,
        /// Device of the marked object at dump, as the kernel numbers devices internally.
        6 => s_dev: u32,
        /// The marked inode.
        7 => ie: Option<FanotifyInodeMarkEntry>,
        /// The marked mount.
        8 => me: Option<FanotifyMountMarkEntry>,
    }

    /// A marked inode.
    pub struct FanotifyInodeMarkEntry = "fanotify_inode_mark_entry" {
        /// Inode at dump.
        1 => i_ino: u64,
        /// The inode.
        2 => f_handle: FhEntry,
    }

    /// A marked mount.
    pub struct FanotifyMountMarkEntry = "fanotify_mount_mark_entry" {
        /// Mount at dump; not zig-zag encoded.
        1 => mnt_id: u32,
        /// Path on it.
        2 => path: Option<Bytes>,
    }

    /// A named pipe.
    pub struct FifoEntry = "fifo_entry" {
        /// Id.
        1 => id: u32,
        /// The pipe, which `fifo-data.img` has the content of.
        2 => pipe_id: u32,
        /// Id of the regular file whose path it is opened by.
        3 => regf_id: Option<u32>,
    }

    /// A terminal.
    pub struct TtyFileEntry = "tty_file_entry" {
        /// Id.
        1 => id: u32,
        /// Its entry in `tty-info.img`.
        2 => tty_info_id: u32,
        /// Id of the regular file whose path it is opened by.
        6 => regf_id: Option<u32>,
    }

    /// A namespace.
    pub struct NsFileEntry = "ns_file_entry" {
        /// Id.
        1 => id: u32,
        /// The namespace.
        2 => ns_id: u32,
        /// `CLONE_NEW*` flag of its kind.
        3 => ns_cflag: u32,
    }
}
