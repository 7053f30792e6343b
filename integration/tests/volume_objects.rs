//! What is more than an open file on a volume: pipes, locks, mappings, programs and sockets, after a restore in another pod.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use restow_integration::container::Container;
use restow_integration::engine::{Engine, Stack};
use restow_integration::journey::{Arrival, Journey};
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{Stock, compare};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;

on_both_suites!(
    mounts_12_pipe_mapping_program_and_socket_are_on_the_new_volume,
    mounts_12_locks_are_taken_on_the_new_volumes_files,
    mounts_12_who_runs_a_program_that_the_new_volume_lacks_is_named,
);

const VOLUMES: &str = "/var/lib/kubelet/volumes";

/// A container with a volume of pod A or B, which is made with the files that locks are taken on.
fn container(engine: &Engine, of: &str, holds: &[&str]) -> Result<ContainerOptions> {
    let volume = format!("{VOLUMES}/of-{of}");
    let dir = engine.node().path(&volume);
    fs::create_dir_all(&dir).context("Make a volume")?;
    for file in ["flock", "posix"] {
        fs::write(dir.join(file), "locked").context("Fill a volume")?;
    }
    fs::write(dir.join("map"), "clean").context("Fill a volume")?;
    let container = ContainerOptions::new(0).bind(Bind::new(volume, "/volume"));
    Ok(holds
        .iter()
        .fold(container, |container, hold| container.probe("--hold", hold)))
}

fn on_volume(container: &Container<'_>, of: &str, file: &str) -> PathBuf {
    let volume = format!("{VOLUMES}/of-{of}/{file}");
    container.engine().node().path(volume)
}

fn add_program(container: &Container<'_>, of: &str) -> Result<()> {
    let from = container.engine().probe();
    let to = on_volume(container, of, "program");
    fs::copy(&from, &to)
        .map(drop)
        .with_context(|| format!("Copy {} to {}", from.display(), to.display()))
}

/// What storage that both nodes share would do: pod B's volume gets the content that pod A's has at the checkpoint.
fn carry_over(container: &Container<'_>) -> Result<()> {
    let [from, to] = ["a", "b"].map(|of| on_volume(container, of, "map"));
    fs::copy(from, to).map(drop).context("Copy the mapped file")
}

fn prepare_b(container: &Container<'_>) -> Result<()> {
    let pipe = on_volume(container, "b", "pipe");
    container
        .engine()
        .run("mkfifo", &[&format!("{VOLUMES}/of-b/pipe")])?;
    ensure!(pipe.exists(), "the pipe is not on pod B's volume");
    add_program(container, "b")
}

fn mounts_12_pipe_mapping_program_and_socket_are_on_the_new_volume(suite: Suite) -> Result<()> {
    compare(
        "Mounts 12 (pipe, mapping, program, socket)",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            let with = |of| -> Result<ContainerOptions> {
                let holds = ["fifo:/volume/pipe,unread", "dirty-map:/volume/map,dirty"];
                Ok(container(engine, of, &holds)?
                    .socket("0:unix:/volume/socket")
                    .probe("--beside", "/volume/program pause"))
            };
            let mut journey = Journey::new(with("a")?);
            journey.container_there = Some(with("b")?);
            journey.before_start = Some(|container| add_program(container, "a"));
            journey.after_checkpoint = Some(carry_over);
            journey.before_restore = Some(prepare_b);
            journey.run(engine, check_objects)
        },
    )
}

