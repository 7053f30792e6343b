//! A node on which things are made to go wrong.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use criu_image::Reader;
use restow::explain::Report;
use restow_integration::node::{Node, NodeOptions};
use restow_integration::suite::Suite;
use restow_integration::tools;
use serde_json::Value;

/// Where the snag is in a node.
const SNAG: &str = "/opt/snag";

/// How something is made to go wrong. In all texts `$W` is a directory of this provocation's own, `$I` the image directory, `$PID` the
/// snag's process.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// The snag is dumped, with these options.
    Dump {
        snag: &'static str,
        /// Run in a shell before that, when the snag runs.
        before: &'static str,
        options: &'static str,
    },
    /// The snag is dumped, which succeeds, and restored.
    Restore {
        /// Run before the snag is started.
        before: &'static str,
        snag: &'static str,
        dump: &'static str,
        between: &'static str,
        options: &'static str,
    },
    /// The snag is dumped, an image is edited as JSON, and it is restored.
    Edited {
        dump: &'static str,
        image: &'static str,
        edit: fn(&mut Value),
        options: &'static str,
    },
    /// A shell does it, and writes what criu says to its output or to `$I/criu.log`.
    Script {
        snag: &'static str,
        script: &'static str,
    },
}

/// Where a cause can be provoked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    Both,
    /// Only there, for this reason.
    Only(Suite, &'static str),
    /// Only where this shell command succeeds, for this reason.
    If(&'static str, &'static str),
}

/// One cause, and how it comes about.
pub(crate) struct Provocation {
    pub(crate) cause: &'static str,
    /// What the object's text has in it.
    pub(crate) object: &'static str,
    pub(crate) how: How,
    pub(crate) place: Where,
}

impl Provocation {
    /// A dump of this snag fails.
    pub(crate) const fn dump(
        cause: &'static str,
        snag: &'static str,
        object: &'static str,
    ) -> Self {
        Self {
            cause,
            object,
            how: How::Dump {
                snag,
                before: "",
                options: "",
            },
            place: Where::Both,
        }
    }

    /// A restore fails for what a shell does between dump and restore.
    pub(crate) const fn restore(
        cause: &'static str,
        snag: &'static str,
        between: &'static str,
        object: &'static str,
    ) -> Self {
        Self {
            cause,
            object,
            how: How::Restore {
                before: "",
                snag,
                dump: "",
                between,
                options: "",
            },
            place: Where::Both,
        }
    }

    /// A shell provokes it.
    pub(crate) const fn script(
        cause: &'static str,
        snag: &'static str,
        script: &'static str,
        object: &'static str,
    ) -> Self {
        Self {
            cause,
            object,
            how: How::Script { snag, script },
            place: Where::Both,
        }
    }

    /// The same, with something done by a shell: before the snag of a restore is started, or after the snag of a dump was.
    pub(crate) const fn first(mut self, script: &'static str) -> Self {
        match &mut self.how {
            How::Dump { before, .. } | How::Restore { before, .. } => *before = script,
            How::Edited { .. } | How::Script { .. } => {}
        }
        self
    }

    /// The same, with options for the dump, also for the one before a restore.
    pub(crate) const fn dump_options(mut self, text: &'static str) -> Self {
        match &mut self.how {
            How::Dump { options, .. } => *options = text,
            How::Restore { dump, .. } | How::Edited { dump, .. } => *dump = text,
            How::Script { .. } => {}
        }
        self
    }

    /// The same, with options for the restore.
    pub(crate) const fn restore_options(mut self, text: &'static str) -> Self {
        match &mut self.how {
            How::Restore { options, .. } | How::Edited { options, .. } => *options = text,
            How::Dump { .. } | How::Script { .. } => {}
        }
        self
    }

    /// The same, where it can be provoked.
    pub(crate) const fn only(mut self, place: Where) -> Self {
        self.place = place;
        self
    }
}

/// The node, and a counter that keeps provocations apart.
pub(crate) struct Lab {
    node: Node,
    suite: Suite,
    number: Cell<u32>,
}

/// One provocation on its way.
struct Bench<'l> {
    lab: &'l Lab,
    work: String,
    cgroup: PathBuf,
    pid: String,
}

