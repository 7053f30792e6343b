//! Processes, files and mounts, as several commands need them.

use std::collections::HashMap;

use anyhow::Result;
use criu_image::Kind;
use criu_image::object::Object;

use crate::input::ImageSet;
use crate::output::visible_bytes;

/// Calls `each` for every record of an image; an image that is not there has none.
pub(super) fn records(
    set: &ImageSet,
    name: &str,
    kind: Kind,
    mut each: impl FnMut(&Object<'_>),
) -> Result<()> {
    if let Some(image) = set.image(name, kind)? {
        for record in image.records() {
            each(&record?.object()?);
        }
    }
    Ok(())
}

/// A process.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) ppid: u32,
    pub(super) pgid: u32,
    pub(super) sid: u32,
    pub(super) threads: Vec<u32>,
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) files_id: Option<u32>,
    pub(super) mnt_ns: Option<u32>,
    pub(super) cwd: Option<u32>,
    pub(super) root: Option<u32>,
    pub(super) exe: Option<u32>,
    /// Cgroup set of each thread.
    pub(super) cgroups: Vec<(u32, u32)>,
}

/// All processes, parents first.
pub(super) fn processes(set: &ImageSet) -> Result<Vec<Process>> {
    if !set.has("pstree.img") {
        anyhow::bail!(
            "{} is no whole image set: it has no pstree.img",
            set.origin().display()
        );
    }
    let mut all = Vec::new();
    records(set, "pstree.img", Kind::Pstree, |entry| {
        let number = |name| entry.u32(name).unwrap_or(0);
        let threads = entry.all("threads").filter_map(|value| match value {
            criu_image::object::Value::Unsigned(number) => u32::try_from(number).ok(),
            _ => None,
        });
        all.push(Process {
            pid: number("pid"),
            ppid: number("ppid"),
            pgid: number("pgid"),
            sid: number("sid"),
            threads: threads.collect(),
            ..Process::default()
        });
    })?;
    for process in &mut all {
        complete(set, process)?;
    }
    Ok(all)
}

fn complete(set: &ImageSet, process: &mut Process) -> Result<()> {
    let pid = process.pid;
    let threads = if process.threads.is_empty() {
        vec![pid]
    } else {
        process.threads.clone()
    };
    for thread in threads {
        records(set, &Kind::Core.file_name(thread), Kind::Core, |core| {
            let task = core.object("tc");
            if let Some(task) = task.as_ref().filter(|_| thread == pid) {
                process.name = task.bytes("comm").map(visible_bytes).unwrap_or_default();
                // criu's compel/include/uapi/task-state.h
                process.state = match task.u32("task_state") {
                    Some(1) => "alive",
                    Some(2) => "dead",
                    Some(3) => "stopped",
                    Some(6) => "zombie",
                    _ => "",
                };
            }
            let of_thread = core
                .object("thread_core")
                .and_then(|thread| thread.u32("cg_set"));
            // Before criu 3.17 the process had one set.
            if let Some(cgroups) = of_thread.or_else(|| task.and_then(|task| task.u32("cg_set"))) {
                process.cgroups.push((thread, cgroups));
            }
            // The ids may be in here instead of an image of their own.
            if let Some(ids) = core.object("ids") {
                process.files_id = ids.u32("files_id");
                process.mnt_ns = ids.u32("mnt_ns_id");
            }
        })?;
    }
    records(set, &Kind::Ids.file_name(pid), Kind::Ids, |ids| {
        process.files_id = ids.u32("files_id");
        process.mnt_ns = ids.u32("mnt_ns_id");
    })?;
    records(set, &Kind::Fs.file_name(pid), Kind::Fs, |fs| {
        process.cwd = fs.u32("cwd_id");
        process.root = fs.u32("root_id");
    })?;
    records(set, &Kind::Mm.file_name(pid), Kind::Mm, |mm| {
        process.exe = mm.u32("exe_file_id");
    })
}

/// An open file description.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenFile {
    /// Path, address or what else tells it.
    pub(super) text: String,
    /// `open(2)` flags.
    pub(super) flags: Option<u32>,
    /// Offset in bytes.
    pub(super) pos: Option<u64>,
    /// Size in bytes at dump.
    pub(super) size: Option<u64>,
    pub(super) mnt_id: Option<u32>,
    /// Mount point, where the images tell.
    pub(super) mount: Option<String>,
    /// Handed in at restore.
    pub(super) external: bool,
    /// How its content comes when its path has it no more: `linked`, `ghost` or `procfs`.
    pub(super) remap: Option<&'static str>,
}

