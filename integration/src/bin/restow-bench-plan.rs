//! Measures what planning and staging take for many open files, and that the size of memory does not matter.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use criu_image::views::{FdinfoEntry, FileEntry, FownEntry, MntEntry, RegFileEntry, View};
use criu_image::{Builder, Image, Kind, Sint32};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use restow::host;
use restow::ids::{CgroupPath, HostPath};
use restow::policy::Policy;
use restow::source::images::ImageDir;
use restow::source::{Hierarchy, Source};
use restow::stage::Staging;
use restow::target::{Target, TargetMount};
use restow_integration::bench::{self, Line, Sample};
use serde_json::json;

/// Measures what planning and staging take for many open files, and that the size of memory does not matter
///
/// The image set is a real one with more open files in it. Each run is a process of its own, which reads the images, looks at the
/// node, plans and stages as the interposer does, and tells how long that took and how much memory it had at its peak.
#[derive(Parser)]
#[command(name = "plan", bin_name = "cargo xtask bench plan")]
struct Cli {
    /// Runs of each case
    #[arg(long, default_value_t = 9)]
    runs: usize,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Only make the set with 100,000 files on a volume in this directory, for a profiler
    #[arg(long)]
    make: Option<PathBuf>,

    /// Plan and stage such a set once, and print milliseconds to read, look, plan and stage, of the processor, to write the plan, and KiB
    #[arg(long)]
    one: Option<PathBuf>,
}

/// Where the files of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On a volume, each a file of its own: each has to be looked at on the node.
    Volume,
    /// On a volume, a thousand files opened again and again.
    Again,
    /// In the root file system.
    Root,
}

impl Place {
    fn words(self) -> &'static str {
        match self {
            Self::Volume => "on a volume",
            Self::Again => "on a volume, 1,000 paths",
            Self::Root => "in the root file system",
        }
    }

    /// Path of a file in the container.
    fn path(self, number: u32) -> String {
        let number = if self == Self::Again {
            number % 1000
        } else {
            number
        };
        let top = if self == Self::Root {
            "/var/lib"
        } else {
            "/data"
        };
        format!("{top}/base/{}/{number}", number / 1000)
    }
}

/// The mount that is added to the image set, by an id that no kernel gives so soon.
const VOLUME: u32 = 900_000;

fn main() -> ExitCode {
    let cli = Cli::parse();
    bench::exit(match (&cli.one, &cli.make) {
        (Some(dir), _) => one(dir).map(|()| true),
        (_, Some(dir)) => make_set(dir, Place::Volume, 100_000, 1 << 20).map(|()| true),
        _ => run(&cli),
    })
}

/// A directory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("restow-bench-plan.{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("Create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("Remove {}: {error}", self.0.display());
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let scratch = Scratch::new()?;
    let mut lines = Vec::new();
    let none = case(&scratch.0, Place::Root, 0, 1 << 20, cli.runs)?;
    // Right after that: the file system is still busy with what was removed when many files were there before.
    let large = case(&scratch.0, Place::Root, 0, 1 << 40, cli.runs)?;
    for place in [Place::Volume, Place::Again, Place::Root] {
        let mut memory = Vec::new();
        for (count, limit) in [(10_000, 50.0), (100_000, 500.0)] {
            let cost = case(&scratch.0, place, count, 1 << 20, cli.runs)?;
            if !cli.json {
                println!(
                    "{count:>7} files {:<26} read {:>6.1}  look {:>6.1}  plan {:>6.1}  stage {:>6.1}  ms (processor {:>6.1} ms); plan as JSON {:>6.1} ms; {:>6.0} bytes a file",
                    place.words(),
                    cost.read.median(),
                    cost.look.median(),
                    cost.plan.median(),
                    cost.stage.median(),
                    cost.processor.median(),
                    cost.write.median(),
                    per_file(&cost, &none, count),
                );
            }
            let what = format!("{count} open files {}", place.words());
            lines.push(Line::of_value(
                format!("{what}: planned and staged"),
                cost.total.median(),
                "ms",
                limit,
            ));
            memory.push(per_file(&cost, &none, count));
            lines.push(Line::of_value(
                format!("{what}: memory of a file"),
                per_file(&cost, &none, count),
                "bytes",
                1000.0,
            ));
        }
        lines.push(Line::of_value(
            format!(
                "memory of a file {}, of 100,000 over of 10,000",
                place.words()
            ),
            memory[1] / memory[0],
            "times",
            1.1,
        ));
    }
    let ratio = large.total.median() / none.total.median();
    lines.push(Line::of_value(
        "1 TiB of memory over 1 MiB: planned and staged",
        ratio,
        "times",
        1.2,
    ));
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&json!(lines))?);
    } else {
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(lines.iter().all(|line| line.standing.held()))
}

