//! The same list of steps below containerd's own shim and below Restow's gives the same results.
//!
//! Each step notes what it saw as a line, with ids and times left out; the two accounts have to be equal, and what must be in them
//! is looked for, so that two accounts that are wrong in the same way do not pass.

use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::{Winsize, openpty};
use restow_cri::api::{
    ContainerState, ContainerStatsRequest, LinuxContainerResources, PodSandboxConfig,
    UpdateContainerResourcesRequest,
};
use restow_cri::{ContainerId, Cri, PodId};
use restow_integration::containerd::{Containerd, PROBE_IMAGE, Shim, handler};
use restow_integration::kubelet::{Kubelet, plain_container, pod_config, programs_of_node};
use restow_integration::on_both_suites;
use restow_integration::stack::{Runtime, Stack};
use restow_integration::suite::Suite;

on_both_suites!(
    a_pods_life_is_the_same_below_both_shims,
    fifty_pods_at_once_are_the_same_below_both_shims
);

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen, in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account(Vec<String>);

impl Account {
    fn note(&mut self, step: &str, seen: impl std::fmt::Display) {
        self.0.push(format!("{step}: {seen}"));
    }
}

/// One pod below one shim.
struct Stage<'k> {
    kubelet: &'k Kubelet,
    pod: PodId,
    config: PodSandboxConfig,
    /// What stands for ids in the account.
    names: BTreeMap<String, String>,
}

impl<'k> Stage<'k> {
    fn new(kubelet: &'k Kubelet, runtime: Runtime, shim: Shim, name: &str) -> Result<Self> {
        let config = pod_config(name, name, &format!("/kubepods/burstable/pod{name}"));
        let pod = kubelet.call(kubelet.cri().run_pod(&config, handler(runtime, shim)))?;
        let names = [(pod.0.clone(), "POD".to_owned())].into();
        Ok(Self {
            kubelet,
            pod,
            config,
            names,
        })
    }

