//! The two ways to a checkpoint: CRI's own call, and containerd's API.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use restow::checkpoint::{Form, Incoming};
use restow_cri::{CheckpointOptions, Containerd};

use super::find::Subject;
use super::layout::{self, Facts, failed};
use super::node::{Node, call};
use super::progress::Progress;
use super::recipe::{self, Recipe};
use super::why;
use crate::Failure;

/// How long a lease lives when nobody is left to give it back, in hours.
const LEASE: u32 = 2;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Through {
    /// CheckpointContainer of the container runtime interface (containerd 2.0 and later)
    Cri,
    /// containerd's own API, also for containers without a pod
    Containerd,
}

impl Through {
    /// How the checkpoint is kept that comes this way.
    #[must_use]
    pub fn form(self) -> Form {
        match self {
            Self::Cri => Form::Tar,
            Self::Containerd => Form::Directory,
        }
    }
}

/// Whether a node's CRI has CheckpointContainer. containerd has had it since 2.0; others are asked and may refuse.
///
/// # Errors
/// When the runtime does not answer.
pub async fn cri_checkpoints(node: &Node) -> Result<bool, Failure> {
    let version = node.cri.version().await.map_err(call)?;
    let old = version.runtime_name == "containerd"
        && major(&version.runtime_version).is_some_and(|major| major < 2);
    Ok(!old)
}

/// `1.7.24~ds1` and `v2.1.9` are how distributions and containerd itself write it.
fn major(version: &str) -> Option<u32> {
    let digits = version.trim_start_matches('v').split('.').next()?;
    digits.parse().ok()
}

/// Checkpoints a container by CRI into an archive, and adds `pod.json` to it.
///
/// # Errors
/// When the runtime cannot; the container goes on as it was.
pub async fn cri(
    node: &Node,
    subject: &Subject,
    recipe: Option<&Recipe>,
    into: &Incoming,
    progress: &Progress,
) -> Result<(), Failure> {
    progress.step(format!("{}: checkpoint", subject.display()));
    let archive = into.path();
    let inside = node.inside(&archive);
    let made = node
        .cri
        .checkpoint_container(&subject.id, &inside, None)
        .await;
    made.map_err(|error| refused(node, subject, error, None))?;
    if let Some(recipe) = recipe {
        append(&archive, recipe::FILE_NAME, &recipe.to_bytes()?)
            .map_err(|error| failed("add pod.json to", &archive, error))?;
    }
    Ok(())
}

/// Checkpoints a frozen container by containerd's API into a directory laid out as CRI's archive.
///
/// # Errors
/// When containerd cannot; the container goes on as it was.
pub async fn containerd(
    node: &Node,
    subject: &Subject,
    recipe: Option<&Recipe>,
    into: &Incoming,
    progress: &Progress,
) -> Result<(), Failure> {
    let dir = into.path();
    for name in [layout::IMAGES, layout::WORK] {
        let path = dir.join(name);
        fs::create_dir(&path).map_err(|error| failed("make", &path, error))?;
    }
    let status = match &subject.pod {
        Some(_) => {
            let answer = node.cri.container_status(&subject.id, false).await;
            answer.map_err(call)?.status
        }
        None => None,
    };
    let time = SystemTime::now();
    let client = node.containerd(&subject.containerd_namespace).await?;
    progress.step(format!("{}: checkpoint", subject.display()));
    let options = CheckpointOptions {
        image_path: inside(node, &dir.join(layout::IMAGES)),
        work_path: inside(node, &dir.join(layout::WORK)),
        ..CheckpointOptions::default()
    };
    let dumped = client.checkpoint(&subject.id, &options).await;
    let log = dir.join(layout::WORK).join(layout::DUMP_LOG);
    dumped.map_err(|error| refused(node, subject, error, Some(log)))?;
    if !dir.join(layout::IMAGES).join("inventory.img").exists() {
        return Err(Failure::Refused(anyhow!(
            "{}: containerd says that it made a checkpoint, but wrote none where it was told to; its runtime is {}, and has to be of \
             type io.containerd.runc.v2",
            subject.display(),
            subject
                .record
                .runtime
                .as_ref()
                .map_or("unknown", |runtime| runtime.name.as_str())
        )));
    }
    changes(&client, subject, &dir, progress).await?;
    layout::keep_logs(&dir)?;
    let facts = Facts {
        subject,
        status: status.as_ref(),
        time,
    };
    facts.write(&dir)?;
    if let Some(status) = &status {
        layout::keep_output(&node.outside(Path::new(&status.log_path)), &dir)?;
    }
    if let Some(recipe) = recipe {
        layout::write(&dir.join(recipe::FILE_NAME), &recipe.to_bytes()?)?;
    }
    Ok(())
}

