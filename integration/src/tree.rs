//! A process tree without a container, in the pod of somebody who has only criu: the way of a user who checkpoints what runs
//! inside a pod, from inside that pod.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::container::inode;
use crate::engine::{Engine, Mode, checked};
use crate::journey::Verdict;
use crate::node::remove_tree;
use crate::report::Report;
use crate::tools;

/// Where `restow` is in a node.
const RESTOW: &str = "/opt/restow/bin/restow";
/// Where the probe is in a node.
const PROBE: &str = "/opt/probe";
/// Where everything of the tree is: its output, reports and images. A mount of its own, as a volume would be.
const PLACE: &str = "/run/tree";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the processes of a pod see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The node's mounts and cgroup namespace.
    Node,
    /// A mount namespace and a cgroup namespace of the pod's own, with `/etc/hosts` a mount.
    Private,
}

/// A pod as far as a tree can tell: a cgroup, and what is seen from inside.
#[derive(Debug)]
pub struct TreePod<'e> {
    engine: &'e Engine,
    view: View,
    cgroup: String,
    /// Keeps the namespaces, as a process of the node.
    keeper: Option<i32>,
}

impl<'e> TreePod<'e> {
    /// Makes the cgroup, and what `view` has of its own.
    pub fn start(engine: &'e Engine, name: &str, view: View) -> Result<Self> {
        if engine.mode() == Mode::Restow {
            engine.install(&tools::restow()?, RESTOW)?;
        }
        let mut pod = Self {
            engine,
            view,
            cgroup: format!("/kubepods/burstable/pod{name}/c-{name}"),
            keeper: None,
        };
        for dir in [
            &pod.cgroup_dir(),
            &engine.node().path(format!("{PLACE}/reports")),
        ] {
            fs::create_dir_all(dir).with_context(|| format!("Create {}", dir.display()))?;
        }
        if view == View::Private {
            let hosts = format!("{PLACE}/hosts-{name}");
            let text = format!(
                "127.0.0.1\tlocalhost\n10.88.0.{}\t{name}\n",
                10 + name.len()
            );
            fs::write(engine.node().path(&hosts), text)?;
            let file = format!("{PLACE}/keeper-{name}");
            let script = "echo $$ > \"$1\"; exec unshare --mount --cgroup sh -c '\
                 umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount --bind \"$1\" /etc/hosts \
                 && echo $$ > \"$2\" && exec \"$3\" pause' sh \"$2\" \"$3\" \"$4\" </dev/null >/dev/null 2>&1 &";
            engine.run(
                "sh",
                &["-c", script, "sh", &pod.procs(), &hosts, &file, PROBE],
            )?;
            pod.keeper = Some(eventually("the pod's namespaces are there", || {
                fs::read_to_string(engine.node().path(&file))
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
            })?);
        }
        Ok(pod)
    }

    fn procs(&self) -> String {
        format!("/sys/fs/cgroup{}/cgroup.procs", self.cgroup)
    }

    /// Its cgroup as the node has it.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The same, as a path of the host.
    #[must_use]
    pub fn cgroup_dir(&self) -> PathBuf {
        self.engine
            .node()
            .cgroup_root()
            .join(self.cgroup.trim_start_matches('/'))
    }

    /// Where the pod sees its cgroup.
    #[must_use]
    pub fn cgroup_inside(&self) -> String {
        match self.view {
            View::Node => format!("/sys/fs/cgroup{}", self.cgroup),
            View::Private => "/sys/fs/cgroup".to_owned(),
        }
    }

