//! Nodes with containerd, pods of the probe on them, and the command `restow`.
#![allow(dead_code, reason = "each suite uses a part of it")]

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_cri::api::{
    ContainerConfig, ContainerMetadata, ContainerState, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, Mount, PodSandboxConfig,
    PodSandboxMetadata,
};
use restow_cri::{ContainerId, Cri, PodId};
use restow_integration::containerd::{Containerd, PROBE_IMAGE, RESTOW_DIR, SOCKET, Shim, handler};
use restow_integration::stack::{Runtime, Stack};
use restow_integration::suite::Suite;
use restow_integration::tools;
use serde_json::Value;
use tokio::runtime::Runtime as Tokio;

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a node keeps its checkpoints.
pub(crate) const STORE: &str = "/var/lib/restow/checkpoints";

/// A node with containerd and the command.
pub(crate) struct Lab {
    pub(crate) containerd: Containerd,
    pub(crate) runtime: Runtime,
    tokio: Tokio,
    cri: Cri,
}

/// A pod with one container of the probe.
pub(crate) struct ProbePod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) id: PodId,
    pub(crate) container: ContainerId,
    log: String,
}

/// What the command answered.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) error: String,
}

impl Answer {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            error: text(&output.stderr),
        }
    }

    /// Its JSON; it has to have succeeded.
    pub(crate) fn json(&self) -> Result<Value> {
        ensure!(
            self.code == Some(0),
            "restow failed with {:?}: {}",
            self.code,
            self.error
        );
        serde_json::from_str(&self.out).with_context(|| format!("Understand {}", self.out))
    }

    /// What it said when it failed, which it has to have with this exit code.
    pub(crate) fn refusal(&self, code: i32) -> Result<&str> {
        ensure!(
            self.code == Some(code),
            "restow ended with {:?}, expected {code}: {}{}",
            self.code,
            self.out,
            self.error
        );
        Ok(&self.error)
    }
}

impl Lab {
    pub(crate) fn start(suite: Suite) -> Result<Self> {
        let stack = Stack::v2(suite);
        let containerd = Containerd::start(stack)?;
        for (program, name) in [
            (tools::restow()?, "restow"),
            (tools::shim()?, "containerd-shim-restow-v2"),
        ] {
            containerd.install(&program, &format!("{RESTOW_DIR}/{name}"))?;
        }
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let cri = tokio.block_on(Cri::connect(containerd.socket()))?;
        let lab = Self {
            containerd,
            runtime: stack.runtime,
            tokio,
            cri,
        };
        lab.until("the CRI plugin knows the probe's image", || {
            Ok(lab.call(lab.cri.image(PROBE_IMAGE))?.is_some())
        })?;
        Ok(lab)
    }

    pub(crate) fn call<T>(&self, call: impl Future<Output = restow_cri::Result<T>>) -> Result<T> {
        Ok(self.tokio.block_on(call)?)
    }

    pub(crate) fn cri(&self) -> &Cri {
        &self.cri
    }

