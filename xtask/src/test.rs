//! `cargo xtask test`: everything that can be tested on this machine, and a plain word about what cannot.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::cargo::{build, cargo, check, status, workspace};

/// The capabilities that nodes, runtimes and CRIU cannot do without, by number.
const NEEDED: &[(u32, &str)] = &[
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (12, "CAP_NET_ADMIN"),
    (18, "CAP_SYS_CHROOT"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (27, "CAP_MKNOD"),
];

/// Capabilities that some scenarios need, and what cannot be tested without.
const WANTED: &[(u32, &str, &str)] = &[(
    24,
    "CAP_SYS_RESOURCE",
    "checkpoints of processes that are not root's: PostgreSQL as a pod",
)];

#[derive(Args)]
pub(crate) struct TestArgs {
    /// Run the unit tests alone: needs neither root nor nodes
    #[arg(long, conflicts_with_all = ["integration", "suite", "stock", "runtime", "matrix"])]
    unit: bool,
    /// Run the integration suite alone
    #[arg(long)]
    integration: bool,
    /// Run the integration suite's scenarios on one Debian suite only
    #[arg(long)]
    suite: Option<Suite>,
    /// Run scenarios without Restow only, to see what the bare runtime does
    #[arg(long)]
    stock: bool,
    /// Run the integration suite with this runtime only
    #[arg(long)]
    runtime: Option<Runtime>,
    /// Run all scenarios on all stacks and write what became of them to docs/matrix.md
    #[arg(long, conflicts_with_all = ["suite", "stock", "runtime", "filter", "pods"])]
    matrix: bool,
    /// Run the scenarios on pods that containerd makes instead of the suite itself, and nothing else. A run without options, or with
    /// --integration alone, has them at its end, with Restow only
    #[arg(long, conflicts_with = "unit")]
    pods: bool,
    /// Run only tests with this in their names; with --suite, those whose names begin with it
    filter: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    Stable,
    Testing,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Runtime {
    Runc,
    Crun,
}

pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let mut failed = Vec::new();
    let mut ran = false;
    let part =
        args.suite.is_some() || args.runtime.is_some() || args.stock || args.matrix || args.pods;
    if part {
        println!("left out: the unit tests (they do not depend on a suite, a runtime or a mode)");
    }
    if !args.integration && !part {
        heading("unit tests");
        let mut command = cargo();
        command.args([
            "test",
            "--workspace",
            "--exclude",
            "restow-integration",
            "--no-fail-fast",
        ]);
        command.args(&args.filter);
        let run = args.filter.is_none() || some_test(&command, &[], "the unit tests")?;
        ran |= run;
        if run && !status(&mut command, "the unit tests")?.success() {
            failed.push("the unit tests");
        }
    }
    if !args.unit {
        let suite = integration(args)?;
        ran |= suite.ran;
        failed.extend(suite.failed);
    }
    if !ran {
        bail!(
            "No test has {:?} in its name",
            args.filter.as_deref().unwrap_or_default()
        );
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("{} failed", failed.join(" and "))
    }
}

/// Files of the integration suite that run with runc only: they do the same whatever the runtime is, or, `shim_restore`, take away what crun
/// has forgotten by then.
const WITHOUT_RUNTIME: &[&str] = &[
    "crit",
    "docker",
    "explain",
    "image",
    "nodes",
    "shim_restore",
];

/// Files of the integration suite whose scenarios are also run on pods that containerd makes: with `--pods`, and at the end of a whole run.
const ON_PODS: &[&str] = &[
    "carry",
    "cgroup",
    "go",
    "hostpath",
    "hybrid",
    "identity",
    "mounts",
    "network",
    "rootfs",
    "sharing",
    "soft",
    "volume_objects",
    "volumes",
    "watches",
];

/// The other files of the integration suite.
fn with_runtimes() -> Result<Vec<String>> {
    let dir = workspace().join("integration/tests");
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("Read {}", dir.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        // A directory without it holds what several tests use.
        let test = path.is_file() || path.join("main.rs").is_file();
        files.extend(
            stem.filter(|stem| test && !WITHOUT_RUNTIME.contains(stem))
                .map(str::to_owned),
        );
    }
    files.sort();
    Ok(files)
}

/// What became of the integration suite.
#[derive(Default)]
struct Outcome {
    ran: bool,
    failed: Vec<&'static str>,
}

/// Runs the integration suite with each runtime that was asked for.
fn integration(args: &TestArgs) -> Result<Outcome> {
    heading("integration suite");
    require_capabilities(
        "The integration suite",
        " (`cargo xtask test --unit` needs nothing)",
    )?;
    WANTED
        .iter()
        .filter(|(number, _, _)| !has_capability(*number))
        .for_each(|(_, name, what)| {
            println!("not tested, because {name} is missing here: {what}");
        });
    let node = build("restow-integration", "restow-node")?;
    let mut roots = Command::new(&node);
    roots
        .arg("build")
        .args(args.suite.iter().map(|suite| name(*suite)));
    check(&mut roots, "building the nodes' root file systems")?;
    let record = node.with_file_name("restow-record.jsonl");
    if args.matrix {
        fs::write(&record, "").with_context(|| format!("Empty {}", record.display()))?;
    }
    let mut outcome = Outcome::default();
    let runtimes = args
        .runtime
        .map_or(vec![Runtime::Runc, Runtime::Crun], |one| vec![one]);
    let whole = args.suite.is_none() && args.runtime.is_none() && !args.stock;
    let managers: &[bool] = match args.pods {
        true => &[true],
        false if args.matrix || (whole && args.filter.is_none()) => &[false, true],
        false => {
            println!("left out: scenarios on pods of containerd (--pods)");
            &[false]
        }
    };
    let rounds = managers
        .iter()
        .flat_map(|pods| runtimes.iter().map(|runtime| (*runtime, *pods)));
    for (runtime, pods) in rounds {
        let (word, what) = match (runtime, pods) {
            (Runtime::Runc, false) => ("runc", "the integration suite with runc"),
            (Runtime::Crun, false) => ("crun", "the integration suite with crun"),
            (Runtime::Runc, true) => ("runc", "scenarios on pods of containerd with runc"),
            (Runtime::Crun, true) => ("crun", "scenarios on pods of containerd with crun"),
        };
        heading(what);
        let mut command = cargo();
        command.args(["test", "--package", "restow-integration", "--no-fail-fast"]);
        if pods {
            command.args(ON_PODS.iter().flat_map(|file| ["--test", file]));
        } else if args.matrix || (runtime == Runtime::Crun && args.runtime.is_none()) {
            // What no runtime has a part in runs once, with runc, and is no scenario.
            command.args(with_runtimes()?.iter().flat_map(|file| ["--test", file]));
        }
        command.args(args.filter.as_ref().filter(|_| args.suite.is_none()));
        // Each scenario prints what the bare runtime did and what Restow did; that is half of what this is for.
        command.args(["--", "--nocapture"]);
        let filter = args.filter.as_deref().unwrap_or_default();
        let of_suite = args.suite.map(|suite| format!("{}::{filter}", name(suite)));
        let options: Vec<&str> = of_suite.as_deref().into_iter().collect();
        command.args(&options);
        if args.filter.is_some() && !some_test(&command, &options, what)? {
            continue;
        }
        outcome.ran = true;
        command
            .env("RUST_LIB_BACKTRACE", "0")
            .env("RESTOW_RUNTIME", word);
        if pods {
            command.env("RESTOW_MANAGER", "containerd");
        }
        if args.stock {
            command.env("RESTOW_MODES", "stock");
        } else if pods && !args.pods && !args.matrix {
            // That a scenario can fail is shown without containerd.
            command.env("RESTOW_MODES", "restow");
        }
        if args.matrix {
            command.env("RESTOW_RECORD", &record);
        }
        if !status(&mut command, what)?.success() {
            outcome.failed.push(what);
        }
    }
    outcome.ran |= args.filter.is_none();
    if args.matrix {
        let table = workspace().join("docs/matrix.md");
        let of_pods = workspace().join("docs/matrix-pods.md");
        let mut draw = Command::new(build("restow-integration", "restow-matrix")?);
        draw.args([&record, &table, &of_pods]);
        check(&mut draw, "drawing the table")?;
        println!("written: docs/matrix.md, docs/matrix-pods.md");
    }
    Ok(outcome)
}

fn name(suite: Suite) -> &'static str {
    match suite {
        Suite::Stable => "stable",
        Suite::Testing => "testing",
    }
}

pub(crate) fn heading(text: &str) {
    println!("\n== {text}");
}

/// Fails when a capability that nodes need is missing.
pub(crate) fn require_capabilities(who: &str, way_out: &str) -> Result<()> {
    let missing = NEEDED.iter().filter(|(number, _)| !has_capability(*number));
    let missing: Vec<&str> = missing.map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "{who} needs {}: run it as root{way_out}",
        missing.join(", ")
    )
}

/// Whether this process has a capability, as `/proc/self/status` says; `false` where it says nothing.
fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << number) != 0)
}

/// Whether a test command with a filter would run a test at all; says so when not.
fn some_test(command: &Command, options: &[&str], what: &str) -> Result<bool> {
    let mut list = cargo();
    list.args(command.get_args().take_while(|arg| *arg != "--"));
    let output = list
        .args(["--quiet", "--", "--list"])
        .args(options)
        .output()
        .context("List the tests")?;
    let names = String::from_utf8_lossy(&output.stdout);
    // What does not build is for the run itself to show.
    let some = !output.status.success() || names.lines().any(|line| line.ends_with(": test"));
    if !some {
        println!("none of {what} has that in its name");
    }
    Ok(some)
}
