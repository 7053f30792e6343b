//! The workload of the integration suites.
//!
//! `probe run` is a small process tree that holds files open, counts in memory, and on SIGUSR1 writes for each of its processes a
//! report of what it sees. It uses nothing that CRIU refuses: one thread a process, no io_uring, and no long sleep (a restored
//! sleep returns early, so a sleeping program cannot tell whether it was restored well).
//!
//! `probe pause` is the sandbox of a pod: it waits until it is told to go.
//!
//! `probe shim` is what containerd's shim is to a container: the process that it is a child of once the runtime has gone, that sees it
//! end and knows its exit code. It and `probe time` note how long the runtime took, in microseconds.

mod hold;
mod report;
mod sockets;
mod sys;

use std::collections::hash_map::RandomState;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sockets::WantedSocket;
use sys::Event;

/// The kernel's, with `CONFIG_HZ=250` as Debian has it.
const TICK: Duration = Duration::from_millis(4);

const USAGE: &str = "usage: probe pause | probe cat FILE | probe writable FILE | probe shim PIDFILE RUNTIME [ARG]... | probe time FILE PROGRAM [ARG]... | probe run [--children N] [--open WHO:MODE:OFFSET:PATH]... \
[--socket PROCESS:KIND:ADDRESS]... [--hold KIND[:ARG]]... [--memory MIB] [--cwd DIR] [--reports DIR] [--exit CODE] [--beside 'PROGRAM ARG...']
     | probe serve ADDRESS | probe ask tcp|udp|unix|unix-dgram|unix-seqpacket ADDRESS

WHO   all (opened by the parent before it forks: one description that all share), each (one each), or the number of a process
MODE  r, w, rw, a (append), log and rlog (append, also reading, and a `+` is written at each report), watch (an inotify instance that watches it), mark (a fanotify group that marks it), mark-mount (its mount) or fd (PATH is the number of one that was left open)
KIND  listen, connect, pair (both ends and the listener), full (a pair with data in flight), udp, udp-to (LOCAL,PEER),
      unix, unix-connect, unix-dgram, unix-seqpacket (a path, or @ and an abstract name)";

/// Files that the shim opens for reading and leaves open, a line for each; the first becomes descriptor 3.
const LEFT_OPEN: &str = "RESTOW_PROBE_LEFT_OPEN";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("pause") => pause(),
        Some("cat") => cat(&args[1..]),
        Some("writable") => Ok(writable(&args[1..])),
        Some("shim") => shim(&args[1..]),
        Some("serve") => network(&args[1..], 1),
        Some("ask") => network(&args[1..], 2),
        Some("time") => time(&args[1..]),
        Some("run") => Setup::parse(&with_own_id(&args[1..])).and_then(|setup| run(&setup)),
        _ => Err(USAGE.to_owned()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("probe: {error}");
        ExitCode::from(125)
    })
}

/// The arguments with `@id@` replaced by the last part of this process's cgroup, which is the container's id: who makes a
/// container through containerd does not know it before.
fn with_own_id(args: &[String]) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // In hierarchies that its node does not mount it is where the node's own programs are.
    let own = text.lines().find(|line| line.contains("/kubepods"));
    let own = own.and_then(|line| line.rsplit('/').next());
    args.iter()
        .map(|arg| {
            let found = || id_below(Path::new(arg.split_once("/@id@")?.0.rsplit(':').next()?));
            match own.map(str::to_owned).or_else(found) {
                Some(id) => arg.replace("@id@", &id),
                None => arg.clone(),
            }
        })
        .collect()
}

/// In a cgroup namespace of its own a process does not see its path. Of the cgroups in `dir` it finds the one that lists it: processes
/// of other process namespaces are listed as 0.
fn id_below(dir: &Path) -> Option<String> {
    let own = std::process::id().to_string();
    let cgroups = std::fs::read_dir(dir).ok()?.flatten();
    let mut listing = cgroups.filter(|cgroup| {
        let list = std::fs::read_to_string(cgroup.path().join("cgroup.procs"));
        list.is_ok_and(|list| list.lines().any(|pid| pid == own))
    });
    Some(listing.next()?.file_name().to_string_lossy().into_owned())
}

fn pause() -> Result<ExitCode, String> {
    sys::block_events()?;
    loop {
        match sys::wait_event(Duration::from_secs(3600))? {
            Some(Event::Terminate) => return Ok(ExitCode::SUCCESS),
            Some(Event::ChildEnded) => sys::reap(),
            _ => {}
        }
    }
}

