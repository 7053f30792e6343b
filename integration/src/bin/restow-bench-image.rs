//! Measures `restow image decode` beside CRIU's own `crit decode`, on the same files in one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use criu_image::views::{FileEntry, FownEntry, RegFileEntry, View};
use criu_image::wire::Message;
use criu_image::{Builder, Kind};
use nix::sys::resource::{UsageWho, getrusage};
use restow_integration::bench;
use restow_integration::root;
use restow_integration::suite::Suite;

/// Measures `restow image decode` beside `crit decode`: time, and memory at its peak
///
/// The files are a files.img with 100,000 entries, and pagemaps with a million and (restow only) ten million. Runs are interleaved; the medians
/// count.
#[derive(Parser)]
#[command(name = "image", bin_name = "cargo xtask bench image")]
struct Cli {
    /// The restow to measure, built for release
    #[arg(long)]
    restow: Option<PathBuf>,

    /// How often crit runs; restow runs as often, and at least five times
    #[arg(long, default_value_t = 3)]
    runs: usize,

    /// Measure one command and print its time in microseconds and its memory in KiB
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    one: Vec<String>,
}

fn main() -> ExitCode {
    bench::exit(run(&Cli::parse()))
}

/// What a run took.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    time: Duration,
    /// Resident memory at its peak.
    kib: u64,
}

fn run(cli: &Cli) -> Result<bool> {
    if let [program, args @ ..] = cli.one.as_slice() {
        return one(program, args).map(|()| true);
    }
    let root = root::with_crit(Suite::Testing, &mut |step| eprintln!("{step}"))?;
    let place = root.join("tmp/bench");
    fs::create_dir_all(&place)?;
    let restow_program = cli.restow.as_ref().context("--restow is missing")?;
    fs::copy(restow_program, place.join("restow"))
        .with_context(|| format!("Copy {}", restow_program.display()))?;
    fs::write(place.join("files.img"), files(100_000))?;
    fs::write(place.join("pagemap-1.img"), pagemap(1_000_000))?;
    fs::write(place.join("pagemap-2.img"), pagemap(10_000_000))?;
    println!(
        "{:<34} {:>12} {:>12} {:>8} {:>14} {:>14}",
        "decode", "restow", "crit", "faster", "restow memory", "crit memory"
    );
    let mut held = true;
    let mut memory = Vec::new();
    for (name, what) in [
        ("files.img", "files.img, 100,000 entries"),
        ("pagemap-1.img", "pagemap, 1,000,000 entries"),
    ] {
        let image = format!("/tmp/bench/{name}");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..cli.runs {
            theirs.push(measure(
                &root,
                &["crit", "decode", "-i", &image, "-o", "/dev/null"],
            )?);
            ours.push(restow(&root, &image)?);
        }
        while ours.len() < 5 {
            ours.push(restow(&root, &image)?);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let factor = theirs.time.as_secs_f64() / ours.time.as_secs_f64();
        println!(
            "{what:<34} {:>9.3} ms {:>9.1} ms {factor:>7.0}x {:>10.1} MiB {:>10.1} MiB",
            ours.time.as_secs_f64() * 1e3,
            theirs.time.as_secs_f64() * 1e3,
            mib(ours.kib),
            mib(theirs.kib)
        );
        held &= factor >= 20.0;
        memory.push(ours.kib);
    }
    let large = median(
        (0..3)
            .map(|_| restow(&root, "/tmp/bench/pagemap-2.img"))
            .collect::<Result<_>>()?,
    );
    println!(
        "{:<34} {:>9.3} ms {:>12} {:>8} {:>10.1} MiB",
        "pagemap, 10,000,000 entries",
        large.time.as_secs_f64() * 1e3,
        "-",
        "-",
        mib(large.kib)
    );
    memory.push(large.kib);
    // Constant: ten times the entries, the same memory but for what the system gives and takes.
    let least = memory.iter().min().copied().unwrap_or(0);
    held &= memory.iter().all(|kib| *kib < least + 1024);
    println!(
        "{}",
        if held {
            "At least 20 times faster, in constant memory."
        } else {
            "Not as fast or as small as it should be."
        }
    );
    fs::remove_dir_all(&place)?;
    Ok(held)
}

fn restow(root: &Path, image: &str) -> Result<Cost> {
    measure(
        root,
        &[
            "/tmp/bench/restow",
            "image",
            "decode",
            image,
            "-o",
            "/dev/null",
        ],
    )
}

/// Runs a command in the root, under a process of its own: the system counts memory over all children of a process.
fn measure(root: &Path, command: &[&str]) -> Result<Cost> {
    let own = std::env::current_exe()?;
    let mut measured = Command::new(own);
    measured.args(["--one", "chroot"]).arg(root).args(command);
    let output = measured.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{} failed", command.join(" "));
    let text = String::from_utf8(output.stdout)?;
    let (micros, kib) = text
        .trim()
        .split_once(' ')
        .context("The measuring process printed something else")?;
    Ok(Cost {
        time: Duration::from_micros(micros.parse()?),
        kib: kib.parse()?,
    })
}

fn one(program: &str, args: &[String]) -> Result<()> {
    let start = Instant::now();
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .status()?;
    let time = start.elapsed();
    if !status.success() {
        bail!("{program} {args:?} failed ({status})");
    }
    println!(
        "{} {}",
        time.as_micros(),
        getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss()
    );
    Ok(())
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort();
    costs[costs.len() / 2]
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Regular files as a database server has them.
fn files(count: u32) -> Vec<u8> {
    let mut builder = Builder::new(Kind::Files);
    for id in 0..count {
        let reg = RegFileEntry {
            id,
            flags: 0o100_002,
            pos: u64::from(id),
            fown: FownEntry::default(),
            name: format!("/var/lib/database/base/{}/{id}", id / 1000).into(),
            size: Some(8192 * u64::from(id)),
            mode: Some(0o100_600),
            ..RegFileEntry::default()
        };
        builder.push(
            &FileEntry {
                type_: 1,
                id,
                reg: Some(reg),
                ..FileEntry::default()
            }
            .to_message(),
        );
    }
    builder.finish()
}

fn pagemap(count: u64) -> Vec<u8> {
    let mut builder = Builder::new(Kind::Pagemap);
    let mut head = Message::default();
    head.set_u64(1, 1);
    builder.push(&head);
    for at in 0..count {
        let mut entry = Message::default();
        entry.set_u64(1, 0x7f00_0000_0000 + (at << 13));
        entry.set_u64(2, 1);
        entry.set_u64(4, 4);
        entry.set_u64(5, 1);
        builder.push(&entry);
    }
    builder.finish()
}
