//! Measures what Restow adds to a checkpoint and a restore, beside the bare runtime on the same node.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use restow_integration::bench::{self, Freezing, Sample, Standing};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Manager, Mode, Runtime, Stack};
use restow_integration::node::CgroupView;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;
use restow_integration::took::Took;
use serde_json::{Value, json};

/// Measures what Restow adds to a checkpoint and a restore, beside the bare runtime on the same node
///
/// A round is a journey from pod A to pod B three times: by the bare runtime, with Restow's criu in PATH for a container that does
/// not ask for it, and with Restow. After them three containers that go on are checkpointed in turn, five times as often: so much more
/// is added to a restore than to a checkpoint that as many rounds would not show the latter. The order changes from round to round.
/// Times are those of the whole `runc checkpoint` and `runc restore`; from the checkpoint the time in which CRIU waits for the tree to
/// freeze is taken off (it looks every 100 ms).
#[derive(Parser)]
#[command(name = "move", bin_name = "cargo xtask bench move")]
struct Cli {
    /// Rounds on each stack
    #[arg(long, default_value_t = 25)]
    runs: usize,

    /// Only checkpoints of containers that go on
    #[arg(long)]
    checkpoints: bool,

    /// Only this suite: stable or testing
    #[arg(long)]
    suite: Option<Suite>,

    /// Only this runtime
    #[arg(long, value_parser = ["runc", "crun"])]
    runtime: Option<String>,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Who makes the journey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Bare,
    PassedThrough,
    Restow,
}

impl Way {
    const ALL: [Self; 3] = [Self::Bare, Self::PassedThrough, Self::Restow];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bare => "bare",
            Self::PassedThrough => "no opt-in",
            Self::Restow => "Restow",
        })
    }
}

/// What one journey took, in milliseconds.
#[derive(Default, Debug)]
struct Times {
    checkpoint: Sample,
    /// Without what CRIU waited for the freezer.
    checkpoint_net: Sample,
    /// What processors worked for the checkpoint, but for the relay's part, which nobody waits for.
    processor: Sample,
    /// How long the tree stood still.
    frozen: Sample,
    restore: Sample,
}

/// Most milliseconds that may be added: to the checkpoint, to the restore.
struct Limits {
    checkpoint: f64,
    restore: f64,
}

fn limits(way: Way, runtime: Runtime) -> Limits {
    match (way, runtime) {
        (Way::Restow, Runtime::Runc) => Limits {
            checkpoint: 2.0,
            restore: 3.0,
        },
        // Bare crun leaves criu where it is; to be born in the right cgroup it has to be moved, which waits for an RCU grace period.
        (Way::Restow, Runtime::Crun) => Limits {
            checkpoint: 2.0,
            restore: 12.0,
        },
        _ => Limits {
            checkpoint: 1.0,
            restore: 1.0,
        },
    }
}

