//! `restow uninstall`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};

use super::carry_out::{self, Action};
use super::install::{lock, open, refused, wait_for_the_end};
use super::journal::Journal;
use super::report::Report;
use super::{services, users};
use crate::{Failure, output};

/// Options of `restow uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// The root directory of the node, where it is not this one's own
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Also when containers run below Restow's shim, and remove files of ours that were changed since
    #[arg(long)]
    pub force: bool,

    /// Restart containerd and CRI-O when their configuration has changed
    #[arg(long)]
    pub restart: bool,

    /// Stay until SIGTERM once all is gone, as the container of a DaemonSet has to
    #[arg(long)]
    pub stay: bool,

    /// Only say what would be done
    #[arg(long, conflicts_with = "stay")]
    pub dry_run: bool,

    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

const HELP: &str = "\
What `restow install` wrote to /var/lib/restow/install.json is taken back: files of others are as they were before, to the byte, and where somebody \
has changed them since, only our part is taken out. Checkpoints, logs and /etc/restow/config.toml stay.

Examples:
  restow uninstall --dry-run
  restow uninstall --restart

Exit codes:
  0  nothing of the installation is left
  2  the command line is wrong
  3  a step failed; call it again to go on from there
  5  refused, nothing is changed: containers need it, or files of ours were changed";

/// Runs `restow uninstall`.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let report = uninstall(args, &mut |_| Ok(()))?;
    let done = match &report {
        None => "Restow is not installed here (no /var/lib/restow/install.json)",
        Some(_) if args.dry_run => "nothing was done (--dry-run)",
        Some(_) => "Restow is uninstalled",
    };
    let report = report.unwrap_or_default();
    if args.json {
        output::json(&report.json())?;
    } else {
        output::text(&report.text(done))?;
    }
    if args.stay {
        wait_for_the_end().context("Wait for SIGTERM")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the installation back; `None` when there is none.
///
/// # Errors
/// With what is in the way or failed.
pub fn uninstall(
    args: &Args,
    before: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<Option<Report>, Failure> {
    let node = open(&args.root)?;
    let _lock = lock(&node)?;
    let Some(journal) = Journal::read(&node).map_err(anyhow::Error::from)? else {
        if !args.dry_run {
            carry_out::tidy(&node)?;
        }
        return Ok(None);
    };
    let shims = users::shims(&node, &journal);
    if !args.force && !shims.is_empty() {
        let pids: Vec<String> = shims.iter().map(i32::to_string).collect();
        return Err(Failure::Refused(anyhow!(
            "Containers run below Restow's shim (processes {}), and containerd needs it to end them: remove them first, or say --force",
            pids.join(", ")
        )));
    }
    let mut report = Report {
        dry_run: args.dry_run,
        ..Report::default()
    };
    for entry in &journal.entries {
        let action = match entry.before {
            Some(_) => Action::Edit,
            None => Action::Remove,
        };
        report.path(&entry.path, &entry.what, action);
    }
    report.restart.clone_from(&journal.services);
    if args.dry_run {
        return Ok(Some(report));
    }
    carry_out::uninstall(&node, &journal, args.force, before).map_err(refused)?;
    if args.restart && !report.restart.is_empty() {
        services::restart(&node, &report.restart)
            .context("Restow is uninstalled, but services still run with its configuration")?;
        report.restarted = true;
    }
    Ok(Some(report))
}
