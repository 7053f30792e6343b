//! `restow install`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use restow::host::live;

use super::carry_out::{Action, Refusal, Steps};
use super::change::Change;
use super::containerd::{Config, Handler};
use super::journal::Journal;
use super::programs::{self, Layout, Source};
use super::report::Report;
use super::root::NodeRoot;
use super::snippets::{self, Runtime};
use super::{in_root, services};
use crate::{Failure, output};

/// Options of `restow install`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// The root directory of the node, where it is not this one's own
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Where the programs go: DIR/lib/restow and DIR/bin; /usr/local, unless a package has put them somewhere
    #[arg(long, value_name = "DIR")]
    pub prefix: Option<PathBuf>,

    /// What to configure; those that are on the node, unless named
    #[arg(long = "for", value_name = "ENGINE", value_delimiter = ',')]
    pub engines: Vec<Engine>,

    /// The name of the runtime handler for containerd and CRI-O, which a RuntimeClass names
    #[arg(long, value_name = "NAME", default_value = "restow")]
    pub handler: String,

    /// Put our criu before the real one in everybody's PATH too (/usr/local/sbin/criu)
    #[arg(long)]
    pub criu_in_path: bool,

    /// Have podman and CRI-O call our OCI hooks for containers with an annotation of ours
    #[arg(long)]
    pub hooks: bool,

    /// Restart containerd and CRI-O when their configuration has changed since they were started
    #[arg(long)]
    pub restart: bool,

    /// Stay until SIGTERM once all is installed, as the container of a DaemonSet has to
    #[arg(long)]
    pub stay: bool,

    /// Only say what would be done
    #[arg(long, conflicts_with = "stay")]
    pub dry_run: bool,

    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// What runs containers on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// containerd, also below Kubernetes
    Containerd,
    /// CRI-O
    CriO,
    /// podman
    Podman,
}

const HELP: &str = "\
The programs beside the running `restow` are copied. containerd and CRI-O get runtime handlers of ours besides theirs, which pods choose; what they \
use now stays as it is. podman's crun and runc are ours from then on, which become the real ones for containers without an annotation of ours. What was done is written to /var/lib/restow/install.json before it is done, and `restow uninstall` puts back what was there. \
Files that are not Restow's are not overwritten. A second call changes nothing, one after an interrupted call goes on from there.

Examples:
  restow install --dry-run
  restow install --restart
  restow install --root /host --restart --stay

Exit codes:
  0  all is installed
  2  the command line is wrong
  3  it could not be installed: nothing is changed, unless it says so
  5  refused, nothing is changed: something of somebody else's is in the way";