    /// Makes a container of the node's shell and programs.
    fn create(&mut self, name: &str, program: &[&str], memory: i64) -> Result<ContainerId> {
        let mut config = plain_container(name, PROBE_IMAGE, program);
        config.mounts = programs_of_node();
        if let Some(linux) = &mut config.linux {
            linux.resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: memory,
                ..LinuxContainerResources::default()
            });
        }
        let cri = self.kubelet.cri();
        let id = self
            .kubelet
            .call(cri.create_container(&self.pod, &config, &self.config))?;
        self.names.insert(id.0.clone(), name.to_uppercase());
        Ok(id)
    }

    fn start(&mut self, name: &str, program: &[&str], memory: i64) -> Result<ContainerId> {
        let id = self.create(name, program, memory)?;
        self.kubelet.call(self.kubelet.cri().start_container(&id))?;
        Ok(id)
    }

    fn state(&self, id: &ContainerId) -> Result<String> {
        let call = self.kubelet.cri().container_status(id, false);
        let status = self.kubelet.call(call)?.status.context("No state")?;
        let state = ContainerState::try_from(status.state).map_or("?", |state| state.as_str_name());
        Ok(format!(
            "{state} exit {} reason {:?} message {:?}",
            status.exit_code,
            status.reason,
            self.normal(&status.message)
        ))
    }

    fn until_ended(&self, id: &ContainerId) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state(id)?;
            if state.starts_with("CONTAINER_EXITED") {
                return Ok(state);
            }
            ensure!(Instant::now() < deadline, "{id} does not end: {state}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its log, without the times, once it has this.
    fn log_with(&self, name: &str, wanted: &str) -> Result<String> {
        let path = format!("{}/{name}.log", self.config.log_directory);
        let path = self.kubelet.containerd().node().path(path);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.contains(wanted) {
                let lines = text
                    .lines()
                    .map(|line| line.split_once(' ').map_or("", |x| x.1));
                return Ok(lines.collect::<Vec<_>>().join("/"));
            }
            ensure!(
                Instant::now() < deadline,
                "{name} does not log {wanted:?}: {text}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A text without ids and what differs from run to run.
    fn normal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (id, name) in &self.names {
            text = text.replace(id.as_str(), name);
        }
        text
    }

    /// An error of a call that has to fail.
    fn refusal<T>(&self, result: Result<T>) -> Result<String> {
        match result {
            Ok(_) => bail!("It was not refused"),
            Err(error) => Ok(self.normal(&format!("{error:#}"))),
        }
    }

    fn remove(&self) -> Result<()> {
        self.kubelet.call(self.kubelet.cri().stop_pod(&self.pod))?;
        self.kubelet
            .call(self.kubelet.cri().remove_pod(&self.pod))?;
        let logs = &self.config.log_directory;
        fs::remove_dir_all(self.kubelet.containerd().node().path(logs))
            .with_context(|| format!("Remove {logs}"))
    }
}

/// What a program with a terminal of 33 lines sees, once containerd's client has told it the size.
fn with_terminal(containerd: &Containerd, id: &ContainerId) -> Result<String> {
    let size = Winsize {
        ws_row: 33,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).context("Make a terminal")?;
    let program = "until [ \"$(stty size)\" = '33 77' ]; do :; done; stty size";
    let mut command = containerd.ctr_command();
    command.args(["tasks", "exec", "--tty", "--exec-id", "tty", id.as_str()]);
    command.args(["/bin/sh", "-c", program]);
    command
        .stdin(pty.slave.try_clone()?)
        .stdout(pty.slave.try_clone()?)
        .stderr(pty.slave);
    let mut child = command.spawn().context("Start ctr")?;
    // Our own ends of the terminal go with the command.
    drop(command);
    let status = child.wait().context("Wait for ctr")?;
    let mut said = [0; 256];
    let count = nix::unistd::read(&pty.master, &mut said).context("Read the terminal")?;
    ensure!(status.success(), "ctr with a terminal: {status}");
    Ok(String::from_utf8_lossy(&said[..count]).trim().to_owned())
}

/// Counts, and says what signals it gets.
const LISTENER: &[&str] = &[
    "/bin/sh",
    "-c",
    "trap 'echo got USR1' USR1; trap 'echo got TERM; exit 43' TERM; echo ready; while :; do sleep 0.05; done",
];

fn life(kubelet: &Kubelet, runtime: Runtime, shim: Shim) -> Result<Account> {
    let mut seen = Account::default();
    let containerd = kubelet.containerd();
    let mut events = containerd.ctr_command();
    let log = format!("/run/events-{}", handler(runtime, shim));
    events
        .arg("events")
        .stdout(fs::File::create(containerd.node().path(&log))?);
    let mut events = events.spawn().context("Start ctr events")?;
    let outcome = steps(kubelet, runtime, shim, &mut seen);
    // ctr goes on for ever; it ends with what entered the node for it.
    let text = fs::read_to_string(containerd.node().path(&log))?;
    containerd.run("sh", &["-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^ctr .* events' && kill ${p#/proc/}; done; true"])?;
    events.wait()?;
    let stage = outcome?;
    note_events(&stage, &text, &mut seen);
    Ok(seen)
}

fn note_events(stage: &Stage, text: &str, seen: &mut Account) {
    // Of each container, in the order in which they came: containers of a pod run side by side.
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let Some(topic) = line.split(' ').find(|word| word.starts_with("/tasks/")) else {
            continue;
        };
        for (id, name) in &stage.names {
            if line.contains(&format!("\"container_id\":\"{id}\"")) {
                by_name.entry(name).or_default().push(topic);
            }
        }
    }
    for (name, topics) in by_name {
        seen.note("events", format!("{name} {}", topics.join(" ")));
    }
}

