//! The open files and mappings of a process.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{statx, vanished};
use crate::check::{FileKind, Mapping, OpenFile};
use crate::host::{open_in, parse};
use crate::ids::{HostPid, MountId};

/// The open files of a process. Thousands are no rarity, so nothing is asked of one that cannot matter: `fdinfo` costs
/// as much as everything else together.
pub(super) fn open_files(pid: HostPid, doubtful: &Doubtful) -> io::Result<Vec<OpenFile>> {
    let dir = File::open(format!("/proc/{pid}/fd"))?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let name = match entry {
            Ok(entry) => entry.file_name(),
            // The process ended.
            Err(error) if vanished(&error) => break,
            Err(error) => return Err(error),
        };
        let Some(fd) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match open_file(pid, fd, &dir, &name, doubtful) {
            Ok(file) => files.push(file),
            Err(error) if vanished(&error) => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("fd {fd}: {error}")));
            }
        }
    }
    Ok(files)
}

fn open_file(
    pid: HostPid,
    fd: u32,
    dir: &File,
    name: &OsStr,
    doubtful: &Doubtful,
) -> io::Result<OpenFile> {
    let link = PathBuf::from(nix::fcntl::readlinkat(dir, name)?);
    let stat = statx::of_entry(dir, &CString::new(name.as_bytes())?)?;
    let kind = stat.kind();
    let bytes = link.as_os_str().as_bytes();
    let inotify = bytes == b"anon_inode:inotify";
    let pressure = bytes.windows(8).any(|window| window == b"pressure");
    let info = if inotify || pressure || doubtful.may_be_locked(&stat) {
        std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?
    } else {
        String::new()
    };
    let flags = parse::pos_and_flags(&info).map_or(0, |(_, flags)| flags);
    let watches = if inotify {
        parse::watches(&info)
            .into_values()
            .map(|watch| (watch.sdev, watch.ino))
            .collect()
    } else {
        Vec::new()
    };
    let path = || PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
    Ok(OpenFile {
        fd,
        kind,
        mnt_id: stat.mount(),
        inode: stat.inode(),
        links: stat.links(),
        allocated: stat.allocated(),
        writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
        lost: kind == FileKind::Regular && in_cgroup(bytes) && !leads_to(pid, bytes, stat.inode()),
        huge: bytes.starts_with(b"/memfd:") && statx::on_hugetlbfs(&path()),
        protocol: (kind == FileKind::Socket)
            .then(|| statx::protocol(&path()))
            .flatten(),
        locks: locks(&info),
        watches,
        link,
    })
}

/// Which files may be locked.
pub(super) struct Doubtful {
    /// Inodes in `/proc/locks`; `None` where that does not show all.
    locked: Option<BTreeSet<u64>>,
    /// Mounts of which `/proc/locks` has other inodes than `stat(2)`.
    overlays: BTreeSet<MountId>,
}

impl Doubtful {
    /// `overlays` are the mounts of type overlay. Only the node's own pid namespace sees locks whose owner has ended.
    pub(super) fn new(overlays: BTreeSet<MountId>) -> Self {
        let link = std::fs::read_link("/proc/self/ns/pid");
        let all = link.is_ok_and(|link| link == Path::new(INITIAL_PID_NAMESPACE));
        let text = all.then(|| std::fs::read_to_string("/proc/locks").ok());
        Self {
            locked: text.flatten().map(|text| locked_inodes(&text)),
            overlays,
        }
    }

    fn may_be_locked(&self, stat: &statx::Stat) -> bool {
        let file = [FileKind::Regular, FileKind::Directory].contains(&stat.kind());
        let listed = match &self.locked {
            Some(locked) => locked.contains(&stat.inode()),
            None => true,
        };
        let overlay = stat.mount().is_some_and(|id| self.overlays.contains(&id));
        file && (listed || overlay)
    }
}

/// `PROC_PID_INIT_INO` (`include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// `1: FLOCK  ADVISORY  WRITE 1234 00:2b:17 0 EOF` (`proc_locks(5)`): the last part of the sixth field.
fn locked_inodes(text: &str) -> BTreeSet<u64> {
    text.lines()
        .filter_map(|line| {
            let id = line
                .split_whitespace()
                .find(|word| word.matches(':').count() == 2)?;
            id.rsplit(':').next()?.parse().ok()
        })
        .collect()
}