/// All open file descriptions, by type and id.
#[derive(Debug, Default)]
pub(super) struct Files {
    all: HashMap<(String, u32), OpenFile>,
    /// By the ids of regular files alone, which processes and mappings name.
    regular: HashMap<u32, OpenFile>,
}

impl Files {
    pub(super) fn read(set: &ImageSet) -> Result<Self> {
        let mounts = mount_points(set)?;
        let mut remaps = HashMap::new();
        records(set, "remap-fpath.img", Kind::RemapFpath, |remap| {
            let how = match remap.name_of("remap_type") {
                Some("GHOST") => "ghost",
                Some("PROCFS") => "procfs",
                _ => "linked",
            };
            remaps.extend(remap.u32("orig_id").map(|id| (id, how)));
        })?;
        let mut memfds = HashMap::new();
        records(set, "memfd.img", Kind::Memfd, |memfd| {
            memfds.extend(
                memfd
                    .u64("inode_id")
                    .zip(memfd.bytes("name").map(visible_bytes)),
            );
        })?;
        let mut files = Self::default();
        let mut later = Vec::new();
        records(set, "files.img", Kind::Files, |entry| {
            let (Some(kind), Some(id)) = (entry.name_of("type"), entry.u32("id")) else {
                return;
            };
            let mut file = describe(entry, &memfds);
            file.mount = file.mnt_id.and_then(|id| mounts.get(&id).cloned());
            if kind == "REG" {
                file.remap = remaps.get(&id).copied();
                files.regular.insert(id, file.clone());
            }
            // Named pipes and terminals are opened by the path of a regular file.
            let regular = entry
                .object("fifo")
                .or_else(|| entry.object("tty"))
                .and_then(|of| of.u32("regf_id"));
            later.extend(regular.map(|regular| ((kind.to_owned(), id), regular)));
            files.all.insert((kind.to_owned(), id), file);
        })?;
        for (key, regular) in later {
            if let (Some(file), Some(regular)) =
                (files.all.get_mut(&key), files.regular.get(&regular))
            {
                file.text.clone_from(&regular.text);
                file.flags = file.flags.or(regular.flags);
                file.mount.clone_from(&regular.mount);
            }
        }
        Ok(files)
    }

    pub(super) fn get(&self, kind: &str, id: u32) -> Option<&OpenFile> {
        self.all.get(&(kind.to_owned(), id))
    }

    /// A regular file, which a process or a mapping names.
    pub(super) fn regular(&self, id: u32) -> Option<&OpenFile> {
        self.regular.get(&id)
    }
}

fn mount_points(set: &ImageSet) -> Result<HashMap<u32, String>> {
    let mut mounts = HashMap::new();
    for name in set
        .of_kind(Kind::Mountpoints)
        .map(str::to_owned)
        .collect::<Vec<_>>()
    {
        records(set, &name, Kind::Mountpoints, |mount| {
            mounts.extend(
                mount
                    .u32("mnt_id")
                    .zip(mount.bytes("mountpoint").map(visible_bytes)),
            );
        })?;
    }
    Ok(mounts)
}

