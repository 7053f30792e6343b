//! Measures what Restow's OCI runtime adds to a call of the real one, on one node.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use restow_integration::bench::{self, Line, Sample, Standing};
use restow_integration::engine::{Engine, Manager, Mode, Runtime, Stack};
use restow_integration::node::CgroupView;
use restow_integration::podman::{LIB, install_programs};
use restow_integration::suite::Suite;
use restow_integration::took::Took;
use serde_json::json;

/// Most that may be added.
const CALL_MS: f64 = 1.0;

/// Where the time of a call is written.
const TIME: &str = "/tmp/time";

/// Measures what Restow's OCI runtime adds to a call of the real one, on one node
///
/// A round is a call of the real runtime and one of Restow's before it, with the arguments that take the real one least time
/// (`--version`). The order changes from round to round. Times are taken in the node, by the process that makes the call.
#[derive(Parser)]
#[command(name = "runtime", bin_name = "cargo xtask bench runtime")]
struct Cli {
    /// Rounds on each stack
    #[arg(long, default_value_t = 200)]
    runs: usize,

    /// Only this suite: stable or testing
    #[arg(long)]
    suite: Option<Suite>,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    bench::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<bool> {
    let mut held = true;
    let mut all = Vec::new();
    for suite in bench::suites(cli.suite)? {
        for runtime in Runtime::ALL {
            let stack = Stack {
                suite,
                cgroup_view: CgroupView::V2,
                runtime,
                manager: Manager::Suite,
            };
            let (bare, ours) = measure(stack, cli.runs)?;
            let over = ours.over(&bare);
            let line = Line {
                what: format!("a call of {} through Restow's runtime", runtime.program()),
                measured: over.median(),
                unit: "ms",
                limit: CALL_MS,
                standing: Standing::of(&over, CALL_MS),
            };
            held &= line.standing.held();
            if cli.json {
                all.push(json!({ "suite": suite, "runtime": runtime, "line": line, "bare": bare.median() }));
            } else {
                println!("{suite}: {line}   (bare {:.2} ms)", bare.median());
            }
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(held)
}

/// What calls of the real runtime and of ours take, in milliseconds.
fn measure(stack: Stack, runs: usize) -> Result<(Sample, Sample)> {
    let engine = Engine::start(stack, Mode::Stock)?;
    install_programs(&engine)?;
    let name = stack.runtime.program();
    let wrapped = format!("{LIB}/restow-{name}");
    let (mut bare, mut ours) = (Sample::default(), Sample::default());
    for round in 0..=runs {
        let mut pair = [(name, &mut bare), (&*wrapped, &mut ours)];
        if round % 2 == 1 {
            pair.reverse();
        }
        for (program, sample) in pair {
            let took = call(&engine, engine.timed_program(TIME, program))?;
            // The first call reads the programs from the disk.
            if round > 0 {
                sample.push(took);
            }
        }
    }
    Ok((bare, ours))
}

fn call(engine: &Engine, mut command: Command) -> Result<f64> {
    let output = command
        .arg("--version")
        .output()
        .context("Start the runtime")?;
    ensure!(
        output.status.success(),
        "The runtime fails: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Took::read(&engine.node().path(TIME))?.wall)
}