impl Lab {
    pub(crate) fn start(suite: Suite) -> Result<Self> {
        let node = Node::start(&NodeOptions::new(suite))?;
        let snag = node.path(SNAG);
        fs::copy(tools::snag()?, &snag).context("Copy the snag into the node")?;
        fs::set_permissions(&snag, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            node,
            suite,
            number: Cell::new(0),
        })
    }

    /// Tries all, tells about each, and fails when one was not explained as it should be.
    pub(crate) fn try_all(&self, all: &[Provocation]) -> Result<()> {
        let mut faults = Vec::new();
        for provocation in all {
            let name = provocation.cause;
            if let Some(reason) = self.excuse(provocation)? {
                println!("{name} | {} | SKIPPED: {reason}", self.suite);
                continue;
            }
            match self.explained(provocation) {
                Ok(text) => println!("{name} | {} | {text}", self.suite),
                Err(error) => {
                    println!("{name} | {} | WRONG: {error:#}", self.suite);
                    faults.push(format!("{name}: {error:#}"));
                }
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    }

    fn excuse(&self, provocation: &Provocation) -> Result<Option<&'static str>> {
        Ok(match provocation.place {
            Where::Both => None,
            Where::Only(suite, reason) => (suite != self.suite).then_some(reason),
            Where::If(condition, reason) => {
                let status = self.node.command("sh").args(["-c", condition]).output()?;
                (!status.status.success()).then_some(reason)
            }
        })
    }

    /// Provokes it and has its log explained.
    fn explained(&self, provocation: &Provocation) -> Result<String> {
        let number = self.number.get();
        self.number.set(number + 1);
        let cgroup = self.node.cgroup_root().join(format!("bench-{number}"));
        fs::create_dir(&cgroup).with_context(|| format!("Create {}", cgroup.display()))?;
        let work = format!("/tmp/w/{number}");
        fs::create_dir_all(self.node.path(&work).join("i"))?;
        let mut bench = Bench {
            lab: self,
            work,
            cgroup,
            pid: String::new(),
        };
        let log = bench.provoke(&provocation.how);
        let wanted = bench.fill(provocation.object);
        bench.clear()?;
        let log = log?;
        let report = Report::read(log.as_bytes())?;
        let text = || format!("from this log:\n{}", loud(&log));
        let Some(cause) = report.decisive() else {
            bail!("no cause is found {}", text());
        };
        ensure!(
            cause.cause == provocation.cause,
            "it is explained as {cause} {}",
            text()
        );
        let object = cause.finding.object.to_string();
        ensure!(
            object.contains(&wanted),
            "the object is {object:?} and should have {wanted:?} {}",
            text()
        );
        ensure!(
            report.unknown.is_empty(),
            "these errors are not known: {:?}",
            report.unknown
        );
        ensure!(
            !cause.to_string().contains('?'),
            "a fact is missing: {cause}"
        );
        Ok(cause.to_string())
    }
}

