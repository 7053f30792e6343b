//! A container's root file system, mounted for one process alone: what `Create` says, as containerd's `mount` package does it
//! (`core/mount/mount_linux.go`).

use std::env;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::task::Mount;

/// The kernel takes one page of options, of which containerd leaves some free.
const LONGEST_DATA: usize = 4096 - 512;

/// A root file system that is mounted here.
#[derive(Debug)]
pub(super) struct Mounted {
    path: PathBuf,
    /// What has to be unmounted.
    mounted: Vec<PathBuf>,
}

impl Mounted {
    /// Mounts it at `path`, in a mount namespace of this process's own.
    ///
    /// # Errors
    /// When it cannot be mounted, or needs something that only the stock shim can do.
    pub(super) fn new(mounts: &[Mount], path: &Path) -> Result<Self, String> {
        let mut all = Self {
            path: path.into(),
            mounted: Vec::new(),
        };
        if mounts.is_empty() {
            return Ok(all);
        }
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            format!(
                "Cannot {what} the container's root file system at {}: {error}",
                path.display()
            )
        };
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("be alone with", &error))?;
        let nothing = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(nothing, "/", nothing, private, nothing)
            .map_err(|error| failed("be alone with", &error))?;
        match DirBuilder::new().mode(0o711).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed("make a directory for", &error));
            }
            _ => {}
        }
        for wanted in mounts {
            let target = match wanted.target.trim_start_matches('/') {
                "" => path.to_owned(),
                below if below.split('/').any(|part| part == "..") => {
                    return Err(failed(
                        "mount",
                        &format!("{:?} is no place in it", wanted.target),
                    ));
                }
                below => path.join(below),
            };
            Plan::of(wanted)
                .and_then(|plan| plan.mount(&target))
                .map_err(|error| failed("mount", &error))?;
            all.mounted.push(target);
        }
        Ok(all)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// When it is in use.
    pub(super) fn unmount(mut self) -> Result<(), String> {
        while let Some(path) = self.mounted.pop() {
            umount2(&path, MntFlags::empty()).map_err(|error| {
                format!(
                    "Cannot unmount the container's root file system at {}: {error}",
                    path.display()
                )
            })?;
        }
        Ok(())
    }
}

/// The stock shim may mount the same layers before this process has ended.
impl Drop for Mounted {
    fn drop(&mut self) {
        while let Some(path) = self.mounted.pop() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}

/// One mount, as the system call takes it.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    kind: String,
    source: String,
    flags: MsFlags,
    data: String,
    /// Paths in the data are relative to this.
    dir: Option<PathBuf>,
}

impl Plan {
    fn of(wanted: &Mount) -> Result<Self, String> {
        if wanted.kind.contains('/') || wanted.kind.starts_with("fuse") {
            return Err(format!(
                "a mount of type {:?} cannot be made here",
                wanted.kind
            ));
        }
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in &wanted.options {
            let (set, flag) = match option.as_str() {
                "defaults" | "rw" | "loud" => continue,
                "ro" => (true, MsFlags::MS_RDONLY),
                "bind" => (true, MsFlags::MS_BIND),
                "rbind" => (true, MsFlags::MS_BIND | MsFlags::MS_REC),
                "nosuid" => (true, MsFlags::MS_NOSUID),
                "suid" => (false, MsFlags::MS_NOSUID),
                "nodev" => (true, MsFlags::MS_NODEV),
                "dev" => (false, MsFlags::MS_NODEV),
                "noexec" => (true, MsFlags::MS_NOEXEC),
                "exec" => (false, MsFlags::MS_NOEXEC),
                "sync" => (true, MsFlags::MS_SYNCHRONOUS),
                "async" => (false, MsFlags::MS_SYNCHRONOUS),
                "dirsync" => (true, MsFlags::MS_DIRSYNC),
                "mand" => (true, MsFlags::MS_MANDLOCK),
                "nomand" => (false, MsFlags::MS_MANDLOCK),
                "noatime" => (true, MsFlags::MS_NOATIME),
                "atime" => (false, MsFlags::MS_NOATIME),
                "relatime" => (true, MsFlags::MS_RELATIME),
                "norelatime" => (false, MsFlags::MS_RELATIME),
                "strictatime" => (true, MsFlags::MS_STRICTATIME),
                "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
                "nodiratime" => (true, MsFlags::MS_NODIRATIME),
                "diratime" => (false, MsFlags::MS_NODIRATIME),
                other
                    if ["loop", "uidmap", "gidmap", "X-"]
                        .iter()
                        .any(|word| other.starts_with(word)) =>
                {
                    return Err(format!("a mount with option {other} cannot be made here"));
                }
                other => {
                    data.push(other.to_owned());
                    continue;
                }
            };
            flags.set(flag, set);
        }
        let mut dir = None;
        if wanted.kind == "overlay" && data.join(",").len() > LONGEST_DATA {
            dir = shorten(&mut data);
        }
        let data = data.join(",");
        if data.len() > LONGEST_DATA + 511 {
            return Err("its options are longer than a page".into());
        }
        Ok(Self {
            kind: wanted.kind.clone(),
            source: wanted.source.clone(),
            flags,
            data,
            dir,
        })
    }

