//! `restow explain`: why a checkpoint or restore failed, from the logs that it left.

mod found;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use restow::explain::{self, Outcome};
use serde_json::json;

use crate::Failure;
use crate::output::{self, Colour, Style};

const HELP: &str = "\
Input:
  a log of CRIU's (dump.log, restore.log, or text that quotes one, like a service's journal);
  a directory: an image or work directory, or one in which Restow keeps logs of failures. Of it dump.log, restore.log, restow.log and
  restow-plan.json are read;
  a checkpoint archive (tar, plain or compressed with gzip or zstd) that holds such logs;
  `-`: a log from standard input.

Exit codes:
  0  every failure in the logs has a known cause, or nothing failed
  1  something failed, and its cause is not known; the errors are shown as they stand
  2  the command line is wrong
  3  the input cannot be read, or there is no log in it
  4  the output cannot be written";

/// Options of `restow explain`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// Log, directory, checkpoint archive, or `-` for standard input
    #[arg(required_unless_present = "list")]
    input: Option<PathBuf>,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,

    /// Print all causes that are known, with what they mean and the way round
    #[arg(long, conflicts_with = "input")]
    list: bool,

    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Colour,
}

/// Runs `restow explain`.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let style = Style::new(args.color);
    let Some(input) = args.input.as_deref() else {
        return list(args.json, style);
    };
    let found = found::Found::open(input)?;
    if args.json {
        output::json(&found.json())?;
    } else {
        output::text(&show::found(&found, style))?;
    }
    let unknown = found
        .logs
        .iter()
        .any(|log| log.report.outcome != Outcome::Succeeded && log.report.causes.is_empty());
    Ok(ExitCode::from(u8::from(unknown)))
}

fn list(json: bool, style: Style) -> Result<ExitCode, Failure> {
    if json {
        let all: Vec<_> = explain::all()
            .map(|(subject, cause)| {
                json!({
                    "cause": cause.name,
                    "subject": subject,
                    "lines": cause.lines(),
                    "meaning": cause.meaning(),
                    "remedy": cause.remedy(),
                })
            })
            .collect();
        output::json(&all.into())?;
    } else {
        output::text(&show::list(style))?;
    }
    Ok(ExitCode::SUCCESS)
}
