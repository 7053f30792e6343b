//! A container as containerd runs it: a bundle, stdio through pipes to a log, and below a shim that sees it end.

use std::fs::{self, File};
use std::io::{self, PipeWriter};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::engine::{Engine, checked};
use crate::kubelet::Managed;
use crate::report::Report;
use crate::took::Took;

pub use crate::checkpoint::Checkpoint;

/// Bundles are where containerd keeps them.
pub(crate) const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
/// Nothing here takes longer, unless it never ends; an emulated machine on a busy host needs much of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A container in a pod.
#[derive(Debug)]
pub struct Container<'e> {
    engine: &'e Engine,
    /// Its id, 64 hexadecimal digits.
    id: String,
    /// Its cgroup below the node's root, with a leading slash.
    cgroup: String,
    /// Its log, as a path of the node.
    log: String,
    /// The shim, while it runs.
    shim: Option<Child>,
    /// How many processes the probe in it has.
    processes: usize,
    /// How long the runtime took to start or restore it.
    took: Option<Took>,
    /// Files of the node that its caller leaves open to it, from descriptor 3 on.
    left_open: Vec<String>,
    /// When containerd has the care of it.
    managed: Option<Managed>,
    /// Where the probe's reports are when that is not in its root file system, as a path of the node.
    report_dir: Option<String>,
}

impl<'e> Container<'e> {
    /// Writes the bundle of a container that has the probe as its image.
    pub(crate) fn create(
        engine: &'e Engine,
        id: &str,
        cgroup: &str,
        log: &str,
        spec: &Value,
        processes: usize,
    ) -> Result<Self> {
        let container = Self {
            engine,
            id: id.to_owned(),
            cgroup: cgroup.to_owned(),
            log: log.to_owned(),
            shim: None,
            processes,
            took: None,
            left_open: Vec::new(),
            managed: None,
            report_dir: None,
        };
        let rootfs = container.rootfs();
        for dir in ["dev", "etc", "proc", "sys", "tmp", "reports", "data"] {
            fs::create_dir_all(rootfs.join(dir))
                .with_context(|| format!("Create {dir} in {}", rootfs.display()))?;
        }
        fs::copy(engine.probe(), rootfs.join("probe"))
            .context("Copy the probe into the container")?;
        let config = rootfs.with_file_name("config.json");
        fs::write(&config, serde_json::to_vec_pretty(spec)?)
            .with_context(|| format!("Write {}", config.display()))?;
        Ok(container)
    }

    /// One that containerd has the care of, in the pod's cgroup `parent`.
    pub(crate) fn managed(
        engine: &'e Engine,
        parent: &str,
        log: &str,
        managed: Managed,
        processes: usize,
    ) -> Self {
        let id = managed.id().unwrap_or_default().to_owned();
        Self {
            engine,
            cgroup: format!("{parent}/{id}"),
            id,
            log: log.to_owned(),
            shim: None,
            processes,
            took: None,
            left_open: Vec::new(),
            managed: Some(managed),
            report_dir: None,
        }
    }

    /// The same, with the probe's reports elsewhere in the node.
    #[must_use]
    pub(crate) fn reports_in(mut self, dir: Option<String>) -> Self {
        self.report_dir = dir;
        self
    }

    /// Has containerd make it, to be restored from `checkpoint` when there is one, so that it has an id and is about to run. Where the
    /// suite calls the runtime itself there is nothing to do.
    pub fn prepare(&mut self, checkpoint: Option<&Checkpoint>) -> Result<()> {
        let Some(managed) = &mut self.managed else {
            return Ok(());
        };
        if managed.id().is_some() {
            return Ok(());
        }
        self.id = managed.create(checkpoint)?;
        self.cgroup.push_str(&self.id);
        Ok(())
    }

    /// The same, with files of the node left open to it when it is started.
    #[must_use]
    pub(crate) fn leave_open(mut self, files: Vec<String>) -> Self {
        self.left_open = files;
        self
    }

    /// The node and runtime that it is on.
    #[must_use]
    pub fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its bundle, as a path of the node.
    #[must_use]
    pub fn bundle(&self) -> String {
        format!("{BUNDLES}/{}", self.id)
    }

