//! `cargo xtask test`: everything that can be tested on this machine, and a plain word about what cannot.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::cargo::{build, cargo, check, status};

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
    "checkpoints of processes that are not root's (no scenario here needs one yet)",
)];

#[derive(Args)]
pub(crate) struct TestArgs {
    /// Run the unit tests alone: needs neither root nor nodes
    #[arg(long, conflicts_with_all = ["integration", "suite", "stock", "runtime"])]
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
    /// Run the integration suite with this runtime (what stock crun does is printed, not judged)
    #[arg(long)]
    runtime: Option<Runtime>,
    /// Run only tests with this in their names
    filter: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    Stable,
    Testing,
}

#[derive(Clone, Copy, ValueEnum)]
enum Runtime {
    Runc,
    Crun,
}

pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let mut failed = Vec::new();
    let mut ran = false;
    if args.suite.is_some() || args.runtime.is_some() || args.stock {
        println!("left out: the unit tests (they do not depend on a suite, a runtime or a mode)");
    }
    if !args.integration && args.suite.is_none() && args.runtime.is_none() && !args.stock {
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
        let mut roots = Command::new(node);
        roots
            .arg("build")
            .args(args.suite.iter().map(|suite| name(*suite)));
        check(&mut roots, "building the nodes' root file systems")?;
        let mut command = cargo();
        command.args(["test", "--package", "restow-integration", "--no-fail-fast"]);
        command.args(args.filter.as_ref().filter(|_| args.suite.is_none()));
        // Each scenario prints what the bare runtime did and what Restow did; that is half of what this is for.
        command.args(["--", "--nocapture"]);
        let filter = args.filter.as_deref().unwrap_or_default();
        let of_suite = args.suite.map(|suite| format!("{}::{filter}", name(suite)));
        let options: Vec<&str> = of_suite.as_deref().into_iter().collect();
        command.args(&options);
        let run = args.filter.is_none() || some_test(&command, &options, "the integration suite")?;
        ran |= run;
        command.env("RUST_LIB_BACKTRACE", "0");
        if let Some(runtime) = args.runtime {
            let name = match runtime {
                Runtime::Runc => "runc",
                Runtime::Crun => "crun",
            };
            command.env("RESTOW_RUNTIME", name);
        }
        if args.stock {
            command.env("RESTOW_MODES", "stock");
        }
        if run && !status(&mut command, "the integration suite")?.success() {
            failed.push("the integration suite");
        }
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
