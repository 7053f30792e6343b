//! Draws the table of scenarios and stacks out of the record that a run of the suite made.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use restow_integration::stack::Manager;
use restow_integration::{matrix, record};

/// Draws the table of scenarios and stacks
#[derive(Parser)]
struct Cli {
    /// The record of a run: what RESTOW_RECORD named
    record: PathBuf,
    /// Where the table is written to
    table: PathBuf,
    /// Where the table of pods that containerd made is written to
    pods: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let entries = record::read(&cli.record)?;
    let gaps = matrix::gaps(&entries);
    if !gaps.is_empty() {
        println!("scenarios without a test: {}", gaps.join(", "));
    }
    for (table, manager) in [
        (&cli.table, Manager::Suite),
        (&cli.pods, Manager::Containerd),
    ] {
        std::fs::write(table, matrix::render(&entries, manager))
            .with_context(|| format!("Write {}", table.display()))?;
    }
    Ok(())
}
