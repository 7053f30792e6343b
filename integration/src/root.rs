//! Root file systems of nodes: built once with mmdebstrap, kept in a cache outside the checkout, never written to again.
//!
//! A root is built under a temporary name and renamed when it is complete, so a directory with a root's name is always a whole
//! root. The name holds a hash of everything that decides the content; another package list is another root.

use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::suite::Suite;

const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// What decides the content of a root beside the package list: change it when the way a root is made changes.
const RECIPE: &str = "1 no-man no-doc";

/// A complete root file system in the cache.
#[derive(Clone, Debug, Serialize)]
pub struct Root {
    /// The suite it was made from.
    pub suite: Suite,
    /// Where it is.
    pub path: PathBuf,
}

impl Root {
    /// Where the root of `suite` is, or will be.
    pub fn path_of(suite: Suite) -> Result<PathBuf> {
        Ok(roots_dir()?.join(format!("{suite}-{}", key(suite, suite.packages()))))
    }

    /// The root of `suite` if it has been built.
    pub fn cached(suite: Suite) -> Result<Option<Self>> {
        let path = Self::path_of(suite)?;
        Ok(path.is_dir().then_some(Self { suite, path }))
    }

    /// The root of `suite`, which must have been built.
    pub fn require(suite: Suite) -> Result<Self> {
        Self::cached(suite)?.with_context(|| {
            format!("The root file system of suite {suite} is not built yet: run `cargo xtask node build {suite}` first")
        })
    }

    /// The root of `suite`, building it first when it is not there. Progress goes to `progress`, a line each.
    pub fn build(suite: Suite, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        if let Some(root) = Self::cached(suite)? {
            return Ok(root);
        }
        if !nix::unistd::geteuid().is_root() {
            bail!("Building a root file system needs root: run this with sudo");
        }
        let dir = roots_dir()?;
        fs::create_dir_all(&dir).with_context(|| format!("Create the cache {}", dir.display()))?;
        let path = Self::path_of(suite)?;
        let _lock = lock_builder(&path, progress)?;
        if path.is_dir() {
            // Somebody else built it while we waited.
            return Ok(Self { suite, path });
        }
        install(
            "mmdebstrap",
            &["mmdebstrap", "debian-archive-keyring"],
            progress,
        )?;
        let unfinished = path.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).with_context(|| {
                format!(
                    "Remove the unfinished root {} of an earlier run",
                    unfinished.display()
                )
            })?;
        }
        let started = Instant::now();
        progress(&format!(
            "building a root of Debian {} from {}",
            suite.archive_name(),
            mirror()
        ));
        mmdebstrap(suite, suite.packages(), Variant::Apt, &unfinished, progress)?;
        fs::rename(&unfinished, &path)
            .with_context(|| format!("Rename {} to {}", unfinished.display(), path.display()))?;
        progress(&format!(
            "{suite} is ready after {:.0} s: {}",
            started.elapsed().as_secs_f64(),
            path.display()
        ));
        Ok(Self { suite, path })
    }
}

/// A root with CRIU's own image tool, `crit`, to compare with. It is run by chroot: it needs no kernel objects.
pub fn with_crit(suite: Suite, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    special("crit", suite, &["python3-pycriu"], progress)
}

/// What a machine has beside the runtimes.
const MACHINE_PACKAGES: &[&str] = &[
    "dbus",
    "kmod",
    "linux-image-cloud-amd64",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// A root of a whole machine, with a kernel and systemd, to be booted.
pub fn of_machine(suite: Suite, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let packages = [suite.packages(), MACHINE_PACKAGES].concat();
    special("machine", suite, &packages, progress)
}

/// A root with Docker, for a node.
pub fn with_docker(suite: Suite, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let packages = [suite.packages(), &["docker.io", "docker-cli"]].concat();
    special("docker", suite, &packages, progress)
}

/// A root in which programs are built, without Rust. It is made into a base image.
pub fn of_builder(suite: Suite, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    special(
        "builder",
        suite,
        &["gcc", "libc6-dev", "passwd", "protobuf-compiler"],
        progress,
    )
}

/// What is in these packages and what they need, unpacked and no more: no script of theirs has run. Programs are taken from it, or run
/// in containers; `purpose` is part of its name.
pub fn unpacked(
    purpose: &str,
    suite: Suite,
    packages: &[&str],
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let name = format!("{purpose}-{suite}-{}", key(suite, packages));
    made(&name, suite, packages, Variant::Extract, progress)
}

/// A root for another purpose than being a node, built when it is not there.
fn special(
    purpose: &str,
    suite: Suite,
    packages: &[&str],
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let name = format!("{purpose}-{}", suite.archive_name());
    made(&name, suite, packages, Variant::Apt, progress)
}

/// The root of this name, built when it is not there.
fn made(
    name: &str,
    suite: Suite,
    packages: &[&str],
    variant: Variant,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let path = roots_dir()?.join(name);
    fs::create_dir_all(roots_dir()?)?;
    let _lock = lock_builder(&path, progress)?;
    if path.is_dir() {
        return Ok(path);
    }
    install(
        "mmdebstrap",
        &["mmdebstrap", "debian-archive-keyring"],
        progress,
    )?;
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    mmdebstrap(suite, packages, variant, &unfinished, progress)?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

/// How much of Debian a root is.
#[derive(Clone, Copy, Debug)]
enum Variant {
    /// A system with apt.
    Apt,
    /// The packages' files alone.
    Extract,
}

/// The directory for everything that is kept between runs.
pub fn cache_dir() -> Result<PathBuf> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = from("RESTOW_CACHE") {
        return Ok(dir);
    }
    let base = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
    Ok(base.context("Neither RESTOW_CACHE, XDG_CACHE_HOME nor HOME is set: set RESTOW_CACHE to a directory for root file systems")?.join("restow"))
}

/// The directory that holds the roots.
pub fn roots_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join("roots"))
}

