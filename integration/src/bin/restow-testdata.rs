//! Makes the image sets in `testdata/objects`: a container that holds one of each kind of object, dumped by each suite's
//! runc and criu.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use restow_integration::node::{Node, NodeOptions};
use restow_integration::root::Root;
use restow_integration::suite::Suite;
use restow_integration::tools;
use serde_json::{Value, json};

/// Makes the image sets in testdata/objects anew.
///
/// They change with every dump (addresses, ids, uninitialised bytes), so make them only when the objects change.
#[derive(Parser)]
#[command(name = "testdata", bin_name = "cargo xtask testdata")]
struct Cli {
    /// Where to put them
    #[arg(default_value = "testdata/objects")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse().dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The container's place on the node; a file system of its own, since inotify has no handles on overlays.
const PLACE: &str = "/zoo";

/// What a raw image may take in the repository, in bytes.
const RAW: u64 = 4096;

fn run(dir: &Path) -> Result<()> {
    for suite in [Suite::Stable, Suite::Testing] {
        Root::require(suite)?;
        let mut node = Node::start(&NodeOptions::new(suite))?;
        let version = version(&node)?;
        println!("criu {version}");
        let log = match dump(&node, &[]) {
            Ok(log) => log,
            Err(error) => {
                eprintln!("  not with all sockets: {error:#}");
                node.stop()?;
                node = Node::start(&NodeOptions::new(suite))?;
                dump(&node, &["unix-only"]).with_context(|| format!("Dump with criu {version}"))?
            }
        };
        print!("{log}");
        let to = dir.join(format!("criu-{version}"));
        for (from, to) in [("images", to.clone()), ("parent", to.join("parent-images"))] {
            let from = node.path(PLACE).join(from);
            if from.join("pstree.img").exists() {
                collect(&from, &to)?;
            }
        }
        let stats = node.path(PLACE).join("work/stats-dump");
        if stats.exists() {
            fs::copy(stats, to.join("stats-dump.img"))?;
        }
        println!("  {} files in {}", fs::read_dir(&to)?.count(), to.display());
        if suite == Suite::Testing {
            archives(&node, &dir.with_file_name("archives")).context("Export with podman")?;
        }
        node.stop()?;
    }
    Ok(())
}

/// Checkpoint archives as podman exports them.
fn archives(node: &Node, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    // For runc, which podman cannot be told criu's options for.
    fs::create_dir_all(node.path("/etc/criu"))?;
    fs::write(
        node.path("/etc/criu/runc.conf"),
        "link-remap\nghost-limit 4194304\n",
    )?;
    let import = "tar --create --directory /zoo/rootfs zoo | podman import - zoo";
    succeed(node.command("sh").args(["-c", import]))?;
    let run = "podman --cgroup-manager=cgroupfs run --detach --name zoo --network none --pids-limit 0 --log-driver none --tmpfs /work \
               --runtime runc zoo /zoo /work unix-only && until podman exec zoo /zoo ready /work; do sleep 0.1; done";
    for (compression, extension) in [("zstd", "tar.zst"), ("gzip", "tar.gz")] {
        succeed(node.command("sh").args(["-c", run]))?;
        let export = format!(
            "podman container checkpoint --file-locks --export /zoo/export --compress {compression} zoo && podman rm --force zoo"
        );
        succeed(node.command("sh").args(["-c", &export]))?;
        let to = dir.join(format!("podman.{extension}"));
        fs::copy(node.path("/zoo/export"), &to)?;
        println!("  {}", to.display());
    }
    Ok(())
}

fn version(node: &Node) -> Result<String> {
    let output = succeed(node.command("criu").arg("--version"))?;
    let version = output
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .map(str::to_owned);
    version.context("criu --version tells none")
}

fn dump(node: &Node, args: &[&str]) -> Result<String> {
    let place = node.path(PLACE);
    succeed(node.command("sh").args([
        "-c",
        "mkdir /zoo && mount -t tmpfs zoo /zoo && mkdir -p /zoo/rootfs /zoo/work",
    ]))?;
    fs::copy(tools::zoo()?, place.join("rootfs/zoo"))
        .context("Put the program into the container")?;
    fs::create_dir_all(place.join("rootfs/etc"))?;
    fs::write(place.join("rootfs/etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::write(
        place.join("criu.conf"),
        "link-remap\nghost-limit 4194304\nghost-fiemap\nforce-irmap\n",
    )?;
    succeed(
        node.command("runc")
            .current_dir("/")
            .args(["spec", "--bundle", PLACE]),
    )?;
    let config = place.join("config.json");
    let spec = edit(
        serde_json::from_slice(&fs::read(&config)?)?,
        &capabilities()?,
        args,
    );
    fs::write(&config, serde_json::to_vec(&spec)?)?;
    // Pipes: runc gives them to criu as external ones.
    let mut started = node
        .command("runc")
        .args(["run", "--detach", "--bundle", PLACE, "zoo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !place.join("rootfs/work/ready").exists() {
        if Instant::now() > deadline {
            bail!(
                "The container is not ready after 20 s: {}",
                read(started.stderr.take())?
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    let checkpoint = |args: &[&str]| {
        let all = [
            "checkpoint",
            "--work-path",
            "/zoo/work",
            "--tcp-established",
            "--file-locks",
        ];
        succeed(node.command("runc").args(all).args(args).arg("zoo")).map_err(|error| {
            // Names in it need not be UTF-8.
            let log = fs::read(place.join("work/dump.log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let errors = log.lines().filter(|line| line.contains("Error"));
            let errors = errors.collect::<Vec<_>>().join("\n");
            if errors.is_empty() {
                error
            } else {
                error.context(errors)
            }
        })
    };
    // Not every kernel tracks which pages change.
    let tracked = checkpoint(&["--pre-dump", "--image-path", "/zoo/parent"]);
    if let Err(error) = &tracked {
        eprintln!("  no incremental dump: {error:#}");
    }
    let parent: &[&str] = if tracked.is_ok() {
        &["--parent-path", "../parent"]
    } else {
        &[]
    };
    checkpoint(&[&["--image-path", "/zoo/images"], parent].concat())?;
    let text = read(started.stdout.take())?;
    let missing = read(started.stderr.take())?;
    started.wait()?;
    let line = |line: &str| format!("  {line}\n");
    Ok(text.lines().chain(missing.lines()).map(line).collect())
}

/// What the program needs, by name and number in the kernel's sets.
const CAPABILITIES: &[(&str, u32)] = &[
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_IPC_OWNER", 15),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_RESOURCE", 24),
];

/// Those of [`CAPABILITIES`] that this machine gives.
fn capabilities() -> Result<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .context("/proc/self/status has no CapBnd")?;
    let set = u64::from_str_radix(set.trim(), 16)?;
    Ok(CAPABILITIES
        .iter()
        .filter(|(_, number)| set & 1 << number != 0)
        .map(|(name, _)| *name)
        .collect())
}

/// The default specification, with more capabilities and no terminal.
fn edit(mut spec: Value, capabilities: &[&str], args: &[&str]) -> Value {
    let process = &mut spec["process"];
    process["terminal"] = false.into();
    process["args"] = json!([&["/zoo", "/work"], args].concat());
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(capabilities);
    }
    process["noNewPrivileges"] = false.into();
    spec["root"]["readonly"] = false.into();
    spec["hostname"] = "zoo".into();
    spec["annotations"] = json!({"org.criu.config": "/zoo/criu.conf"});
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys/fs/cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime"]);
        }
    }
    spec
}

/// Copies record images whole and raw ones when they are small; of larger ones a line of text stays.
fn collect(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_file() || !name.ends_with(".img") {
            continue;
        }
        if name.starts_with("pages-") || (entry.metadata()?.len() > RAW && name.contains("tar.gz"))
        {
            fs::write(to.join(&name), "Left out of the test images.\n")?;
        } else {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

fn succeed(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("Start {}", command.get_program().display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        // runc tells the cause first and what follows from it later.
        bail!(
            "{}",
            text.lines()
                .find(|line| line.contains("level=error"))
                .unwrap_or(&text)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read(from: Option<impl Read>) -> Result<String> {
    let mut text = String::new();
    if let Some(mut from) = from {
        from.read_to_string(&mut text)?;
    }
    Ok(text)
}
