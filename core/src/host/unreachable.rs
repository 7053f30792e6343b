//! Open files that CRIU cannot look up by a path: those on mounts that the container has not got, and those of cgroups
//! that were removed.
//!
//! CRIU refuses to dump either (`Can't lookup mount`, `Can't create link remap`) unless it is told that the file is
//! external, by the key `file[<mnt_id>:<inode>]` in lower-case hexadecimal (`criu/files-reg.c`, `dump_one_reg_file`).

// statx(2) has no wrapper in nix; it is the one call that gives mount, inode and type of a descriptor.
#![allow(unsafe_code)]

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::node_cgroups::NodeCgroups;
use super::{RestoredTree, file_fact, mountinfo, open_in, parse};
use crate::finding::Holder;
use crate::ids::{ContainerPath, HostPid, MountId};
use crate::source::manifest::ManifestFile;
use crate::verify::Restored;

/// What the kernel puts behind the path of a file that has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// Links of files that have a path for the eye only; CRIU knows them by their kind.
const NO_PATH: [&str; 4] = ["/memfd:", "/SYSV", "/dev/zero (deleted)", "/anon_hugepage"];

/// Finds such files in the tree below `init`, which must stand still.
///
/// # Errors
/// When the tree cannot be read.
pub fn unreachable_files(init: HostPid) -> io::Result<Vec<ManifestFile>> {
    let mounts = mountinfo(init)?;
    let known: BTreeSet<MountId> = mounts.iter().map(|mount| mount.id).collect();
    let cgroups = mounts
        .iter()
        .filter(|mount| mount.fs_type.starts_with("cgroup"));
    let cgroups: BTreeSet<MountId> = cgroups.map(|mount| mount.id).collect();
    let mut node = None;
    let mut found: BTreeMap<(MountId, u64), ManifestFile> = BTreeMap::new();
    for (ns_pid, pid) in RestoredTree::of(init)?.tasks() {
        for (link, fd) in links(*pid)? {
            // A thread may have ended, and not everything that is mapped has a link.
            let Some(object) = identify(&link).or_else(|error| ignore(&error, fd))? else {
                continue;
            };
            let (mnt_id, ino) = (object.mount, object.ino);
            let shown = std::fs::read_link(&link)?;
            let bytes = shown.as_os_str().as_bytes();
            if !bytes.starts_with(b"/")
                || NO_PATH
                    .iter()
                    .any(|word| bytes.starts_with(word.as_bytes()))
            {
                continue;
            }
            let path = Path::new(OsStr::from_bytes(
                bytes.strip_suffix(DELETED).unwrap_or(bytes),
            ));
            let foreign = !known.contains(&mnt_id);
            let removed = cgroups.contains(&mnt_id) && !leads_to(*pid, path, ino);
            if !foreign && !removed {
                continue;
            }
            let file = match found.entry((mnt_id, ino)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let node = match &mut node {
                        Some(node) => node,
                        None => node.insert(NodeCgroups::new()?),
                    };
                    entry.insert(ManifestFile {
                        mnt_id,
                        ino,
                        path: ContainerPath::new(path),
                        cgroup: foreign.then(|| node.place(&link, object.dev)).flatten(),
                        holders: Vec::new(),
                    })
                }
            };
            file.holders
                .extend(fd.map(|fd| Holder { pid: *ns_pid, fd }));
        }
    }
    Ok(found.into_values().collect())
}

/// Every link of a process to an open file: its descriptors, with their numbers, its directories and executable, and one
/// mapping of each file.
fn links(pid: HostPid) -> io::Result<Vec<(PathBuf, Option<u32>)>> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let mut links = Vec::new();
    for entry in std::fs::read_dir(proc.join("fd"))? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        links.extend(number.map(|fd| (entry.path(), Some(fd))));
    }
    links.extend(["cwd", "root", "exe"].map(|name| (proc.join(name), None)));
    let maps = std::fs::read_to_string(proc.join("maps"))?;
    let mapped = parse::mapped_files(&maps);
    links.extend(mapped.map(|range| (proc.join("map_files").join(range), None)));
    Ok(links)
}

/// Of what has no descriptor the absence is no error.
fn ignore(error: &io::Error, fd: Option<u32>) -> io::Result<Option<Identity>> {
    match error.raw_os_error() {
        Some(libc::ENOENT) if fd.is_none() => Ok(None),
        _ => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// Whether a path of the process leads to this inode. Of a removed cgroup's file the kernel does not always say that it
/// is deleted.
fn leads_to(pid: HostPid, path: &Path, ino: u64) -> bool {
    let rest = path.strip_prefix("/").unwrap_or(path);
    let found =
        open_in(Path::new(&format!("/proc/{pid}/root")), rest).and_then(|fd| file_fact(&fd));
    found.is_ok_and(|fact| fact.id.ino == ino)
}

/// What a link of `/proc/<pid>/fd` leads to.
struct Identity {
    mount: MountId,
    dev: u64,
    ino: u64,
}

/// Mount and inode of a regular file, directory, named pipe or device behind a descriptor; `None` for sockets, pipes and
/// what has no type at all.
fn identify(path: &Path) -> io::Result<Option<Identity>> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let wanted = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_MNT_ID;
    // SAFETY: the path is a valid C string and the buffer is writable for the length of the call.
    let result =
        unsafe { libc::statx(libc::AT_FDCWD, text.as_ptr(), 0, wanted, stat.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed memory is a valid statx, and the kernel has filled it.
    let stat = unsafe { stat.assume_init() };
    let kind = u32::from(stat.stx_mode) & libc::S_IFMT;
    let has_path = [
        libc::S_IFREG,
        libc::S_IFDIR,
        libc::S_IFIFO,
        libc::S_IFCHR,
        libc::S_IFBLK,
    ];
    let id = u32::try_from(stat.stx_mnt_id)
        .ok()
        .filter(|_| stat.stx_mask & libc::STATX_MNT_ID != 0);
    Ok(id.filter(|_| has_path.contains(&kind)).map(|id| Identity {
        mount: MountId(id),
        dev: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
    }))
}
