//! `cargo xtask vm`: scenarios on a virtual machine with systemd, the systemd cgroup driver and real controllers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use restow_integration::suite::Suite;
use restow_integration::{machine, root, tools};

/// What is run when nothing else is asked for: what the cgroup driver and the controllers have to do with.
const DEFAULT: &[&str] = &["cgroup", "placement", "identity"];

/// Run scenarios on a virtual machine with systemd, the systemd cgroup driver and every controller of cgroup version 2
///
/// The first run makes the machine's disk (a minute, 450 MB in the cache). Booting takes about a minute more: the machine runs in
/// software emulation.
#[derive(Parser)]
#[command(bin_name = "cargo xtask vm")]
struct Args {
    /// With which runtime; both when absent
    #[arg(long)]
    runtime: Option<Runtime>,
    /// With which cgroup driver
    #[arg(long, default_value = "systemd")]
    driver: Driver,
    /// The files of the suite to run, for example `cgroup` (default: cgroup, placement, identity)
    #[arg(long = "test", value_name = "FILE")]
    tests: Vec<String>,
    /// Run only tests with this in their names
    filter: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Runtime {
    Runc,
    Crun,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Driver {
    Systemd,
    Cgroupfs,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<i32> {
    let share = root::cache_dir()?.join(format!("machine-share-{}", std::process::id()));
    fs::create_dir_all(&share).with_context(|| format!("Create {}", share.display()))?;
    let result = fill(args, &share).and_then(|()| {
        machine::run(
            Suite::Testing,
            &share,
            &mut |text| println!("  {text}"),
            |line| println!("{line}"),
        )
    });
    let _ = fs::remove_dir_all(&share);
    let _ = fs::remove_file(share.with_extension("ext4"));
    if result.is_ok() {
        let _ = fs::remove_file(share.with_extension("console"));
    }
    result
}

/// Puts the programs and the script that runs them into the shared directory.
fn fill(args: &Args, share: &Path) -> Result<()> {
    copy(&tools::probe()?, &share.join("probe"))?;
    copy(&tools::interposer()?, &share.join("criu"))?;
    copy(&tools::runtime()?, &share.join("restow-runtime"))?;
    copy(&tools::shim()?, &share.join("shim"))?;
    copy(&tools::restow()?, &share.join("restow"))?;
    let wanted: Vec<&str> = match args.tests.as_slice() {
        [] => DEFAULT.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let tests = tools::tests(&wanted)?;
    for name in &wanted {
        if !tests.iter().any(|(test, _)| test == name) {
            bail!("The suite has no file {name:?}");
        }
    }
    for (name, program) in &tests {
        copy(program, &share.join(format!("test-{name}")))?;
    }
    let script = share.join("run");
    fs::write(&script, text(args, &wanted)).with_context(|| format!("Write {}", script.display()))
}

fn text(args: &Args, tests: &[&str]) -> String {
    let runtimes = match args.runtime {
        Some(Runtime::Runc) => "runc",
        Some(Runtime::Crun) => "crun",
        None => "runc crun",
    };
    let driver = match args.driver {
        Driver::Systemd => "systemd",
        Driver::Cgroupfs => "cgroupfs",
    };
    let filter = args.filter.as_deref().unwrap_or_default();
    let tests = tests.join(" ");
    format!(
        "\
export RESTOW_NODE=machine RESTOW_CGROUP_DRIVER={driver} RESTOW_PROBE_PROGRAM=/mnt/probe HOME=/root
export RESTOW_CRIU_PROGRAM=/mnt/criu RESTOW_RUNTIME_PROGRAM=/mnt/restow-runtime RESTOW_SHIM_PROGRAM=/mnt/shim RESTOW_PROGRAM=/mnt/restow
echo \"$(uname -sr), $(runc --version | head -1), $(crun --version | head -1), $(criu --version | head -1), systemd $(systemctl --version | head -1)\"
failed=0
for runtime in {runtimes}; do for test in {tests}; do
    echo; echo \"== $test, $runtime, {driver} cgroup driver\"
    RESTOW_RUNTIME=$runtime /mnt/test-$test --nocapture --test-threads=1 'testing::{filter}' || failed=1
done; done
exit $failed
"
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("Copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("Make {} executable", to.display()))
}