    /// A program run in the pod: in its cgroup, with what it sees.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.engine.node().command("sh");
        let procs = self.procs();
        match self.keeper {
            None => command.args(["-c", "echo $$ > \"$1\" && shift && exec \"$@\"", "sh", &procs]),
            Some(keeper) => command.args([
                "-c",
                "echo $$ > \"$1\" && target=$2 && shift 2 && exec nsenter --target $target --mount --cgroup -- \"$@\"",
                "sh",
                &procs,
                &keeper.to_string(),
            ]),
        };
        command.args(words);
        command
    }

    /// Runs criu in the pod, through `restow criu` where Restow takes part. `more` is only what Restow is given.
    pub fn criu(&self, words: &[&str], more: &[&str]) -> Result<Output> {
        let output = self.criu_command(words, more).output();
        output.context("Start criu")
    }

    /// The same, not started yet.
    #[must_use]
    pub fn criu_command(&self, words: &[&str], more: &[&str]) -> Command {
        match self.engine.mode() {
            Mode::Stock => self.command(&[&["criu"], words].concat()),
            Mode::Restow => self.command(&[&[RESTOW, "criu"], words, more].concat()),
        }
    }

    /// Does something while a process is in the pod that was started there, given by the node's number.
    pub fn with_process<T>(&self, work: impl FnOnce(i32) -> Result<T>) -> Result<T> {
        let script = format!("{PROBE} pause </dev/null >/dev/null 2>&1 & echo $!");
        let output = self.command(&["sh", "-c", &script]).output()?;
        let said = checked(&output, || "Start a process in the pod".to_owned())?;
        let pid = said.trim();
        let done = pid
            .parse()
            .context("The process has no number")
            .and_then(work);
        // Until its parent has taken note, it is in the cgroup.
        let script = format!("kill -9 {pid}; while [ -e /proc/{pid}/exe ]; do sleep 0.01; done");
        self.engine.run("timeout", &["20", "sh", "-c", &script])?;
        done
    }

    /// Starts a probe in the pod.
    pub fn tree(&self, arguments: &[&str]) -> Result<Tree<'e>> {
        self.start_tree(arguments, false)
    }

    fn start_tree(&self, arguments: &[&str], foreign_input: bool) -> Result<Tree<'e>> {
        let input = if foreign_input { "<&3" } else { "</dev/null" };
        // The shell that puts it into the background leaves its own saved input open, a file of another mount namespace.
        let script = format!(
            "exec setsid bash -c 'exec 3<&- 10<&- && exec \"$@\"' bash \"$@\" \
             {input} >>{PLACE}/out 2>&1 & echo $! > {PLACE}/pid"
        );
        let reports = format!("{PLACE}/reports");
        // What is put into the background has no input but the one it is given.
        let whole = format!("exec 3<&0; {script}");
        let words = [
            "sh",
            "-c",
            &whole,
            "sh",
            PROBE,
            "run",
            "--reports",
            &reports,
        ];
        let mut command = self.command(&[&words[..], arguments].concat());
        // A file of the host, which the node does not mount.
        command.stdin(File::open("/proc/self/exe").context("Open a file of the host")?);
        let output = command.output()?;
        checked(&output, || "Start the tree".to_owned())?;
        let pid = fs::read_to_string(self.engine.node().path(format!("{PLACE}/pid")))?;
        let tree = Tree {
            engine: self.engine,
            pid: pid.trim().parse().context("The tree has no number")?,
        };
        eventually("the tree holds its files", || {
            let text = fs::read_to_string(self.engine.node().path(format!("{PLACE}/out")));
            text.ok().filter(|text| text.contains("holding"))
        })?;
        Ok(tree)
    }

    /// Ends what is left in the pod and removes its cgroup.
    pub fn remove(self) -> Result<()> {
        let pod = self.cgroup_dir();
        fs::write(pod.join("cgroup.kill"), "1").context("Kill what is left in the pod")?;
        let parent = pod.parent().context("A pod has a parent")?;
        remove_tree(parent, PATIENCE)
    }

    /// The number of processes in the pod's cgroup itself, without the keeper.
    pub fn population(&self) -> Result<usize> {
        let text = fs::read_to_string(self.cgroup_dir().join("cgroup.procs"))?;
        Ok(text.lines().count() - usize::from(self.keeper.is_some()))
    }
}

/// A process tree.
#[derive(Debug)]
pub struct Tree<'e> {
    engine: &'e Engine,
    /// Its first process, as the node counts.
    pub pid: i32,
}

impl<'e> Tree<'e> {
    /// One that was started otherwise.
    #[must_use]
    pub fn of(engine: &'e Engine, pid: i32) -> Self {
        Self { engine, pid }
    }

