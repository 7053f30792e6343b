//! Rules about open and mapped files.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{
    Circumstances, Facts, FileKind, Findings, Mapping, Mount, OpenFile, Place, Rule, Task,
};
use crate::finding::Severity;
use crate::ids::MountId;

/// Objects without a name that CRIU dumps (`criu/files.c`, `dump_one_file`).
const DUMPED: [&str; 8] = [
    "[eventfd]",
    "[eventpoll]",
    "inotify",
    "[fanotify]",
    "[signalfd]",
    "[timerfd]",
    "[pidfd]",
    "[aio]",
];

/// What CRIU carries along of a file without a name (`criu/include/cr_options.h`, `DEFAULT_GHOST_LIMIT`), in bytes on
/// disk.
const GHOST_LIMIT: u64 = 1 << 20;

/// Major numbers of devices that CRIU dumps as files: memory devices; ttys are told apart by name.
const MEMORY_DEVICES: u32 = 1;
const MISC_DEVICES: u32 = 10;
/// Minor numbers of `/dev/net/tun` and `/dev/autofs`, which CRIU knows.
const KNOWN_MISC: [u32; 2] = [200, 235];
/// Terminals: virtual and serial ones, `/dev/tty` and its like, pseudo terminals (`criu/tty.c`, `get_tty_driver`).
const TERMINALS: [u32; 7] = [3, 4, 5, 136, 143, 204, 229];

/// NVIDIA's GPUs, and those of the kernel's DRM drivers (`Documentation/admin-guide/devices.txt`). Other devices of theirs,
/// such as `/dev/nvidia-uvm` and `/dev/kfd`, have numbers that differ from node to node, and are known by name.
const NVIDIA: u32 = 195;
const DRM: u32 = 226;

/// `/dev/tty0`.
const FOREGROUND_CONSOLE: (u32, u32) = (4, 0);

pub(super) fn check(facts: &Facts, circumstances: &Circumstances, findings: &mut Findings) {
    let namespaces: BTreeMap<u64, Namespace<'_>> = facts
        .mounts
        .iter()
        .map(|(id, mounts)| (*id, Namespace::of(mounts)))
        .collect();
    let unknown = Namespace::of(&[]);
    for task in &facts.tasks {
        let id = task.namespaces.get("mnt");
        let view = View {
            task,
            namespace: id.and_then(|id| namespaces.get(id)).unwrap_or(&unknown),
            restow: circumstances.policy.is_some(),
            free_huge_pages: facts.node.free_huge_pages,
        };
        for file in &task.files {
            view.file(file, findings);
        }
        for mapping in &task.mappings {
            view.mapping(mapping, findings);
        }
    }
}

/// The mounts of a mount namespace.
struct Namespace<'a> {
    mounts: &'a [Mount],
    known: BTreeSet<MountId>,
    cgroups: BTreeSet<MountId>,
    over: BTreeMap<MountId, Vec<&'a Path>>,
}

impl<'a> Namespace<'a> {
    fn of(mounts: &'a [Mount]) -> Self {
        let cgroups = mounts
            .iter()
            .filter(|mount| mount.fs_type.starts_with("cgroup"));
        Self {
            mounts,
            known: mounts.iter().map(|mount| mount.id).collect(),
            cgroups: cgroups.map(|mount| mount.id).collect(),
            over: over(mounts),
        }
    }
}

/// For each mount, the mount points that lie over it: those further down, and later ones at its own place.
fn over(mounts: &[Mount]) -> BTreeMap<MountId, Vec<&Path>> {
    let mounts = mounts.iter().enumerate();
    mounts
        .clone()
        .map(|(at, own)| {
            let over = mounts.clone().filter(|(index, mount)| {
                let same = mount.mount_point == own.mount_point;
                mount.mount_point.starts_with(&own.mount_point) && (!same || *index > at)
            });
            (
                own.id,
                over.map(|(_, mount)| mount.mount_point.as_path()).collect(),
            )
        })
        .collect()
}

struct View<'a> {
    task: &'a Task,
    namespace: &'a Namespace<'a>,
    restow: bool,
    free_huge_pages: u64,
}

