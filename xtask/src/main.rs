//! Restow's development commands: `cargo xtask <command>`.

mod bench;
mod cargo;
mod deb;
mod test;
mod tools;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use cargo::Profile;

/// Restow's development commands
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show it: a process tree leaves pod A and goes on in pod B
    Demo {
        /// What the node is made from
        #[arg(long, value_parser = ["stable", "testing"], default_value = "stable")]
        suite: String,
    },
    /// Run the unit tests, then the integration suite on nodes of both Debian suites
    Test(test::TestArgs),
    /// Run scenarios on a virtual machine with systemd, its cgroup driver and real controllers
    #[command(disable_help_flag = true)]
    Vm {
        /// `cargo xtask vm --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure Restow beside what it is compared with
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build the programs that a node gets, linked statically, and print the directory that they are in
    Dist {
        /// What they are built with
        #[arg(long, value_enum, default_value = "dist")]
        profile: Profile,
    },
    /// Make the Debian package, and print where it is
    Deb {
        /// What its programs are built with
        #[arg(long, value_enum, default_value = "dist")]
        profile: Profile,
    },
    /// Make the image sets in testdata/objects anew, on nodes of both Debian suites
    #[command(disable_help_flag = true)]
    Testdata {
        /// `cargo xtask testdata --help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Make and use nodes: Debian roots with real container runtimes, in namespaces of their own
    #[command(disable_help_flag = true)]
    Node {
        /// `cargo xtask node help` tells
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo { suite } => {
            test::require_capabilities("The demo", "")?;
            println!("Building the demo (once; a minute or two on a fresh checkout) ...");
            become_program("restow-demo", &["--suite".into(), suite.into()])
        }
        Task::Test(args) => test::run(&args),
        Task::Vm { args } => become_program("restow-vm", &args),
        Task::Bench(bench) => bench::run(bench),
        Task::Dist { profile } => {
            let dir = cargo::build_static(profile, cargo::INSTALLED)?;
            println!("{}", dir.display());
            Ok(())
        }
        Task::Deb { profile } => {
            println!("{}", deb::run(profile)?.display());
            Ok(())
        }
        Task::Testdata { args } => become_program("restow-testdata", &args),
        Task::Node { args } => {
            // Of `exec` the rest is a program's.
            let harmless = |arg: &OsString| {
                ["help", "--help", "-h", "ls"]
                    .iter()
                    .any(|word| arg == word)
            };
            let help = |arg: &OsString| arg == "--help" || arg == "-h";
            let asks = args.first().is_none_or(harmless) || args.get(1).is_some_and(help);
            if !asks {
                test::require_capabilities("A node", "")?;
            }
            become_program("restow-node", &args)
        }
    }
}

/// Builds a program of the integration crate and becomes it.
fn become_program(bin: &str, args: &[OsString]) -> Result<()> {
    let program = cargo::build("restow-integration", bin)?;
    Err(Command::new(&program).args(args).exec())
        .with_context(|| format!("Start {}", program.display()))
}
