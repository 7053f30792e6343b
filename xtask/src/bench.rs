//! `cargo xtask bench`: what is built for each benchmark, and how it is started.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::{cargo, test};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// `restow image decode` beside `crit decode`
    #[command(disable_help_flag = true)]
    Image {
        /// `cargo xtask bench image --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Checkpoint and restore through Restow beside the bare runtime
    #[command(disable_help_flag = true)]
    Move {
        /// `cargo xtask bench move --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Planning and staging of 10,000 and 100,000 open files, and of much memory
    #[command(disable_help_flag = true)]
    Plan {
        /// `cargo xtask bench plan --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// A checkpoint on a node with 5,000 cgroups of others in version 1 hierarchies
    #[command(disable_help_flag = true)]
    Cgroups {
        /// `cargo xtask bench cgroups --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Memory, calls and starts of the shim beside the stock shim
    #[command(disable_help_flag = true)]
    Shim {
        /// `cargo xtask bench shim --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The restore of a pod's container below Restow's shim beside the same below the stock shim
    #[command(disable_help_flag = true)]
    Pods {
        /// `cargo xtask bench pods --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Calls of an OCI runtime through Restow's
    #[command(disable_help_flag = true)]
    Runtime {
        /// `cargo xtask bench runtime --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Move, plan, cgroups, shim, pods and runtime, one after the other
    All,
}

pub(crate) fn run(bench: Bench) -> Result<()> {
    let held = match bench {
        Bench::Image { args } => {
            let restow = cargo::build_release("restow-cli", "restow")?;
            let restow = ["--restow".into(), restow.into_os_string()];
            start("restow-bench-image", &[&restow[..], &args].concat())?
        }
        Bench::Move { args } => start("restow-bench-move", &args)?,
        Bench::Plan { args } => plan(&args)?,
        Bench::Cgroups { args } => start("restow-bench-cgroups", &args)?,
        Bench::Shim { args } => start("restow-bench-shim", &args)?,
        Bench::Pods { args } => start("restow-bench-pods", &args)?,
        Bench::Runtime { args } => start("restow-bench-runtime", &args)?,
        Bench::All => {
            let programs = [
                start("restow-bench-move", &[])?,
                plan(&[])?,
                start("restow-bench-cgroups", &[])?,
                start("restow-bench-shim", &[])?,
                start("restow-bench-pods", &[])?,
                start("restow-bench-runtime", &[])?,
            ];
            programs.iter().all(|held| *held)
        }
    };
    if !held {
        bail!("A limit is exceeded, or a benchmark failed");
    }
    Ok(())
}

/// The engine is measured as it is installed, so its benchmark is built for release.
fn plan(args: &[OsString]) -> Result<bool> {
    let program = cargo::build_release("restow-integration", "restow-bench-plan")?;
    let mut command = Command::new(program);
    Ok(cargo::status(command.args(args), "bench plan")?.success())
}

/// Builds a program of the integration crate and runs it with the interposer as it is installed; whether it succeeded.
fn start(bin: &str, args: &[OsString]) -> Result<bool> {
    let program = cargo::build("restow-integration", bin)?;
    let mut command = Command::new(program);
    command.args(args);
    if !args.iter().any(|arg| arg == "--help" || arg == "-h") && bin != "restow-bench-image" {
        test::require_capabilities("A benchmark on a node", "")?;
        command.env(
            "RESTOW_CRIU_PROGRAM",
            cargo::build_dist("restow-hooks", "criu")?,
        );
        if bin == "restow-bench-runtime" {
            command.env(
                "RESTOW_RUNTIME_PROGRAM",
                cargo::build_dist("restow-hooks", "restow-runtime")?,
            );
        }
        if bin == "restow-bench-shim" || bin == "restow-bench-pods" {
            command.env(
                "RESTOW_SHIM_PROGRAM",
                cargo::build_dist("restow-shim", "containerd-shim-restow-v2")?,
            );
        }
    }
    Ok(cargo::status(&mut command, bin)?.success())
}