    pub(crate) fn until(&self, what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done()? {
            if Instant::now() > deadline {
                bail!("It never happens that {what}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Runs `restow` on the node.
    pub(crate) fn restow(&self, args: &[&str]) -> Result<Answer> {
        let mut command = self
            .containerd
            .node()
            .command(format!("{RESTOW_DIR}/restow"));
        let output = command.args(args).output().context("Start restow")?;
        Ok(Answer::of(&output))
    }

    /// Runs `restow` on this machine, outside of all nodes.
    pub(crate) fn restow_outside(args: &[&str]) -> Result<Answer> {
        let mut command = std::process::Command::new(tools::restow()?);
        // Not this machine's.
        command.env("RESTOW_CONFIG", "/dev/null");
        let output = command.args(args).output().context("Start restow")?;
        Ok(Answer::of(&output))
    }

    /// A container without a pod, by `ctr`.
    pub(crate) fn plain(&self, id: &str, args: &[&str]) -> Result<()> {
        let binary = format!("--runc-binary={}", self.runtime.program());
        let mut all = vec!["run", "--detach", &binary, PROBE_IMAGE, id];
        all.extend(args);
        self.ctr(&all)?;
        Ok(())
    }

    /// `ctr` in the namespace of those containers.
    pub(crate) fn ctr(&self, args: &[&str]) -> Result<String> {
        self.containerd.ctr(args)
    }

    /// Whether a task runs.
    pub(crate) fn task(&self, id: &str) -> Result<String> {
        let list = self.ctr(&["tasks", "list"])?;
        let line = list.lines().find(|line| line.starts_with(id));
        Ok(line
            .and_then(|line| line.split_whitespace().last())
            .unwrap_or("gone")
            .to_owned())
    }

    /// A pod with a hosts file, a config map, an empty volume and the probe.
    pub(crate) fn pod(&self, name: &str, uid: &str, shim: Shim, args: &[&str]) -> Result<ProbePod> {
        let dir = format!("/var/lib/kubelet/pods/{uid}");
        let map = format!("{dir}/volumes/kubernetes.io~configmap/settings");
        let empty = format!("{dir}/volumes/kubernetes.io~empty-dir/scratch");
        for made in [&map, &empty] {
            fs::create_dir_all(self.path(made))?;
        }
        fs::write(
            self.path(&format!("{dir}/etc-hosts")),
            "127.0.0.1\tlocalhost\n",
        )?;
        fs::create_dir_all(self.path(&format!("{map}/..2026_11")))?;
        fs::write(self.path(&format!("{map}/..2026_11/colour")), "green")?;
        std::os::unix::fs::symlink("..2026_11", self.path(&format!("{map}/..data")))?;
        std::os::unix::fs::symlink("..data/colour", self.path(&format!("{map}/colour")))?;
        let log_directory = format!("/var/log/pods/default_{name}_{uid}");
        fs::create_dir_all(self.path(&format!("{log_directory}/probe")))?;
        let pod_config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: log_directory.clone(),
            labels: [
                ("io.kubernetes.pod.name".to_owned(), name.to_owned()),
                (
                    "io.kubernetes.pod.namespace".to_owned(),
                    "default".to_owned(),
                ),
                ("io.kubernetes.pod.uid".to_owned(), uid.to_owned()),
            ]
            .into(),
            annotations: [("restow.dev/enabled".to_owned(), "true".to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/burstable/pod{uid}"),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let mount = |host_path: String, container_path: &str, readonly| Mount {
            host_path,
            container_path: container_path.to_owned(),
            readonly,
            ..Mount::default()
        };
        let strings = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "probe".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: PROBE_IMAGE.to_owned(),
                ..ImageSpec::default()
            }),
            command: strings(&["/probe"]),
            args: strings(args),
            log_path: "probe/0.log".to_owned(),
            mounts: vec![
                mount(format!("{dir}/etc-hosts"), "/etc/hosts", false),
                mount(map, "/settings", true),
                mount(empty, "/scratch", false),
            ],
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    readonly_paths: strings(&["/proc/sys", "/proc/sysrq-trigger"]),
                    ..LinuxContainerSecurityContext::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        };
        let handler = handler(self.runtime, shim);
        let id = self.call(self.cri.run_pod(&pod_config, handler))?;
        let container = self.call(self.cri.create_container(&id, &config, &pod_config))?;
        self.call(self.cri.start_container(&container))?;
        let pod = ProbePod {
            name: name.to_owned(),
            uid: uid.to_owned(),
            id,
            container,
            log: format!("{log_directory}/probe/0.log"),
        };
        self.counts_beyond(&pod.log, 0)?;
        Ok(pod)
    }

    /// A path of the host for one of the node.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.containerd.node().path(inside)
    }

    /// What the probe last counted, as its log has it.
    pub(crate) fn count(&self, log: &str) -> Result<u64> {
        let text = fs::read_to_string(self.path(log)).unwrap_or_default();
        let mut counts = text
            .lines()
            .filter_map(|line| line.split_once("count ")?.1.trim().parse().ok());
        Ok(counts.next_back().unwrap_or(0))
    }

    /// What the probe first counted in a log.
    pub(crate) fn first_count(&self, log: &str) -> Result<u64> {
        let text = fs::read_to_string(self.path(log))?;
        let mut counts = text
            .lines()
            .filter_map(|line| line.split_once("count ")?.1.trim().parse().ok());
        counts.next().context("The log has no count")
    }

    /// Waits until the probe has counted beyond `from`, and tells how far.
    pub(crate) fn counts_beyond(&self, log: &str, from: u64) -> Result<u64> {
        self.until(&format!("{log} counts beyond {from}"), || {
            Ok(self.count(log)? > from)
        })?;
        self.count(log)
    }

    /// A CRI container's state.
    pub(crate) fn state(&self, id: &ContainerId) -> Result<ContainerState> {
        let status = self.call(self.cri.container_status(id, false))?;
        Ok(status.status.context("A container has no status")?.state())
    }

    /// The pods there are, by name.
    pub(crate) fn pods(&self) -> Result<Vec<String>> {
        let pods = self.call(self.cri.pods(None))?;
        Ok(pods
            .into_iter()
            .filter_map(|pod| Some(pod.metadata?.name))
            .collect())
    }

    /// Removes a pod with all that the kubelet had for it.
    pub(crate) fn remove(&self, pod: &ProbePod) -> Result<()> {
        self.call(self.cri.stop_pod(&pod.id))?;
        self.call(self.cri.remove_pod(&pod.id))?;
        fs::remove_dir_all(self.path(&format!("/var/lib/kubelet/pods/{}", pod.uid)))?;
        let logs = format!("/var/log/pods/default_{}_{}", pod.name, pod.uid);
        fs::remove_dir_all(self.path(&logs))?;
        Ok(())
    }

    /// What is in the store, with what is on its way there.
    pub(crate) fn stored(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        let Ok(namespaces) = fs::read_dir(self.path(STORE)) else {
            return Ok(all);
        };
        for namespace in namespaces {
            let namespace = namespace?;
            for entry in fs::read_dir(namespace.path())? {
                let name = entry?.file_name();
                let namespace = namespace.file_name();
                all.push(format!("{}/{}", namespace.display(), name.display()));
            }
        }
        // The store's own lock.
        all.retain(|name| !name.ends_with("/.lock") && !name.ends_with("/lock"));
        all.sort();
        Ok(all)
    }

    /// What containerd has of snapshots and leases: nothing of ours may be left.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let all = self.ctr(&["snapshots", "list"])? + &self.ctr(&["leases", "list"])?;
        Ok(all
            .lines()
            .filter(|line| line.contains("restow-") && !line.contains("restow-p"))
            .map(str::to_owned)
            .collect())
    }
}

impl ProbePod {
    pub(crate) fn log(&self) -> &str {
        &self.log
    }

    /// As the command names its container.
    pub(crate) fn what(&self) -> String {
        format!("{}/probe", self.name)
    }
}

/// containerd's socket on a node, as an option.
pub(crate) const ON_THE_NODE: [&str; 2] = ["--socket", SOCKET];
