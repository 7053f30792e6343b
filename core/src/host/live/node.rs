//! What criu, the kernel and this process can do.

// kcmp(2) has no wrapper, and is asked only whether it is there.
#![allow(unsafe_code)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::field;
use crate::check::Node;
use crate::host::kernel_release;
use crate::host::real_program::RealProgram;

/// Capabilities that CRIU uses at nearly every dump, and their numbers (`linux/capability.h`).
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_RESOURCE", 24),
];

/// No program needs longer to print its version.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the kernel and this process can do, without asking criu, which takes milliseconds.
pub fn kernel() -> Node {
    Node {
        kernel: version(&kernel_release()).map(|[major, minor, _]| [major, minor]),
        kernel_missing: kernel_missing(),
        capabilities_missing: capabilities_missing(),
        free_huge_pages: free_huge_pages(),
        ..Node::default()
    }
}

/// The same, with the criu that would be used and its version. `configured` is the node's own choice of a criu.
pub fn node(configured: Option<&Path>) -> Node {
    let mut node = kernel();
    match RealProgram::criu(configured) {
        Ok(real) => {
            match program_version(&real.path) {
                Some(version) => node.criu_version = Some(version),
                None => {
                    node.criu_missing =
                        Some(format!("{} does not tell its version", real.path.display()));
                }
            }
            node.criu = Some(real.path);
        }
        Err(error) => node.criu_missing = Some(crate::chain(&error)),
    }
    node
}

/// The version that a program prints when it is asked with `--version`; `None` when it cannot be run, says none or takes
/// too long.
pub fn program_version(program: &Path) -> Option<[u32; 3]> {
    version_of(Command::new(program).arg("--version"))
}

/// The version that a command prints; `None` as for [`program_version`].
pub fn version_of(command: &mut Command) -> Option<[u32; 3]> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    child
        .stdout
        .take()?
        .take(4096)
        .read_to_string(&mut text)
        .ok()?;
    status.success().then(|| version(&text)).flatten()
}

/// The first number with a dot in it.
fn version(text: &str) -> Option<[u32; 3]> {
    let word = text
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))?;
    let mut parts = word.split('.').map(|part| part.parse().ok());
    let mut next = || parts.next().flatten();
    Some([next()?, next()?, next().unwrap_or(0)])
}

/// Where CRIU's needs can be seen. `map_files`, `kcmp` and `ns_last_pid` come with `CONFIG_CHECKPOINT_RESTORE`.
fn kernel_missing() -> Vec<String> {
    let paths = [
        "/proc/self/map_files",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/thread-self/children",
    ];
    let missing = paths
        .into_iter()
        .filter(|path| !PathBuf::from(path).exists());
    let mut missing: Vec<String> = missing.map(str::to_owned).collect();
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: numbers only; it compares a descriptor table with itself.
    if unsafe { libc::syscall(libc::SYS_kcmp, own, own, 2, 0, 0) } < 0
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
    {
        missing.push("kcmp(2)".to_owned());
    }
    missing
}

fn capabilities_missing() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = field(&status, "CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok());
    let missing = CAPABILITIES
        .into_iter()
        .filter(|(_, number)| effective.unwrap_or(0) & (1 << number) == 0);
    missing.map(|(name, _)| name).collect()
}

fn free_huge_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "HugePages_Free:")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_programs_print_them() {
        assert_eq!(version("Version: 4.1.1\nGitID: v4"), Some([4, 1, 1]));
        assert_eq!(version("runc version 1.3.6+ds1"), Some([1, 3, 6]));
        assert_eq!(version("6.18.5-cloud"), Some([6, 18, 5]));
        assert_eq!(version("4.2"), Some([4, 2, 0]));
        assert_eq!(version("none"), None);
    }

    #[test]
    fn a_program_that_never_answers_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("criu");
        std::fs::write(&path, "#!/bin/sh\nwhile :; do sleep 1; done\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program_version(&path), None);
    }
}
