//! Nodes with containerd, pods of the probe on them, and the command `restow`.
#![allow(dead_code, reason = "each suite uses a part of it")]

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_cri::api::{
    ContainerConfig, ContainerMetadata, ContainerState, ExecSyncRequest, ImageSpec,
    LinuxPodSandboxConfig, Mount, PodSandboxConfig, PodSandboxMetadata,
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

/// The annotation of a pod that can be moved.
pub(crate) const ENABLED: (&str, &str) = ("restow.dev/enabled", "true");

/// Words that a message of CRI owns.
pub(crate) fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|&it| it.to_owned()).collect()
}

/// A node with containerd and the command.
pub(crate) struct Lab {
    pub(crate) containerd: Containerd,
    pub(crate) runtime: Runtime,
    tokio: Tokio,
    cri: Cri,
}

/// A pod with one container, mostly of the probe.
pub(crate) struct ProbePod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) id: PodId,
    pub(crate) container: ContainerId,
    container_name: String,
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
        Self::on(Stack::v2(suite))
    }

    pub(crate) fn on(stack: Stack) -> Result<Self> {
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
        let pod = self.probe(name, uid, shim, PROBE_IMAGE, args, ENABLED)?;
        self.counts_beyond(&pod.log, 0)?;
        Ok(pod)
    }

    /// The same of another image that has the probe, and with another annotation; whether it counts is not looked at.
    pub(crate) fn probe(
        &self,
        name: &str,
        uid: &str,
        shim: Shim,
        image: &str,
        args: &[&str],
        annotation: (&str, &str),
    ) -> Result<ProbePod> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "probe".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: image.to_owned(),
                ..ImageSpec::default()
            }),
            command: strings(&["/probe"]),
            args: strings(args),
            ..ContainerConfig::default()
        };
        let settings = [("colour", "green".to_owned())];
        self.pod_of(name, uid, shim, config, &settings, annotation)
    }

    /// A pod with this container, started, a hosts file, a config map of these files at `/settings` and an empty volume at `/scratch`.
    pub(crate) fn pod_of(
        &self,
        name: &str,
        uid: &str,
        shim: Shim,
        config: ContainerConfig,
        settings: &[(&str, String)],
        annotation: (&str, &str),
    ) -> Result<ProbePod> {
        let metadata = config.metadata.clone().unwrap_or_default();
        let log_directory = format!("/var/log/pods/default_{name}_{uid}");
        fs::create_dir_all(self.path(&format!("{log_directory}/{}", metadata.name)))?;
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
            annotations: [(annotation.0.to_owned(), annotation.1.to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/burstable/pod{uid}"),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let mut config = ContainerConfig {
            log_path: format!("{}/0.log", metadata.name),
            mounts: self.volumes(uid, settings)?,
            ..config
        };
        let linux = config.linux.get_or_insert_default();
        linux
            .security_context
            .get_or_insert_default()
            .readonly_paths = strings(&["/proc/sys", "/proc/sysrq-trigger"]);
        let handler = handler(self.runtime, shim);
        let id = self.call(self.cri.run_pod(&pod_config, handler))?;
        let container = self.call(self.cri.create_container(&id, &config, &pod_config))?;
        self.call(self.cri.start_container(&container))?;
        Ok(ProbePod {
            name: name.to_owned(),
            uid: uid.to_owned(),
            id,
            container,
            log: format!("{log_directory}/{}", config.log_path),
            container_name: metadata.name,
        })
    }

    /// What the kubelet makes for a pod, and the mounts of it.
    fn volumes(&self, uid: &str, settings: &[(&str, String)]) -> Result<Vec<Mount>> {
        let dir = format!("/var/lib/kubelet/pods/{uid}");
        let map = format!("{dir}/volumes/kubernetes.io~configmap/settings");
        let empty = format!("{dir}/volumes/kubernetes.io~empty-dir/scratch");
        let now = "..2026_11";
        for made in [&format!("{map}/{now}"), &empty] {
            fs::create_dir_all(self.path(made))?;
        }
        fs::write(
            self.path(&format!("{dir}/etc-hosts")),
            format!("127.0.0.1\tlocalhost\n10.0.0.1\t{uid}\n"),
        )?;
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, self.path(&format!("{map}/{name}")))
        };
        link(now, "..data")?;
        for (name, text) in settings {
            fs::write(self.path(&format!("{map}/{now}/{name}")), text)?;
            link(&format!("..data/{name}"), name)?;
        }
        let mount = |host_path: String, container_path: &str, readonly| Mount {
            host_path,
            container_path: container_path.to_owned(),
            readonly,
            ..Mount::default()
        };
        Ok(vec![
            mount(format!("{dir}/etc-hosts"), "/etc/hosts", false),
            mount(map, "/settings", true),
            mount(empty, "/scratch", false),
        ])
    }

    /// Runs a program in a container and returns its output.
    pub(crate) fn exec(&self, id: &ContainerId, program: &[&str]) -> Result<String> {
        let request = ExecSyncRequest {
            container_id: id.0.clone(),
            cmd: strings(program),
            timeout: 30,
        };
        let answer = self
            .tokio
            .block_on(self.cri.runtime().exec_sync(request))
            .with_context(|| format!("Run {program:?} in {id}"))?
            .into_inner();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            answer.exit_code == 0,
            "{program:?} ends with {}: {}{}",
            answer.exit_code,
            text(&answer.stdout),
            text(&answer.stderr).trim()
        );
        Ok(text(&answer.stdout))
    }

    /// A path of the host for one of the node.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.containerd.node().path(inside)
    }

    /// Writes a file of the node.
    pub(crate) fn write(&self, inside: &str, text: &str) -> Result<()> {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().context("A file needs a directory")?)?;
        fs::write(&path, text).with_context(|| format!("Write {inside} in the node"))
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
        format!("{}/{}", self.name, self.container_name)
    }
}

/// containerd's socket on a node, as an option.
pub(crate) const ON_THE_NODE: [&str; 2] = ["--socket", SOCKET];
