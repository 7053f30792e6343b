//! The files beside the images, as containerd's CRI plugin lays out an archive (`internal/cri/server/container_checkpoint_linux.go`):
//!
//! ```text
//! checkpoint/      CRIU's images and, with Restow's criu, source.json and carried volumes
//! config.dump      what the container was
//! spec.dump        its OCI spec
//! status.dump      its CRI status; of a container without a pod nothing
//! rootfs-diff.tar  what it wrote over its image
//! container.log    its output so far
//! dump.log, stats-dump   CRIU's
//! pod.json         ours, see `recipe`
//! ```

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use restow_cri::api::ContainerStatus;
use serde_json::{Value, json};

use super::find::Subject;
use crate::Failure;

/// Directory of the images.
pub const IMAGES: &str = "checkpoint";
/// What the container wrote over its image.
pub const ROOTFS_DIFF: &str = "rootfs-diff.tar";
/// CRIU's working directory while it dumps; no part of the archive.
pub const WORK: &str = "work";
/// CRIU's log of the dump.
pub const DUMP_LOG: &str = "dump.log";

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What is known of a container besides its images.
#[derive(Debug)]
pub struct Facts<'a> {
    /// It.
    pub subject: &'a Subject,
    /// Its status, of a pod's container.
    pub status: Option<&'a ContainerStatus>,
    /// When it was dumped.
    pub time: SystemTime,
}

impl Facts<'_> {
    /// Writes `config.dump`, `spec.dump` and `status.dump` into `dir`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        write_json(&dir.join("config.dump"), &self.config())?;
        let spec =
            self.subject.record.spec.as_ref().ok_or_else(|| {
                Failure::Refused(anyhow!("{} has no spec", self.subject.display()))
            })?;
        // It is JSON already, and is kept as it is.
        write(&dir.join("spec.dump"), &spec.value)?;
        if let Some(status) = self.status {
            write_json(&dir.join("status.dump"), status)?;
        }
        Ok(())
    }

    fn config(&self) -> Value {
        let record = &self.subject.record;
        let name = match &self.subject.pod {
            Some(pod) => &pod.container,
            None => &record.id,
        };
        let image = self
            .status
            .and_then(|status| status.image.as_ref())
            .map_or(record.image.as_str(), |image| image.image.as_str());
        let reference = self
            .status
            .map_or(record.image.as_str(), |status| status.image_ref.as_str());
        let created = record
            .created_at
            .as_ref()
            .map_or_else(|| NEVER.to_owned(), ToString::to_string);
        json!({
            "id": record.id,
            "name": name,
            "rootfsImage": image,
            "rootfsImageRef": reference,
            "rootfsImageName": image,
            "runtime": record.runtime.as_ref().map(|runtime| &runtime.name),
            "createdTime": created,
            "checkpointedTime": humantime::format_rfc3339_nanos(self.time).to_string(),
            "restoredTime": NEVER,
            "restored": false,
        })
    }
}

/// Takes CRIU's log and statistics out of its working directory, which goes.
///
/// # Errors
/// When the file system fails.
pub fn keep_logs(dir: &Path) -> Result<(), Failure> {
    let work = dir.join(WORK);
    for name in [DUMP_LOG, "stats-dump"] {
        // Where a runtime gives CRIU no working directory, they lie with the images.
        for from in [work.join(name), dir.join(IMAGES).join(name)] {
            match fs::rename(&from, dir.join(name)) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("keep", &from, error)),
            }
        }
    }
    fs::remove_dir_all(&work).map_err(|error| failed("remove", &work, error))
}

/// Copies a container's output so far, if there is any.
///
/// # Errors
/// When it cannot be copied.
pub fn keep_output(log: &Path, dir: &Path) -> Result<(), Failure> {
    match fs::copy(log, dir.join("container.log")) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("copy", log, error)),
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(value).with_context(|| format!("Write {}", path.display()))?;
    write(path, &bytes)
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|error| failed("write", path, error))
}

pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> Failure {
    Failure::Refused(anyhow!(error).context(format!("Cannot {what} {}", path.display())))
}