fn main() -> ExitCode {
    bench::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<bool> {
    let mut held = true;
    let mut all = Vec::new();
    for suite in bench::suites(cli.suite)? {
        for runtime in [Runtime::Runc, Runtime::Crun] {
            if cli
                .runtime
                .as_ref()
                .is_some_and(|wanted| wanted != runtime.program())
            {
                continue;
            }
            let stack = Stack {
                suite,
                cgroup_view: CgroupView::V2,
                runtime,
                manager: Manager::Suite,
            };
            let engine = Engine::start(stack, Mode::Restow)?;
            let versions = engine.versions()?;
            let times = measure(&engine, cli).with_context(|| format!("{versions} on {suite}"))?;
            if cli.json {
                all.push(to_json(suite, &versions, runtime, &times));
            } else {
                print(suite, &versions, cli.runs, &times);
            }
            held &= judge(runtime, &times, cli.json);
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(held)
}

/// Checkpoints of a container that goes on, for each journey.
const CHECKPOINTS: usize = 5;

fn measure(engine: &Engine, cli: &Cli) -> Result<BTreeMap<Way, Times>> {
    let bare = engine.stock();
    let by = |way| if way == Way::Bare { &bare } else { engine };
    let mut times: BTreeMap<Way, Times> = Way::ALL
        .map(|way| (way, Times::default()))
        .into_iter()
        .collect();
    let journeys = if cli.checkpoints { 0 } else { cli.runs };
    rounds(journeys, &mut times, |way, into| {
        journey(by(way), way, into)
    })?;

    let mut running = Vec::new();
    for way in Way::ALL {
        // Names of one length again.
        let number = running.len();
        let pod = Pod::start(by(way), &PodOptions::new(&format!("pod-{number}")))?;
        let mut container = pod.container(&options(by(way), way))?;
        container.start()?;
        running.push((way, pod, container));
    }
    rounds(cli.runs * CHECKPOINTS, &mut times, |way, into| {
        let (_, _, container) = running
            .iter()
            .find(|(other, _, _)| *other == way)
            .context("There is a container for each")?;
        let checkpoint = Checkpoint::new(by(way), "bench")?;
        let took = container.checkpoint_running_timed(&checkpoint)?;
        into.checkpointed(by(way), &checkpoint, took)?;
        remove(by(way), &checkpoint)
    })?;
    for (_, pod, container) in running {
        pod.remove(vec![container])?;
    }
    Ok(times)
}

/// Does something in each way, `count` times in turn. The first round warms caches and does not count.
fn rounds(
    count: usize,
    times: &mut BTreeMap<Way, Times>,
    go: impl Fn(Way, &mut Times) -> Result<()>,
) -> Result<()> {
    let mut ways = Way::ALL;
    // None at all when none is asked for.
    for round in 0..count + count.min(1) {
        for way in ways {
            let mut discarded = Times::default();
            let into = match round {
                0 => &mut discarded,
                _ => times.entry(way).or_default(),
            };
            go(way, into).with_context(|| format!("Round {round}, {way}"))?;
        }
        ways.rotate_left(1);
    }
    Ok(())
}

impl Times {
    /// Takes in what a checkpoint took, and what CRIU says of it.
    fn checkpointed(&mut self, engine: &Engine, checkpoint: &Checkpoint, took: Took) -> Result<()> {
        let stats = Freezing::of(engine, checkpoint)?;
        self.checkpoint.push(took.wall);
        self.checkpoint_net.push(took.wall - stats.freezing);
        self.processor.push(took.processor);
        self.frozen.push(stats.frozen);
        Ok(())
    }
}

fn options(engine: &Engine, way: Way) -> ContainerOptions {
    let mut options = ContainerOptions::new(2)
        .volume("/data")
        .open("each:r:3:/etc/hosts")
        .open("all:rw:2:/data/pod");
    if way != Way::Restow {
        options = options.without_opt_in();
    }
    // Bare crun 1.28 does not find its masked directories again when its state is not in /run/crun.
    options.privileged = engine.runtime() == Runtime::Crun;
    options
}

fn journey(engine: &Engine, way: Way, times: &mut Times) -> Result<()> {
    // Names of one length, so that the bare runtime finds files of the size that it knows.
    let pod_a = Pod::start(engine, &PodOptions::new("pod-a"))?;
    let mut container = pod_a.container(&options(engine, way))?;
    container.start()?;
    let checkpoint = Checkpoint::new(engine, "bench")?;
    let took = container.checkpoint_timed(&checkpoint)?;
    times.checkpointed(engine, &checkpoint, took)?;
    pod_a.remove(vec![container]).context("Remove pod A")?;

    let pod_b = Pod::start(engine, &PodOptions::new("pod-b"))?;
    let mut container = pod_b.container(&options(engine, way))?;
    container.restore(&checkpoint)?;
    times
        .restore
        .push(container.took().context("The restore was not timed")?.wall);
    // A bare runtime may have put the container where pod A was, in which case its cgroup is not empty yet.
    pod_b.remove(vec![container]).context("Remove pod B")?;
    remove(engine, &checkpoint)
}

fn remove(engine: &Engine, checkpoint: &Checkpoint) -> Result<()> {
    let dir = engine.node().path(&checkpoint.images);
    fs::remove_dir_all(dir.parent().context("The images are in no directory")?)
        .context("Remove the checkpoint")
}

fn print(suite: Suite, versions: &str, runs: usize, times: &BTreeMap<Way, Times>) {
    println!("{suite}: {versions}, {runs} rounds, milliseconds: median (quartiles) least");
    println!(
        "  {:<10} {:>28} {:>28} {:>28} {:>28}",
        "", "restore", "checkpoint without freezing", "checkpoint", "its processor time"
    );
    for (way, times) in times {
        println!(
            "  {way:<10} {:>28} {:>28} {:>28} {:>28}",
            spread(&times.restore),
            spread(&times.checkpoint_net),
            spread(&times.checkpoint),
            spread(&times.processor)
        );
    }
}

fn spread(sample: &Sample) -> String {
    if sample.is_empty() {
        return "-".to_owned();
    }
    format!(
        "{:.1} ({:.1}-{:.1}) {:.1}",
        sample.median(),
        sample.quantile(0.25),
        sample.quantile(0.75),
        sample.min()
    )
}

/// Every difference with its limit.
fn differences(
    runtime: Runtime,
    times: &BTreeMap<Way, Times>,
) -> Vec<(String, Sample, f64, f64, Standing)> {
    let Some(bare) = times.get(&Way::Bare) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (way, times) in times.iter().filter(|(way, _)| **way != Way::Bare) {
        let limits = limits(*way, runtime);
        for (what, own, base, limit) in [
            ("restore", &times.restore, &bare.restore, limits.restore),
            (
                "checkpoint",
                &times.checkpoint_net,
                &bare.checkpoint_net,
                limits.checkpoint,
            ),
        ] {
            if own.is_empty() {
                continue;
            }
            let over = own.over(base);
            let standing = Standing::of(&over, limit);
            let medians = own.median() - base.median();
            found.push((format!("{way}, {what}"), over, medians, limit, standing));
        }
    }
    found
}

fn judge(runtime: Runtime, times: &BTreeMap<Way, Times>, quiet: bool) -> bool {
    let mut held = true;
    for (what, over, medians, limit, standing) in differences(runtime, times) {
        let interval = over.interval().map_or_else(String::new, |(low, high)| {
            format!("(95 %: {low:+.1} to {high:+.1})")
        });
        if !quiet {
            println!(
                "  {what:<24} {:+6.1} ms over bare {interval:<26} difference of medians {medians:+6.1}, limit {limit:>4.1}: {standing}",
                over.median()
            );
        }
        held &= standing.held();
    }
    held
}

fn to_json(suite: Suite, versions: &str, runtime: Runtime, times: &BTreeMap<Way, Times>) -> Value {
    let ways: BTreeMap<String, Value> = times
        .iter()
        .map(|(way, times)| {
            let value = json!({
                "restore_ms": times.restore,
                "checkpoint_ms": times.checkpoint,
                "checkpoint_without_freezing_ms": times.checkpoint_net,
                "checkpoint_processor_ms": times.processor,
                "frozen_ms": times.frozen,
            });
            (way.to_string(), value)
        })
        .collect();
    let differences: Vec<Value> = differences(runtime, times)
        .into_iter()
        .map(|(what, over, medians, limit, standing)| {
            json!({
                "what": what,
                "over_bare_ms": over.median(),
                "interval_95_ms": over.interval(),
                "difference_of_medians_ms": medians,
                "limit_ms": limit,
                "standing": standing,
            })
        })
        .collect();
    json!({
        "suite": suite.to_string(),
        "versions": versions,
        "runs": ways,
        "differences": differences,
    })
}