fn steps<'k>(
    kubelet: &'k Kubelet,
    runtime: Runtime,
    shim: Shim,
    seen: &mut Account,
) -> Result<Stage<'k>> {
    let containerd = kubelet.containerd();
    let mut stage = Stage::new(kubelet, runtime, shim, "life")?;
    let (cri, api) = (kubelet.cri(), kubelet.api());

    let first = stage.create("first", LISTENER, 0)?;
    seen.note("created", stage.state(&first)?);
    kubelet.call(cri.start_container(&first))?;
    seen.note("started", stage.state(&first)?);
    seen.note("log", stage.log_with("first", "ready")?);
    let twice = kubelet.call(cri.start_container(&first));
    seen.note("started twice", stage.refusal(twice)?);

    seen.note(
        "exec",
        kubelet.exec(&first, &["/bin/echo", "in", "here"])?.trim(),
    );
    let failed = kubelet.exec(&first, &["/bin/sh", "-c", "echo no >&2; exit 9"]);
    seen.note("exec that fails", stage.refusal(failed)?);
    let missing = kubelet.exec(&first, &["/no/such/program"]);
    // The runtimes' own words differ from version to version, not from shim to shim; the process number does.
    let missing = stage.refusal(missing)?;
    seen.note("exec of nothing", missing.split(": ").last().unwrap_or(""));
    seen.note("exec with a terminal", with_terminal(containerd, &first)?);

    kubelet.call(api.kill(&first, 10, false))?;
    seen.note("signal", stage.log_with("first", "got USR1")?);
    kubelet.call(api.pause(&first))?;
    seen.note("paused", kubelet.call(api.task(&first))?.status);
    kubelet.call(api.resume(&first))?;
    seen.note("resumed", kubelet.call(api.task(&first))?.status);

    let request = UpdateContainerResourcesRequest {
        container_id: first.0.clone(),
        linux: Some(LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..LinuxContainerResources::default()
        }),
        ..UpdateContainerResourcesRequest::default()
    };
    kubelet.request(cri.runtime().update_container_resources(request))?;
    let limit = containerd
        .node()
        .cgroup_v1_root("memory")
        .context("No memory controller")?
        .join(format!(
            "kubepods/burstable/podlife/{first}/memory.limit_in_bytes"
        ));
    seen.note("updated", fs::read_to_string(limit)?.trim());
    let request = ContainerStatsRequest {
        container_id: first.0.clone(),
    };
    let stats = kubelet
        .request(cri.runtime().container_stats(request))?
        .stats;
    let stats = stats.context("No statistics")?;
    let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes);
    let used = |value: Option<u64>| value.is_some_and(|value| value > 0);
    seen.note(
        "statistics",
        format!(
            "cpu {} memory {}",
            used(cpu.map(|it| it.value)),
            used(memory.map(|it| it.value))
        ),
    );

    let hungry = ["/probe", "run", "--memory", "200"];
    let hungry = stage.start("hungry", &hungry, 32 << 20)?;
    seen.note("out of memory", stage.until_ended(&hungry)?);

    let mut many = Vec::new();
    for number in 0..5 {
        many.push(stage.start(&format!("many{number}"), LISTENER, 0)?);
    }
    kubelet.restart_containerd("TERM")?;
    for id in many.iter().chain([&first]) {
        seen.note("after a restart", stage.state(id)?);
    }
    seen.note(
        "exec then",
        kubelet.exec(&first, &["/bin/echo", "still"])?.trim(),
    );
    kubelet.restart_containerd("KILL")?;
    seen.note("after a kill of containerd", stage.state(&first)?);

    let init = kubelet.call(api.task(&many[0]))?.pid;
    containerd.run("kill", &["-KILL", &init.to_string()])?;
    seen.note("process 1 killed", stage.until_ended(&many[0])?);
    stage.log_with("many1", "ready")?;
    kubelet.call(api.kill(&many[1], 15, false))?;
    seen.note("ended by itself", stage.until_ended(&many[1])?);
    stage.log_with("many2", "ready")?;
    kubelet.call(cri.stop_container(&many[2], Duration::from_secs(20)))?;
    seen.note("stopped", stage.until_ended(&many[2])?);
    kubelet.call(cri.stop_container(&many[3], Duration::ZERO))?;
    seen.note("stopped at once", stage.until_ended(&many[3])?);
    kubelet.call(cri.remove_container(&many[0]))?;
    let gone = kubelet.call(cri.container_status(&many[0], false));
    seen.note("removed", stage.refusal(gone)?);
    let missing = stage.create("missing", &["/no/such/program"], 0)?;
    let failed = kubelet.call(cri.start_container(&missing));
    let failed = stage.refusal(failed)?;
    seen.note("start of nothing", failed.split(": ").last().unwrap_or(""));
    stage.remove()?;
    let left = containerd.run("sh", &["-c", LEFT])?;
    seen.note("left behind", left.trim());
    Ok(stage)
}

/// Lists what removed pods could leave: bundles, state of the runtime, sockets, network namespaces.
const LEFT: &str = "ls -d /run/containerd/io.containerd.runtime.v2.task/k8s.io/* /run/containerd/runc/k8s.io/* /run/containerd/s/* /run/netns/* 2>/dev/null; true";

/// What has to be in every account, whatever the shim.
const MUST: &[&str] = &[
    "created: CONTAINER_CREATED",
    "started: CONTAINER_RUNNING",
    "log: stdout F ready",
    "exec: in here",
    "exec that fails: [\"/bin/sh\", \"-c\", \"echo no >&2; exit 9\"] ends with 9: no",
    "exec with a terminal: 33 77",
    "updated: 67108864",
    "statistics: cpu true memory true",
    "out of memory: CONTAINER_EXITED exit 137 reason \"OOMKilled\"",
    "exec then: still",
    "process 1 killed: CONTAINER_EXITED exit 137",
    "ended by itself: CONTAINER_EXITED exit 43",
    "stopped: CONTAINER_EXITED exit 43",
    "stopped at once: CONTAINER_EXITED exit 137",
    "events: FIRST /tasks/create /tasks/start",
];

fn node(suite: Suite) -> Result<Kubelet> {
    let containerd = Containerd::start(Stack::hybrid(suite))?;
    Kubelet::new(Rc::new(containerd))
}

