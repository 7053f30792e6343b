//! `restow criu dump`: `source.json` beside the images, and external files found beforehand.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};
use restow::chain;
use restow::host::journal::{Journal, replace};
use restow::host::{self, snapshot};
use restow::ids::HostPid;
use restow::source::images::{self, ImageDir};
use restow::source::manifest::FILE_NAME;
use restow::source::{Manifest, ManifestFile};

use super::Call;
use super::companion::{self, Next, Work};
use super::setup::{Setup, option, standard_error, with_script};

/// A dump under way.
struct Dump {
    init: HostPid,
    images: OwnedFd,
    unreachable: Vec<ManifestFile>,
    journal: Journal,
    stderr: Option<File>,
    written: bool,
}

/// Prepares the dump; returns the call of criu.
///
/// # Errors
/// In words; nothing has been done to the tree.
pub(super) fn prepare(setup: &Setup) -> Result<Call, String> {
    let line = &setup.line;
    let tree = line
        .value("tree")
        .and_then(|pid| pid.to_str()?.parse().ok());
    // Without a process, or with one that is not there, criu says what is wrong.
    let Some(init) = tree.map(HostPid).filter(|pid| host::cgroups(*pid).is_ok()) else {
        return Ok(Call::alone(line));
    };
    let mut journal = setup.journal(&format!("dump tree {init}"))?;
    // What an earlier dump into the same directory wrote says nothing about this one.
    match unlinkat(&setup.images, FILE_NAME, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => {
            return Err(format!(
                "The old {FILE_NAME} in the image directory cannot be removed: {error}"
            ));
        }
    }
    let unreachable = find_unreachable(init, &mut journal);
    let this = std::env::current_exe()
        .map_err(|error| format!("Cannot find out which program this is: {error}"))?;
    let mut more = Vec::new();
    for file in &unreachable {
        more.extend(option("external", file.key()));
    }
    let images = setup.images.try_clone();
    let mut work = Dump {
        init,
        images: images.map_err(|error| chain(&error))?,
        unreachable,
        journal,
        stderr: standard_error(),
        written: false,
    };
    let mut keep = work.journal.descriptors();
    keep.push(work.images.as_raw_fd());
    keep.extend(work.stderr.as_ref().map(AsRawFd::as_raw_fd));
    let companion = companion::start(&keep, &mut work)
        .map_err(|error| format!("The companion process cannot be started: {error}"))?;
    Ok(Call {
        words: with_script(line.with(more), &this),
        companion: Some(companion),
    })
}

/// Files that criu cannot look up, before the tree stands still: one opened later is missed, and criu refuses it then.
fn find_unreachable(init: HostPid, journal: &mut Journal) -> Vec<ManifestFile> {
    match host::unreachable_files(init) {
        Ok(found) => {
            for file in &found {
                journal.line(format_args!(
                    "{} is handed to CRIU as {}",
                    file.path,
                    file.key()
                ));
            }
            found
        }
        Err(error) => {
            journal.line(format_args!("open files cannot be searched: {error}"));
            Vec::new()
        }
    }
}

impl Dump {
    fn manifest(&self) -> Result<Manifest, String> {
        let read = snapshot::manifest(self.init)
            .map_err(|error| format!("What the tree is cannot be read: {error}"))?;
        // criu has written all images by now.
        let images = self.images.try_clone().map_err(|error| chain(&error))?;
        let dir = ImageDir::open(images).map_err(|error| chain(&error))?;
        Ok(Manifest {
            criu_run: images::criu_run(&dir).map_err(|error| chain(&error))?,
            runtime: "criu".into(),
            unreachable: self.unreachable.clone(),
            ..read
        })
    }

    fn write(&mut self) -> Result<usize, String> {
        let manifest = self.manifest()?;
        let bytes = manifest
            .to_bytes()
            .map_err(|error| format!("{FILE_NAME} cannot hold what was read: {error}"))?;
        replace(self.images.as_fd(), FILE_NAME, &bytes).map_err(|error| {
            format!("{FILE_NAME} cannot be written to the image directory: {error}")
        })?;
        self.written = true;
        Ok(manifest.mounts.len())
    }
}

impl Work for Dump {
    fn stage(&mut self, action: &str, _: Option<HostPid>) -> Result<Next, String> {
        if action != "post-dump" {
            return Ok(Next::Stay);
        }
        match self.write() {
            Ok(mounts) => {
                self.journal
                    .line(format_args!("{FILE_NAME}: {mounts} mounts recorded"));
                Ok(Next::Stay)
            }
            // criu fails then, and the tree goes on: better now than at the restore.
            Err(reason) => {
                self.journal.veto(&reason);
                if let Some(stderr) = &mut self.stderr {
                    let _ = writeln!(stderr, "restow: {reason}");
                }
                Err(reason)
            }
        }
    }

    fn gone(&mut self) {
        self.journal.line(if self.written {
            "criu has dumped the tree"
        } else {
            "not dumped"
        });
    }
}
