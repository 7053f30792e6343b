//! RESTORE: plan, stage and rewrite the request before the real criu starts; place, verify and clean up from the relay.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use criu_image::wire::Error;
use restow::chain;
use restow::finding;
use restow::host::attach::attach;
use restow::host::carry::{Unpacked, unpack_volumes};
use restow::host::journal::{Journal, PLAN, VERIFIED};
use restow::host::oom_score;
use restow::host::protect::protect;
use restow::host::target::{Given, Node};
use restow::host::{self, Exposure, Handed, PidFd, RestoredTree, cgroup};
use restow::ids::{CgroupPath, HostPath, HostPid};
use restow::observed::{Observations, Observed};
use restow::plan::Plan;
use restow::policy::Policy;
use restow::source::images::ImageDir;
use restow::source::{Hierarchy, Source, pages};
use restow::stage::{self, Staging};
use restow::target::Target;
use restow::verify::{Restored, verify};

use crate::connections::Locked;
use crate::hold::{self, Hold};
use crate::launch::Launched;
use crate::operation::Operation;
use crate::relay::{Answer, Stage};
use crate::rpc::{CgroupMode, Notification};

/// A restore that is ready to start.
#[derive(Debug)]
pub struct Restore {
    target: Target,
    plan: Plan,
    staging: Option<Staging>,
    init: Option<(HostPid, PidFd)>,
    /// What the verification saw.
    seen: Option<Observations>,
    /// The container's cgroup, when it is its alone.
    container_dir: Option<HostPath>,
    /// The new pod's network, while it is locked.
    locked: Option<Locked>,
    /// The cgroups that are the container's alone.
    own_cgroups: BTreeMap<Hierarchy, CgroupPath>,
    /// What freezes the container before it runs, when it is to be created only.
    hold: Option<Hold>,
    /// Held until this process has become criu.
    handed: Vec<Handed>,
    /// Content of volumes, which goes again when the restore fails.
    unpacked: Vec<Unpacked>,
    runtime: HostPid,
    journal: Journal,
}

