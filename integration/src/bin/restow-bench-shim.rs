//! Measures what Restow's shim costs beside the stock shim, on one node with both.

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use criu_image::wire::Message;
use restow_integration::bench::{self, Line, Sample, Standing, ms};
use restow_integration::containerd::{Containerd, PROBE_IMAGE, RESTOW_DIR};
use restow_integration::shim::{Which, shims_of};
use restow_integration::stack::Stack;
use restow_integration::suite::Suite;
use restow_integration::tools;
use restow_shim::client::Client;
use serde_json::json;

/// Most that may be added.
const MEMORY_MB: f64 = 0.4;
const STATE_MS: f64 = 0.2;
const START_MS: f64 = 5.0;

/// The containers of a round, and whether each is below Restow's shim.
const CONTAINERS: [(&str, bool); 4] = [
    ("own-a", true),
    ("stock-a", false),
    ("own-b", true),
    ("stock-b", false),
];

/// Calls of State in one round.
const CALLS: usize = 200;

/// Measures what Restow's shim costs beside the stock shim, on one node with both
///
/// A round starts two containers below each (`ctr run`), reads the private memory of the shims when all run, and asks State of one stock
/// shim directly and through its proxy. The order changes from round to round. Two, because the program's own pages are private to a
/// process only as long as it is the only one.
#[derive(Parser)]
#[command(name = "shim", bin_name = "cargo xtask bench shim")]
struct Cli {
    /// Rounds on each suite
    #[arg(long, default_value_t = 25)]
    runs: usize,