fn mirror() -> String {
    std::env::var("RESTOW_MIRROR")
        .ok()
        .filter(|mirror| !mirror.is_empty())
        .unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// A hash (FNV-1a: stable between compilers, unlike the standard library's) of what goes into a root.
fn key(suite: Suite, packages: &[&str]) -> String {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(RECIPE.as_bytes());
    hash.write(suite.archive_name().as_bytes());
    for package in packages {
        hash.write(package.as_bytes());
        hash.write(b"\n");
    }
    format!("{:016x}", hash.finish())
}

fn lock_builder(path: &Path, progress: &mut dyn FnMut(&str)) -> Result<File> {
    let lock_path = path.with_extension("lock");
    let lock =
        File::create(&lock_path).with_context(|| format!("Create {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        progress("another process is building this root; waiting for it");
        lock.lock()
            .with_context(|| format!("Lock {}", lock_path.display()))?;
    }
    Ok(lock)
}

fn mmdebstrap(
    suite: Suite,
    packages: &[&str],
    variant: Variant,
    target: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let log_path = target.with_extension("log");
    let mut log =
        File::create(&log_path).with_context(|| format!("Create {}", log_path.display()))?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--format=directory"]);
    command.arg(match variant {
        Variant::Apt => "--variant=apt",
        Variant::Extract => "--variant=extract",
    });
    command.arg(format!("--include={}", packages.join(",")));
    command.args([
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
    ]);
    command.args(
        suite
            .apt_options()
            .iter()
            .map(|option| format!("--aptopt={option}")),
    );
    command.arg(suite.archive_name()).arg(target).arg(mirror());
    if let Some(proxy) = apt_proxy() {
        command.env("http_proxy", proxy);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("Start mmdebstrap")?;
    let stderr = child
        .stderr
        .take()
        .context("mmdebstrap's error output is missing")?;
    let mut tail = Vec::new();
    for line in BufReader::new(stderr).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("Read mmdebstrap's output")?)
            .trim_end()
            .to_owned();
        writeln!(log, "{line}").with_context(|| format!("Write {}", log_path.display()))?;
        // Lines of mmdebstrap itself tell the step; the rest is apt and dpkg.
        if let Some(step) = line.strip_prefix("I: ") {
            progress(step);
        } else if !line.is_empty() {
            tail.push(line);
        }
    }
    let status = child.wait().context("Wait for mmdebstrap")?;
    if !status.success() {
        let from = tail.len().saturating_sub(8);
        bail!(
            "mmdebstrap could not build suite {suite} from {} ({status}); set RESTOW_MIRROR to use another mirror. Log: {}\n{}",
            mirror(),
            log_path.display(),
            tail[from..].join("\n")
        );
    }
    Ok(())
}

/// The proxy that this machine's apt is configured with; mmdebstrap runs apt with a configuration of its own.
fn apt_proxy() -> Option<String> {
    if std::env::var_os("http_proxy").is_some() {
        return None;
    }
    let output = Command::new("apt-config")
        .args(["shell", "PROXY", "Acquire::http::Proxy"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let value = text.trim().strip_prefix("PROXY=")?.trim_matches('\'');
    (!value.is_empty()).then(|| value.to_owned())
}

/// Installs the Debian packages that bring `program`, when it cannot be run.
pub(crate) fn install(
    program: &str,
    packages: &[&str],
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    if runs(program) {
        return Ok(());
    }
    if !runs("apt-get") {
        bail!(
            "{program} is missing: install it (on Debian and Ubuntu: apt-get install {})",
            packages.join(" ")
        );
    }
    progress(&format!("installing {program}"));
    let install =
        || apt_get(&[&["install", "-y", "--no-install-recommends"][..], packages].concat());
    if install().is_err() {
        // A fresh machine or container has no package lists yet.
        apt_get(&["update"])?;
        install()?;
    }
    Ok(())
}

fn apt_get(args: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("Start apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get {} failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_different_roots() {
        let key = |suite: Suite| key(suite, suite.packages());
        assert_ne!(key(Suite::Stable), key(Suite::Testing));
    }
}
