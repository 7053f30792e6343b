//! The command `restow`: its arguments, its exit codes, and where its work is done.
//!
//! * [`explain`]: what a log of CRIU says went wrong.
//! * [`check`]: whether a running tree can be moved.
//! * [`input`]: images from a file, a directory or a checkpoint archive.
//! * [`image`]: what `restow image` shows of them.
//! * [`criu`]: criu's own commands, for process trees without a container.
//! * [`plan`]: the dry run of a restore.
//! * [`node`]: Restow comes onto a node, leaves it, and says what is wrong there.
//! * [`pod`]: checkpoints of running containers, pods restored from them, and moves between nodes.
//! * [`output`]: tables for people, JSON for programs.

pub mod check;
pub mod criu;
pub mod explain;
pub mod image;
pub mod input;
pub mod node;
pub mod output;
pub mod plan;
pub mod pod;
pub mod verdict;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Moves running containers to other pods and nodes, and looks into their checkpoints
#[derive(Debug, Parser)]
#[command(name = "restow", version, propagate_version = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  `image diff` found differences, `explain` knows no cause, `list` could not read everything, or `check`, `plan` or `doctor` has warnings
  2  the command line is wrong
  3  the input cannot be read: it is missing, damaged or no checkpoint; there is no such container, or no containerd answers; `install` or
     `uninstall` could not do it
  4  the output cannot be written
  5  `check` says that it cannot be moved, `plan` that the restore is not possible, `doctor` that the node cannot; or it is refused to change the node; \
or a checkpoint, restore or move has failed";

#[derive(Debug, Subcommand)]
enum Command {
    /// Look into CRIU images and checkpoint archives
    Image(image::Args),
    /// Say what a restore would change and whether it is possible, without doing it
    Plan(plan::Args),
    /// Say in words why a checkpoint or restore failed, from CRIU's log
    Explain(explain::Args),
    /// Dump and restore a process tree without a container, with criu's own options
    Criu(criu::Args),
    /// Say whether a running container or process tree can be moved, and what is in the way
    Check(check::Args),
    /// Put Restow onto this node: programs, and configuration of containerd, CRI-O and podman
    Install(node::install::Args),
    /// Take an installation back: everything is as it was before
    Uninstall(node::uninstall::Args),
    /// Say whether this node can move containers, and what has to be done so that it can
    Doctor(node::doctor::Args),
    /// Run a program of a node whose root directory is mounted somewhere
    #[command(hide = true)]
    InRoot(node::in_root::Args),
    /// Checkpoint a running container into the node's store
    Checkpoint(pod::checkpoint::Args),
    /// Restore a checkpoint of the store as a new pod
    Restore(pod::restore::Args),
    /// Move a pod's running container to another node
    Migrate(pod::migrate::Args),
    /// List the checkpoints on a node
    List(pod::list::ListArgs),
    /// Remove checkpoints from a node
    Rm(pod::list::RemoveArgs),
    /// Let a frozen container go on when the process at the other end of standard input is gone
    #[command(hide = true)]
    ThawWhenLeft(pod::frozen::GuardArgs),
    /// Print completions for a shell
    ///
    /// For bash: restow completions bash > /usr/share/bash-completion/completions/restow
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of a command
    ///
    /// `restow man image diff | man -l -` shows one.
    Man {
        /// The command, for example `image diff`; without one, restow itself
        command: Vec<String>,

        /// Write the pages of all commands into a directory instead, as packages want them
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        into: Option<PathBuf>,
    },
}

/// Why a command failed, as far as the exit code tells.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong in a way that its parser cannot see.
    Usage(anyhow::Error),
    /// The input cannot be read.
    Input(anyhow::Error),
    /// The output cannot be written.
    Output(io::Error),
    /// What was to be done is not possible or has failed; things are as they were.
    Refused(anyhow::Error),
}

impl Failure {
    /// What is said of it, with its causes.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Usage(error) | Self::Input(error) | Self::Refused(error) => format!("{error:#}"),
            Self::Output(error) => format!("The output cannot be written: {error}"),
        }
    }

    /// The exit code that tells it.
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Input(_) => 3,
            Self::Output(_) => 4,
            Self::Refused(_) => 5,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Input(error)
    }
}

impl From<criu_image::Error> for Failure {
    fn from(error: criu_image::Error) -> Self {
        Self::Input(error.into())
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Some((companion, action)) = criu::script::stage() {
        return criu::script::run(&companion, &action);
    }
    match run(Cli::parse().command) {
        Ok(code) => code,
        // Who closed the pipe has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("Error: {}", output::visible(&failure.text()));
            ExitCode::from(failure.code())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Image(args) => image::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Criu(args) => Ok(criu::run(args)),
        Command::Check(args) => check::run(&args),
        Command::Install(args) => node::install::run(&args),
        Command::Uninstall(args) => node::uninstall::run(&args),
        Command::Doctor(args) => node::doctor::run(&args),
        Command::InRoot(args) => {
            let error = node::in_root::run(&args);
            Err(Failure::Input(anyhow::anyhow!(
                "{}: {error}",
                args.program[0].display()
            )))
        }
        Command::Checkpoint(args) => pod::checkpoint::run(&args),
        Command::Restore(args) => pod::restore::run(&args),
        Command::Migrate(args) => pod::migrate::run(&args),
        Command::List(args) => pod::list::list(&args),
        Command::Rm(args) => pod::list::remove(&args),
        Command::ThawWhenLeft(args) => pod::frozen::guard(&args),
        Command::Completions { shell } => {
            // Into memory first: the generator panics when the pipe is closed.
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "restow", &mut text);
            io::Write::write_all(&mut io::stdout(), &text)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man {
            command,
            into: None,
        } => man(&command),
        Command::Man {
            into: Some(dir), ..
        } => {
            clap_mangen::generate_to(Cli::command(), &dir).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", dir.display()))
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn man(path: &[String]) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    command.build();
    for name in path {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| {
            Failure::Usage(anyhow::anyhow!("restow has no command {}", path.join(" ")))
        })?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    io::Write::write_all(&mut io::stdout(), &text)?;
    Ok(ExitCode::SUCCESS)
}
