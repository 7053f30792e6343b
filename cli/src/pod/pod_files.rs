//! Files of a pod's own directory on the node (`/var/lib/kubelet/pods/<uid>`), which its containers have mounted: what the kubelet writes for a
//! pod it makes, and nobody writes for one made by `restow restore`.
//!
//! Hosts file and termination log are made anew, an emptyDir is empty (its content travels with `restow.dev/volumes: carry`), and what comes
//! from the cluster (config maps, secrets, tokens, the downward API) travels in `pod.json`: the new pod finds it as it was at the checkpoint.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use restow_cri::api::{ContainerConfig, PodSandboxConfig};
use serde::{Deserialize, Serialize};

use super::layout::failed;
use super::node::Node;
use crate::Failure;

/// Volumes that the kubelet fills.
const FILLED: [&str; 4] = [
    "kubernetes.io~configmap",
    "kubernetes.io~secret",
    "kubernetes.io~projected",
    "kubernetes.io~downward-api",
];

/// More content of filled volumes does not travel, in bytes. The API server takes 1 MiB for a config map or secret.
const MAX_SIZE: u64 = 8 << 20;

/// A file or link of a filled volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its path below the pod's directory.
    pub path: PathBuf,
    /// What it is.
    pub content: Content,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A directory.
    Directory,
    /// A link to this.
    Link(PathBuf),
    /// A file with these bytes.
    File(Vec<u8>),
}

/// The pod's directory and what is below it, of a mount's source.
#[must_use]
pub fn split<'p>(source: &'p Path, uid: &str) -> Option<(PathBuf, &'p Path)> {
    let mut at = PathBuf::new();
    let mut parts = source.components();
    while let Some(part) = parts.next() {
        let in_pods = at.file_name().is_some_and(|name| name == "pods");
        at.push(part);
        if in_pods && part.as_os_str() == uid {
            return Some((at, parts.as_path()));
        }
    }
    None
}

/// Which of the kubelet's places a path below a pod's directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'p> {
    Hosts,
    Log,
    EmptyDir(&'p Path),
    Filled(&'p Path),
    Other,
}

fn place(relative: &Path) -> Place<'_> {
    let parts: Vec<&str> = relative.iter().filter_map(|part| part.to_str()).collect();
    // The volume itself, without a subPath.
    let volume = || {
        relative
            .ancestors()
            .find(|it| it.components().count() == 3)
            .unwrap_or(relative)
    };
    match parts.as_slice() {
        ["etc-hosts"] => Place::Hosts,
        ["containers", _, _] => Place::Log,
        ["volumes", "kubernetes.io~empty-dir", _, ..] => Place::EmptyDir(relative),
        ["volumes", kind, _, ..] if FILLED.contains(kind) => Place::Filled(volume()),
        _ => Place::Other,
    }
}

fn uid_of(pod: &PodSandboxConfig) -> &str {
    pod.metadata.as_ref().map_or("", |meta| meta.uid.as_str())
}

/// Reads the filled volumes that `container` has mounted.
///
/// # Errors
/// When they cannot be read, or are more than travels.
pub fn collect(
    node: &Node,
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
) -> Result<Vec<Carried>, Failure> {
    let mut carried = Vec::new();
    let mut seen = Vec::new();
    let mut size = 0;
    for mount in &container.mounts {
        let Some((dir, below)) = split(Path::new(&mount.host_path), uid_of(pod)) else {
            continue;
        };
        let Place::Filled(volume) = place(below) else {
            continue;
        };
        if seen.contains(&volume) {
            continue;
        }
        seen.push(volume);
        let dir = node.outside(&dir);
        let read = walk(&dir, volume, &mut size, &mut carried);
        read.map_err(|error| failed("read", &dir.join(volume), error))?;
    }
    Ok(carried)
}

fn walk(dir: &Path, at: &Path, size: &mut u64, out: &mut Vec<Carried>) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let path = dir.join(at);
    let meta = path.symlink_metadata()?;
    let content = if meta.is_dir() {
        Content::Directory
    } else if meta.is_symlink() {
        Content::Link(fs::read_link(&path)?)
    } else if meta.is_file() {
        *size += meta.len();
        if *size > MAX_SIZE {
            return Err(io::Error::other(format!(
                "config maps, secrets and tokens of one container may have {MAX_SIZE} bytes together"
            )));
        }
        Content::File(fs::read(&path)?)
    } else {
        return Ok(());
    };
    let is_dir = content == Content::Directory;
    out.push(Carried {
        path: at.to_owned(),
        content,
        uid: meta.uid(),
        gid: meta.gid(),
        mode: meta.mode() & 0o7777,
    });
    if is_dir {
        let mut names: Vec<_> = fs::read_dir(&path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            walk(dir, &at.join(name), size, out)?;
        }
    }
    Ok(())
}