impl View<'_> {
    fn here(&self, file: &OpenFile) -> Option<Place> {
        Some(Place::of(self.task, Some(file.fd)))
    }

    fn file(&self, file: &OpenFile, findings: &mut Findings) {
        let link = file.link.as_os_str().as_bytes();
        for lock in &file.locks {
            findings.warning(
                Rule::FileLock,
                shown(&file.link),
                self.here(file),
                if self.restow {
                    format!("it is locked ({lock}); the lock is taken anew in the new pod")
                } else {
                    format!(
                        "it is locked ({lock}), which needs --file-locks at checkpoint and restore"
                    )
                },
            );
        }
        for watch in &file.watches {
            self.watch(file, *watch, findings);
        }
        match file.kind {
            FileKind::Socket | FileKind::Pipe => {}
            FileKind::Character(major, minor) => self.character(file, major, minor, findings),
            FileKind::Block(major, minor) => self.device(file, major, minor, findings),
            FileKind::Other => {
                if let Some(name) = link.strip_prefix(b"anon_inode:") {
                    self.anonymous(file, &String::from_utf8_lossy(name), findings);
                }
            }
            FileKind::Regular | FileKind::Directory => self.named(file, link, findings),
        }
    }

    fn anonymous(&self, file: &OpenFile, name: &str, findings: &mut Findings) {
        if DUMPED.contains(&name) {
            return;
        }
        if name == "[io_uring]" {
            findings.blocker(
                Rule::IoUring,
                "io_uring",
                self.here(file),
                "CRIU cannot dump an io_uring instance",
            );
            return;
        }
        findings.blocker(
            Rule::AnonymousFile,
            name.trim_matches(['[', ']']),
            self.here(file),
            "CRIU cannot dump this kind of kernel object",
        );
    }

    fn character(&self, file: &OpenFile, major: u32, minor: u32, findings: &mut Findings) {
        // CRIU knows no driver of the console that is in front.
        let known = (major, minor) != FOREGROUND_CONSOLE
            && (major == MEMORY_DEVICES
                || TERMINALS.contains(&major)
                || (major == MISC_DEVICES && KNOWN_MISC.contains(&minor)));
        if known {
            self.place(file, findings);
        } else {
            self.device(file, major, minor, findings);
        }
    }

    fn device(&self, file: &OpenFile, major: u32, minor: u32, findings: &mut Findings) {
        let kind = if matches!(file.kind, FileKind::Block(..)) {
            "block"
        } else {
            "character"
        };
        findings.blocker(
            Rule::Device,
            shown(&file.link),
            self.here(file),
            format!(
                "CRIU cannot dump {kind} device {major}:{minor}{}",
                plugin(&file.link, file.kind)
            ),
        );
    }

    fn named(&self, file: &OpenFile, link: &[u8], findings: &mut Findings) {
        if link.starts_with(b"/secretmem") {
            findings.blocker(
                Rule::SecretMemory,
                "memfd_secret",
                self.here(file),
                "CRIU cannot read secret memory",
            );
        } else if link.starts_with(b"/memfd:") {
            // Those of plain pages are on a mount that is not listed either, but CRIU knows their device.
            if file.huge && self.free_huge_pages == 0 {
                findings.blocker(
                    Rule::HugeMemfd,
                    shown(&file.link),
                    self.here(file),
                    "CRIU cannot dump a memfd in huge pages on a node that has none",
                );
            }
        } else if link.starts_with(b"/") && !link.starts_with(b"/SYSV") {
            self.place(file, findings);
        }
    }

    /// A file that CRIU has to find by mount and path.
    fn place(&self, file: &OpenFile, findings: &mut Findings) {
        let text = shown(&file.link);
        let link = file.link.as_os_str().as_bytes();
        let with_restow = if self.restow {
            Severity::Warning
        } else {
            Severity::Blocker
        };
        let Some(mount) = file.mnt_id else { return };
        if !self.namespace.known.contains(&mount) {
            let what = if self.restow {
                "it is on a mount that the container has not got; Restow hands it to CRIU, and at the restore it becomes inert or blocks"
            } else {
                "it is on a mount that the container has not got, so CRIU cannot look it up"
            };
            findings.add(with_restow, Rule::ForeignFile, text, self.here(file), what);
            return;
        }
        if self.namespace.cgroups.contains(&mount) {
            if file.lost {
                let what = if self.restow {
                    "its cgroup was removed; Restow hands it to CRIU, and at the restore it becomes inert or blocks"
                } else {
                    "its cgroup was removed, so CRIU cannot look it up"
                };
                findings.add(
                    with_restow,
                    Rule::RemovedCgroup,
                    text,
                    self.here(file),
                    what,
                );
                return;
            }
            if file.writable && text.ends_with(".pressure") {
                self.trigger(file, findings);
            }
            return;
        }
        if file.writable && text.starts_with("/proc/pressure/") {
            self.trigger(file, findings);
        }
        if self.hidden(file, mount) {
            findings.blocker(
                Rule::HiddenFile,
                text,
                self.here(file),
                "another mount hides it, so CRIU cannot look it up",
            );
        } else if file.kind == FileKind::Regular && link.ends_with(b" (deleted)") {
            unlinked(&text, file.links, file.allocated, self.here(file), findings);
        }
    }

    /// Whether another mount lies over the file.
    fn hidden(&self, file: &OpenFile, id: MountId) -> bool {
        let over = self.namespace.over.get(&id).into_iter().flatten();
        over.into_iter().any(|point| file.link.starts_with(point))
    }

    fn trigger(&self, file: &OpenFile, findings: &mut Findings) {
        findings.warning(
            Rule::PressureTrigger,
            shown(&file.link),
            self.here(file),
            "it is open for writing; a trigger written to it is lost at the restore",
        );
    }

    /// CRIU opens the watched object by its file handle and asks what path that has. A file that is a mount has a path
    /// outside of the container then, which only disk file systems are searched for (`criu/fsnotify.c`, `irmap.c`).
    fn watch(&self, file: &OpenFile, watch: (u32, u64), findings: &mut Findings) {
        let mount = self
            .namespace
            .mounts
            .iter()
            .find(|mount| mount.file == Some(watch) && mount.fs_type == "tmpfs");
        if let Some(mount) = mount {
            findings.blocker(
                Rule::Watch,
                mount.mount_point.display().to_string(),
                self.here(file),
                "it is watched, and it is a file of a tmpfs that is a mount of its own: CRIU finds no path for it",
            );
        }
    }

    fn mapping(&self, mapping: &Mapping, findings: &mut Findings) {
        let name = mapping.name.as_os_str().as_bytes();
        let here = || Some(Place::of(self.task, None));
        if name.starts_with(b"anon_inode:[io_uring]") {
            findings.blocker(
                Rule::IoUring,
                "io_uring",
                here(),
                "CRIU cannot dump the mapped rings of an io_uring instance",
            );
        } else if let Some(name) = name.strip_prefix(b"anon_inode:") {
            findings.blocker(
                Rule::AnonymousMapping,
                String::from_utf8_lossy(name).trim_matches(['[', ']']),
                here(),
                "CRIU cannot dump a mapping of this kind of kernel object",
            );
        } else if name.starts_with(b"/secretmem") {
            findings.blocker(
                Rule::SecretMemory,
                "memfd_secret",
                here(),
                "CRIU cannot read secret memory",
            );
        } else {
            match mapping.kind {
                FileKind::Character(1, _) => {}
                FileKind::Character(major, minor) | FileKind::Block(major, minor) => findings
                    .blocker(
                        Rule::DeviceMapping,
                        shown(&mapping.name),
                        here(),
                        format!(
                            "CRIU cannot dump mapped memory of device {major}:{minor}{}",
                            plugin(&mapping.name, mapping.kind)
                        ),
                    ),
                FileKind::Regular if name.ends_with(b" (deleted)") && !without_file(name) => {
                    unlinked(
                        &shown(&mapping.name),
                        mapping.links,
                        mapping.allocated,
                        here(),
                        findings,
                    );
                }
                _ => {}
            }
        }
    }
}

