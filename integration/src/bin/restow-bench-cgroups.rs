//! Measures whether the cgroups that others have in version 1 hierarchies slow a checkpoint.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use restow_integration::bench::{self, Freezing, Line, Sample};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Manager, Mode, Runtime, Stack};
use restow_integration::foreign::{ForeignCgroups, sit_in_roots};
use restow_integration::node::{CgroupView, hierarchies};
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;

/// Measures whether the cgroups that others have in version 1 hierarchies slow a checkpoint
///
/// A container on a node with version 2 sits in the roots of the version 1 hierarchies that the host has besides. It is checkpointed
/// (and goes on) by the bare runtime and with Restow, first alone, then with foreign cgroups beside it, which are made for this below
/// the node's own and removed at the end. The time in which CRIU waits for the tree to freeze is taken off.
#[derive(Parser)]
#[command(name = "cgroups", bin_name = "cargo xtask bench cgroups")]
struct Cli {
    /// Checkpoints of each kind
    #[arg(long, default_value_t = 5)]
    runs: usize,

    /// Foreign cgroups
    #[arg(long, default_value_t = 5000)]
    count: usize,

    /// Only this suite: stable or testing
    #[arg(long)]
    suite: Option<Suite>,

    /// Which runtime
    #[arg(long, value_parser = ["runc", "crun"], default_value = "runc")]
    runtime: String,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    bench::exit(run(&Cli::parse()))
}

/// What checkpoints took and left.
#[derive(Default)]
struct Cost {
    time: Sample,
    log: u64,
    image: u64,
}

fn run(cli: &Cli) -> Result<bool> {
    if !hierarchies()?
        .iter()
        .any(|hierarchy| hierarchy.v1.is_some())
    {
        bail!("This host has no cgroup version 1 hierarchies, so nothing can be measured");
    }
    let runtime = if cli.runtime == "crun" {
        Runtime::Crun
    } else {
        Runtime::Runc
    };
    let mut lines = Vec::new();
    for suite in bench::suites(cli.suite)? {
        let stack = Stack {
            suite,
            cgroup_view: CgroupView::V2,
            runtime,
            manager: Manager::Suite,
        };
        let engine = Engine::start(stack, Mode::Restow)?;
        let versions = engine.versions()?;
        let [stock, restow] = measure(&engine, cli)?;
        if !cli.json {
            println!(
                "{suite}: {versions}, {} checkpoints each, milliseconds (least), dump.log, cgroup.img",
                cli.runs
            );
            for (who, costs) in [("bare", &stock), ("Restow", &restow)] {
                for (beside, cost) in [0, cli.count].into_iter().zip(costs) {
                    println!(
                        "  {who:<7} beside {beside:>5} foreign cgroups {:>9.1} ({:>8.1}) ms {:>9} KiB {:>7} KiB",
                        cost.time.median(),
                        cost.time.min(),
                        cost.log / 1024,
                        cost.image / 1024
                    );
                }
            }
        }
        let [alone, among] = &restow;
        lines.push(Line::of_value(
            format!("{versions}: checkpoint beside {} over alone", cli.count),
            among.time.median() / alone.time.median(),
            "times",
            1.2,
        ));
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(lines.iter().all(|line| line.standing.held()))
}

/// Bare and with Restow, each alone and among foreign cgroups.
fn measure(engine: &Engine, cli: &Cli) -> Result<[[Cost; 2]; 2]> {
    let bare = engine.stock();
    let pods = [&bare, engine].map(|engine| Pod::start(engine, &PodOptions::new("pod-a")));
    let [bare_pod, restow_pod] = pods;
    let (bare_pod, restow_pod) = (bare_pod?, restow_pod?);
    let options = ContainerOptions::new(1).host_cgroups();
    let mut containers = [
        bare_pod.container(&options)?,
        restow_pod.container(&options)?,
    ];
    for container in &mut containers {
        container.start()?;
        sit_in_roots(engine.node(), container)?;
    }
    let mut costs: [[Cost; 2]; 2] = Default::default();
    for among in [false, true] {
        let controllers = ["memory", "cpu", "pids", "devices"];
        let foreign = among
            .then(|| ForeignCgroups::make(engine.node(), &controllers, cli.count))
            .transpose()?;
        for _ in 0..cli.runs {
            for (who, container) in containers.iter().enumerate() {
                let by = if who == 0 { &bare } else { engine };
                checkpoint(by, container, &mut costs[who][usize::from(among)])?;
            }
        }
        drop(foreign);
    }
    Ok(costs)
}

fn checkpoint(engine: &Engine, container: &Container<'_>, cost: &mut Cost) -> Result<()> {
    let checkpoint = Checkpoint::new(engine, "bench")?;
    let took = container.checkpoint_running_timed(&checkpoint)?.wall;
    cost.time
        .push(took - Freezing::of(engine, &checkpoint)?.freezing);
    let node = engine.node();
    let size = |dir: &str, name: &str| -> Result<u64> {
        let path = node.path(dir).join(name);
        Ok(fs::metadata(&path)
            .with_context(|| format!("Look at {}", path.display()))?
            .len())
    };
    cost.log = size(&checkpoint.work, "dump.log")?;
    cost.image = size(&checkpoint.images, "cgroup.img")?;
    let dir = node.path(&checkpoint.images);
    fs::remove_dir_all(dir.parent().context("The images are in no directory")?)
        .context("Remove the checkpoint")
}