    /// What each process reports, the parent first; an error when one does not.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let dir = self.engine.node().path(format!("{PLACE}/reports"));
        for entry in fs::read_dir(&dir)? {
            fs::remove_file(entry?.path())?;
        }
        let children = self.descendants()?.len();
        self.engine.run("kill", &["-USR1", &self.pid.to_string()])?;
        (0..children)
            .map(|number| {
                let path = dir.join(format!("{number}.json"));
                eventually("every process reports", || path.exists().then_some(()))?;
                Report::read(&path)
            })
            .collect()
    }

    /// Itself and its children, as processes of the node.
    pub fn descendants(&self) -> Result<Vec<i32>> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = self.engine.run("cat", &[&path]);
        let text = text.with_context(|| format!("Process {} is gone", self.pid))?;
        let children = text.split_whitespace().filter_map(|pid| pid.parse().ok());
        Ok(std::iter::once(self.pid).chain(children).collect())
    }

    /// Whether its first process is there.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.descendants().is_ok()
    }
}

/// One tree's way from pod A to pod B.
#[derive(Clone, Debug)]
pub struct TreeJourney {
    /// What pod A's processes see.
    pub from: View,
    /// What pod B's do.
    pub to: View,
    /// What the probe is to do; `{cgroup}` is where pod A sees its cgroup.
    pub probe: Vec<String>,
    /// Further options of the restore.
    pub restore: Vec<&'static str>,
    /// Further ones that only Restow is given.
    pub restow: Vec<&'static str>,
    /// Sub-cgroups that pod A has in its own.
    pub sub_cgroups: Vec<&'static str>,
    /// Standard input is a file on a mount that the tree has not got.
    pub foreign_input: bool,
    /// Done in pod A before the dump.
    pub before_dump: Option<fn(&TreePod<'_>, &Tree<'_>) -> Result<()>>,
}

/// A tree that has been restored in pod B.
#[derive(Debug)]
pub struct TreeArrival<'a, 'e> {
    /// Pod B.
    pub pod: &'a TreePod<'e>,
    /// Where pod A saw its cgroup.
    pub old_inside: String,
    /// Pod A's cgroup, as a path of the host.
    pub old_dir: PathBuf,
    /// What the probe reported in pod A.
    pub before: Vec<Report>,
    /// What it reports here.
    pub after: Vec<Report>,
}

impl TreeJourney {
    /// A parent with `children` children; pod A goes, pod B is made, and the tree is restored there.
    #[must_use]
    pub fn new(from: View, to: View, children: usize) -> Self {
        Self {
            from,
            to,
            probe: vec!["--children".to_owned(), children.to_string()],
            restore: Vec::new(),
            restow: Vec::new(),
            sub_cgroups: Vec::new(),
            foreign_input: false,
            before_dump: None,
        }
    }

    /// The same with one more file for the probe to open, as `WHO:MODE:OFFSET:PATH`.
    #[must_use]
    pub fn open(mut self, what: &str) -> Self {
        self.probe.extend(["--open".to_owned(), what.to_owned()]);
        self
    }