/// Files of cgroups have names with a dot, or one of the few of version 1 without; which mount it is tells for sure,
/// later.
fn in_cgroup(link: &[u8]) -> bool {
    link.windows(6).any(|window| window == b"cgroup")
}

fn leads_to(pid: HostPid, link: &[u8], inode: u64) -> bool {
    let link = link.strip_suffix(b" (deleted)").unwrap_or(link);
    let rest = Path::new(OsStr::from_bytes(link.strip_prefix(b"/").unwrap_or(link)));
    open_in(Path::new(&format!("/proc/{pid}/root")), rest)
        .and_then(|fd| statx::of_descriptor(&fd))
        .is_ok_and(|stat| stat.inode() == inode)
}

/// `lock: 1: FLOCK  ADVISORY  WRITE 1234 00:2b:17 0 EOF` (`proc_pid_fdinfo(5)`, `proc_locks(5)`): class and type.
fn locks(info: &str) -> Vec<String> {
    let lines = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [_, class, _, kind, ..] => format!("{class} {kind}"),
                _ => line.trim().to_owned(),
            }
        })
        .collect()
}

/// The mappings that are of something with a name outside of the process, each name once.
pub(super) fn mappings(pid: HostPid) -> io::Result<Vec<Mapping>> {
    let text = std::fs::read(format!("/proc/{pid}/maps"))?;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some((range, name)) = mapping(line) else {
            continue;
        };
        if !of_interest(name) || !seen.insert(name) {
            continue;
        }
        let path = PathBuf::from(format!("/proc/{pid}/map_files/{range}"));
        // What is no file cannot be asked; it is known by its name.
        let stat = name
            .starts_with(b"/")
            .then(|| statx::of_path(&path).ok())
            .flatten();
        found.push(Mapping {
            name: OsStr::from_bytes(name).into(),
            kind: stat.as_ref().map_or(FileKind::Other, statx::Stat::kind),
            links: stat.as_ref().map_or(1, statx::Stat::links),
            allocated: stat.as_ref().map_or(0, statx::Stat::allocated),
        });
    }
    Ok(found)
}

/// Range and name of a line of `maps` (`proc_pid_maps(5)`): five fields, then the name, padded with spaces.
fn mapping(line: &[u8]) -> Option<(String, &[u8])> {
    let mut rest = line;
    let mut range = None;
    for _ in 0..5 {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        range = range.or_else(|| std::str::from_utf8(&rest[..end]).ok().map(str::to_owned));
        rest = &rest[end + 1..];
    }
    let start = rest.iter().position(|byte| *byte != b' ')?;
    Some((range?, &rest[start..]))
}

/// Plain files that still have their name are nothing to CRIU.
fn of_interest(name: &[u8]) -> bool {
    name.starts_with(b"anon_inode:")
        || name.starts_with(b"/dev/")
        || (name.starts_with(b"/") && name.ends_with(b" (deleted)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_has_a_range_and_a_name_with_spaces() {
        let line = b"7f1c3e216000-7f1c3e217000 rw-s 00000000 00:0f 1057                       /a b (deleted)";
        let (range, name) = mapping(line).unwrap();
        assert_eq!(range, "7f1c3e216000-7f1c3e217000");
        assert_eq!(name, b"/a b (deleted)");
        assert!(of_interest(name));
        assert!(mapping(b"7f1c3e216000-7f1c3e217000 rw-p 00000000 00:00 0 ").is_none());
    }

    #[test]
    fn locked_inodes_are_found_whatever_holds_them() {
        let text = "1: FLOCK  ADVISORY  WRITE 1234 00:2b:17 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 7 00:2b:18 0 EOF\n\
                    2: OFDLCK ADVISORY  READ -1 fe:01:4711 0 EOF\n";
        assert_eq!(locked_inodes(text), BTreeSet::from([17, 18, 4711]));
    }

    #[test]
    fn locks_are_told_by_class_and_type() {
        let info = "pos:\t0\nlock:\t1: POSIX  ADVISORY  WRITE 12 00:2b:17 0 EOF\nlock:\t2: LEASE  ACTIVE    READ 12 00:2b:17 0 EOF\n";
        assert_eq!(locks(info), ["POSIX WRITE", "LEASE READ"]);
    }
}