    /// Its root file system, as a path of the host.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.engine.node().path(self.bundle()).join("rootfs")
    }

    /// Its cgroup below the node's root.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Its cgroup in version 2, as a path of the host.
    #[must_use]
    pub fn cgroup_dir(&self) -> PathBuf {
        self.engine.node().cgroup_root().join(&self.cgroup[1..])
    }

    /// Its cgroup in the version 1 hierarchy of `controller`, as a path of the host.
    pub fn cgroup_v1_dir(&self, controller: &str) -> Result<PathBuf> {
        let root = self.engine.node().cgroup_v1_root(controller);
        Ok(root
            .with_context(|| format!("This host has no version 1 hierarchy with {controller}"))?
            .join(&self.cgroup[1..]))
    }

    /// The inode of a file of its cgroup: the same through every mount and namespace, and of no other cgroup.
    pub fn cgroup_inode(&self, file: &str) -> Result<u64> {
        inode(&self.cgroup_dir().join(file))
    }

    /// How many processes its cgroup has.
    pub fn cgroup_population(&self) -> Result<usize> {
        let procs = self.cgroup_dir().join("cgroup.procs");
        Ok(fs::read_to_string(&procs)
            .with_context(|| format!("Read {}", procs.display()))?
            .lines()
            .count())
    }

    /// Everything it has written to its standard output and error.
    pub fn log(&self) -> Result<String> {
        let path = self.engine.node().path(&self.log);
        let text = match fs::read_to_string(&path) {
            // containerd makes it with the container's first run.
            Err(error)
                if self.managed.is_some() && error.kind() == std::io::ErrorKind::NotFound =>
            {
                String::new()
            }
            text => text.with_context(|| format!("Read the log {}", self.log))?,
        };
        if self.managed.is_none() {
            return Ok(text);
        }
        // Time, stream, and whether the line is whole stand before each.
        Ok(text
            .lines()
            .map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default())
            .fold(String::new(), |all, line| all + line + "\n"))
    }

    /// Starts it and waits until the probe holds its files.
    pub fn start(&mut self) -> Result<()> {
        self.prepare(None)?;
        let count = self.left_open.len().to_string();
        let preserve = ["run", "--preserve-fds", &count];
        let run = if self.left_open.is_empty() { 1 } else { 3 };
        self.launch(&preserve[..run])?;
        let deadline = Instant::now() + PATIENCE;
        while self.processes > 0 && !self.log()?.contains("holding") {
            if self.has_ended()? || Instant::now() > deadline {
                bail!("The probe did not start: {}", self.log()?.trim());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Creates it without starting its program, and returns its process 1. [`Self::forget`] undoes it.
    pub fn create_only(&self) -> Result<i32> {
        let bundle = self.bundle();
        let pid_file = format!("{bundle}/created.pid");
        let mut command = self.engine.runtime_command();
        command.args([
            "create",
            "--bundle",
            &bundle,
            "--pid-file",
            &pid_file,
            &self.id,
        ]);
        // Its processes keep what the runtime has for standard streams.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status().context("Start the runtime")?;
        if !status.success() {
            bail!("The runtime cannot create the container: {status}");
        }
        let text = fs::read_to_string(self.engine.node().path(&pid_file))
            .with_context(|| format!("Read {pid_file} in the node"))?;
        text.trim()
            .parse()
            .with_context(|| format!("{pid_file} holds no process number: {text:?}"))
    }

    /// Restores it from `checkpoint` instead of starting it.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.prepare(Some(checkpoint))?;
        let restored = self.launch(&[
            "restore",
            "--image-path",
            &checkpoint.images,
            "--work-path",
            &checkpoint.work,
        ]);
        if self.managed.is_some() {
            // containerd removes CRIU's log with what it failed to restore.
            return restored;
        }
        restored.with_context(|| self.criu_errors(checkpoint, "restore.log"))
    }

    /// Checkpoints it, which ends it.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.dump(checkpoint, &[])?;
        if let Some(managed) = &self.managed {
            // The kubelet's checkpoint leaves it running.
            return managed.stop();
        }
        self.wait().map(drop)
    }

    /// What the runtime took when it started or restored the container; of one that containerd has the care of, nothing is known.
    #[must_use]
    pub fn took(&self) -> Option<Took> {
        self.took
    }

    /// Checkpoints it, which ends it, and tells what the runtime took.
    pub fn checkpoint_timed(&mut self, checkpoint: &Checkpoint) -> Result<Took> {
        let took = self.dump_timed(checkpoint, &[])?;
        self.wait()?;
        Ok(took)
    }

    /// The same, and lets it go on.
    pub fn checkpoint_running_timed(&self, checkpoint: &Checkpoint) -> Result<Took> {
        self.dump_timed(checkpoint, &["--leave-running"])
    }

    fn dump_timed(&self, checkpoint: &Checkpoint, options: &[&str]) -> Result<Took> {
        let file = format!("{}/took", checkpoint.work);
        let mut command = self.engine.timed_command(&file);
        command.args([
            "checkpoint",
            "--image-path",
            &checkpoint.images,
            "--work-path",
            &checkpoint.work,
        ]);
        command.args(options).arg(&self.id);
        let output = command.output().context("Start the runtime")?;
        let program = self.engine.runtime().program();
        checked(&output, || format!("{program} checkpoint"))
            .with_context(|| self.criu_errors(checkpoint, "dump.log"))?;
        Took::read(&self.engine.node().path(&file))
    }

    /// Checkpoints it and lets it go on.
    pub fn checkpoint_running(&self, checkpoint: &Checkpoint) -> Result<()> {
        self.dump(checkpoint, &["--leave-running"])
    }

    /// The same, with options of the runtime's `checkpoint`.
    pub fn checkpoint_running_with(&self, checkpoint: &Checkpoint, options: &[&str]) -> Result<()> {
        self.dump(checkpoint, &[&["--leave-running"], options].concat())
    }

    fn dump(&self, checkpoint: &Checkpoint, options: &[&str]) -> Result<()> {
        if let Some(managed) = &self.managed {
            return managed
                .checkpoint(checkpoint)
                .with_context(|| self.criu_errors(checkpoint, "dump.log"));
        }
        let paths = [
            "--image-path",
            &checkpoint.images,
            "--work-path",
            &checkpoint.work,
        ];
        self.call(&[&["checkpoint"][..], &paths, options, &[&self.id]].concat())
            .map(drop)
            .with_context(|| self.criu_errors(checkpoint, "dump.log"))
    }

    /// What CRIU says went wrong.
    fn criu_errors(&self, checkpoint: &Checkpoint, log: &str) -> String {
        let path = self.engine.node().path(&checkpoint.work).join(log);
        let text = fs::read(&path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let mut errors: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("Error"))
            // Without CAP_SYS_RESOURCE this is in every log and harms nothing.
            .filter(|line| !line.contains("RLIMIT") && !line.contains("rlimit"))
            .map(|line| line.split_once("Error ").map_or(line, |(_, error)| error))
            .collect();
        // Restow's reason comes last in the log and matters most.
        errors.sort_by_key(|error| !error.starts_with("(restow)"));
        errors.truncate(3);
        if errors.is_empty() {
            format!("({log} has no errors)")
        } else {
            errors.join(" | ")
        }
    }

    /// Runs the probe's report in all of its processes.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let dir = match &self.report_dir {
            Some(dir) => self.engine.node().path(dir),
            None => self.rootfs().join("reports"),
        };
        let files: Vec<PathBuf> = (0..self.processes)
            .map(|number| dir.join(format!("{number}.json")))
            .collect();
        for file in &files {
            match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("Remove {}", file.display()));
                }
                _ => {}
            }
        }
        self.signal(Signal::SIGUSR1)?;
        let deadline = Instant::now() + PATIENCE;
        while !files.iter().all(|file| file.exists()) {
            if Instant::now() > deadline {
                bail!(
                    "The probe in container {} does not report; its log ends: {}",
                    self.id,
                    tail(&self.log()?)
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
        files.iter().map(|file| Report::read(file)).collect()
    }

    /// Sends its process 1 a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(managed) = &self.managed {
            return managed.signal(signal as u32);
        }
        let name = signal.as_str().trim_start_matches("SIG");
        self.call(&["kill", &self.id, name]).map(drop)
    }

    /// Runs a program in it and returns its output.
    pub fn exec(&self, program: &[&str]) -> Result<String> {
        if let Some(managed) = &self.managed {
            return managed.exec(program);
        }
        self.call(&[&["exec", &self.id][..], program].concat())
    }

    /// Asks it to end, and returns its exit code.
    pub fn terminate(&mut self) -> Result<Option<i32>> {
        self.signal(Signal::SIGTERM)?;
        if let Some(managed) = &self.managed {
            return managed.wait().map(Some);
        }
        Ok(self.wait()?.code())
    }

    /// Kills it when it runs, and removes everything the runtime and the shim have of it.
    pub fn remove(&mut self) -> Result<()> {
        if let Some(managed) = &self.managed {
            return managed.remove();
        }
        self.forget()?;
        if self.shim.is_some() {
            self.wait()?;
        }
        let bundle = self.engine.node().path(self.bundle());
        fs::remove_dir_all(&bundle).with_context(|| format!("Remove {}", bundle.display()))
    }

    /// Has the runtime kill it when it runs, and remove its state.
    pub fn forget(&self) -> Result<()> {
        if let Some(managed) = &self.managed {
            return managed.remove();
        }
        // A failed restore leaves none, and crun takes that for an error.
        let state = format!("{}/{}", self.engine.runtime_root(), self.id);
        if self.engine.node().path(state).exists() {
            self.call(&["delete", "--force", &self.id])?;
        }
        Ok(())
    }

    /// Whether its shim, and so the container, has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        if let Some(managed) = &self.managed {
            return Ok(managed.exit_code()?.is_some());
        }
        let Some(process) = &mut self.shim else {
            return Ok(true);
        };
        Ok(process.try_wait().context("Look after the shim")?.is_some())
    }

    /// Its process 1, as a process of the node.
    pub fn init(&self) -> Result<i32> {
        let path = self.engine.node().path(self.bundle()).join("init.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
        text.trim()
            .parse()
            .with_context(|| format!("{} holds no process number: {text:?}", path.display()))
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let mut process = self
            .shim
            .take()
            .with_context(|| format!("Container {} does not run", self.id))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().context("Wait for the shim")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("Container {} does not end", self.id);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Has a shim run the runtime, and waits until the container runs.
    fn launch(&mut self, arguments: &[&str]) -> Result<()> {
        if let Some(managed) = &self.managed {
            managed.start()?;
            return Ok(());
        }
        let bundle = self.bundle();
        let pid_file = format!("{bundle}/init.pid");
        let started = self.engine.node().path(format!("{pid_file}.started"));
        // One of an earlier run would look like a start.
        let _ = fs::remove_file(&started);
        let mut command = self.engine.shim_command(&pid_file);
        if arguments[0] == "run" {
            command.env("RESTOW_PROBE_LEFT_OPEN", self.left_open.join("\n"));
        }
        let runtime_log = format!("{bundle}/log.json");
        command
            .args(["--log", &runtime_log, "--log-format", "json"])
            .args(arguments);
        command.args([
            "--detach",
            "--bundle",
            &bundle,
            "--pid-file",
            &pid_file,
            &self.id,
        ]);
        // Pipes, as from a real shim: CRIU takes no file of another mount namespace for an input or output.
        let (input, _) = io::pipe().context("Make a pipe")?;
        command
            .stdin(input)
            .stdout(self.log_pipe()?)
            .stderr(self.log_pipe()?);
        self.shim = Some(command.spawn().context("Start a shim")?);
        let deadline = Instant::now() + PATIENCE;
        while !started.exists() {
            if self.has_ended()? {
                self.shim = None;
                bail!("{}", runtime_errors(&self.engine.node().path(&runtime_log)));
            }
            if Instant::now() > deadline {
                bail!("The runtime neither starts container {} nor fails", self.id);
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.took = Some(Took::read(&started)?);
        Ok(())
    }

    /// A pipe into the container's log.
    fn log_pipe(&self) -> Result<PipeWriter> {
        let path = self.engine.node().path(&self.log);
        let log = File::options().create(true).append(true).open(&path);
        let mut log = log.with_context(|| format!("Open the log {}", path.display()))?;
        let (mut reader, writer) = io::pipe().context("Make a pipe")?;
        // Ends when the container's last process has.
        thread::spawn(move || io::copy(&mut reader, &mut log));
        Ok(writer)
    }

    /// Calls the runtime, and has it succeed.
    fn call(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .engine
            .runtime_command()
            .args(arguments)
            .output()
            .context("Start the runtime")?;
        checked(&output, || {
            format!("{} {}", self.engine.runtime().program(), arguments[0])
        })
    }
}

fn runtime_errors(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let errors: Vec<String> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["level"] == "error")
        .filter_map(|entry| entry["msg"].as_str().map(str::to_owned))
        .collect();
    if errors.is_empty() {
        "The runtime ended without saying why".to_owned()
    } else {
        errors.join("; ")
    }
}

fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(300);
    text.get(from..).unwrap_or(text).trim()
}

/// The inode of a file.
pub fn inode(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)
        .with_context(|| format!("Look at {}", path.display()))?
        .ino())
}