    /// Goes the whole way; `check` judges what arrived.
    pub fn run(
        &self,
        engine: &Engine,
        check: impl FnOnce(&TreeArrival<'_, '_>) -> Result<String>,
    ) -> Result<Verdict> {
        let pod_a = TreePod::start(engine, "aaaa", self.from)?;
        let (old_inside, old_dir) = (pod_a.cgroup_inside(), pod_a.cgroup_dir());
        let probe: Vec<String> = self
            .probe
            .iter()
            .map(|word| word.replace("{cgroup}", &old_inside))
            .collect();
        let probe: Vec<&str> = probe.iter().map(String::as_str).collect();
        for name in &self.sub_cgroups {
            fs::create_dir(old_dir.join(name))?;
        }
        let tree = pod_a.start_tree(&probe, self.foreign_input)?;
        let before = tree.reports()?;
        if let Some(change) = self.before_dump {
            change(&pod_a, &tree)?;
        }
        let images = format!("{PLACE}/img");
        fs::create_dir_all(engine.node().path(&images))?;
        let pid = tree.pid.to_string();
        let dump = ["dump", "-t", &pid, "-D", &images, "-o", "dump.log", "-v4"];
        let output = pod_a.criu(&dump, &[])?;
        if !output.status.success() {
            return Ok(Verdict::Wrong(format!(
                "The dump fails: {}",
                errors(engine, "img/dump.log", &output)
            )));
        }
        pod_a.remove().context("Remove pod A")?;

        let pod = TreePod::start(engine, "another-bbbb", self.to)?;
        let mut restore = vec!["restore", "-d", "-D", &images, "-o", "restore.log", "-v4"];
        restore.extend(&self.restore);
        let output = pod.criu(&restore, &self.restow)?;
        if !output.status.success() {
            return Ok(Verdict::Wrong(format!(
                "The restore fails: {}",
                errors(engine, "img/restore.log", &output)
            )));
        }
        let arrived = tree.reports().and_then(|after| {
            check(&TreeArrival {
                pod: &pod,
                old_inside,
                old_dir,
                before,
                after,
            })
        });
        Ok(match arrived {
            Ok(shown) => Verdict::Right(shown),
            Err(error) => Verdict::Wrong(format!("{error:#}")),
        })
    }
}

impl TreeArrival<'_, '_> {
    /// All tasks are in pod B's cgroup, pod A's has not come back, and every process counts on.
    pub fn check_placement(&self) -> Result<()> {
        ensure!(!self.old_dir.exists(), "the cgroup of pod A has come back");
        let population = self.pod.population()?;
        ensure!(
            population == self.before.len(),
            "{population} of {} tasks are in the container's cgroup of pod B",
            self.before.len()
        );
        for (before, after) in self.before.iter().zip(&self.after) {
            ensure!(after.counter >= before.counter && after.memory_intact);
        }
        Ok(())
    }

    /// Every descriptor on `file` of pod A's cgroup is on pod B's now, with its offset, flags and sharing.
    pub fn check_cgroup_file(&self, file: &str) -> Result<()> {
        let opened = format!("{}/{file}", self.old_inside);
        self.check_file(&opened, inode(&self.pod.cgroup_dir().join(file))?)
    }

    /// The same of any file, by the path it was opened by and the inode it has to have here.
    pub fn check_file(&self, opened: &str, inode: u64) -> Result<()> {
        let mut seen = 0;
        for (before, after) in self.before.iter().zip(&self.after) {
            let pairs = before.files.iter().zip(&after.files);
            for (before, file) in pairs.filter(|(before, _)| before.opened == opened) {
                seen += 1;
                ensure!(
                    file.inode == inode && file.errno.is_none(),
                    "fd {} of process {} is {} (inode {}, {:?}), not pod B's file (inode {inode})",
                    file.fd,
                    after.process,
                    file.link,
                    file.inode,
                    file.errno
                );
                ensure!(
                    (file.offset, file.flags, file.shared)
                        == (before.offset, before.flags, before.shared),
                    "fd {} of process {} had offset {}, flags {:o} and shared {}, and has {}, {:o} and {}",
                    file.fd,
                    after.process,
                    before.offset,
                    before.flags,
                    before.shared,
                    file.offset,
                    file.flags,
                    file.shared
                );
            }
        }
        ensure!(seen > 0, "nobody holds {opened}");
        Ok(())
    }
}

/// What criu or Restow said.
fn errors(engine: &Engine, log: &str, output: &Output) -> String {
    let text = fs::read_to_string(engine.node().path(format!("{PLACE}/{log}"))).unwrap_or_default();
    let logged = text
        .lines()
        .filter(|line| line.contains("Error") && !line.contains("RLIMIT_NOFILE"));
    let said = String::from_utf8_lossy(&output.stderr);
    let all: Vec<&str> = logged.chain(said.lines()).map(str::trim).collect();
    all.join("; ").chars().take(700).collect()
}

/// Waits until something is there.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("After {PATIENCE:?} still not so: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