/// What tells a file apart, by its type.
fn describe(entry: &Object<'_>, memfds: &HashMap<u64, String>) -> OpenFile {
    let mut file = OpenFile::default();
    let members = [
        "reg", "isk", "nsf", "psk", "nlsk", "efd", "epfd", "sgfd", "tunf", "tfd", "ify", "ffy",
        "ext", "usk", "fifo",
    ];
    let members = members
        .iter()
        .chain(&["pipe", "tty", "memfd", "bpf", "pidfd"]);
    let Some((member, of)) = members
        .filter_map(|name| Some((*name, entry.object(name)?)))
        .next()
    else {
        return file;
    };
    let number = |name| of.u64(name).unwrap_or(0);
    file.flags = of.u32("flags");
    file.pos = of.u64("pos");
    file.mnt_id = of.i64("mnt_id").and_then(|id| u32::try_from(id).ok());
    file.text = match member {
        "reg" => {
            file.external = of.bool("ext");
            file.size = of.u64("size");
            of.bytes("name").map(visible_bytes).unwrap_or_default()
        }
        "pipe" | "fifo" => format!("pipe:[{}]", number("pipe_id")),
        "isk" | "usk" | "nlsk" | "psk" => super::sockets::describe(member, &of),
        "efd" => format!("counter {}", number("counter")),
        "epfd" => {
            let targets = of
                .objects("tfd")
                .map(|target| target.u64("tfd").unwrap_or(0).to_string())
                .collect::<Vec<_>>();
            format!("watches fd {}", targets.join(", "))
        }
        "sgfd" => format!("signals {:#x}", number("sigmask")),
        "tfd" => format!(
            "clock {}, next in {}.{:09} s",
            number("clockid"),
            number("vsec"),
            number("vnsec")
        ),
        "ify" => watches(
            of.objects("wd")
                .filter_map(|watch| watch.object("f_handle")),
        ),
        "ffy" => watches(of.objects("mark").filter_map(|mark| {
            mark.object("me")
                .or_else(|| mark.object("ie").and_then(|inode| inode.object("f_handle")))
        })),
        "nsf" => format!(
            "{} namespace {}",
            namespace(number("ns_cflag")),
            number("ns_id")
        ),
        "tunf" => of.text("netdev").unwrap_or_default(),
        "tty" => format!("terminal {}", number("tty_info_id")),
        "memfd" => format!(
            "memfd:{}",
            memfds.get(&number("inode_id")).map_or("", String::as_str)
        ),
        "bpf" => format!(
            "map {}",
            of.bytes("map_name").map(visible_bytes).unwrap_or_default()
        ),
        "pidfd" => format!("process {}", of.i64("nspid").unwrap_or(0)),
        _ => String::new(),
    };
    file
}

fn watches<'a>(handles: impl Iterator<Item = Object<'a>>) -> String {
    let path = |handle: Object<'a>| {
        handle
            .bytes("path")
            .map_or_else(|| "(no path)".to_owned(), visible_bytes)
    };
    format!(
        "watches {}",
        handles.map(path).collect::<Vec<_>>().join(", ")
    )
}

/// The namespace that a `CLONE_NEW*` flag is for.
fn namespace(flag: u64) -> &'static str {
    match flag {
        0x80 => "time",
        0x2_0000 => "mount",
        0x200_0000 => "cgroup",
        0x400_0000 => "uts",
        0x800_0000 => "ipc",
        0x1000_0000 => "user",
        0x2000_0000 => "pid",
        0x4000_0000 => "network",
        _ => "unknown",
    }
}

/// `open(2)` flags in short: access and what else is set.
pub(super) fn open_flags(flags: u32) -> String {
    let mut text = match flags & 3 {
        0 => "r",
        1 => "w",
        _ => "rw",
    }
    .to_owned();
    for (bit, name) in [
        (0o2000, "append"),
        (0o4000, "nonblock"),
        (0o40000, "direct"),
        (0o200_000, "directory"),
        (0o400_000, "nofollow"),
        (0o10_000_000, "path"),
    ] {
        if flags & bit != 0 {
            text.push(',');
            text.push_str(name);
        }
    }
    text
}

/// Who has a file: process and descriptor.
pub(super) type Holder = (u32, u32);

/// The descriptors of every process, by type and id of what they refer to.
pub(super) fn holders(
    set: &ImageSet,
    processes: &[Process],
) -> Result<HashMap<(String, u32), Vec<Holder>>> {
    let mut holders: HashMap<_, Vec<Holder>> = HashMap::new();
    for process in processes {
        let Some(files) = process.files_id else {
            continue;
        };
        records(set, &Kind::Fdinfo.file_name(files), Kind::Fdinfo, |fd| {
            if let (Some(kind), Some(id), Some(fd)) =
                (fd.name_of("type"), fd.u32("id"), fd.u32("fd"))
            {
                holders
                    .entry((kind.to_owned(), id))
                    .or_default()
                    .push((process.pid, fd));
            }
        })?;
    }
    Ok(holders)
}

/// Holders as text: `1/3 7/3`.
pub(super) fn holder_text(holders: Option<&Vec<Holder>>) -> String {
    let text = |(pid, fd): &Holder| format!("{pid}/{fd}");
    holders
        .into_iter()
        .flatten()
        .map(text)
        .collect::<Vec<_>>()
        .join(" ")
}
