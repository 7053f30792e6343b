//! The runtime at the other end of the socket, and the container it is about.
//!
//! At restore the runtime's working directory is the new container's bundle. At dump it is wherever the caller was, so
//! the bundle is found through the runtime's own record of the container, and only believed when that record names the
//! process that is to be dumped.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::Mode;
use restow::host::record;
use restow::ids::HostPid;

/// The process that made the socket.
#[derive(Debug)]
pub struct Peer {
    /// Its pid.
    pub pid: HostPid,
    /// Its arguments.
    args: Vec<String>,
}

impl Peer {
    /// Asks the kernel who is at the other end.
    ///
    /// # Errors
    /// When `socket` is no unix socket, or its other end is gone or in a pid namespace that cannot be seen from here.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let pid = getsockopt(socket, sockopt::PeerCredentials)?.pid();
        if pid == 0 {
            return Err(io::Error::other(
                "the client is in a pid namespace that cannot be seen from here",
            ));
        }
        Self::of_process(HostPid(pid))
    }

    /// Takes a process for the runtime.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of_process(pid: HostPid) -> io::Result<Self> {
        let args = std::fs::read(format!("/proc/{pid}/cmdline"))?
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .filter(|arg| !arg.is_empty())
            .collect();
        Ok(Self { pid, args })
    }

    /// The runtime's name, such as `runc`.
    pub fn runtime(&self) -> String {
        let program = self.args.first().map_or("", String::as_str);
        Path::new(program)
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// The container's id: the last argument of every runtime's `checkpoint` and `restore`.
    pub fn container(&self) -> Option<&str> {
        self.args
            .last()
            .filter(|arg| self.args.len() > 1 && !arg.starts_with('-'))
            .map(String::as_str)
    }

    /// Opens a descriptor of the peer's anew.
    ///
    /// # Errors
    /// When the peer has no such descriptor.
    pub fn descriptor(&self, fd: i32, flags: OFlag) -> io::Result<OwnedFd> {
        let path = format!("/proc/{}/fd/{fd}", self.pid);
        Ok(open(
            path.as_str(),
            flags | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// The bundle a restore is for.
    pub fn restore_bundle(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/cwd", self.pid))
    }

    /// The bundle of the container whose init is `init`, from the runtime's record; `None` when this runtime keeps none
    /// that is known here.
    pub fn dump_bundle(&self, init: HostPid) -> Option<PathBuf> {
        let root = self.root();
        let root = Path::new(&root);
        // crun takes options behind the id as well (argp). Only the id's record names the process.
        let mut words = self.args.iter().skip(1).rev();
        words.find_map(|word| {
            let single = Path::new(word).file_name() == Some(OsStr::new(word));
            single.then(|| record::bundle_of(root, word, init))?
        })
    }

    /// Whether it was told to write its errors to a file (`--log`), as those do that read them there: containerd, podman,
    /// CRI-O and Docker.
    pub fn logs_to_file(&self) -> bool {
        self.option("--log").is_some()
    }

    /// Where the runtime keeps its records: `--root DIR`, `--root=DIR` or its default.
    fn root(&self) -> String {
        if let Some(root) = self.option("--root") {
            return root.to_owned();
        }
        let name = self.runtime();
        format!("/run/{}", if name.is_empty() { "runc" } else { &name })
    }

    /// What an option has, as `--name VALUE` or `--name=VALUE`.
    fn option(&self, name: &str) -> Option<&str> {
        let mut args = self.args.iter().enumerate();
        args.find_map(|(index, arg)| match arg.strip_prefix(name)? {
            "" => Some(self.args.get(index + 1).map_or("", String::as_str)),
            value => value.strip_prefix('='),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(args: &[&str]) -> Peer {
        Peer {
            pid: HostPid(1),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        }
    }

    #[test]
    fn the_container_is_the_last_argument() {
        let runc = peer(&[
            "/usr/bin/runc",
            "--root",
            "/run/x",
            "checkpoint",
            "--image-path",
            "/i",
            "web-1",
        ]);
        assert_eq!(runc.container(), Some("web-1"));
        assert_eq!(runc.runtime(), "runc");
        assert_eq!(runc.root(), "/run/x");
        assert_eq!(
            peer(&["crun", "--root=/run/y", "checkpoint", "c"]).root(),
            "/run/y"
        );
        assert_eq!(peer(&["crun", "checkpoint", "c"]).root(), "/run/crun");
        assert_eq!(peer(&["podman"]).container(), None);
    }

    #[test]
    fn a_log_is_an_option_of_its_own() {
        for args in [
            &["runc", "--log", "/l", "restore", "c"],
            &["crun", "--log=/l", "--systemd-cgroup", "restore", "c"],
        ] {
            assert!(peer(args).logs_to_file(), "{args:?}");
        }
        assert!(!peer(&["runc", "--log-format", "json", "restore", "c"]).logs_to_file());
    }

    #[test]
    fn the_bundle_is_found_wherever_the_id_stands() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("web");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("status"), r#"{"pid": 7, "bundle": "/run/b"}"#).unwrap();
        let root = root.path().to_str().unwrap();
        let last = peer(&[
            "crun",
            "--root",
            root,
            "checkpoint",
            "--image-path",
            "/i",
            "web",
        ]);
        assert_eq!(last.dump_bundle(HostPid(7)), Some("/run/b".into()));
        let before = peer(&[
            "crun",
            "--root",
            root,
            "checkpoint",
            "web",
            "--image-path",
            "/i",
        ]);
        assert_eq!(before.dump_bundle(HostPid(7)), Some("/run/b".into()));
        assert_eq!(before.dump_bundle(HostPid(8)), None);
        let path = peer(&["crun", "--root", "/x", "checkpoint", dir.to_str().unwrap()]);
        assert_eq!(path.dump_bundle(HostPid(7)), None);
    }
}
