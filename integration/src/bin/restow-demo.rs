//! Shows Restow at work: a process tree with its cgroup's files open leaves pod A and goes on in pod B.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::node::{NodeState, remove_tree};
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::report::{HeldFile, Report};
use restow_integration::root::Root;
use restow_integration::suite::Suite;
use restow_integration::tools;

/// Show it: a process tree leaves pod A and goes on in pod B
#[derive(Parser)]
struct Cli {
    /// What the node is made from: stable or testing
    #[arg(long, default_value = "stable")]
    suite: Suite,
}

fn main() -> ExitCode {
    match demo(Cli::parse().suite) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the demo and tells whether all of it held.
fn demo(suite: Suite) -> Result<bool> {
    let mut show = Show::new();
    Root::build(suite, &mut |step| println!("   {step}"))?;
    tools::probe()?;
    tools::interposer()?;
    show.rule();

    show.step("a node: a fresh Debian with real container runtimes");
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    show.done(&engine.versions()?);

    show.step("pod A: a parent and two children");
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let workload = ContainerOptions::new(2)
        .host_cgroups()
        .open("all:r:0:{container}/cgroup.events")
        .open("each:r:6:{container}/cpu.stat")
        .open("each:r:0:/etc/hosts");
    let mut container_a = pod_a.container(&workload)?;
    container_a.start()?;
    thread::sleep(Duration::from_millis(300));
    let before = container_a.reports()?;
    let cgroup_a = container_a.cgroup().to_owned();
    let dir_a = pod_a.cgroup_dir();
    show.done("each counts in memory and holds files of its own cgroup open, and /etc/hosts");
    show.detail("cgroup", &cgroup_a);
    for file in &before[0].files {
        show.detail(&format!("fd {}", file.fd), &file.link);
    }
    show.detail("counters", &counters(&before));

    show.step("checkpoint");
    let checkpoint = Checkpoint::new(&engine, "demo")?;
    container_a.checkpoint(&checkpoint)?;
    show.done(&checkpoint.images);

    show.step("pod A is removed whole");
    pod_a.remove(vec![container_a])?;
    show.done("processes, directories and cgroups");
    show.check(!dir_a.exists(), "nothing of it is left");

    show.step("pod B: another name, address and cgroup");
    let pod_b = Pod::start(&engine, &PodOptions::new("another-pod-b"))?;
    show.done("its sandbox runs");

    without_restow(&mut show, &engine, &workload, &checkpoint)?;
    // A failed attempt of an old runc leaves empty cgroups with pod A's names.
    remove_tree(&dir_a, Duration::from_secs(5))?;

    show.step("with Restow: the same `runc restore`, with Restow's criu before the real one");
    let mut container_b = pod_b.container(&workload)?;
    container_b
        .restore(&checkpoint)
        .context("The restore with Restow fails")?;
    show.done("the process tree goes on, and what named pod A names pod B");
    let after = container_b.reports()?;
    compare(&mut show, &before, &after, &cgroup_a, &container_b)?;

    show.step("what a reader would want to check");
    judge(&mut show, &before, &after, &container_b, &pod_b)?;
    show.check(!dir_a.exists(), "nothing of pod A has come back");
    pod_b.remove(vec![container_b])?;

    show.step("the node is taken down");
    let traces = [
        NodeState::dir(engine.node().id()),
        engine.node().cgroup_root(),
    ];
    drop(engine);
    show.done("its processes, mounts and namespaces went with it");
    show.check(
        !traces.iter().any(|path| path.exists()),
        "no state and no cgroup of it is left",
    );
    Ok(show.end())
}

/// The bare runtime's attempt, which has to fail for the demo to show anything.
fn without_restow(
    show: &mut Show,
    engine: &Engine,
    workload: &ContainerOptions,
    checkpoint: &Checkpoint,
) -> Result<()> {
    show.step("without Restow: plain `runc restore` of this checkpoint");
    let stock = engine.stock();
    let pod = Pod::start(&stock, &PodOptions::new("another-pod-b"))?;
    let mut container = pod.container(workload)?;
    match container.restore(checkpoint) {
        Ok(()) => show.check(false, "it should fail, but it does not: this shows nothing"),
        Err(error) => {
            show.done("CRIU says:");
            for line in format!("{error:#}").split(" | ").take(2) {
                show.detail("", line.split(": criu failed").next().unwrap_or(line));
            }
            show.check(true, "it fails");
        }
    }
    pod.remove(vec![container])
}

/// Prints old → new for everything that names a pod.
fn compare(
    show: &mut Show,
    before: &[Report],
    after: &[Report],
    cgroup_a: &str,
    container_b: &Container,
) -> Result<()> {
    show.moved("cgroup", cgroup_a, container_b.cgroup());
    show.moved("host name", &before[0].hostname, &after[0].hostname);
    for old in &before[0].files {
        let new = after[0].file(&old.opened)?;
        show.moved(&format!("fd {}", old.fd), &old.link, &new.link);
        if old.opened == "/etc/hosts" {
            show.moved("  reads", last_line(old), last_line(new));
        }
    }
    show.moved("counters", &counters(before), &counters(after));
    Ok(())
}

/// Checks what a reader would want to check.
fn judge(
    show: &mut Show,
    before: &[Report],
    after: &[Report],
    container: &Container,
    pod: &Pod,
) -> Result<()> {
    let inodes: BTreeMap<&str, u64> = ["cgroup.events", "cpu.stat"]
        .iter()
        .map(|file| Ok((*file, container.cgroup_inode(file)?)))
        .collect::<Result<_>>()?;
    let held = |report: &Report, name: &str| {
        report
            .files
            .iter()
            .find(|file| file.opened.ends_with(name))
            .cloned()
    };
    let all = |name: &str| {
        after
            .iter()
            .all(|report| held(report, name).is_some_and(|file| file.inode == inodes[name]))
    };
    show.check(
        all("cgroup.events") && all("cpu.stat"),
        "all six descriptors are on the files of pod B's cgroup (same inodes)",
    );
    let kept = before.iter().zip(after).all(|(old, new)| {
        old.files
            .iter()
            .zip(&new.files)
            .all(|(old, new)| (old.fd, old.offset, old.flags) == (new.fd, new.offset, new.flags))
    });
    show.check(kept, "every descriptor kept its number, offset and flags");
    let hosts = after.iter().all(|report| {
        held(report, "/etc/hosts")
            .and_then(|file| file.content)
            .is_some_and(|text| text.contains(pod.name()))
    });
    show.check(hosts, "the open /etc/hosts is pod B's");
    let counted = before
        .iter()
        .zip(after)
        .all(|(old, new)| new.counter > old.counter && new.memory_intact);
    show.check(counted, "the counters went on from where they were");
    let placed = container.cgroup_population()? == after.len()
        && after
            .iter()
            .all(|report| report.cgroup_v2() == container.cgroup());
    show.check(placed, "all three processes are in pod B's cgroup");
    show.check(
        after.iter().all(|report| report.hostname == pod.name()),
        "the host name is pod B's",
    );
    Ok(())
}

fn counters(reports: &[Report]) -> String {
    reports
        .iter()
        .map(|report| report.counter.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn last_line(file: &HeldFile) -> &str {
    file.content
        .as_deref()
        .and_then(|text| text.lines().last())
        .unwrap_or("nothing")
}

/// The same with only the first digits of ids: a word of 24 or more hexadecimal digits and dashes.
fn short(text: &str) -> String {
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_id) {
        let id = &rest[start..];
        let end = id.find(|c| !is_id(c)).unwrap_or(id.len());
        out.push_str(&rest[..start]);
        if end < 24 {
            out.push_str(&id[..end]);
        } else {
            out.push_str(&id[..6]);
            out.push('…');
        }
        rest = &id[end..];
    }
    out + rest
}

/// The demo's output and its verdict.
struct Show {
    steps: usize,
    started: Instant,
    colour: bool,
    faults: usize,
}

impl Show {
    fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        println!("Restow: a running process tree moves from pod A to pod B\n");
        Self {
            steps: 0,
            started: Instant::now(),
            colour,
            faults: 0,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn rule(&self) {
        println!("{}\n", self.paint("2", "Long ids are shortened below."));
    }

    fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("{}  {}", self.steps, self.paint("1", title));
        self.started = Instant::now();
    }

    fn done(&self, text: &str) {
        println!(
            "   {text}  {}",
            self.paint("2", &format!("[{} ms]", self.started.elapsed().as_millis()))
        );
    }

    fn check(&mut self, held: bool, text: &str) {
        let mark = if held {
            self.paint("32", "ok")
        } else {
            self.paint("31", "NOT OK")
        };
        println!("   {mark}  {text}");
        self.faults += usize::from(!held);
    }

    fn detail(&self, name: &str, text: &str) {
        println!("      {name:9} {}", short(text));
    }

    fn moved(&self, name: &str, old: &str, new: &str) {
        println!("      {name:9} {}", short(old));
        println!("              {} {}", self.paint("32", "→"), short(new));
    }

    fn end(&self) -> bool {
        if self.faults == 0 {
            println!("\n{}", self.paint("1;32", "All of it held."));
        } else {
            println!(
                "\n{}",
                self.paint(
                    "1;31",
                    &format!("{} of the above did NOT hold.", self.faults)
                )
            );
        }
        self.faults == 0
    }
}
