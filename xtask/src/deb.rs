//! `cargo xtask deb`: Restow as a Debian package, made by cargo-deb as `cli/Cargo.toml` says.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Profile, check};
use crate::tools;

const CARGO_DEB: &str = "3.8.0";

/// Programs, as they are built.
const PROGRAMS: &[&str] = &[
    "containerd-shim-restow-v2",
    "criu",
    "restow",
    "restow-runtime",
];
/// Links beside them, or in `bin`, with where they lead.
const LINKS: &[(&str, &str)] = &[
    ("lib/restow-runc", "restow-runtime"),
    ("lib/restow-crun", "restow-runtime"),
    ("lib/restow-oci-hook", "restow-runtime"),
    ("bin/restow", "../lib/restow/restow"),
];
/// Shells, with the files in which they look for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "restow"),
    ("zsh", "_restow"),
    ("fish", "restow.fish"),
];

/// Makes the package with programs of `profile` and returns where it is.
pub(crate) fn run(profile: Profile) -> Result<PathBuf> {
    let cargo_deb = tools::installed("cargo-deb", CARGO_DEB)?;
    let programs = cargo::build_static(profile, cargo::INSTALLED)?;
    // cargo-deb looks in the directory of one profile, and knows nothing of `dev`.
    let dist = programs.with_file_name("dist");
    stage(&programs, &dist.join("package"))?;
    let made = dist.join("debian");
    renew(&made)?;
    let mut command = Command::new(cargo_deb);
    command
        .current_dir(cargo::workspace())
        .args(["--quiet", "--no-build", "--no-strip", "--locked"])
        .args(["--package", "restow-cli", "--profile", "dist"])
        .args(["--target", &cargo::host()?, "--output"])
        .arg(&made);
    // The compression of a package for a test is not worth waiting for.
    command.args((profile == Profile::Dev).then_some("--fast"));
    // It prints where the package is.
    check(command.stdout(io::stderr()), "cargo-deb")?;
    let entries = fs::read_dir(&made).with_context(|| format!("Read {}", made.display()))?;
    let packages = entries.collect::<io::Result<Vec<_>>>()?;
    match &packages[..] {
        [package] => Ok(package.path()),
        other => bail!(
            "cargo-deb made {} packages in {}",
            other.len(),
            made.display()
        ),
    }
}

/// Lays out in `dir` what the assets in `cli/Cargo.toml` name and cargo does not build.
fn stage(programs: &Path, dir: &Path) -> Result<()> {
    renew(dir)?;
    for part in ["lib", "bin", "man"] {
        let part = dir.join(part);
        fs::create_dir(&part).with_context(|| format!("Create {}", part.display()))?;
    }
    for name in PROGRAMS {
        let target = dir.join("lib").join(name);
        fs::copy(programs.join(name), &target)
            .with_context(|| format!("Copy to {}", target.display()))?;
    }
    for (name, target) in LINKS {
        symlink(target, dir.join(name)).with_context(|| format!("Link {name}"))?;
    }
    let restow = programs.join("restow");
    let mut pages = Command::new(&restow);
    pages.args(["man", "--into"]).arg(dir.join("man"));
    check(&mut pages, "restow man")?;
    // Without names and times, so that the same sources make the same package.
    let pages = fs::read_dir(dir.join("man"))?.collect::<io::Result<Vec<_>>>()?;
    let mut gzip = Command::new("gzip");
    gzip.args(["--best", "--no-name"]);
    gzip.args(pages.iter().map(fs::DirEntry::path));
    check(&mut gzip, "gzip")?;
    for (shell, name) in COMPLETIONS {
        let output = Command::new(&restow).args(["completions", shell]).output();
        let output = output.context("Start restow completions")?;
        if !output.status.success() {
            bail!("restow completions {shell} failed ({})", output.status);
        }
        let file = dir.join("completions").join(shell).join(name);
        fs::create_dir_all(file.parent().unwrap_or(dir))
            .and_then(|()| fs::write(&file, output.stdout))
            .with_context(|| format!("Write {}", file.display()))?;
    }
    Ok(())
}

/// Makes a directory, empty: what is there is of an earlier call.
fn renew(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("Remove {}", dir.display()));
        }
        _ => {}
    }
    fs::create_dir_all(dir).with_context(|| format!("Create {}", dir.display()))
}