fn shim(args: &[String]) -> Result<ExitCode, String> {
    let [pid_file, runtime, args @ ..] = args else {
        return Err(USAGE.to_owned());
    };
    sys::adopt_orphans()?;
    // As a caller that leaves its files open to the container: opened here, passed on through every exec.
    let left_open = std::env::var(LEFT_OPEN).unwrap_or_default();
    for path in left_open.lines() {
        sys::open_for_good(path)?;
    }
    let (status, took) = timed(runtime, args)?;
    if !status.success() {
        return Ok(exit_code(status));
    }
    let text = std::fs::read_to_string(pid_file).map_err(|error| format!("{pid_file}: {error}"))?;
    let container = text
        .trim()
        .parse()
        .map_err(|_| format!("{pid_file} holds no process number: {text}"))?;
    let started = format!("{pid_file}.started");
    // Whole or not at all: whoever waits for it reads it at once.
    let temporary = format!("{started}.tmp");
    std::fs::write(&temporary, took)
        .and_then(|()| std::fs::rename(&temporary, &started))
        .map_err(|error| format!("{started}: {error}"))?;
    Ok(ExitCode::from(sys::wait_among_others(container)?))
}

fn time(args: &[String]) -> Result<ExitCode, String> {
    let [file, program, args @ ..] = args else {
        return Err(USAGE.to_owned());
    };
    let (status, took) = timed(program, args)?;
    std::fs::write(file, took).map_err(|error| format!("{file}: {error}"))?;
    Ok(exit_code(status))
}

/// Runs a program and tells how it ended and how long it took: microseconds, and those of the processors for what it waited for.
///
/// It begins at any moment of the kernel's tick. What waits for an RCU grace period, as CRIU does, goes on with a tick: without this the times
/// would be multiples of a tick, and of two ways of doing the same the one that just misses a tick would seem worse by a whole one.
fn timed(program: &str, args: &[String]) -> Result<(ExitStatus, String), String> {
    let part =
        RandomState::new().build_hasher().finish() % u64::try_from(TICK.as_micros()).unwrap_or(1);
    std::thread::sleep(Duration::from_micros(part));
    let start = Instant::now();
    let status = Command::new(program)
        .args(args)
        .status()
        .map_err(|error| format!("{program}: {error}"))?;
    let took = start.elapsed().as_micros();
    Ok((status, format!("{took} {}", sys::processor_micros())))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(125))
}