/// What has to be equal: prints the first line that is not.
fn same(what: &str, stock: &Account, restow: &Account) -> Result<()> {
    for (ours, theirs) in restow.0.iter().zip(&stock.0) {
        ensure!(
            ours == theirs,
            "{what}: below Restow's shim {ours:?}, below the stock shim {theirs:?}"
        );
    }
    ensure!(
        stock == restow,
        "{what}: one account is longer: {stock:?} {restow:?}"
    );
    Ok(())
}

fn a_pods_life_is_the_same_below_both_shims(suite: Suite) -> Result<()> {
    let kubelet = node(suite)?;
    let runtime = Runtime::chosen();
    let what = format!("{} on {suite}", runtime.program());
    let stock = life(&kubelet, runtime, Shim::Stock).with_context(|| format!("{what}, stock"))?;
    for must in MUST {
        ensure!(
            stock.0.iter().any(|line| line.starts_with(must)),
            "{what}: there is no {must:?} in {:#?}",
            stock.0
        );
    }
    let restow =
        life(&kubelet, runtime, Shim::Restow).with_context(|| format!("{what}, Restow"))?;
    println!("{what}: {} steps and events", stock.0.len());
    same(&what, &stock, &restow)
}

/// Pods of one round.
const MANY: usize = 50;
/// How often each is tried.
const ATTEMPTS: u32 = 6;

/// Makes a pod as the kubelet does: what fails is tried again as another attempt. On a busy machine the network plugin gives up
/// on an address that is not settled after five seconds.
async fn insist(
    cri: &Cri,
    mut config: PodSandboxConfig,
    handler: &str,
) -> restow_cri::Result<PodId> {
    for attempt in 1..ATTEMPTS {
        if let Ok(pod) = cri.run_pod(&config, handler).await {
            return Ok(pod);
        }
        if let Some(metadata) = &mut config.metadata {
            metadata.attempt = attempt;
        }
    }
    cri.run_pod(&config, handler).await
}

/// Makes many pods at once, each with a container, and tells how they are.
fn crowd(kubelet: &Kubelet, runtime: Runtime, shim: Shim) -> Result<Account> {
    let mut seen = Account::default();
    let configs: Vec<PodSandboxConfig> = (0..MANY)
        .map(|number| format!("crowd-{number}"))
        .map(|name| pod_config(&name, &name, &format!("/kubepods/besteffort/pod{name}")))
        .collect();
    let name = handler(runtime, shim);
    let pods = kubelet.all(configs.iter().map(|config| {
        let (cri, config) = (kubelet.cri().clone(), config.clone());
        async move { insist(&cri, config, name).await }
    }))?;
    let mut stages: Vec<Stage> = Vec::new();
    for (pod, config) in pods.into_iter().zip(configs) {
        stages.push(Stage {
            kubelet,
            pod,
            config,
            names: BTreeMap::new(),
        });
    }
    let mut ids = Vec::new();
    for stage in &mut stages {
        ids.push(stage.create("one", &["/probe", "pause"], 0)?);
    }
    kubelet.all(ids.iter().map(|id| {
        let (cri, id) = (kubelet.cri().clone(), id.clone());
        async move { cri.start_container(&id).await }
    }))?;
    for (stage, id) in stages.iter().zip(&ids) {
        seen.note("running", stage.state(id)?);
        let said = kubelet.exec(id, &["/bin/cat", "/proc/sys/kernel/hostname"])?;
        seen.note("host name", said.trim());
    }
    let gone = stages.iter().map(|stage| {
        let (cri, pod) = (kubelet.cri().clone(), stage.pod.clone());
        async move {
            cri.stop_pod(&pod).await?;
            cri.remove_pod(&pod).await
        }
    });
    kubelet.all(gone)?;
    let left = kubelet.containerd().run("sh", &["-c", LEFT])?;
    seen.note("left behind", left.trim());
    Ok(seen)
}

fn fifty_pods_at_once_are_the_same_below_both_shims(suite: Suite) -> Result<()> {
    let kubelet = node(suite)?;
    let runtime = Runtime::chosen();
    let what = format!("{MANY} pods with {} on {suite}", runtime.program());
    let stock = crowd(&kubelet, runtime, Shim::Stock).with_context(|| format!("{what}, stock"))?;
    let running = stock
        .0
        .iter()
        .filter(|line| line.starts_with("running: CONTAINER_RUNNING"));
    ensure!(
        running.count() == MANY,
        "{what}: not all run: {:?}",
        stock.0
    );
    let restow =
        crowd(&kubelet, runtime, Shim::Restow).with_context(|| format!("{what}, Restow"))?;
    same(&what, &stock, &restow)
}