impl Bench<'_> {
    fn images(&self) -> String {
        format!("{}/i", self.work)
    }

    fn fill(&self, text: &str) -> String {
        text.replace("$PID", &self.pid)
            .replace("$I", &self.images())
            .replace("$W", &self.work)
    }

    /// Runs a script in the provocation's cgroup; its output, and whether it succeeded.
    fn shell(&self, script: &str) -> Result<(bool, String)> {
        let cgroup = self
            .cgroup
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let script = format!(
            "echo $$ > /sys/fs/cgroup/{cgroup}/cgroup.procs || exit 99; cd {}; exec > out 2>&1; {}",
            self.work,
            self.fill(script)
        );
        // To a file: what goes on in the background would hold a pipe open.
        let mut command = self.lab.node.command("sh");
        let status = command
            .args(["-c", &script])
            .status()
            .context("Start a shell in the node")?;
        let output = fs::read(self.lab.node.path(&self.work).join("out")).unwrap_or_default();
        Ok((
            status.success(),
            String::from_utf8_lossy(&output).into_owned(),
        ))
    }

    /// Runs a script that has to succeed.
    fn arrange(&self, script: &str) -> Result<String> {
        if script.is_empty() {
            return Ok(String::new());
        }
        let (success, output) = self.shell(script)?;
        ensure!(success, "`{script}` failed: {}", loud(&output));
        Ok(output)
    }

    fn start(&mut self, snag: &str) -> Result<()> {
        if !snag.is_empty() {
            self.pid = self.arrange(&format!("{SNAG} {snag}"))?.trim().to_owned();
        }
        Ok(())
    }

    /// Runs criu; what it wrote, to its log and else, and whether it succeeded.
    fn criu(&self, arguments: &str) -> Result<(bool, String)> {
        let (success, output) = self.shell(&format!(
            "timeout 20 criu {arguments} -D $I -o criu.log -v4"
        ))?;
        Ok((success, output + &self.log()))
    }

    /// The log; or that of a dump, when it did not come to more.
    fn log(&self) -> String {
        let images = self.lab.node.path(self.images());
        let log = fs::read(images.join("criu.log")).or_else(|_| fs::read(images.join("dump.log")));
        let bytes = log.unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn dump(&self, options: &str) -> Result<()> {
        let (success, log) = self.criu(&format!("dump -t $PID {options}"))?;
        ensure!(
            success,
            "the dump before the restore failed:\n{}",
            loud(&log)
        );
        // CRIU has killed it. On a busy machine it is buried later, and has its number until then.
        let process = self.lab.node.path(format!("/proc/{}", self.pid));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !options.contains("--leave-") && process.exists() {
            ensure!(
                Instant::now() < deadline,
                "process {} is still there after its dump",
                self.pid
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn provoke(&mut self, how: &How) -> Result<String> {
        let (success, log) = match *how {
            How::Dump {
                snag,
                before,
                options,
            } => {
                self.start(snag)?;
                self.arrange(before)?;
                self.criu(&format!("dump -t $PID {options}"))?
            }
            How::Restore {
                before,
                snag,
                dump,
                between,
                options,
            } => {
                self.arrange(before)?;
                self.start(snag)?;
                self.dump(dump)?;
                self.arrange(between)?;
                self.criu(&format!("restore -d {options}"))?
            }
            How::Edited {
                dump,
                image,
                edit,
                options,
            } => {
                self.start("nothing")?;
                self.dump(dump)?;
                self.edit(image, edit)?;
                self.criu(&format!("restore -d {options}"))?
            }
            How::Script { snag, script } => {
                self.start(snag)?;
                let (_, output) = self.shell(script)?;
                (false, output + &self.log())
            }
        };
        ensure!(!success, "it succeeded:\n{}", loud(&log));
        Ok(log)
    }

    fn edit(&self, image: &str, edit: fn(&mut Value)) -> Result<()> {
        let path = self.lab.node.path(self.images()).join(self.fill(image));
        let mut text = Vec::new();
        let file = fs::File::open(&path).with_context(|| format!("Open {}", path.display()))?;
        criu_image::json::decode(
            &mut Reader::new(&path, file, None)?,
            &mut text,
            criu_image::json::Options::default(),
        )?;
        let mut json: Value = serde_json::from_slice(&text)?;
        edit(&mut json["entries"][0]);
        let mut bytes = Vec::new();
        criu_image::json::encode(&path, serde_json::to_vec(&json)?.as_slice(), &mut bytes)?;
        fs::write(&path, bytes).with_context(|| format!("Write {}", path.display()))
    }

    /// Ends all that the provocation started.
    fn clear(&self) -> Result<()> {
        fs::write(self.cgroup.join("cgroup.kill"), "1")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.cgroup).is_err() {
            // The kernel passes over processes whose first thread has ended.
            let threads =
                fs::read_to_string(self.cgroup.join("cgroup.threads")).unwrap_or_default();
            for thread in threads.lines().filter_map(|line| line.parse().ok()) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(thread),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not become empty",
                self.cgroup.display()
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// The lines of a log that matter to whoever reads a failed test.
fn loud(log: &str) -> String {
    let lines = log
        .lines()
        .filter(|line| !line.starts_with('(') || line.contains("Error") || line.contains("Warn"));
    lines.take(30).collect::<Vec<_>>().join("\n")
}