/// What was made for a new pod. Dropped, it goes, unless it is kept.
#[derive(Debug, Default)]
pub struct Made {
    dirs: Vec<PathBuf>,
    kept: bool,
}

impl Made {
    /// It stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.kept {
            for dir in &self.dirs {
                let _ = fs::remove_dir_all(dir);
            }
        }
    }
}

/// Makes what `container` mounts from the directory of its new pod, and sees whether all else is there.
///
/// # Errors
/// When a mount's source is not on the node, or cannot be made; nothing is left behind.
pub fn provide(
    node: &Node,
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
    files: &[Carried],
    hosts: &str,
) -> Result<Made, Failure> {
    let mut made = Made::default();
    for mount in &container.mounts {
        let source = Path::new(&mount.host_path);
        if mount
            .image
            .as_ref()
            .is_some_and(|image| !image.image.is_empty())
        {
            continue;
        }
        let Some((dir, below)) = split(source, uid_of(pod)) else {
            if fs::metadata(node.outside(source)).is_err() {
                return Err(missing(source, &mount.container_path));
            }
            continue;
        };
        let outside = node.outside(&dir);
        let at = outside.join(below);
        let done = match place(below) {
            Place::Hosts => {
                base(&outside, &mut made).and_then(|()| file(&at, hosts.as_bytes(), 0o644))
            }
            Place::Log => base(&outside, &mut made).and_then(|()| file(&at, b"", 0o666)),
            Place::EmptyDir(_) => base(&outside, &mut made).and_then(|()| directory(&at, 0o777)),
            Place::Filled(volume) => {
                base(&outside, &mut made).and_then(|()| fill(&outside, volume, files))
            }
            Place::Other if at.exists() => Ok(()),
            Place::Other => return Err(missing(source, &mount.container_path)),
        };
        done.map_err(|error| failed("make", &at, error))?;
        // A subPath that was not carried, or a volume that another Restow did not know.
        if fs::symlink_metadata(&at).is_err() {
            return Err(missing(source, &mount.container_path));
        }
        stays_in(&outside, below).map_err(|error| failed("mount", &at, error))?;
    }
    Ok(made)
}

/// Sees that a mount's source is in the pod's directory, also when it is a link: whoever mounts it follows it.
fn stays_in(dir: &Path, below: &Path) -> io::Result<()> {
    let root = fs::File::open(dir)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let below = match below.as_os_str().is_empty() {
        true => Path::new("."),
        false => below,
    };
    match openat2(&root, below, how) {
        Ok(_) => Ok(()),
        Err(Errno::EXDEV) => Err(io::Error::other(
            "it is a link that leads out of the pod's directory",
        )),
        Err(error) => Err(error.into()),
    }
}

fn missing(source: &Path, mount_point: &str) -> Failure {
    Failure::Refused(anyhow!(
        "Mount {mount_point}: {} is not on that node; make it there first (volumes of other kinds than emptyDir, config maps, secrets, tokens \
         and the downward API do not travel)",
        source.display()
    ))
}

