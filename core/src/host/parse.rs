//! The files of `/proc` that Restow lives on, parsed without losing anything.
//!
//! The `procfs` crate leaves mountinfo's octal escapes in place and splits super block options, so that neither a mount
//! point with a space nor `name=systemd` comes out as it is; these few formats are what this project is about, so they
//! are parsed here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::ids::{CgroupPath, HostPid, MountId, NsPid};
use crate::source::{Hierarchy, WatchedObject};

/// One line of `/proc/<pid>/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Its id.
    pub id: MountId,
    /// Device number of its file system, major and minor.
    pub device: (u32, u32),
    /// The part of the file system that is mounted.
    pub root: PathBuf,
    /// Where, from the process's root.
    pub mount_point: PathBuf,
    /// Its own options (`ro`, `nosuid`, ...), as they stand.
    pub options: String,
    /// File system type.
    pub fs_type: String,
    /// Super block options, as they stand.
    pub super_options: String,
}

/// Parses a whole mountinfo file; a line that is not as documented is an error naming its number.
///
/// # Errors
/// With the 1-based number of the first line that cannot be parsed.
pub fn mountinfo(text: &[u8]) -> Result<Vec<MountInfo>, usize> {
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| mountinfo_line(line).ok_or(index + 1))
        .collect()
}

fn mountinfo_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let mut fields = fields.skip(1);
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let super_options = String::from_utf8_lossy(fields.nth(1)?).into_owned();
    Some(MountInfo {
        id: MountId(id),
        device,
        root,
        mount_point,
        options,
        fs_type,
        super_options,
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash (`fs/proc_namespace.c`, `mangle`).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && let Some(octal) = tail
                .get(..3)
                .and_then(|digits| std::str::from_utf8(digits).ok())
            && let Ok(byte) = u8::from_str_radix(octal, 8)
        {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Parses `/proc/<pid>/cgroup` (`cgroups(7)`): lines `id:controllers:path`, v2 with no controllers. Lines that are not
/// so are left out.
pub fn cgroups(text: &str) -> BTreeMap<Hierarchy, CgroupPath> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let hierarchy = Hierarchy(parts.next()?.to_owned());
            // The kernel marks a cgroup that was removed under its last task.
            let path = parts.next()?;
            Some((
                hierarchy,
                CgroupPath::new(path.strip_suffix(" (deleted)").unwrap_or(path)),
            ))
        })
        .collect()
}

/// The process's id in its innermost pid namespace, from `/proc/<pid>/status` (`NSpid`).
pub fn innermost_pid(status: &str) -> Option<NsPid> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok().map(NsPid)
}

/// Whether a process has ended and only waits for its parent, from `/proc/<pid>/status` (`State`).
pub fn ended(status: &str) -> bool {
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| state.trim_start().starts_with(['Z', 'X']))
}

/// Offset and `open(2)` flags in `/proc/<pid>/fdinfo/<fd>` (`proc_pid_fdinfo(5)`).
pub fn pos_and_flags(fdinfo: &str) -> Option<(u64, i32)> {
    let field = |name: &str| {
        fdinfo
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    Some((
        field("pos:")?.parse().ok()?,
        i32::from_str_radix(field("flags:")?, 8).ok()?,
    ))
}

/// The watches in an inotify descriptor's `/proc/<pid>/fdinfo/<fd>` (`proc_pid_fdinfo(5)`), by watch descriptor.
pub fn watches(fdinfo: &str) -> BTreeMap<u32, WatchedObject> {
    let lines = fdinfo
        .lines()
        .filter_map(|line| line.strip_prefix("inotify "));
    lines
        .filter_map(|line| {
            let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
            // All numbers are hexadecimal (fs/notify/fdinfo.c, inotify_fdinfo).
            let wd = u32::from_str_radix(field("wd:")?, 16).ok()?;
            let ino = u64::from_str_radix(field("ino:")?, 16).ok()?;
            let sdev = u32::from_str_radix(field("sdev:")?, 16).ok()?;
            Some((wd, WatchedObject { sdev, ino }))
        })
        .collect()
}

/// The marks on inodes in a fanotify descriptor's `/proc/<pid>/fdinfo/<fd>` (`proc_pid_fdinfo(5)`), numbered as they stand.
pub fn marks(fdinfo: &str) -> BTreeMap<u32, WatchedObject> {
    let lines = fdinfo
        .lines()
        .filter_map(|line| line.strip_prefix("fanotify ino:"));
    let found = lines.filter_map(|line| {
        let mut words = line.split(' ');
        let ino = u64::from_str_radix(words.next()?, 16).ok()?;
        let sdev = words.find_map(|word| word.strip_prefix("sdev:"))?;
        let sdev = u32::from_str_radix(sdev, 16).ok()?;
        Some(WatchedObject { sdev, ino })
    });
    (0..).zip(found).collect()
}

/// When a process was started, in clock ticks since boot, from `/proc/<pid>/stat` (`proc_pid_stat(5)`).
pub fn start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything; the 22nd field is the 20th behind it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// The processes in `/proc/<pid>/task/<tid>/children`.
pub fn children(text: &str) -> impl Iterator<Item = HostPid> + '_ {
    text.split_whitespace()
        .filter_map(|word| word.parse().ok().map(HostPid))
}