impl Restore {
    /// Plans and stages the restore and rewrites the request.
    ///
    /// # Errors
    /// In words, when it is not possible; nothing is left behind.
    pub fn prepare(operation: &mut Operation, policy: &Policy) -> Result<Self, String> {
        // A plan of an earlier restore must not be taken for this one's.
        operation.journal.detach(PLAN);
        operation.journal.detach(VERIFIED);
        let journal = operation
            .journal
            .try_clone()
            .map_err(|error| chain(&error))?;
        let images = operation
            .directories
            .images
            .try_clone()
            .map_err(|error| chain(&error))?;
        let images = ImageDir::open(images).map_err(|error| chain(&error))?;
        let source = Source::read(&images).map_err(|error| chain(&error))?;
        // CRIU would wait for the rest until the runtime gives up.
        pages::check(&images).map_err(|error| chain(&error))?;
        let mut target = target(operation)?;
        let mut plan = make_plan(operation, &source, &mut target, policy)?;
        let log = &mut operation.journal;
        let unpacked = unpack_volumes(&plan.carried, &images, |line| log.line(line))
            .map_err(|error| format!("The content of a volume cannot be unpacked: {error}"))?;
        if !unpacked.is_empty() {
            // Now that it is there, everything in it can be looked at.
            let into = plan.carried.into_iter().map(|carried| carried.into);
            target.unpacked.extend(into);
            plan = make_plan(operation, &source, &mut target, policy)?;
        }
        let handed = host::open_handed(&plan, Exposure::Container)
            .map_err(|error| format!("A file cannot be handed to CRIU: {error}"))?;
        for file in &handed {
            operation.request.hand_in(&file.key, file.fd.as_raw_fd());
        }
        let staging = Staging::new(Path::new(stage::ROOT)).map_err(|error| chain(&error))?;
        let started = Instant::now();
        let staged = staging
            .fill(&images, &plan)
            .map_err(|error| chain(&error))
            .and_then(|()| {
                let dir = std::fs::File::open(staging.path());
                dir.map_err(|error| format!("Cannot open {}: {error}", staging.path().display()))
            });
        match staged {
            Ok(dir) => operation.directories.images = dir.into(),
            Err(reason) => {
                let _ = staging.remove();
                return Err(reason);
            }
        }
        operation.journal.line(format_args!(
            "staged in {} in {} µs",
            staging.path().display(),
            started.elapsed().as_micros()
        ));
        for mount in &plan.mounts {
            if target
                .mount(&mount.key)
                .is_none_or(|given| given.source != mount.source)
            {
                operation.journal.line(format_args!(
                    "mount {} (mnt_id {}) comes from {}, whatever the runtime said",
                    mount.mount_point, mount.mnt_id, mount.source
                ));
                operation
                    .request
                    .set_external_mount(&mount.key, &mount.source);
            }
        }
        if source.file_locks {
            // Without, CRIU would silently leave them out (`criu/file-lock.c`, `prepare_file_locks`).
            operation.request.keep_file_locks();
        }
        let locked = Locked::by(&plan, &target, &mut operation.journal);
        if plan.sockets.tcp_close {
            operation.request.close_connections();
        } else if plan.sockets.connections() {
            operation.request.keep_connections();
        }
        if plan.cgroup.by_criu {
            operation.request.set_cgroups(
                CgroupMode::Soft,
                target.cgroups.iter().filter(|(_, path)| !path.is_root()),
            );
        } else {
            operation.request.set_cgroups(CgroupMode::Ignore, []);
        }
        Ok(Self {
            target,
            plan,
            staging: Some(staging),
            init: None,
            seen: None,
            container_dir: None,
            own_cgroups: BTreeMap::new(),
            hold: None,
            locked,
            handed,
            unpacked,
            runtime: operation.peer.pid,
            journal,
        })
    }

    /// The runtime's cgroup of version 2, for the relay to be born in; `None` when this process is in it as well.
    pub fn relay_cgroup(runtime: HostPid) -> Option<OwnedFd> {
        let own = HostPid(nix::unistd::getpid().as_raw());
        let (own_cgroups, there) = (host::cgroups(own).ok()?, host::cgroups(runtime).ok()?);
        let path = there.get(&Hierarchy::v2())?;
        if own_cgroups.get(&Hierarchy::v2()) == Some(path) {
            return None;
        }
        let mounts = host::cgroup_mounts(&host::mountinfo(own).ok()?, &own_cgroups);
        let node = Target {
            cgroup_mounts: mounts,
            ..Target::default()
        };
        let dir = node.cgroup_path_on_host(&Hierarchy::v2(), path)?;
        File::open(dir.as_path()).ok().map(OwnedFd::from)
    }

    /// The relay goes to the runtime's cgroup: in the container's it would count against its limits and die with it.
    fn leave_container_cgroup(&mut self, runtime: &BTreeMap<Hierarchy, CgroupPath>) {
        let own = HostPid(nix::unistd::getpid().as_raw());
        if let Err(error) = cgroup::move_process(own, runtime, &self.target) {
            self.journal.line(format_args!(
                "the relay stays in the container's cgroup: {error}"
            ));
        }
        // Where a map put the container others may be, who must not be killed with it.
        let placed = &self.target.placed_by_map;
        let container = self.plan.cgroup.container.iter();
        let container = container.filter(|(hierarchy, _)| !placed.contains(hierarchy));
        let own = container
            .filter(|(hierarchy, path)| !path.is_root() && runtime.get(hierarchy) != Some(path));
        self.own_cgroups = own
            .map(|(hierarchy, path)| (hierarchy.clone(), path.clone()))
            .collect();
        self.container_dir = self
            .own_cgroups
            .first_key_value()
            .and_then(|(hierarchy, path)| self.target.cgroup_path_on_host(hierarchy, path));
    }

