//! A virtual machine, booted from a Debian root: a kernel of its own, systemd as process 1, and every controller of cgroup
//! version 2, which nodes on a development machine often cannot have.
//!
//! It runs in software emulation, so it needs no privilege and no hardware, and is slow. It has a disk made of the root, which
//! forgets what is written to it, a read-only one with the programs to run, and two serial lines: the console, which is kept in a
//! file, and the one that the programs write to.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::root::{self, install};
use crate::suite::Suite;

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(40 * 60);

/// The last line that a run writes, before its exit code.
const END: &str = "machine-exit ";

/// Runs what is on the second disk once the machine is up, and turns it off.
const UNIT: &str = "\
[Unit]
Description=What this machine was started for
After=multi-user.target dbus.service

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh -c 'mount -o ro /dev/vdb /mnt; exec > /dev/ttyS1 2>&1; sh /mnt/run; code=$?; echo; echo machine-exit $code'
ExecStopPost=/usr/bin/systemctl --no-block poweroff
Delegate=yes

[Install]
WantedBy=multi-user.target
";

/// Boots a machine, runs the shell script `run` in the directory `share` (the machine has it at `/mnt`), hands every line that
/// it writes to `line`, and returns its exit code.
///
/// # Errors
/// When the machine cannot be made, or ends without an exit code; the text names the file with its console.
pub fn run(
    suite: Suite,
    share: &Path,
    progress: &mut dyn FnMut(&str),
    mut line: impl FnMut(&str),
) -> Result<i32> {
    install("qemu-system-x86_64", &["qemu-system-x86"], progress)?;
    let root = root::of_machine(suite, progress)?;
    let disk = system_disk(&root)?;
    let shared = share.with_extension("ext4");
    make_disk(share, &shared)?;
    let console = share.with_extension("console");
    progress("booting (software emulation: about a minute)");
    let mut machine = Running(boot(&root, &disk, &shared, &console)?);
    let output = machine
        .0
        .stdout
        .take()
        .context("The machine has no serial line")?;
    let mut code = None;
    let watchdog = watch(&machine.0);
    for text in BufReader::new(output).split(b'\n') {
        let text = text.context("Read the machine's serial line")?;
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_end();
        match text.strip_prefix(END) {
            Some(number) => code = number.parse().ok(),
            None => line(text),
        }
    }
    machine.0.wait().context("Wait for the machine")?;
    drop(watchdog);
    code.with_context(|| {
        format!(
            "The machine ended without a result; its console is in {}",
            console.display()
        )
    })
}

/// A machine that is ended with the process that made it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the machine when it has run too long; dropping the answer stops the watch.
fn watch(machine: &Child) -> std::sync::mpsc::Sender<()> {
    let (stop, stopped) = std::sync::mpsc::channel();
    let pid = machine.id();
    thread::spawn(move || {
        let deadline = Instant::now() + PATIENCE;
        if stopped.recv_timeout(deadline - Instant::now())
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            && let Ok(pid) = i32::try_from(pid)
        {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    });
    stop
}

/// The disk of a root, made once.
fn system_disk(root: &Path) -> Result<PathBuf> {
    let disk = root.with_extension("ext4");
    let units = root.join("etc/systemd/system");
    let unit = units.join("machine-run.service");
    // One of an earlier state of this file would go by another unit.
    if disk.is_file() && fs::read_to_string(&unit).is_ok_and(|text| text == UNIT) {
        return Ok(disk);
    }
    if disk.exists() {
        fs::remove_file(&disk).with_context(|| format!("Remove {}", disk.display()))?;
    }
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted).with_context(|| format!("Create {}", wanted.display()))?;
    fs::write(&unit, UNIT).with_context(|| format!("Write {}", unit.display()))?;
    let link = wanted.join("machine-run.service");
    if !link.is_symlink() {
        std::os::unix::fs::symlink("../machine-run.service", &link)
            .with_context(|| format!("Link {}", link.display()))?;
    }
    fs::write(root.join("etc/hostname"), "machine\n").context("Name the machine")?;
    let unfinished = disk.with_extension("unfinished");
    make_disk(root, &unfinished)?;
    fs::rename(&unfinished, &disk).with_context(|| format!("Rename {}", unfinished.display()))?;
    Ok(disk)
}

/// Makes a disk with the content of a directory; it grows on the host only as far as it is used.
fn make_disk(content: &Path, disk: &Path) -> Result<()> {
    match fs::remove_file(disk) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("Remove {}", disk.display()));
        }
        _ => {}
    }
    let output = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(content)
        .arg(disk)
        .arg("3G")
        .output()
        .context("Start mke2fs (of the package e2fsprogs)")?;
    if !output.status.success() {
        bail!(
            "mke2fs cannot make {}: {}",
            disk.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn boot(root: &Path, disk: &Path, shared: &Path, console: &Path) -> Result<Child> {
    let drive = |path: &Path, more: &str| {
        let path = path.display();
        format!("file={path},format=raw,if=virtio,{more}")
    };
    File::create(console).with_context(|| format!("Create {}", console.display()))?;
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2G",
        ])
        .args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(of_boot(root, "vmlinuz-")?)
        .arg("-initrd")
        .arg(of_boot(root, "initrd.img-")?)
        .args([
            "-append",
            "root=/dev/vda rw console=ttyS0 mitigations=off audit=0",
        ])
        .arg("-drive")
        .arg(drive(disk, "snapshot=on"))
        .arg("-drive")
        .arg(drive(shared, "readonly=on"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("Start qemu-system-x86_64")
}

/// The file of `/boot` with this beginning.
fn of_boot(root: &Path, beginning: &str) -> Result<PathBuf> {
    let boot = root.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("List {}", boot.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("{} has no {beginning}*", boot.display()))
}
