//! Programs as people run them, in an image: a database, servers and runtimes of Debian with their clients. Nothing is pulled; the
//! packages are unpacked once and kept in the cache.
//!
//! All but the registry are of the older suite on every node: the C library of the newer one puts guards into the stacks of threads
//! (`MADV_GUARD_INSTALL`), which CRIU dumps since 4.2 only.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Result;

use crate::containerd::Image;
use crate::root;
use crate::suite::Suite;

/// The image's name.
pub const IMAGE: &str = "docker.io/library/restow-programs:latest";
/// The same by its name in a registry on a node.
pub const REGISTRY_IMAGE: &str = "127.0.0.1:5000/restow-programs:latest";

/// The programs, the clients, a shell, and a compiler of Java that needs no more than a runtime.
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "coreutils",
    "curl",
    "dash",
    "ecj",
    "nginx-light",
    "nodejs",
    "openjdk-21-jre-headless",
    "postgresql-17",
    "python3-minimal",
    "redis-server",
];

/// What of the packages nothing here uses, and that is large; and what a container gets from its runtime.
const LEFT_OUT: &[&str] = &[
    "dev",
    "usr/lib/x86_64-linux-gnu/libLLVM.so.19.1",
    "usr/lib/x86_64-linux-gnu/libperl.so.5.40.1",
    "usr/lib/x86_64-linux-gnu/libz3.so.4",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl",
];

/// A registry of images: a server written in Go, for containers and for nodes. It is of the newer suite, whose Go is 1.25 or later: such
/// programs hold the files of their container's CPU limit.
///
/// # Errors
/// When its package cannot be unpacked.
pub fn registry() -> Result<PathBuf> {
    let progress = &mut |step: &str| eprintln!("  registry: {step}");
    let tree = root::unpacked("registry", Suite::Testing, &["docker-registry"], progress)?;
    Ok(tree.join("usr/bin/docker-registry"))
}

/// The image of all programs.
///
/// # Errors
/// When it cannot be made.
pub fn image() -> Result<Image> {
    /// Threads of one process would write the same archive.
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock();
    let registry = registry()?;
    let progress = &mut |step: &str| eprintln!("  programs: {step}");
    let tree = root::unpacked("programs", Suite::Stable, PACKAGES, progress)?;
    let of_tree = |path: &str| tree.join("usr/share/base-passwd").join(path);
    // What the packages' scripts would have done is done here, as far as it is needed.
    let files = [
        ("etc/passwd", of_tree("passwd.master")),
        ("etc/group", of_tree("group.master")),
        ("usr/bin/docker-registry", registry),
    ];
    Image::of_tree("restow-programs", &tree)
        .changed(LEFT_OUT, &files)
        .kept(&tree.with_extension("tar"))
}
