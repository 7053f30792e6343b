//! One container's way from pod A to pod B, and what is found there.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::container::{Checkpoint, Container};
use crate::engine::Engine;
use crate::pod::{ContainerOptions, Pod, PodOptions};
use crate::report::Report;

/// Where containerd's shim has CRIU write its logs.
const CONTAINERD_WORK: &str = "/var/lib/containerd/io.containerd.runtime.v2.task/k8s.io";

/// What moves from where to where.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Pod A.
    pub from: PodOptions,
    /// Pod B.
    pub to: PodOptions,
    /// The container as it is made in pod A.
    pub container: ContainerOptions,
    /// How the container in pod B differs, when it does.
    pub container_there: Option<ContainerOptions>,
    /// Pod A goes on while pod B is restored.
    pub leave_running: bool,
    /// Done when pod A is gone and the container in pod B is made, before it is restored.
    pub before_restore: Option<fn(&Container<'_>) -> Result<()>>,
    /// Done when the checkpoint is made, before pod A is removed.
    pub after_checkpoint: Option<fn(&Container<'_>) -> Result<()>>,
    /// Done when pod B is there, before the container in it is made.
    pub in_pod_b: Option<fn(&Pod<'_>) -> Result<()>>,
    /// Done when pod A is there, before the container in it starts.
    pub in_pod_a: Option<fn(&Pod<'_>) -> Result<()>>,
    /// Done after that, when the container is made and does not run yet.
    pub before_start: Option<fn(&Container<'_>) -> Result<()>>,
    /// Done when the container in pod A runs.
    pub before_checkpoint: Option<fn(&Engine) -> Result<()>>,
    /// Done after that, with the container in pod A.
    pub in_container_a: Option<fn(&Container<'_>) -> Result<()>>,
}

/// Names of pod A, after it is gone.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its cgroup, as a path of the host.
    pub pod_cgroup: PathBuf,
    /// Its container's cgroup, as a path of the host.
    pub container_cgroup: PathBuf,
    /// The same, as the node has it: below the root of its cgroups, with a leading slash.
    pub container_cgroup_inside: String,
    /// What the probe reported there.
    pub reports: Vec<Report>,
}

/// A container that has been restored in pod B.
#[derive(Debug)]
pub struct Arrival<'a, 'e> {
    /// Where all this happens.
    pub engine: &'e Engine,
    /// Pod B.
    pub pod: &'a Pod<'e>,
    /// The container.
    pub container: &'a mut Container<'e>,
    /// Where it came from.
    pub origin: &'a Origin,
    /// The checkpoint that it was restored from.
    pub checkpoint: &'a Checkpoint,
    /// What the probe reports here.
    pub reports: Vec<Report>,
    /// The container that was left running in pod A.
    pub left_behind: Option<&'a Container<'e>>,
}

/// How a journey ended. Anything wrong with the stage itself is an error instead.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// What shows that all held.
    Right(String),
    /// What did not hold.
    Wrong(String),
}

impl Verdict {
    /// What shows that all held, or what did not.
    #[must_use]
    pub fn of(result: Result<String>) -> Self {
        match result {
            Ok(shown) => Self::Right(shown),
            Err(error) => Self::Wrong(one_line(&format!("{error:#}"))),
        }
    }

    /// For a scenario that must not be restored: right when it was refused with all of these words.
    #[must_use]
    pub fn refused(self, words: &[&str]) -> Self {
        match self {
            Self::Right(_) => {
                Self::Wrong("it was restored and should have been refused".to_owned())
            }
            Self::Wrong(text) if words.iter().all(|word| text.contains(word)) => Self::Right(text),
            Self::Wrong(text) => Self::Wrong(text),
        }
    }
}

impl Journey {
    /// From a burstable pod A, which is removed whole, to a burstable pod B.
    #[must_use]
    pub fn new(container: ContainerOptions) -> Self {
        Self {
            from: PodOptions::new("pod-a"),
            to: PodOptions::new("another-pod-b"),
            container,
            container_there: None,
            leave_running: false,
            before_restore: None,
            after_checkpoint: None,
            in_pod_b: None,
            in_pod_a: None,
            before_start: None,
            before_checkpoint: None,
            in_container_a: None,
        }
    }

    /// Goes the whole way; `check` judges what arrived: a text that shows it is right, or an error that says what is wrong.
    pub fn run(
        &self,
        engine: &Engine,
        check: impl FnOnce(&mut Arrival) -> Result<String>,
    ) -> Result<Verdict> {
        let pod_a = Pod::start(engine, &self.from)?;
        if let Some(change) = self.in_pod_a {
            change(&pod_a)?;
        }
        let mut container_a = pod_a.container(&self.container)?;
        container_a.prepare(None)?;
        if let Some(change) = self.before_start {
            change(&container_a)?;
        }
        container_a.start()?;
        let origin = Origin {
            pod_cgroup: pod_a.cgroup_dir(),
            container_cgroup: container_a.cgroup_dir(),
            container_cgroup_inside: container_a.cgroup().to_owned(),
            reports: container_a.reports()?,
        };
        if let Some(change) = self.before_checkpoint {
            change(engine)?;
        }
        if let Some(change) = self.in_container_a {
            change(&container_a)?;
        }
        let checkpoint = Checkpoint::new(engine, "journey")?;
        let mut left_behind = None;
        if self.leave_running {
            if let Err(error) = container_a.checkpoint_running(&checkpoint) {
                return Ok(Verdict::Wrong(format!("The checkpoint fails: {error:#}")));
            }
            left_behind = Some((pod_a, container_a));
        } else {
            if let Err(error) = container_a.checkpoint(&checkpoint) {
                return Ok(Verdict::Wrong(format!("The checkpoint fails: {error:#}")));
            }
            if let Some(change) = self.after_checkpoint {
                change(&container_a)?;
            }
            pod_a.remove(vec![container_a]).context("Remove pod A")?;
        }

        let pod = Pod::start(engine, &self.to)?;
        if let Some(change) = self.in_pod_b {
            change(&pod)?;
        }
        let mut container =
            pod.container(self.container_there.as_ref().unwrap_or(&self.container))?;
        if let Err(error) = container.prepare(Some(&checkpoint)) {
            return Ok(Verdict::Wrong(format!(
                "The restore fails: {}",
                one_line(&format!("{error:#}"))
            )));
        }
        if let Some(change) = self.before_restore {
            change(&container)?;
        }
        if let Err(error) = container.restore(&checkpoint) {
            return Ok(Verdict::Wrong(format!(
                "The restore fails: {}",
                one_line(&format!("{error:#}"))
            )));
        }
        let arrived = container.reports().and_then(|reports| {
            check(&mut Arrival {
                engine,
                pod: &pod,
                container: &mut container,
                origin: &origin,
                checkpoint: &checkpoint,
                reports,
                left_behind: left_behind.as_ref().map(|(_, container)| container),
            })
        });
        Ok(Verdict::of(arrived))
    }
}

impl Arrival<'_, '_> {
    /// The inode of a file of the container's cgroup in pod B.
    pub fn cgroup_inode(&self, file: &str) -> Result<u64> {
        self.container.cgroup_inode(file)
    }

    /// The tasks are in the container's cgroup of pod B, and pod A's has not come back.
    pub fn check_placement(&self) -> Result<()> {
        if self.left_behind.is_none() && self.origin.pod_cgroup.exists() {
            let procs = fs::read_to_string(self.origin.container_cgroup.join("cgroup.procs"))
                .unwrap_or_default();
            anyhow::bail!(
                "the cgroup of pod A has come back, with {} tasks in its container's",
                procs.lines().count()
            );
        }
        let population = self.container.cgroup_population()?;
        anyhow::ensure!(
            population == self.reports.len(),
            "{population} of {} tasks are in the container's cgroup of pod B",
            self.reports.len()
        );
        Ok(())
    }

    /// What Restow wrote about the restore, into the directory of CRIU's log.
    pub fn restow_log(&self) -> Result<String> {
        let dir = match self.engine.kubelet() {
            // One for each container, which `work` in the bundle leads to.
            Some(_) => format!("{CONTAINERD_WORK}/{}", self.container.id()),
            None => self.checkpoint.work.clone(),
        };
        let path = self.engine.node().path(dir).join("restow.log");
        fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))
    }

    /// Every process counts on from where it was, with its memory as it was.
    pub fn check_progress(&self) -> Result<()> {
        for (before, after) in self.origin.reports.iter().zip(&self.reports) {
            anyhow::ensure!(
                after.counter >= before.counter && after.memory_intact,
                "process {} counted to {} in pod A and is at {} in pod B",
                after.process,
                before.counter,
                after.counter
            );
        }
        Ok(())
    }

    /// In every process that held it, the file opened as `opened` is now the one with `inode`, with offset and flags kept, and
    /// shared with the parent's or not as it was.
    pub fn check_file(&self, opened: &str, inode: u64) -> Result<()> {
        for (before, after) in self.origin.reports.iter().zip(&self.reports) {
            let Ok(before) = before.file(opened) else {
                continue;
            };
            let file = after.file(opened)?;
            anyhow::ensure!(
                file.inode == inode && file.errno.is_none(),
                "fd {} of process {} is {} (inode {}, {}), not pod B's file (inode {inode})",
                file.fd,
                after.process,
                file.link,
                file.inode,
                file.errno.map_or("readable".to_owned(), |errno| format!(
                    "reading fails: {}",
                    std::io::Error::from_raw_os_error(errno)
                ))
            );
            anyhow::ensure!(
                file.offset == before.offset && file.flags == before.flags,
                "fd {} of process {} had offset {} and flags {:o}, and has offset {} and flags {:o}",
                file.fd,
                after.process,
                before.offset,
                before.flags,
                file.offset,
                file.flags
            );
            anyhow::ensure!(
                file.shared == before.shared,
                "fd {} of process {} shared its description with the parent's: {}, and now: {}",
                file.fd,
                after.process,
                before.shared,
                file.shared
            );
        }
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    let line: String = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    line.chars().take(1200).collect()
}