fn cat(paths: &[String]) -> Result<ExitCode, String> {
    for path in paths {
        let content = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        std::io::stdout()
            .write_all(&content)
            .map_err(|error| format!("standard output: {error}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves, or asks a server.
fn network(args: &[String], expected: usize) -> Result<ExitCode, String> {
    match args {
        [address] if expected == 1 => sockets::serve(address)?,
        [kind, address] if expected == 2 => println!("{}", sockets::ask(kind, address)?),
        _ => return Err(USAGE.to_owned()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says of each file whether it can be opened for writing.
fn writable(paths: &[String]) -> ExitCode {
    for path in paths {
        let opened = OpenOptions::new().write(true).open(path);
        println!("{}", if opened.is_ok() { "yes" } else { "no" });
    }
    ExitCode::SUCCESS
}

/// Which processes hold a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Shared,
    Each,
    One(usize),
}

/// A file to hold.
struct Wanted {
    who: Who,
    mode: String,
    offset: u64,
    path: String,
}

/// A file that is held.
struct Held {
    wanted: String,
    /// It is an inotify instance that watches `wanted`.
    watches: bool,
    /// At each report a `+` is appended to it.
    logs: bool,
    file: File,
}

struct Setup {
    children: usize,
    files: Vec<Wanted>,
    sockets: Vec<WantedSocket>,
    holds: Vec<String>,
    memory: usize,
    reports: PathBuf,
    exit: u8,
    /// A program that the parent starts, with a pipe for its input, and its arguments.
    beside: Vec<String>,
}

impl Setup {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut setup = Self {
            children: 0,
            files: Vec::new(),
            sockets: Vec::new(),
            holds: Vec::new(),
            memory: 0,
            reports: "/reports".into(),
            exit: 0,
            beside: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
            let number = || {
                value
                    .parse::<usize>()
                    .map_err(|_| format!("{name} {value}: not a number"))
            };
            match name.as_str() {
                "--children" => setup.children = number()?,
                "--open" => setup.files.push(Wanted::parse(value)?),
                "--socket" => setup.sockets.push(WantedSocket::parse(value)?),
                "--hold" => setup.holds.push(value.clone()),
                "--memory" => setup.memory = number()?,
                "--cwd" => {
                    std::env::set_current_dir(value)
                        .map_err(|error| format!("{value}: {error}"))?;
                }
                "--reports" => setup.reports = value.into(),
                "--exit" => {
                    setup.exit =
                        u8::try_from(number()?).map_err(|_| format!("{value} is no exit code"))?;
                }
                "--beside" => setup.beside = value.split(' ').map(str::to_owned).collect(),
                _ => return Err(format!("{name} is unknown\n{USAGE}")),
            }
        }
        Ok(setup)
    }
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("--open {text} is not WHO:MODE:OFFSET:PATH\n{USAGE}");
        let mut parts = text.splitn(4, ':');
        let mut part = || parts.next().ok_or_else(wrong);
        let who = match part()? {
            "all" => Who::Shared,
            "each" => Who::Each,
            number => Who::One(number.parse().map_err(|_| wrong())?),
        };
        let mode = part()?.to_owned();
        let offset = part()?.parse().map_err(|_| wrong())?;
        Ok(Self {
            who,
            mode,
            offset,
            path: part()?.to_owned(),
        })
    }

    fn open(&self) -> Result<Held, String> {
        if ["watch", "mark", "mark-mount"].contains(&self.mode.as_str()) {
            let file = match self.mode.as_str() {
                "watch" => sys::watch(&self.path)?,
                mode => sys::mark(&self.path, mode == "mark-mount")?,
            };
            return Ok(Held {
                wanted: self.path.clone(),
                watches: true,
                logs: false,
                file,
            });
        }
        if self.mode == "fd" {
            let fd = self
                .path
                .parse()
                .map_err(|_| format!("{} is no descriptor", self.path))?;
            let mut file = sys::inherited(fd);
            file.seek(SeekFrom::Start(self.offset))
                .map_err(|error| format!("descriptor {fd}: {error}"))?;
            return Ok(Held {
                wanted: self.path.clone(),
                watches: false,
                logs: false,
                file,
            });
        }
        let mut options = OpenOptions::new();
        match self.mode.as_str() {
            "r" => options.read(true),
            "w" => options.write(true),
            "rw" => options.read(true).write(true),
            "a" | "log" => options.append(true),
            "rlog" => options.append(true).read(true),
            other => return Err(format!("{other} is no mode\n{USAGE}")),
        };
        let mut file = options
            .open(&self.path)
            .map_err(|error| format!("{}: {error}", self.path))?;
        if self.offset > 0 {
            file.seek(SeekFrom::Start(self.offset))
                .map_err(|error| format!("{}: {error}", self.path))?;
        }
        Ok(Held {
            wanted: self.path.clone(),
            watches: false,
            logs: self.mode.ends_with("log"),
            file,
        })
    }
}

/// Opens the wanted files that `who` picks.
fn open(wanted: &[Wanted], who: impl Fn(Who) -> bool) -> Result<Vec<Held>, String> {
    wanted
        .iter()
        .filter(|file| who(file.who))
        .map(Wanted::open)
        .collect()
}

fn run(setup: &Setup) -> Result<ExitCode, String> {
    sys::block_events()?;
    let mut held = open(&setup.files, |who| who == Who::Shared)?;
    let mut children = Vec::new();
    let mut own = 0;
    for number in 1..=setup.children {
        match sys::fork()? {
            Some(child) => children.push(child),
            None => {
                own = number;
                children.clear();
                break;
            }
        }
    }
    held.extend(open(&setup.files, |who| {
        who == Who::Each || who == Who::One(own)
    })?);
    let mut sockets = sockets::open_all(&setup.sockets, own)?;
    if own == 0 {
        setup.holds.iter().try_for_each(|what| hold::hold(what))?;
    }
    // Written to, so that the pages are there; checked at each report.
    let memory: Vec<u8> = (0..setup.memory << 20).map(pattern).collect();
    // Its input stays open as long as this process runs.
    let _beside = match setup.beside.split_first() {
        Some((program, args)) if own == 0 => {
            let mut command = Command::new(program);
            let started = command.args(args).stdin(Stdio::piped()).spawn();
            Some(started.map_err(|error| format!("{program}: {error}"))?)
        }
        _ => None,
    };
    if own == 0 {
        println!("holding {} files", held.len());
    }

    let mut counter: u64 = 0;
    loop {
        counter += 1;
        if own == 0 && counter.is_multiple_of(20) {
            println!("count {counter}");
        }
        sockets.iter_mut().for_each(|socket| socket.serve(counter));
        match sys::wait_event(Duration::from_millis(5))? {
            Some(Event::Report) => {
                let intact = memory
                    .iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == pattern(at));
                report::write(&setup.reports, own, counter, intact, &held, &mut sockets)?;
                children
                    .iter()
                    .for_each(|child| sys::signal(*child, Event::Report));
            }
            Some(Event::Terminate) => {
                children
                    .iter()
                    .for_each(|child| sys::signal(*child, Event::Terminate));
                children.iter().for_each(|child| sys::wait_for(*child));
                return Ok(ExitCode::from(setup.exit));
            }
            // What is held may be a child that has stopped or ended.
            Some(Event::ChildEnded) if own == 0 && setup.holds.is_empty() => {
                return Err("a child ended".to_owned());
            }
            Some(Event::ChildEnded) | None => {}
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the low bits are the pattern"
)]
fn pattern(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8 | 1
}