fn inside(node: &Node, path: &Path) -> String {
    node.inside(path).to_string_lossy().into_owned()
}

/// Writes what the container has changed in its root file system.
async fn changes(
    client: &Containerd,
    subject: &Subject,
    dir: &Path,
    progress: &Progress,
) -> Result<(), Failure> {
    let record = &subject.record;
    // A container of `ctr run --rootfs` has a file system of its own, which containerd does not know.
    if record.snapshot_key.is_empty() {
        return Ok(());
    }
    progress.step(format!("{}: changed files", subject.display()));
    let (leased, lease) = client.lease(LEASE).await.map_err(call)?;
    let path = dir.join(layout::ROOTFS_DIFF);
    let copied = async {
        let layer = leased
            .diff(&record.snapshotter, &record.snapshot_key)
            .await
            .map_err(call)?;
        let file = File::create(&path).map_err(|error| failed("write", &path, error))?;
        let mut file = std::io::BufWriter::new(file);
        let what = format!("{}: changed files", subject.display());
        leased
            .read_content(&layer.digest, &mut file, &|bytes| {
                progress.bytes(&what, bytes);
            })
            .await
            .map_err(call)?;
        file.flush().map_err(|error| failed("write", &path, error))
    };
    let copied = copied.await;
    client.drop_lease(lease).await.map_err(call)?;
    copied
}

/// A failed checkpoint, with the reason in words.
fn refused(
    node: &Node,
    subject: &Subject,
    error: restow_cri::Error,
    log: Option<PathBuf>,
) -> Failure {
    let bundle = node.outside(&subject.bundle());
    // The shim copies the log there when a dump fails.
    let logs: Vec<PathBuf> = log
        .into_iter()
        .chain([bundle.join("criu-dump.log"), bundle.join("work/dump.log")])
        .collect();
    let said = match error.message() {
        "" => format!("{:#}", anyhow::Error::from(error)),
        message => message.to_owned(),
    };
    Failure::Refused(anyhow!(
        "{} cannot be checkpointed, and goes on running: {}",
        subject.display(),
        why::sentence(&said, &logs)
    ))
}

/// Adds a file to a tar archive, in place: memory pages are not copied for it.
fn append(archive: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).open(archive)?;
    let mut end = 0;
    let mut tar = tar::Archive::new(&mut file);
    for entry in tar.entries_with_seek()? {
        let entry = entry?;
        end = entry.raw_file_position() + entry.size().next_multiple_of(512);
    }
    file.seek(SeekFrom::Start(end))?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(bytes.len() as u64);
    let mut builder = tar::Builder::new(&mut file);
    builder.append_data(&mut header, name, bytes)?;
    builder.finish()?;
    drop(builder);
    let end = file.stream_position()?;
    file.set_len(end)
}

/// The file's size for reading, of whatever kind it is.
pub(super) fn size_of(path: &Path) -> Result<u64, Failure> {
    let meta = fs::symlink_metadata(path).with_context(|| format!("Read {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut size = 0;
    for entry in fs::read_dir(path).with_context(|| format!("Read {}", path.display()))? {
        let entry = entry.with_context(|| format!("Read {}", path.display()))?;
        size += size_of(&entry.path())?;
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn versions_of_distributions_are_understood() {
        assert_eq!(major("1.7.24~ds1"), Some(1));
        assert_eq!(major("v2.1.9"), Some(2));
        assert_eq!(major("unknown"), None);
    }

    #[test]
    fn a_file_is_added_behind_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, size) in [("checkpoint/pages-1.img", 4096), ("config.dump", 3)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            builder
                .append_data(&mut header, name, std::io::repeat(7).take(size))
                .unwrap();
        }
        builder.into_inner().unwrap();
        append(&path, "pod.json", b"{}").unwrap();
        let mut tar = tar::Archive::new(File::open(&path).unwrap());
        let mut seen = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let name = entry.path().unwrap().display().to_string();
            seen.push((name, bytes.len()));
        }
        let expected = [
            ("checkpoint/pages-1.img", 4096),
            ("config.dump", 3),
            ("pod.json", 2),
        ];
        assert_eq!(seen, expected.map(|(name, size)| (name.to_owned(), size)));
    }
}