    fn post_restore(&mut self, init: HostPid) -> Result<(), String> {
        let tree = RestoredTree::placed(init, &self.plan.cgroup, &self.target)?;
        attach(init, &self.plan.added_mounts, self.plan.read_only_root)
            .map_err(|error| format!("A mount of the new pod cannot be attached: {error}"))?;
        protect(init, &self.plan).map_err(|error| {
            format!("What the new container must not see or write cannot be protected: {error}")
        })?;
        oom_score::set_zeros(&self.plan.oom_scores, tree.tasks())
            .map_err(|error| format!("An OOM score adjustment cannot be set: {error}"))?;
        let tasks = tree.tasks().values().copied().collect();
        let tree = Observed::new(&tree);
        let verdict = verify(&self.plan, &tree);
        if hold::asked() {
            self.hold = Some(Hold::ready(&self.own_cgroups, tasks, &self.target)?);
        }
        self.seen = Some(tree.into_observations());
        self.journal.judge("container", &verdict)
    }
}

impl Launched for Restore {
    fn descriptors(&self) -> Vec<RawFd> {
        let mut fds = self.journal.descriptors();
        fds.extend(
            self.staging
                .as_ref()
                .map(|staging| staging.lock().as_raw_fd()),
        );
        fds.extend(self.locked.as_ref().map(Locked::descriptor));
        fds
    }

    /// All of it is done before: files are handed in by the process that becomes criu.
    fn complete(&mut self, _: &mut Operation) -> Result<(), String> {
        Ok(())
    }

    /// Brings this process, the parent of the restored tree, to the new container's cgroup.
    fn enter(&self) -> Result<(), String> {
        cgroup::make_sub_cgroups(&self.plan.cgroup, &self.target)
            .map_err(|error| format!("Cannot make a sub-cgroup of the container: {error}"))?;
        let own = HostPid(nix::unistd::getpid().as_raw());
        cgroup::move_process(own, &self.plan.cgroup.container, &self.target)
            .map_err(|error| format!("Cannot enter the new container's cgroup: {error}"))?;
        if self.plan.cgroup.private_namespace && !self.plan.cgroup.by_criu {
            cgroup::unshare_namespace().map_err(|error| {
                format!("Cannot give the container a cgroup namespace of its own: {error}")
            })?;
        }
        Ok(())
    }
}

impl Stage for Restore {
    fn begun(&mut self) {
        // Of these it has only the numbers: the descriptors are criu's.
        std::mem::take(&mut self.handed)
            .into_iter()
            .for_each(|file| std::mem::forget(file.fd));
        match host::cgroups(self.runtime) {
            Ok(cgroups) => self.leave_container_cgroup(&cgroups),
            Err(error) => self.journal.line(format_args!(
                "the runtime's cgroups cannot be read: {error}"
            )),
        }
        self.journal.plan(&self.plan);
    }

    fn notified(&mut self, notification: &Notification) -> Answer {
        if let Some(pid) = notification.pid {
            self.init = PidFd::open(pid).ok().map(|fd| (HostPid(pid), fd));
        }
        if notification.script != "post-restore" {
            return Answer::Forward;
        }
        let Some(init) = self.init.as_ref().map(|(pid, _)| *pid) else {
            return Answer::Veto("criu did not say which process it restored".into());
        };
        match self.post_restore(init) {
            Ok(()) => Answer::Forward,
            Err(reason) => {
                self.journal.veto(&reason);
                Answer::Veto(reason)
            }
        }
    }

    fn resuming(&mut self) {
        let Some(hold) = &mut self.hold else { return };
        match hold.freeze(&self.target) {
            Ok(()) => self.journal.line("held back until it is started"),
            Err(error) => {
                // Whoever created it must not find that it has run.
                if let Some((_, init)) = &self.init {
                    let _ = init.kill();
                }
                self.journal.line(format_args!(
                    "killed: it cannot be held back until it is started: {error}"
                ));
            }
        }
    }