/// Makes the pod's directory, once.
fn base(dir: &Path, made: &mut Made) -> io::Result<()> {
    if made.dirs.iter().any(|it| it == dir) {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::DirBuilder::new().mode(0o750).create(dir)?;
    made.dirs.push(dir.to_owned());
    Ok(())
}

fn parents(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
}

fn file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    use std::io::Write;
    parents(path)?;
    let mut options = fs::File::options();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = match file {
        Ok(file) => file,
        // Mounted twice.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    };
    file.write_all(bytes)?;
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    parents(path)?;
    fs::DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Writes a volume's files. Every path is one below it that the checkpoint names; the directory is new, and nothing is followed out of it.
fn fill(dir: &Path, volume: &Path, files: &[Carried]) -> io::Result<()> {
    if fs::symlink_metadata(dir.join(volume)).is_ok() {
        return Ok(());
    }
    let mut links = Vec::new();
    for it in files.iter().filter(|it| it.path.starts_with(volume)) {
        if !it
            .path
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(io::Error::other(format!(
                "{} is no path below the pod's directory",
                it.path.display()
            )));
        }
        let path = dir.join(&it.path);
        match &it.content {
            Content::Directory => directory(&path, it.mode)?,
            Content::File(bytes) => file(&path, bytes, it.mode)?,
            // After all files, so that none is written through one.
            Content::Link(to) => {
                links.push((path, to, it));
                continue;
            }
        }
        std::os::unix::fs::lchown(&path, Some(it.uid), Some(it.gid))?;
    }
    for (path, to, it) in links {
        // Nor another link, or a directory for it.
        let mut above = path.ancestors().skip(1).take_while(|it| *it != dir);
        if above.any(Path::is_symlink) {
            return Err(io::Error::other(format!(
                "{} is below a link",
                it.path.display()
            )));
        }
        parents(&path)?;
        symlink(to, &path)?;
        std::os::unix::fs::lchown(&path, Some(it.uid), Some(it.gid))?;
    }
    Ok(())
}

/// The hosts file as the kubelet writes it.
#[must_use]
pub fn hosts(addresses: &[String], hostname: &str) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        .to_owned();
    for address in addresses {
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_places_are_known() {
        let source = Path::new("/var/lib/kubelet/pods/u1/volumes/kubernetes.io~configmap/c/sub");
        let (dir, below) = split(source, "u1").unwrap();
        assert_eq!(dir, Path::new("/var/lib/kubelet/pods/u1"));
        let volume = Path::new("volumes/kubernetes.io~configmap/c");
        assert_eq!(place(below), Place::Filled(volume));
        assert_eq!(place(Path::new("etc-hosts")), Place::Hosts);
        assert_eq!(place(Path::new("containers/web/1a2b")), Place::Log);
        assert_eq!(
            place(Path::new("volumes/kubernetes.io~csi/v")),
            Place::Other
        );
        assert_eq!(split(Path::new("/srv/u1/x"), "u1"), None);
    }

    #[test]
    fn a_filled_volume_is_written_as_it_was() {
        let from = tempfile::tempdir().unwrap();
        let volume = Path::new("volumes/kubernetes.io~projected/token");
        let dir = from.path().join(volume);
        fs::create_dir_all(dir.join("..2026_01")).unwrap();
        fs::write(dir.join("..2026_01/token"), "secret").unwrap();
        symlink("..2026_01", dir.join("..data")).unwrap();
        symlink("..data/token", dir.join("token")).unwrap();
        let mut files = Vec::new();
        walk(from.path(), volume, &mut 0, &mut files).unwrap();
        let to = tempfile::tempdir().unwrap();
        fill(to.path(), volume, &files).unwrap();
        let token = to.path().join(volume).join("token");
        assert_eq!(fs::read_to_string(token).unwrap(), "secret");
    }

    #[test]
    fn a_path_out_of_the_pod_is_refused() {
        let to = tempfile::tempdir().unwrap();
        let volume = Path::new("volumes/kubernetes.io~secret/s");
        let evil = Carried {
            path: volume.join("../../../../evil"),
            content: Content::File(b"x".to_vec()),
            uid: 0,
            gid: 0,
            mode: 0o644,
        };
        assert!(fill(to.path(), volume, &[evil]).is_err());
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }

    fn link(path: PathBuf, to: &Path) -> Carried {
        Carried {
            path,
            content: Content::Link(to.to_owned()),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            mode: 0o777,
        }
    }

    #[test]
    fn no_link_is_made_through_another() {
        let (to, node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let volume = Path::new("volumes/kubernetes.io~secret/s");
        let through = [
            link(volume.join("out"), node.path()),
            link(volume.join("out/cron.d/evil"), Path::new("/payload")),
        ];
        let error = fill(to.path(), volume, &through).unwrap_err().to_string();
        assert!(
            error.ends_with("s/out/cron.d/evil is below a link"),
            "{error}"
        );
        assert_eq!(fs::read_dir(node.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_mounts_source_is_no_way_out_of_the_pod() {
        let pod = tempfile::tempdir().unwrap();
        let volume = Path::new("volumes/kubernetes.io~secret/s");
        let links = [
            link(volume.join("root"), Path::new("/")),
            link(volume.join("up"), Path::new("../../../..")),
            link(volume.join("inside"), Path::new("..data")),
        ];
        fs::create_dir_all(pod.path().join("volumes/kubernetes.io~secret")).unwrap();
        fill(pod.path(), volume, &links).unwrap();
        fs::create_dir(pod.path().join(volume).join("..data")).unwrap();
        for out in ["root", "root/etc", "up"] {
            let error = stays_in(pod.path(), &volume.join(out)).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{out}: {error}");
        }
        stays_in(pod.path(), &volume.join("inside")).unwrap();
        stays_in(pod.path(), volume).unwrap();
        stays_in(pod.path(), Path::new("")).unwrap();
    }
}
