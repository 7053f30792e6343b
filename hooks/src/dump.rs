//! DUMP: write `source.json` into the image directory while the tree is frozen.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};
use restow::chain;
use restow::host::carry;
use restow::host::journal::{Journal, replace};
use restow::host::{self, Bundle};
use restow::ids::HostPid;
use restow::policy::{Policy, Volumes};
use restow::source::images::{self, ImageDir};
use restow::source::manifest::{CarriedVolume, FILE_NAME, ManifestCgroup};
use restow::source::{Hierarchy, Manifest, ManifestFile};
use restow::target::TargetMount;

use crate::connections::{self, PodNetwork};
use crate::launch::Launched;
use crate::operation::Operation;
use crate::precheck::Precheck;
use crate::relay::{Answer, Stage};
use crate::rpc::Notification;

/// Annotations with this prefix say which pod and container it was.
const IDENTITY: &str = "io.kubernetes.";

/// Which pod and container a bundle is of.
pub(crate) fn identity(bundle: &Bundle) -> BTreeMap<String, String> {
    let said = bundle.annotations.iter();
    said.filter(|(name, _)| name.starts_with(IDENTITY))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A dump.
#[derive(Debug)]
pub struct Dump {
    init: HostPid,
    policy: Policy,
    runtime: String,
    container: Option<String>,
    identity: BTreeMap<String, String>,
    images: OwnedFd,
    journal: Journal,
    precheck: Precheck,
    unreachable: Vec<ManifestFile>,
    unrecorded: BTreeSet<Hierarchy>,
    /// Volumes whose content may have to travel: the container's bind mounts, when it is to be carried.
    binds: Vec<TargetMount>,
    volumes: Vec<CarriedVolume>,
    network: Option<PodNetwork>,
    /// What the frozen tree is.
    frozen: Option<Manifest>,
    written: bool,
    succeeded: bool,
}

impl Dump {
    /// A dump of which nothing is done yet.
    ///
    /// # Errors
    /// In words, when the request names no process or descriptors run out.
    pub fn new(operation: &Operation, policy: Policy) -> Result<Self, String> {
        let init = operation.request.pid().map(HostPid);
        Ok(Self {
            init: init.ok_or("The request names no process to dump")?,
            runtime: operation.peer.runtime(),
            container: operation.peer.container().map(str::to_owned),
            identity: identity(&operation.bundle),
            images: operation
                .directories
                .images
                .try_clone()
                .map_err(|error| chain(&error))?,
            journal: operation
                .journal
                .try_clone()
                .map_err(|error| chain(&error))?,
            precheck: Precheck::default(),
            unreachable: Vec::new(),
            unrecorded: BTreeSet::new(),
            binds: match policy.volumes {
                Volumes::Carry => operation.bundle.binds.clone(),
                Volumes::Check => Vec::new(),
            },
            volumes: Vec::new(),
            network: None,
            frozen: None,
            written: false,
            succeeded: false,
            policy,
        })
    }

    /// What the tree is, which stands still.
    fn look(&self) -> Result<Manifest, String> {
        host::snapshot::manifest(self.init)
            .map_err(|error| format!("What the container is cannot be read: {error}"))
    }

    fn manifest(&mut self) -> Result<Manifest, String> {
        let read = match self.frozen.take() {
            Some(read) => read,
            None => self.look()?,
        };
        // CRIU has written all images by now.
        let images = self.images.try_clone().map_err(|error| chain(&error))?;
        let dir = ImageDir::open(images).map_err(|error| chain(&error))?;
        Ok(Manifest {
            cgroup: ManifestCgroup {
                unrecorded: self.unrecorded.clone(),
                ..read.cgroup
            },
            criu_run: images::criu_run(&dir).map_err(|error| chain(&error))?,
            runtime: self.runtime.clone(),
            container: self.container.clone(),
            identity: self.identity.clone(),
            unreachable: self.unreachable.clone(),
            volumes: self.volumes.clone(),
            ..read
        })
    }

    /// Tells CRIU to take what it cannot look up as external. If the tree cannot be searched, CRIU's own verdict stands.
    fn find_unreachable(&mut self) -> Answer {
        match host::unreachable_files(self.init) {
            Ok(found) => {
                for file in &found {
                    self.journal.line(format_args!(
                        "{} is handed to CRIU as {}",
                        file.path,
                        file.key()
                    ));
                }
                self.unreachable = found;
                Answer::External(self.unreachable.iter().map(ManifestFile::key).collect())
            }
            Err(error) => {
                self.journal
                    .line(format_args!("open files cannot be searched: {error}"));
                Answer::Forward
            }
        }
    }

    fn write(&mut self) -> Result<usize, String> {
        let journal = &mut self.journal;
        let tell = |line: String| journal.line(line);
        self.volumes = carry::pack_volumes(&self.binds, self.images.as_fd(), tell)
            .map_err(|error| format!("The content of a volume cannot be carried: {error}"))?;
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

/// Has CRIU record nothing of the hierarchies in whose root the container is: its cgroups there are those of the whole node.
/// With 5,000 of them, CRIU reads every file of each, for 15 seconds, and logs it all. Returns those hierarchies.
fn leave_out_foreign_cgroups(operation: &mut Operation, init: HostPid) -> BTreeSet<Hierarchy> {
    // A client that says where to walk is obeyed.
    if operation
        .request
        .cgroup_roots()
        .map_or(true, |roots| !roots.is_empty())
    {
        return BTreeSet::new();
    }
    // If they cannot be read, CRIU will say why.
    let cgroups = host::cgroups(init).unwrap_or_default();
    let at_root = cgroups.into_iter().filter(|(_, path)| path.is_root());
    let unrecorded: BTreeSet<Hierarchy> = at_root.map(|(hierarchy, _)| hierarchy).collect();
    operation.request.record_no_cgroups_of(&unrecorded);
    if !unrecorded.is_empty() {
        let names: Vec<String> = unrecorded.iter().map(ToString::to_string).collect();
        operation.journal.line(format_args!(
            "the container is in the root of {}, where CRIU records no cgroups",
            names.join(", ")
        ));
    }
    unrecorded
}

impl Launched for Dump {
    fn descriptors(&self) -> Vec<RawFd> {
        let mut fds = self.journal.descriptors();
        fds.push(self.images.as_raw_fd());
        fds
    }

    /// Looks at the container, which still runs: nothing has happened to it when this says no.
    fn complete(&mut self, operation: &mut Operation) -> Result<(), String> {
        connections::prepare(&mut operation.request, self.init, self.policy.tcp)?;
        self.precheck = Precheck::run(self.init, &self.policy, &mut operation.journal)?;
        // A single file that is a mount of its own cannot be found from its file system's root, and CRIU itself tries few
        // other places (`criu/irmap.c`). Without a path it refuses to dump a watch on it.
        for path in host::file_mounts(self.init).unwrap_or_default() {
            operation.request.try_for_watches(&path);
        }
        // Without locks it changes nothing; with them CRIU would refuse. They may be taken until the tree is frozen.
        operation.request.keep_file_locks();
        // What an earlier dump into the same directory wrote says nothing about this one.
        match unlinkat(&self.images, FILE_NAME, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => {
                return Err(format!(
                    "The old {FILE_NAME} in the image directory cannot be removed: {error}"
                ));
            }
        }
        self.unrecorded = leave_out_foreign_cgroups(operation, self.init);
        self.network = PodNetwork::of(&operation.request, self.init, self.policy.tcp);
        Ok(())
    }

    fn enter(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Stage for Dump {
    fn notified(&mut self, notification: &Notification) -> Answer {
        match notification.script.as_str() {
            "query-ext-files" => {
                // Again, now that nothing can connect any more.
                return match connections::forbid(self.init, self.policy.tcp) {
                    Ok(()) => self.find_unreachable(),
                    Err(reason) => {
                        self.journal.veto(&reason);
                        Answer::Veto(reason)
                    }
                };
            }
            "post-dump" => {}
            _ => return Answer::Forward,
        }
        match self.write() {
            Ok(mounts) => {
                self.journal
                    .line(format_args!("{FILE_NAME}: {mounts} mounts recorded"));
                Answer::Forward
            }
            // The container goes on running, and its owner learns now, not at the restore, that something is wrong.
            Err(reason) => {
                self.journal.veto(&reason);
                Answer::Veto(reason)
            }
        }
    }

    fn answered(&mut self, script: &str) {
        // From here to `post-dump` CRIU is busy with the tree, and what it is does not change any more.
        if script == "query-ext-files" {
            // Why it cannot be read is said when it is needed.
            self.frozen = self.look().ok();
        }
    }

    fn abandoned(&mut self) {
        if let Err(reason) = connections::recover(self.network.as_ref(), self.init) {
            self.journal.line(reason);
        }
    }

    fn result(&mut self, success: bool, veto: Option<&str>) {
        if let Some(reason) = veto {
            self.journal.refusal(reason);
        } else if let Some(reason) = self.precheck.reason().filter(|_| !success) {
            self.journal.refusal(&reason);
        }
        if !success && self.written {
            // Half an image set must not look like a whole one.
            let _ = unlinkat(self.images.as_fd(), FILE_NAME, UnlinkatFlags::NoRemoveDir);
        }
        if !success {
            carry::remove(self.volumes.len(), self.images.as_fd());
        }
        self.succeeded = success;
        self.journal
            .line(if success { "dumped" } else { "not dumped" });
    }

    fn finished(&mut self) {
        // The client has its answer by now.
        let Some(network) = self.network.take().filter(|_| self.succeeded) else {
            return;
        };
        let images = self.images.try_clone().map_err(|error| chain(&error));
        let images = images.and_then(|dir| ImageDir::open(dir).map_err(|error| chain(&error)));
        match images.and_then(|images| network.dumped(&images)) {
            Ok(true) => self.journal.line("the pod's network is unlocked"),
            Ok(false) => {}
            Err(reason) => self.journal.line(reason),
        }
    }
}