    fn abandoned(&mut self) {
        // criu would have killed the tree. The init's end is the end of its pid namespace.
        if let Some((_, init)) = &self.init {
            let _ = init.kill();
        }
        // In the container's cgroup are the rest of a tree without a pid namespace and criu's own helpers; nothing else
        // can be there yet.
        if let Some(dir) = &self.container_dir {
            cgroup::kill_all(dir);
        }
        self.journal
            .line("criu is gone without a result: what it had restored so far was killed");
    }

    fn result(&mut self, success: bool, veto: Option<&str>) {
        if let Some(reason) = veto {
            // criu has said all it has to say, so this is where a runtime that quotes its log finds it.
            self.journal.refusal(reason);
        }
        for volume in &mut self.unpacked {
            if success {
                volume.keep();
            } else {
                volume.undo();
            }
        }
        if success {
            // criu has unlocked it.
            self.locked = None;
        } else {
            cgroup::remove_sub_cgroups(&self.plan.cgroup, &self.target);
        }
        self.journal
            .line(if success { "restored" } else { "not restored" });
    }

    fn finished(&mut self) {
        if let Some(Err(reason)) = self.locked.take().map(Locked::unlock) {
            self.journal.line(reason);
        }
        // Written here, where nobody waits for it any more.
        if let Some(seen) = self.seen.take() {
            self.journal.observations(&seen);
        }
        if let Some(Err(error)) = self.staging.take().map(Staging::remove) {
            self.journal.line(format_args!(
                "{}; it is collected at the next restore",
                chain(&error)
            ));
        }
    }
}

/// Looks at the node and plans; an error when the restore is not possible.
fn make_plan(
    operation: &mut Operation,
    source: &Source,
    target: &mut Target,
    policy: &Policy,
) -> Result<Plan, String> {
    let plan = host::facts::plan(source, target, policy).map_err(|error| chain(&error))?;
    for finding in &plan.findings {
        operation.journal.line(finding);
    }
    if plan.possible() {
        return Ok(plan);
    }
    operation.journal.plan(&plan);
    Err(finding::list(
        "The restore is not possible",
        plan.blockers(),
    ))
}

/// Where the container goes, as the request, the bundle and `/proc` say.
fn target(operation: &Operation) -> Result<Target, String> {
    let own = HostPid(nix::unistd::getpid().as_raw());
    let cgroups = host::cgroups(own)
        .map_err(|error| format!("Cannot read the cgroups of this process: {error}"))?;
    let node = Node::read(&cgroups).map_err(|error| chain(&error))?;
    let bad = |error| format!("The request cannot be understood: {error}");
    let mut given = Given {
        cgroups,
        mounts: operation.request.external_mounts().map_err(bad)?,
        inherited: operation.request.inherited().map_err(bad)?,
        uts: operation.request.joined_namespace("uts").map_err(bad)?,
        network: network_namespace(operation).map_err(bad)?,
    };
    // runc has moved this process to the container's cgroup already; crun only names it.
    if host::cgroups(operation.peer.pid).is_ok_and(|peer| peer == given.cgroups) {
        let named = operation.request.cgroup_roots().map_err(bad)?;
        given.name_cgroups(&named, &node);
    }
    host::target::target(given, &operation.bundle, node).map_err(|error| chain(&error))
}

/// The file of the network namespace that the container joins. runc and crun hand it in when it is the sandbox's
/// (libcontainer/criu_linux.go, `criuNsToKey`; src/libcrun/criu.c).
fn network_namespace(operation: &Operation) -> Result<Option<PathBuf>, Error> {
    match operation.request.inherited_descriptor("extRootNetNS")? {
        Some(number) => Ok(Some(format!("/proc/self/fd/{number}").into())),
        None => operation.request.joined_namespace("net"),
    }
}