/// Address ranges in `/proc/<pid>/maps` (`proc_pid_maps(5)`) that map a file, one of each file, as `/proc/<pid>/map_files`
/// names them.
pub fn mapped_files(maps: &str) -> impl Iterator<Item = &str> {
    let mut seen = BTreeSet::new();
    maps.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let range = fields.next()?;
        let (dev, ino) = (fields.nth(2)?, fields.next()?);
        let path = fields.next()?;
        (ino != "0" && path.starts_with('/') && seen.insert((dev, ino))).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_keeps_spaces_backslashes_and_optional_fields() {
        let text = b"36 35 98:0 /mnt\\0401 /a\\040b\\134c rw,noatime master:1 shared:2 - ext4 /dev/root rw,errors=continue\n\
                     37 35 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let mounts = mountinfo(text).unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].root, PathBuf::from("/mnt 1"));
        assert_eq!(mounts[0].mount_point, PathBuf::from("/a b\\c"));
        assert_eq!(
            (mounts[0].device, mounts[0].options.as_str()),
            ((98, 0), "rw,noatime")
        );
        assert_eq!(mounts[0].fs_type, "ext4");
        assert_eq!(mounts[0].super_options, "rw,errors=continue");
        assert_eq!(mounts[1].id, MountId(37));
    }

    #[test]
    fn a_line_that_is_not_mountinfo_is_named() {
        assert_eq!(
            mountinfo(b"36 35 98:0 / / rw - ext4 x rw\nnonsense\n"),
            Err(2)
        );
    }

    #[test]
    fn cgroups_of_both_versions() {
        let found = cgroups("9:name=systemd:/a\n4:cpu,cpuacct:/b:c\n0::/d (deleted)\n");
        assert_eq!(
            found[&Hierarchy("name=systemd".into())],
            CgroupPath::new("/a")
        );
        assert_eq!(
            found[&Hierarchy("cpu,cpuacct".into())],
            CgroupPath::new("/b:c")
        );
        assert_eq!(found[&Hierarchy::v2()], CgroupPath::new("/d"));
    }

    #[test]
    fn offset_is_decimal_and_flags_are_octal() {
        assert_eq!(
            pos_and_flags("pos:\t42\nflags:\t0100001\nmnt_id:\t9\n"),
            Some((42, 0o10_0001))
        );
        assert_eq!(pos_and_flags("pos:\t42\n"), None);
    }

    #[test]
    fn watches_of_an_inotify_instance() {
        let text = "pos:\t0\nflags:\t02004000\nmnt_id:\t15\nino:\t1057\n\
                    inotify wd:b ino:10987 sdev:26 mask:18e ignored_mask:0 fhandle-bytes:8 fhandle-type:fe f_handle:x\n\
                    inotify wd:1 ino:c sdev:800001 mask:18e ignored_mask:0\n";
        let found = watches(text);
        assert_eq!(
            found[&11],
            WatchedObject {
                sdev: 0x26,
                ino: 0x10987
            }
        );
        assert_eq!(
            found[&1],
            WatchedObject {
                sdev: 0x80_0001,
                ino: 12
            }
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn one_mapping_of_each_file() {
        let maps = "7f00-7f10 r-xp 00000000 08:01 12                   /bin/x\n\
                    7f10-7f20 rw-p 00001000 08:01 12                   /bin/x\n\
                    7f20-7f30 rw-p 00000000 00:00 0 \n\
                    7f30-7f40 rw-s 00000000 00:10 12                   /dev/shm/a b (deleted)\n\
                    7f40-7f50 r-xp 00000000 00:00 0                    [vdso]\n";
        let found: Vec<_> = mapped_files(maps).collect();
        assert_eq!(found, ["7f00-7f10", "7f30-7f40"]);
    }

    #[test]
    fn marks_of_a_fanotify_group() {
        let text = "pos:\t0\nflags:\t02\nmnt_id:\t9\nfanotify flags:10 event-flags:0\n\
                    fanotify mnt_id:12 mflags:40 mask:38 ignored_mask:40000003\n\
                    fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:40000000 fhandle-bytes:8\n";
        let object = WatchedObject {
            sdev: 0x80_0013,
            ino: 0x4_f969,
        };
        assert_eq!(marks(text), BTreeMap::from([(0, object)]));
    }

    #[test]
    fn a_zombie_has_ended() {
        assert!(ended("Name:\tx\nState:\tZ (zombie)\n"));
        assert!(!ended("Name:\tZ\nState:\tS (sleeping)\n"));
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 12 13";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("7 (a) S 1"), None);
    }

    #[test]
    fn the_innermost_pid_is_the_last() {
        assert_eq!(
            innermost_pid("Name:\tx\nNSpid:\t4711\t17\t1\n"),
            Some(NsPid(1))
        );
        assert_eq!(innermost_pid("Name:\tx\n"), None);
    }
}