/// What the runs of a case took: milliseconds, and at last KiB.
#[derive(Default)]
struct Cost {
    read: Sample,
    look: Sample,
    plan: Sample,
    stage: Sample,
    /// All of these.
    total: Sample,
    /// Processor time of all of these, which other programs of the machine disturb less.
    processor: Sample,
    /// Writing the plan down, which the interposer does while criu restores.
    write: Sample,
    kib: Sample,
}

fn per_file(cost: &Cost, none: &Cost, count: u32) -> f64 {
    (cost.kib.median() - none.kib.median()) * 1024.0 / f64::from(count)
}

fn case(scratch: &Path, place: Place, count: u32, memory: u64, runs: usize) -> Result<Cost> {
    let dir = scratch.join("case");
    let _ = fs::remove_dir_all(&dir);
    make_set(&dir, place, count, memory)?;
    let mut cost = Cost::default();
    for _ in 0..runs {
        let output = Command::new(std::env::current_exe()?)
            .arg("--one")
            .arg(&dir)
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "A run failed ({})", output.status);
        let text = String::from_utf8(output.stdout)?;
        let numbers = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<f64>, _>>()?;
        let [read, look, plan, stage, processor, write, kib] = numbers[..] else {
            bail!("A run printed {text:?}")
        };
        cost.read.push(read);
        cost.look.push(look);
        cost.plan.push(plan);
        cost.stage.push(stage);
        cost.total.push(read + look + plan + stage);
        cost.processor.push(processor);
        cost.write.push(write);
        cost.kib.push(kib);
    }
    Ok(cost)
}

/// The images of a real container, with `count` more open files and a memory of this many bytes; beside them the volume.
fn make_set(dir: &Path, place: Place, count: u32, memory: u64) -> Result<()> {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pod/criu-4.1.1");
    let images = dir.join("images");
    fs::create_dir_all(&images)?;
    for entry in fs::read_dir(&real).with_context(|| format!("Read {}", real.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), images.join(entry.file_name()))?;
    }
    // A hole: nobody reads it.
    File::create(images.join("pages-1.img"))?.set_len(memory)?;

    let volume = dir.join("volume");
    if place != Place::Root {
        for number in 0..count {
            let inside = place.path(number);
            let path = volume.join(inside.trim_start_matches("/data/"));
            if number % 1000 == 0 {
                fs::create_dir_all(path.parent().context("A file needs a directory")?)?;
            }
            if !path.exists() {
                fs::write(&path, "")?;
            }
        }
    }
    fs::create_dir_all(&volume)?;

    let mounts = Image::open(images.join("mountpoints-13.img"), Kind::Mountpoints)?;
    let mounts = mounts
        .records()
        .map(|record| Ok(record?.view::<MntEntry>()?))
        .collect::<Result<Vec<_>>>()?;
    let root = mounts
        .iter()
        .find(|mount| mount.mountpoint.to_string() == "/")
        .context("The set has no root mount")?;
    let hosts = mounts
        .iter()
        .find(|mount| mount.ext_key.is_some())
        .context("The set has no external mount")?;
    let added = MntEntry {
        mnt_id: VOLUME,
        parent_mnt_id: root.mnt_id,
        mountpoint: "/data".into(),
        ext_key: Some("/data".into()),
        ..hosts.clone()
    };
    append(&images, "mountpoints-13.img", Kind::Mountpoints, [added])?;
    let mount = if place == Place::Root {
        root.mnt_id
    } else {
        VOLUME
    };
    let first = 1_000_000;
    append(
        &images,
        "files.img",
        Kind::Files,
        (0..count).map(|number| {
            let id = first + number;
            FileEntry {
                type_: 1,
                id,
                reg: Some(RegFileEntry {
                    id,
                    flags: 0o100_002,
                    pos: 0,
                    fown: FownEntry::default(),
                    name: place.path(number).into(),
                    mnt_id: Some(Sint32(mount.cast_signed())),
                    size: Some(0),
                    mode: Some(0o100_644),
                    ..RegFileEntry::default()
                }),
                ..FileEntry::default()
            }
        }),
    )?;
    append(
        &images,
        "fdinfo-2.img",
        Kind::Fdinfo,
        (0..count).map(|number| FdinfoEntry {
            id: first + number,
            type_: 1,
            fd: 100 + number,
            ..FdinfoEntry::default()
        }),
    )
}