/// What is to be installed, and what should be said of it.
#[derive(Debug, Default)]
pub struct Wish {
    /// Everything that has to be there.
    pub changes: Vec<Change>,
    /// Units whose configuration is among it, with the files in question.
    pub services: Vec<(String, Vec<PathBuf>)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Runs `restow install`.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let own = std::env::current_exe().context("Find the running program")?;
    let source = Source::in_directory(own.parent().unwrap_or(Path::new("/")));
    let report = install(args, &source, &mut |_| Ok(()))?;
    if args.json {
        output::json(&report.json())?;
    } else {
        output::text(&report.text(if args.dry_run {
            "nothing was done (--dry-run)"
        } else {
            "Restow is installed; `restow doctor` says whether this node can use it"
        }))?;
    }
    if args.stay {
        wait_for_the_end().context("Wait for SIGTERM")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs what is at `source`; `before` is called before each step.
///
/// # Errors
/// With what is in the way or failed.
pub fn install(
    args: &Args,
    source: &Source,
    before: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<Report, Failure> {
    let node = open(&args.root)?;
    let _lock = lock(&node)?;
    let journal = Journal::read(&node).map_err(anyhow::Error::from)?;
    let wish = wish(args, &node, source, journal.as_ref())?;
    let steps = Steps::work_out(&node, wish.changes, journal).map_err(refused)?;
    let mut report = Report {
        dry_run: args.dry_run,
        notes: wish.notes,
        ..Report::default()
    };
    for (path, what, action) in steps.list() {
        report.path(path, what, action);
    }
    let paths = report.paths.iter();
    let changed: Vec<PathBuf> = paths
        .filter(|(_, _, action)| !matches!(action, Action::Keep | Action::Found))
        .map(|(path, _, _)| PathBuf::from(path))
        .collect();
    let names = wish.services.iter().map(|(name, _)| name.clone());
    let names: Vec<String> = names.collect();
    for (name, files) in wish.services {
        // A restart that failed, or was not asked for then, is still to be done.
        let waits = || args.restart && services::older_than(&node, &name, &files).is_some();
        if files.iter().any(|file| changed.contains(file)) || waits() {
            report.restart.push(name);
        }
    }
    if args.dry_run {
        return Ok(report);
    }
    if !steps.nothing_to_do() {
        steps.carry_out(&node, names, before)?;
    }
    if args.restart && !report.restart.is_empty() {
        services::restart(&node, &report.restart)
            .context("Restow is installed, but does not count yet")?;
        report.restarted = true;
    }
    Ok(report)
}

/// Opens the node.
pub(super) fn open(root: &Path) -> Result<NodeRoot, Failure> {
    NodeRoot::new(root).map_err(|error| {
        Failure::Usage(anyhow!("{} is no root directory: {error}", root.display()))
    })
}

/// Keeps other installations out while this one works.
pub(super) fn lock(node: &NodeRoot) -> anyhow::Result<std::fs::File> {
    // A directory that is there before and after, and that nobody else locks.
    let dir = node.place(Path::new("/var/lib"), true)?;
    let dir = if dir.is_dir() {
        dir
    } else {
        node.path().to_owned()
    };
    let file = std::fs::File::open(&dir).with_context(|| format!("Open {}", dir.display()))?;
    if file.try_lock().is_err() {
        anyhow::bail!("Another restow install or uninstall works on this node: wait for it");
    }
    Ok(file)
}

/// A refusal has its own exit code.
pub(super) fn refused(error: anyhow::Error) -> Failure {
    if error.is::<Refusal>() {
        Failure::Refused(error)
    } else {
        Failure::Input(error)
    }
}

/// OCI runtimes that ours goes around, where they are on the node.
const REAL_RUNTIMES: [&str; 2] = ["runc", "crun"];

/// Works out what has to be there.
fn wish(
    args: &Args,
    node: &NodeRoot,
    source: &Source,
    journal: Option<&Journal>,
) -> Result<Wish, Failure> {
    if args.handler.is_empty()
        || !args
            .handler
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    {
        return Err(Failure::Usage(anyhow!(
            "{:?} is no name for a runtime handler: use lower-case letters, digits and dashes",
            args.handler
        )));
    }
    if let Some(prefix) = args
        .prefix
        .as_deref()
        .filter(|prefix| !prefix.is_absolute())
    {
        return Err(Failure::Usage(anyhow!(
            "--prefix {} is no absolute path: what is configured would not find the programs there",
            prefix.display()
        )));
    }
    if !source.has(programs::CRIU) {
        return Err(Failure::Input(anyhow!(
            "Restow's criu is not beside this program: install all of Restow's programs together"
        )));
    }
    let packaged = source.installed_below().filter(|_| node.is_own());
    let prefix = args.prefix.as_deref().or(packaged);
    let layout = Layout::below(prefix.unwrap_or(Path::new("/usr/local")));
    let real = REAL_RUNTIMES.into_iter();
    let real: Vec<&str> = real
        .filter(|name| in_root::find(node, name).is_some())
        .collect();
    let mut wish = Wish {
        changes: source
            .changes(node, &layout, &real, args.criu_in_path)
            .context("Read Restow's programs")?,
        ..Wish::default()
    };
    let wanted = |engine, program, directory| {
        if args.engines.is_empty() {
            services::present(node, program, directory)
        } else {
            args.engines.contains(&engine)
        }
    };
    if wanted(Engine::Containerd, "containerd", "/etc/containerd") {
        if source.has(programs::SHIM) {
            let config = Config::read(
                node,
                journal,
                containerd_major(node),
                containerd_default(node),
            )?;
            let changes = config
                .changes(&handlers(args, source, &layout, &real))
                .map_err(Failure::Refused)?;
            wish.add("containerd", changes);
        } else {
            wish.notes.push(format!(
                "containerd is not configured: {} is not beside this program",
                programs::SHIM
            ));
        }
    }
    if args.hooks && source.has(programs::HOOK) {
        wish.changes.extend(snippets::hooks(&layout.directory()));
    }
    let runtimes = runtimes(args, &layout, &real);
    for (engine, program, directory, unit) in [
        (Engine::CriO, "crio", "/etc/crio", Some("crio")),
        (Engine::Podman, "podman", "/etc/containers", None),
    ] {
        if !wanted(engine, program, directory) {
            continue;
        }
        if !source.has(programs::RUNTIME) {
            wish.notes.push(format!(
                "{program} is not configured: {} is not beside this program",
                programs::RUNTIME
            ));
            continue;
        }
        let change = match engine {
            Engine::CriO => snippets::cri_o(&runtimes),
            _ => snippets::podman(&before_real(node, &layout, &real)),
        };
        match unit {
            Some(unit) => wish.add(unit, vec![change]),
            None => wish.changes.push(change),
        }
    }
    Ok(wish)
}

impl Wish {
    fn add(&mut self, unit: &str, changes: Vec<Change>) {
        let files = changes.iter().map(|change| change.path.clone()).collect();
        self.services.push((unit.to_owned(), files));
        self.changes.extend(changes);
    }
}

/// containerd's runtime handlers: one like the node's default, and one with crun where that is there.
fn handlers(args: &Args, source: &Source, layout: &Layout, real: &[&str]) -> Vec<Handler> {
    let shim = layout.program(programs::SHIM);
    let mut handlers = vec![Handler {
        name: args.handler.clone(),
        shim: shim.clone(),
        runtime: None,
    }];
    if source.has(programs::RUNTIME) && real.contains(&"crun") {
        handlers.push(Handler {
            name: format!("{}-crun", args.handler),
            shim,
            // Not crun itself: containerd 2.1 gives it an option that crun does not know.
            runtime: Some(layout.program("restow-crun")),
        });
    }
    handlers
}

/// The runtimes for podman: ours under the name of each real one.
fn before_real(node: &NodeRoot, layout: &Layout, real: &[&str]) -> Vec<(Runtime, PathBuf)> {
    let runtimes = real.iter().filter_map(|name| {
        let runtime = Runtime {
            name: (*name).to_owned(),
            program: layout.program(&format!("restow-{name}")),
        };
        Some((runtime, in_root::find(node, name)?))
    });
    runtimes.collect()
}

/// The runtimes for CRI-O: one that takes what the node's configuration says, and one for each real runtime.
fn runtimes(args: &Args, layout: &Layout, real: &[&str]) -> Vec<Runtime> {
    let mut runtimes = vec![Runtime {
        name: args.handler.clone(),
        program: layout.program(programs::RUNTIME),
    }];
    runtimes.extend(real.iter().map(|runtime| Runtime {
        name: format!("{}-{runtime}", args.handler),
        program: layout.program(&format!("restow-{runtime}")),
    }));
    runtimes
}

/// The first number of the version of the node's containerd.
fn containerd_major(node: &NodeRoot) -> Option<u32> {
    let program = in_root::find(node, "containerd")?;
    let version = live::version_of(in_root::command(node, &program).arg("--version"))?;
    Some(version[0])
}

/// What the node's containerd does without a configuration file.
fn containerd_default(node: &NodeRoot) -> Option<String> {
    let program = in_root::find(node, "containerd")?;
    let output = in_root::command(node, &program)
        .args(["config", "default"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok();
    text.filter(|_| output.status.success())
}

/// Returns at SIGTERM or SIGINT.
pub(super) fn wait_for_the_end() -> anyhow::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    signals.wait()?;
    Ok(())
}