/// Mappings that are named like a file and have none.
fn without_file(name: &[u8]) -> bool {
    [
        &b"/memfd:"[..],
        b"/SYSV",
        b"/dev/zero",
        b"/anon_hugepage",
        b"/[aio]",
    ]
    .iter()
    .any(|word| name.starts_with(word))
}

fn unlinked(path: &str, links: u64, allocated: u64, place: Option<Place>, findings: &mut Findings) {
    if links > 0 {
        findings.blocker(
            Rule::UnlinkedLinked,
            path,
            place,
            "it lost the name it was opened by and has another one; CRIU needs link-remap for it",
        );
    } else if allocated > GHOST_LIMIT {
        findings.blocker(
            Rule::UnlinkedLarge,
            path,
            place,
            format!("it has no name any more and {allocated} bytes; CRIU carries along at most {GHOST_LIMIT}"),
        );
    }
}

/// The plugin of CRIU's that would be needed, as far as the device's numbers and name tell.
fn plugin(path: &Path, kind: FileKind) -> &'static str {
    let path = path.as_os_str().as_bytes();
    let starts = |words: &[&str]| words.iter().any(|word| path.starts_with(word.as_bytes()));
    let is = |wanted| matches!(kind, FileKind::Character(major, _) if major == wanted);
    if is(NVIDIA) || starts(&["/dev/nvidia"]) {
        ", a GPU: that needs cuda_plugin"
    } else if is(DRM) || starts(&["/dev/kfd", "/dev/dri/"]) {
        ", a GPU: that needs amdgpu_plugin, and an AMD GPU"
    } else {
        ""
    }
}

fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    text.strip_suffix(" (deleted)")
        .map(str::to_owned)
        .unwrap_or(text)
}
