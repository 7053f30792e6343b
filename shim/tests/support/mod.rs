//! A place with a bundle, the shim, and the fake stock shim beside it.
#![allow(dead_code, reason = "each test program uses a part")]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use criu_image::wire::Message;
use restow_shim::client::{self, Client, Failure};
use tempfile::TempDir;

/// The service that the calls of these tests go to; the fake knows them all.
pub(crate) const SERVICE: &str = "containerd.task.v3.Task";

/// What ends when this does: processes by their sockets' word, files with their directory.
pub(crate) struct Place {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

/// An example program that cargo has built beside this test.
fn example(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let target = deps.parent().unwrap().parent().unwrap();
    target.join("examples").join(name)
}

/// By another process: what other tests start at this moment would inherit a descriptor of ours for writing, and the program could not
/// be run.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["programs", "sockets", "bundle", "lib"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let stock = dir.path().join("programs/containerd-shim-runc-v2");
        copy(&example("fake_stock"), &stock);
        let shim = dir.path().join("programs/containerd-shim-restow-v2");
        copy(
            Path::new(env!("CARGO_BIN_EXE_containerd-shim-restow-v2")),
            &shim,
        );
        let config = format!("lib-dir = {:?}\n", dir.path().join("lib"));
        fs::write(dir.path().join("config.toml"), config).unwrap();
        fs::write(
            dir.path().join("bundle/config.json"),
            r#"{"annotations":{}}"#,
        )
        .unwrap();
        Self {
            dir,
            environment: Vec::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One more variable in the shim's environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// The spec's annotations.
    pub(crate) fn annotate(&self, pairs: &[(&str, &str)]) {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{name:?}:{value:?}"))
            .collect();
        let spec = format!(r#"{{"annotations":{{{}}}}}"#, pairs.join(","));
        fs::write(self.path("bundle/config.json"), spec).unwrap();
    }

    /// Restow's criu, as far as the shim looks.
    pub(crate) fn install_interposer(&self) {
        let interposer = self.path("lib/criu");
        fs::write(&interposer, "#!/bin/sh\n").unwrap();
    }

    /// Runs the shim in the bundle.
    pub(crate) fn shim(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(self.path("programs/containerd-shim-restow-v2"));
        command
            .args(args)
            .current_dir(self.path("bundle"))
            .env("FAKE_SOCKETS", self.path("sockets"))
            .env("RESTOW_CONFIG", self.path("config.toml"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end without having read.
        let _ = stdin.write_all(input);
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// `start` for a container with this id, as containerd says it.
    pub(crate) fn start(&self, id: &str) -> Output {
        self.start_with(id, b"")
    }

    pub(crate) fn start_with(&self, id: &str, input: &[u8]) -> Output {
        let args = [
            "-namespace",
            "ns",
            "-address",
            "/c.sock",
            "-id",
            id,
            "start",
        ];
        self.shim(&args, input)
    }

    pub(crate) fn stock_socket(&self, id: &str) -> PathBuf {
        self.path("sockets").join(id)
    }

    pub(crate) fn own_socket(&self, id: &str) -> PathBuf {
        self.path("sockets").join(format!("{id}.restow"))
    }

    pub(crate) fn client(&self, id: &str) -> Client {
        Client::connect(&self.own_socket(id), Some(Duration::from_secs(30))).unwrap()
    }

    pub(crate) fn connect(&self, id: &str) -> UnixStream {
        let socket = UnixStream::connect(self.own_socket(id)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket
    }

    /// The stock shim's process number.
    pub(crate) fn stock_pid(&self, id: &str) -> i32 {
        client::shim_pid(&self.own_socket(id), id).unwrap()
    }

    /// The proxy's process number.
    pub(crate) fn proxy_pid(&self, id: &str) -> i32 {
        let socket = self.own_socket(id);
        let wanted = socket.as_os_str();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok())
            .find(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let mut words = line.split(|byte| *byte == 0).map(bytes);
                words.any(|word| word == restow_shim::arguments::PROXY)
                    && words.any(|word| word == wanted)
            })
            .expect("there is no proxy")
    }
}

fn bytes(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path("sockets"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(mut client) = Client::connect(&entry.path(), Some(Duration::from_secs(5))) {
                let _ = client.call(SERVICE, "Shutdown", &Message::default());
            }
        }
    }
}

/// A message with one text.
pub(crate) fn text(text: &str) -> Message<'static> {
    let mut message = Message::default();
    message.set_bytes(1, text);
    message
}

/// Calls and returns the text of the answer.
pub(crate) fn ask(client: &mut Client, method: &str, said: &str) -> Result<String, Failure> {
    let answer = client.call(SERVICE, method, &text(said))?;
    let answer = Message::parse(&answer).unwrap();
    Ok(answer.str(1).unwrap_or_default().to_owned())
}

/// Waits until something is so; a test that waits in vain is ended by its runner.
pub(crate) fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is there, and no zombie.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, None | Some(b'Z' | b'X'))
}

/// Whether a path is a file.
pub(crate) fn there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