    /// Only this suite: stable or testing
    #[arg(long)]
    suite: Option<Suite>,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What the rounds on one node gave. Times are in milliseconds, memory in kB.
#[derive(Debug, Default)]
struct Rounds {
    stock_start: Sample,
    own_start: Sample,
    stock_state: Sample,
    own_state: Sample,
    /// The stock shim alone, and the one with a proxy before it.
    stock_memory: Sample,
    proxied_memory: Sample,
    /// The proxy: what it has made itself, and all that only it has.
    proxy_anonymous: Sample,
    proxy_private: Sample,
}

fn main() -> ExitCode {
    bench::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<bool> {
    let mut held = true;
    let mut all = Vec::new();
    for suite in bench::suites(cli.suite)? {
        let rounds = measure(suite, cli.runs).with_context(|| format!("On {suite}"))?;
        let lines = lines(&rounds);
        held &= lines.iter().all(|line| line.standing.held());
        if cli.json {
            all.push(json!({ "suite": suite.to_string(), "lines": lines, "rounds": cli.runs }));
            continue;
        }
        println!("{suite}, {} rounds:", cli.runs);
        for line in &lines {
            println!("  {line}");
        }
        for (what, sample) in [
            ("proxy: of its own making, kB", &rounds.proxy_anonymous),
            ("proxy: private, kB", &rounds.proxy_private),
            ("stock shim: private, kB", &rounds.stock_memory),
            (
                "stock shim behind the proxy: private, kB",
                &rounds.proxied_memory,
            ),
            ("State, stock, ms", &rounds.stock_state),
            ("State through the proxy, ms", &rounds.own_state),
            ("ctr run, stock, ms", &rounds.stock_start),
            ("ctr run, Restow's, ms", &rounds.own_start),
        ] {
            println!(
                "    {what:<42} {:>9.3} ({:.3} to {:.3})",
                sample.median(),
                sample.min(),
                sample.max()
            );
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(held)
}

fn lines(rounds: &Rounds) -> Vec<Line> {
    let over = |what: &str, sample: &Sample, unit, limit| Line {
        what: what.to_owned(),
        measured: sample.median(),
        unit,
        limit,
        standing: Standing::of(sample, limit),
    };
    let mut memory = Sample::default();
    for value in rounds.proxy_private.values() {
        memory.push(value / 1024.0);
    }
    vec![
        over(
            "private memory over the stock shim's",
            &memory,
            "MB",
            MEMORY_MB,
        ),
        over(
            "a State call over the stock shim's",
            &rounds.own_state.over(&rounds.stock_state),
            "ms",
            STATE_MS,
        ),
        over(
            "start of a container over the stock shim's",
            &rounds.own_start.over(&rounds.stock_start),
            "ms",
            START_MS,
        ),
    ]
}

fn measure(suite: Suite, runs: usize) -> Result<Rounds> {
    let containerd = Containerd::start(Stack::v2(suite))?;
    let own = format!("{RESTOW_DIR}/containerd-shim-restow-v2");
    containerd.install(&tools::shim()?, &own)?;
    // Sockets are named from here: the whole path from outside the node would be too long for one.
    env::set_current_dir(containerd.node().path("/run/containerd"))
        .context("Go to containerd's directory")?;
    let mut rounds = Rounds::default();
    // The first round warms caches and does not count.
    for round in 0..=runs {
        let mut discarded = Rounds::default();
        let into = if round == 0 {
            &mut discarded
        } else {
            &mut rounds
        };
        let mut order = CONTAINERS;
        order.rotate_left(round % CONTAINERS.len());
        for (id, restow) in order {
            let runtime = match restow {
                true => own.as_str(),
                false => "io.containerd.runc.v2",
            };
            let started = Instant::now();
            containerd.ctr(&[
                "run",
                "--detach",
                "--runtime",
                runtime,
                PROBE_IMAGE,
                id,
                "/probe",
                "pause",
            ])?;
            let took = ms(started.elapsed());
            match restow {
                true => into.own_start.push(took),
                false => into.stock_start.push(took),
            }
        }
        memory(&containerd, into)?;
        states(&containerd, into)?;
        for (id, _) in CONTAINERS {
            containerd.ctr(&["tasks", "delete", "--force", id])?;
            containerd.ctr(&["containers", "delete", id])?;
        }
    }
    Ok(rounds)
}

/// State of one container, asked of its stock shim directly and through the proxy.
fn states(containerd: &Containerd, rounds: &mut Rounds) -> Result<()> {
    let proxy = shims_of(containerd)?
        .into_iter()
        .find(|shim| shim.which == Which::Proxy && shim.id == "own-a")
        .context("There is no proxy")?;
    let name = |path: &str| path.strip_prefix("/run/containerd/").map(str::to_owned);
    let [stock, own] = [&proxy.stock_socket, &proxy.own_socket].map(|path| name(path));
    let (Some(stock), Some(own)) = (stock, own) else {
        bail!("The shims' sockets are elsewhere: {proxy:?}");
    };
    let patience = Some(Duration::from_secs(10));
    let mut stock = Client::connect(Path::new(&stock), patience).context("Reach the stock shim")?;
    let mut own = Client::connect(Path::new(&own), patience).context("Reach the proxy")?;
    let mut request = Message::default();
    request.set_bytes(1, "own-a");
    // The version that both containerds' shims have.
    let service = ["containerd.task.v2.Task", "containerd.task.v3.Task"]
        .into_iter()
        .find(|service| stock.call(service, "State", &request).is_ok())
        .context("The stock shim knows no State")?;
    let (mut direct, mut through) = (Sample::default(), Sample::default());
    for _ in 0..CALLS {
        for (client, sample) in [(&mut stock, &mut direct), (&mut own, &mut through)] {
            let asked = Instant::now();
            client.call(service, "State", &request)?;
            sample.push(ms(asked.elapsed()));
        }
    }
    rounds.stock_state.push(direct.median());
    rounds.own_state.push(through.median());
    Ok(())
}

fn memory(containerd: &Containerd, rounds: &mut Rounds) -> Result<()> {
    for shim in shims_of(containerd)? {
        let rollup = containerd.run("cat", &[&format!("/proc/{}/smaps_rollup", shim.pid)])?;
        let kb = |name: &str| -> Result<f64> {
            let line = rollup.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(number
                .context("smaps_rollup is not as proc(5) says")?
                .parse()?)
        };
        let private = kb("Private_Clean:")? + kb("Private_Dirty:")?;
        match shim.which {
            Which::Proxy => {
                rounds.proxy_anonymous.push(kb("Anonymous:")?);
                rounds.proxy_private.push(private);
            }
            Which::Stock if shim.id.starts_with("own") => rounds.proxied_memory.push(private),
            Which::Stock => rounds.stock_memory.push(private),
        }
    }
    ensure!(
        !rounds.proxy_private.is_empty(),
        "There was no proxy to measure"
    );
    Ok(())
}
