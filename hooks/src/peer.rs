//! The runtime at the other end of the socket, and the container it is about.
//!
//! At restore the runtime's working directory is the new container's bundle. At dump it is wherever the caller was, so
//! the bundle is found through the runtime's own record of the container, and only believed when that record names the
//! process that is to be dumped.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::Mode;
use restow::ids::{ContainerPath, HostPid};
use restow::policy::ANNOTATION_PREFIX;
use restow::target::SpecMount;
use serde_json::Value;

/// The process that made the socket.
#[derive(Debug)]
pub struct Peer {
    /// Its pid.
    pub pid: HostPid,
    /// Its arguments.
    args: Vec<String>,
}

/// What an OCI bundle says, as far as Restow reads it. Only read, never written back.
#[derive(Debug, Default)]
pub struct Bundle {
    /// The spec's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The spec's mounts.
    pub mounts: Vec<SpecMount>,
    /// The spec's root file system is read-only.
    pub read_only_root: bool,
    /// The spec's host name.
    pub hostname: Option<String>,
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
        let args = std::fs::read(format!("/proc/{pid}/cmdline"))?
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .filter(|arg| !arg.is_empty())
            .collect();
        Ok(Self {
            pid: HostPid(pid),
            args,
        })
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
        let dir = Path::new(&root).join(self.container()?);
        runc_bundle(&dir.join("state.json"), init)
            .or_else(|| crun_bundle(&dir.join("status"), init))
    }

    /// Where the runtime keeps its records: `--root DIR`, `--root=DIR` or its default.
    fn root(&self) -> String {
        for (index, arg) in self.args.iter().enumerate() {
            match arg.strip_prefix("--root") {
                Some("") => return self.args.get(index + 1).cloned().unwrap_or_default(),
                Some(value) if value.starts_with('=') => return value[1..].to_owned(),
                _ => {}
            }
        }
        let name = self.runtime();
        format!("/run/{}", if name.is_empty() { "runc" } else { &name })
    }
}

/// runc's `state.json` has the pid and, among the labels, `bundle=<path>` (libcontainer/state_linux.go).
fn runc_bundle(record: &Path, init: HostPid) -> Option<PathBuf> {
    let state: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    (state["init_process_pid"].as_i64()? == i64::from(init.0)).then_some(())?;
    let labels = state["config"]["labels"].as_array()?;
    labels
        .iter()
        .filter_map(Value::as_str)
        .find_map(|label| label.strip_prefix("bundle="))
        .map(PathBuf::from)
}

/// crun's `status` has `pid` and `bundle` (src/libcrun/status.c).
fn crun_bundle(record: &Path, init: HostPid) -> Option<PathBuf> {
    let status: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    (status["pid"].as_i64()? == i64::from(init.0)).then_some(())?;
    status["bundle"].as_str().map(PathBuf::from)
}

impl Bundle {
    /// Reads `config.json`. When `only_annotated` and no annotation of ours is in the file at all, `None`, without the
    /// cost of parsing: that is the case for nearly every container of a node.
    ///
    /// # Errors
    /// When there is no such file or it is no JSON.
    pub fn read(dir: &Path, only_annotated: bool) -> io::Result<Option<Self>> {
        let bytes = std::fs::read(dir.join("config.json"))?;
        if only_annotated && !contains(&bytes, ANNOTATION_PREFIX.as_bytes()) {
            return Ok(None);
        }
        Ok(Some(Self::parse(&serde_json::from_slice(&bytes)?)))
    }

    fn parse(spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let annotations = spec["annotations"].as_object().into_iter().flatten();
        let mounts = spec["mounts"].as_array().into_iter().flatten();
        Self {
            annotations: annotations
                .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect(),
            mounts: mounts
                .filter_map(|mount| {
                    let options = mount["options"].as_array().into_iter().flatten();
                    Some(SpecMount {
                        destination: ContainerPath::new(mount["destination"].as_str()?),
                        cgroup: mount["type"] == "cgroup",
                        options: options.filter_map(text).collect(),
                    })
                })
                .collect(),
            read_only_root: spec["root"]["readonly"] == true,
            hostname: text(&spec["hostname"]).filter(|name| !name.is_empty()),
        }
    }
}

/// JSON may write the slash as `\/`, but no runtime's writer does, and then the annotation is merely not seen.
fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
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
    fn a_record_counts_only_for_the_process_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let runc = dir.path().join("state.json");
        std::fs::write(
            &runc,
            r#"{"init_process_pid": 7, "config": {"labels": ["a=b", "bundle=/run/b"]}}"#,
        )
        .unwrap();
        assert_eq!(runc_bundle(&runc, HostPid(7)), Some("/run/b".into()));
        assert_eq!(runc_bundle(&runc, HostPid(8)), None);
        let crun = dir.path().join("status");
        std::fs::write(&crun, r#"{"pid": 7, "bundle": "/run/c"}"#).unwrap();
        assert_eq!(crun_bundle(&crun, HostPid(7)), Some("/run/c".into()));
        assert_eq!(crun_bundle(&crun, HostPid(8)), None);
    }

    #[test]
    fn a_bundle_without_our_annotations_is_not_even_parsed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "no json at all").unwrap();
        assert!(Bundle::read(dir.path(), true).unwrap().is_none());
        assert!(Bundle::read(dir.path(), false).is_err());
    }

    #[test]
    fn what_is_read_of_a_bundle() {
        let spec = serde_json::json!({
            "hostname": "h",
            "root": {"path": "rootfs", "readonly": true},
            "annotations": {"restow.dev/enabled": "true"},
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/data/", "type": "bind", "options": ["rbind", "ro"]},
                {"destination": "/x", "options": ["bind"]},
            ],
        });
        let bundle = Bundle::parse(&spec);
        assert_eq!(bundle.annotations["restow.dev/enabled"], "true");
        assert_eq!(bundle.hostname.as_deref(), Some("h"));
        assert!(bundle.read_only_root);
        let mounts = bundle
            .mounts
            .iter()
            .map(|mount| (mount.destination.to_string(), mount.options.join(",")));
        let mounts: Vec<_> = mounts.collect();
        let expected = [("/proc", ""), ("/data", "rbind,ro"), ("/x", "bind")];
        assert_eq!(
            mounts,
            expected.map(|(at, options)| (at.to_owned(), options.to_owned()))
        );
    }
}