/// Adds records to an image.
fn append<T: View>(
    dir: &Path,
    name: &str,
    kind: Kind,
    records: impl IntoIterator<Item = T>,
) -> Result<()> {
    let path = dir.join(name);
    let image = Image::open(&path, kind)?;
    let mut builder = Builder::new(kind);
    for record in image.records() {
        builder.push(&record?.message()?);
    }
    for record in records {
        builder.push(&record.to_message());
    }
    fs::write(&path, builder.finish()).with_context(|| format!("Write {}", path.display()))
}

/// Reads, looks, plans and stages once, and prints what each took in milliseconds and the memory at its peak in KiB.
fn one(dir: &Path) -> Result<()> {
    let images = ImageDir::open(OwnedFd::from(File::open(dir.join("images"))?))?;
    let mut clock = Clock(Instant::now());
    let source = Source::read(&images)?;
    let read = clock.lap();
    let mut target = target(&source, dir);
    host::facts::gather(&source, &mut target, &Policy::default())?;
    let look = clock.lap();
    let plan = restow::plan::plan(&source, &target, &Policy::default());
    let planned = clock.lap();
    ensure!(
        plan.possible(),
        "The plan is not possible: {}",
        plan.blockers()
            .next()
            .map_or(String::new(), ToString::to_string)
    );
    // As in the interposer's place, in memory.
    let staging_root =
        Path::new("/dev/shm").join(format!("restow-bench-plan.{}", std::process::id()));
    let staging = Staging::new(&staging_root)?;
    let mut clock = Clock(Instant::now());
    staging.fill(&images, &plan)?;
    let stage = clock.lap();
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let kib = usage.max_rss();
    let time = usage.user_time() + usage.system_time();
    #[allow(clippy::cast_precision_loss, reason = "a few seconds")]
    let processor = time.num_microseconds() as f64 / 1e3;
    serde_json::to_writer_pretty(
        std::io::BufWriter::new(File::create(dir.join("plan.json"))?),
        &plan,
    )?;
    let write = clock.lap();
    staging.remove()?;
    fs::remove_dir(&staging_root)?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{} {} {} {} {processor} {} {kib}",
        ms(read),
        ms(look),
        ms(planned),
        ms(stage),
        ms(write)
    );
    Ok(())
}

struct Clock(Instant);

impl Clock {
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

fn target(source: &Source, dir: &Path) -> Target {
    let keys = source
        .mounts
        .iter()
        .filter_map(|mount| mount.ext_key.clone());
    let mounts = keys.map(|key| TargetMount {
        // What the set itself had is anything that exists, of any size.
        source: HostPath::new(if key == "/data" {
            dir.join("volume")
        } else {
            dir.join("images/pstree.img")
        }),
        key,
    });
    Target {
        cgroups: [(Hierarchy::v2(), CgroupPath::new("/kubepods/pod1/new"))].into(),
        mounts: mounts.collect(),
        ..Target::default()
    }
}