    fn mount(&self, target: &Path) -> Result<(), String> {
        let back = match &self.dir {
            Some(dir) => {
                let back = env::current_dir().map_err(|error| error.to_string())?;
                env::set_current_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
                Some(back)
            }
            None => None,
        };
        let data = (!self.data.is_empty()).then_some(self.data.as_str());
        let bind = self.flags.contains(MsFlags::MS_BIND);
        let kind = (!bind).then_some(self.kind.as_str());
        let first = if bind {
            self.flags & !MsFlags::MS_RDONLY
        } else {
            self.flags
        };
        let mut mounted = mount(Some(self.source.as_str()), target, kind, first, data);
        if mounted.is_ok() && bind && self.flags.contains(MsFlags::MS_RDONLY) {
            // The kernel takes it of a bind mount only afterwards.
            let again = self.flags | MsFlags::MS_REMOUNT;
            mounted = mount(None::<&str>, target, None::<&str>, again, None::<&str>);
        }
        if let Some(back) = back {
            let _ = env::set_current_dir(back);
        }
        mounted.map_err(|error| format!("{} from {}: {error}", self.kind, self.source))
    }
}

/// Makes the lower directories of an overlay relative to the directory that they are all in.
fn shorten(data: &mut [String]) -> Option<PathBuf> {
    let lower = data
        .iter_mut()
        .find(|option| option.starts_with("lowerdir="))?;
    let dirs: Vec<&Path> = lower["lowerdir=".len()..]
        .split(':')
        .map(Path::new)
        .collect();
    let common = dirs
        .first()?
        .ancestors()
        .skip(1)
        .find(|common| dirs.iter().all(|dir| dir.starts_with(common)))?
        .to_owned();
    let short: Option<Vec<&str>> = dirs
        .iter()
        .map(|dir| {
            dir.strip_prefix(&common)
                .ok()?
                .to_str()
                .filter(|dir| !dir.is_empty())
        })
        .collect();
    *lower = format!("lowerdir={}", short?.join(":"));
    Some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(layers: usize) -> Mount {
        let dirs: Vec<_> = (0..layers)
            .map(|layer| format!("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/{layer}/fs"))
            .collect();
        Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                "index=off".into(),
                "ro".into(),
                "workdir=/w".into(),
                "upperdir=/u".into(),
                format!("lowerdir={}", dirs.join(":")),
            ],
        }
    }

    #[test]
    fn options_are_flags_and_data() {
        let plan = Plan::of(&overlay(1)).unwrap();
        assert_eq!(plan.flags, MsFlags::MS_RDONLY);
        assert!(
            plan.data
                .starts_with("index=off,workdir=/w,upperdir=/u,lowerdir=/var/")
        );
        assert_eq!(plan.dir, None);

        let mut synchronous = overlay(1);
        for option in [
            "sync",
            "async",
            "dirsync",
            "strictatime",
            "noatime",
            "atime",
        ] {
            synchronous.options.push(option.into());
        }
        let plan = Plan::of(&synchronous).unwrap();
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_DIRSYNC | MsFlags::MS_STRICTATIME;
        assert_eq!(plan.flags, flags);
        assert!(!plan.data.contains("sync"), "{}", plan.data);
    }

    #[test]
    fn many_layers_are_named_from_where_they_all_are() {
        let plan = Plan::of(&overlay(127)).unwrap();
        let snapshots = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        assert_eq!(plan.dir.as_deref(), Some(Path::new(snapshots)));
        assert!(
            plan.data.contains("lowerdir=0/fs:1/fs:2/fs"),
            "{}",
            plan.data
        );
        assert!(plan.data.len() < LONGEST_DATA);
    }

    #[test]
    fn what_only_containerd_can_mount_is_refused() {
        for (kind, option) in [
            ("format/overlay", "ro"),
            ("fuse3.x", "ro"),
            ("overlay", "uidmap=0:1:1"),
        ] {
            let wanted = Mount {
                kind: kind.into(),
                options: vec![option.into()],
                ..Mount::default()
            };
            assert!(Plan::of(&wanted).is_err(), "{kind} {option}");
        }
    }
}
