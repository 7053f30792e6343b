//! The file systems of a node.
//!
//! The root is an overlay whose upper layer is on a tmpfs that exists in the node's mount namespace alone, so everything written
//! vanishes with the node. The root is changed with pivot_root: CRIU refuses to work in a chroot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, pivot_root};

use super::state::BASE;

/// Directories on a tmpfs of their own: state that must be fresh, and places where container engines make overlays, which cannot
/// have another overlay as their upper layer.
const FRESH: &[(&str, u32)] = &[
    ("run", 0o755),
    ("tmp", 0o1777),
    ("var/lib/containerd", 0o755),
    ("var/lib/containers", 0o755),
    ("var/lib/kubelet", 0o755),
];

const DEVICES: &[(&str, u64, u64)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("kmsg", 1, 11),
    ("tty", 5, 0),
    ("net/tun", 10, 200),
];

/// Builds the node's file systems over `root` and makes them the root of the calling process.
///
/// `v1` are the version 1 cgroup hierarchies it gets, or nothing for version 2 alone.
pub(super) fn build(root: &Path, v1: Option<&[String]>) -> Result<()> {
    // Nothing mounted below may reach the host.
    attach(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None,
    )?;
    let new = overlay(root)?;
    attach(
        Some("proc"),
        &new.join("proc"),
        Some("proc"),
        hardened(),
        None,
    )?;
    attach(
        Some("sysfs"),
        &new.join("sys"),
        Some("sysfs"),
        hardened(),
        None,
    )?;
    devices(&new.join("dev"))?;
    for (dir, mode) in FRESH {
        let path = new.join(dir);
        fs::create_dir_all(&path).with_context(|| format!("Create {}", path.display()))?;
        attach(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(&format!("mode={mode:o}")),
        )?;
    }
    fs::create_dir_all(new.join("run/lock")).context("Create /run/lock")?;
    cgroups(&new.join("sys/fs/cgroup"), v1)?;

    chdir(&new).with_context(|| format!("Enter {}", new.display()))?;
    // With twice the same directory the old root ends up on top of the new one, from where it is detached.
    pivot_root(".", ".").context("Make the overlay the root (pivot_root)")?;
    umount2(".", MntFlags::MNT_DETACH).context("Detach the old root")?;
    chdir("/").context("Enter the new root")?;
    // As systemd leaves it on a real node; containers get slaves of it, which CRIU has to cope with.
    attach(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None,
    )?;
    Ok(())
}

/// Mounts an overlay over `root` and tells where.
fn overlay(root: &Path) -> Result<std::path::PathBuf> {
    // Any directory will do: the mount hides it in this namespace only.
    let base = Path::new(BASE);
    attach(
        Some("tmpfs"),
        base,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )?;
    let [upper, work, new] = ["upper", "work", "root"].map(|name| base.join(name));
    for dir in [&upper, &work, &new] {
        fs::create_dir(dir).with_context(|| format!("Create {}", dir.display()))?;
    }
    if root.to_string_lossy().contains([':', ',', '\\']) {
        bail!(
            "The path {} cannot be used in overlay options: set RESTOW_CACHE to one without ':' and ','",
            root.display()
        );
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        root.display(),
        upper.display(),
        work.display()
    );
    attach(
        Some("overlay"),
        &new,
        Some("overlay"),
        MsFlags::empty(),
        Some(&options),
    )?;
    Ok(new)
}

fn devices(dev: &Path) -> Result<()> {
    attach(
        Some("tmpfs"),
        dev,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        Some("mode=755"),
    )?;
    fs::create_dir(dev.join("net")).context("Create /dev/net")?;
    // Everybody may use these, whatever the mask that this process was started with.
    let mask = umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        mknod(
            &path,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(*major, *minor),
        )
        .with_context(|| format!("Create the device {name} (CAP_MKNOD is needed)"))?;
    }
    umask(mask);
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name)).with_context(|| format!("Link /dev/{name}"))?;
    }
    let nosuid_noexec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let inside: [(&str, &str, MsFlags, Option<&str>); 3] = [
        (
            "pts",
            "devpts",
            nosuid_noexec,
            Some("newinstance,ptmxmode=0666,mode=620,gid=5"),
        ),
        (
            "shm",
            "tmpfs",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=1777"),
        ),
        ("mqueue", "mqueue", nosuid_noexec | MsFlags::MS_NODEV, None),
    ];
    for (name, kind, flags, options) in inside {
        let path = dev.join(name);
        fs::create_dir(&path).with_context(|| format!("Create {}", path.display()))?;
        attach(Some(kind), &path, Some(kind), flags, options)?;
    }
    Ok(())
}

fn cgroups(at: &Path, v1: Option<&[String]>) -> Result<()> {
    let Some(v1) = v1 else {
        return attach(Some("cgroup2"), at, Some("cgroup2"), hardened(), None);
    };
    if v1.is_empty() {
        bail!("This host has no cgroup version 1 hierarchies, so it cannot run a hybrid node");
    }
    attach(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        hardened(),
        Some("mode=755"),
    )?;
    for names in v1 {
        let dir = at.join(names.strip_prefix("name=").unwrap_or(names));
        fs::create_dir(&dir).with_context(|| format!("Create {}", dir.display()))?;
        attach(
            Some("cgroup"),
            &dir,
            Some("cgroup"),
            hardened(),
            Some(names),
        )?;
        // Co-mounted controllers are also found under each one's own name.
        for name in names
            .split(',')
            .filter(|name| *name != names && !name.contains('='))
        {
            symlink(names, at.join(name)).with_context(|| format!("Link the controller {name}"))?;
        }
    }
    let unified = at.join("unified");
    fs::create_dir(&unified).with_context(|| format!("Create {}", unified.display()))?;
    attach(Some("cgroup2"), &unified, Some("cgroup2"), hardened(), None)
}

fn hardened() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC
}

fn attach(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<()> {
    mount(source, target, kind, flags, options).with_context(|| {
        format!(
            "Mount {} at {} with options {:?}",
            kind.unwrap_or("nothing new"),
            target.display(),
            options.unwrap_or("")
        )
    })
}
