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
        if !status(&mut command, "the unit tests")?.success() {
            failed.push("the unit tests");
        }
    }
    if !args.unit {
        heading("integration suite");
        require_capabilities()?;
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
        if let Some(suite) = args.suite {
            command.arg(format!(
                "{}::{}",
                name(suite),
                args.filter.as_deref().unwrap_or_default()
            ));
        }
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
        if !status(&mut command, "the integration suite")?.success() {
            failed.push("the integration suite");
        }
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

/// Fails when a capability that everything needs is missing, and prints what is skipped for want of another.
fn require_capabilities() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("Read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("/proc/self/status shows no capabilities")?;
    let has = |number: u32| effective & (1 << number) != 0;
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(number, _)| !has(*number))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        bail!(
            "The integration suite needs {}: run it as root (`cargo xtask test --unit` needs nothing)",
            missing.join(", ")
        );
    }
    for (_, name, what) in WANTED.iter().filter(|(number, _, _)| !has(*number)) {
        println!("not tested, because {name} is missing here: {what}");
    }
    Ok(())
}