fn check_objects(there: &mut Arrival<'_, '_>) -> Result<String> {
    let init = there.container.init()?;
    // The node has process numbers of its own.
    let proc = there.engine.node().path("/proc");
    let own = proc.join(init.to_string());
    let inode = |file: &str| -> Result<u64> {
        let path = on_volume(there.container, "b", file);
        let meta = fs::metadata(&path).with_context(|| format!("Look at {}", path.display()))?;
        Ok(meta.ino())
    };
    // The pipe, by the descriptor: what is in it, and that it is the one of the volume.
    let fds = fs::read_dir(own.join("fd")).context("Read descriptors")?;
    let mut pipes = fds.flatten().map(|entry| entry.path());
    let pipe = pipes.find(|fd| fs::read_link(fd).is_ok_and(|link| link.ends_with("pipe")));
    let pipe = pipe.context("The pipe is not open any more")?;
    let mut open = OpenOptions::new();
    let mut opened = open.read(true).custom_flags(libc_nonblock()).open(pipe)?;
    let mut unread = [0; 64];
    let length = opened.read(&mut unread).context("Read the pipe")?;
    let text = String::from_utf8_lossy(&unread[..length]);
    ensure!(text == "unread", "{text:?} is in the pipe");
    let found = opened.metadata()?.ino();
    ensure!(found == inode("pipe")?, "the pipe is another one");
    // The mapping.
    let maps = fs::read_to_string(own.join("maps")).context("Read maps")?;
    let line = maps.lines().find(|line| line.ends_with("/volume/map"));
    let line = line.context("The file is not mapped any more")?;
    let mapped = line.split_whitespace().nth(4).unwrap_or_default();
    ensure!(
        mapped == inode("map")?.to_string() && line.contains("rw-s"),
        "the mapping is {line}"
    );
    let text = fs::read_to_string(on_volume(there.container, "b", "map"))?;
    ensure!(text == "dirty", "the mapped file has {text:?}");
    // The program.
    let program = inode("program")?;
    let children = fs::read_to_string(own.join(format!("task/{init}/children")))?;
    let mut runs = children
        .split_whitespace()
        .filter_map(|pid| fs::metadata(proc.join(pid).join("exe")).ok());
    ensure!(
        runs.any(|exe| exe.ino() == program),
        "no child of {init} ({children}) runs pod B's program"
    );
    // The socket.
    let answer = there
        .container
        .exec(&["/probe", "ask", "unix", "/volume/socket"])
        .context("Ask the server on the volume")?;
    ensure!(!answer.trim().is_empty(), "no answer of the socket");
    there.check_progress()?;
    Ok("pipe with its content, mapping, program and socket are on pod B's volume".to_owned())
}

/// `O_NONBLOCK`, for an answer when the pipe is empty.
fn libc_nonblock() -> i32 {
    nix::fcntl::OFlag::O_NONBLOCK.bits()
}

fn mounts_12_locks_are_taken_on_the_new_volumes_files(suite: Suite) -> Result<()> {
    compare(
        "Mounts 12 (locks)",
        Stack::v2(suite),
        Stock::Wrong(&["file locks are hold"]),
        |engine| {
            let with = |of| {
                let holds = ["flock:/volume/flock", "posix-lock:/volume/posix"];
                container(engine, of, &holds)
            };
            let mut journey = Journey::new(with("a")?);
            journey.container_there = Some(with("b")?);
            journey.run(engine, |there| {
                let locks = fs::read_to_string("/proc/locks").context("Read the locks")?;
                for (file, kind) in [("flock", "FLOCK"), ("posix", "POSIX")] {
                    let inode = fs::metadata(on_volume(there.container, "b", file))?.ino();
                    let on_it = format!(":{inode} 0 EOF");
                    ensure!(
                        locks.lines().any(|line| line.contains(&on_it)
                            && line.contains(kind)
                            && line.contains("WRITE")),
                        "{file} of pod B is not locked: {locks}"
                    );
                }
                there.check_progress()?;
                Ok("both locks are held on pod B's files".to_owned())
            })
        },
    )
}

fn mounts_12_who_runs_a_program_that_the_new_volume_lacks_is_named(suite: Suite) -> Result<()> {
    compare(
        "Mounts 12 (program missing)",
        Stack::v2(suite),
        Stock::Wrong(&["volume/program"]),
        |engine| {
            let with = |of| -> Result<ContainerOptions> {
                Ok(container(engine, of, &[])?.probe("--beside", "/volume/program pause"))
            };
            let mut journey = Journey::new(with("a")?);
            journey.container_there = Some(with("b")?);
            journey.before_start = Some(|container| add_program(container, "a"));
            let words = ["of-b/program does not exist", "in use by process"];
            let verdict = journey.run(engine, |_| Ok("it runs".to_owned()))?;
            Ok(verdict.refused(&words))
        },
    )
}
