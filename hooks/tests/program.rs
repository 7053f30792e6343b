//! The program `criu` as a runtime calls it, before a fake real criu, without root.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod programs;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use criu_image::wire::Message;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use programs::copy;
use restow_hooks::rpc::{Kind, Response};
use restow_hooks::seqpacket::{Connection, Received};

/// The socket's number in the started program, as runc has it.
const NUMBER: i32 = 3;

/// A directory with a real criu, an image directory and a bundle.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for dir in ["ours", "real", "images", "work", "bundle"] {
            fs::create_dir(place.path(dir)).unwrap();
        }
        fs::hard_link(ours(), place.path("ours/criu"))
            .unwrap_or_else(|_| copy(ours(), &place.path("ours/criu")));
        copy(&fake(), &place.path("real/criu"));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bundle(&self, annotations: &serde_json::Value) {
        let spec = serde_json::json!({"ociVersion": "1.0.2", "annotations": annotations});
        fs::write(self.path("bundle/config.json"), spec.to_string()).unwrap();
    }

    /// Calls `criu` as found in PATH.
    fn criu(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("ours/criu"));
        command
            .arg0("criu")
            .args(args)
            .env("PATH", self.search())
            .current_dir(self.path("bundle"));
        command
            .env("RESTOW_FAKE_OUT", self.path("seen"))
            .env("RESTOW_CONFIG", self.path("config.toml"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn search(&self) -> String {
        format!(
            "{}:{}",
            self.path("ours").display(),
            self.path("real").display()
        )
    }

    /// What the real criu saw: its arguments and the request; `None` when it was not started.
    fn seen(&self) -> Option<(Vec<String>, String)> {
        let text = fs::read_to_string(self.path("seen")).ok()?;
        let (args, request) = text.split_once("request:").unwrap_or((&text, ""));
        Some((
            args.lines().map(str::to_owned).collect(),
            request.to_owned(),
        ))
    }

    /// Starts `criu swrk 3`, sends a request and reads the answer.
    fn ask(&self, request: &[u8]) -> (Vec<u8>, Output) {
        let (client, theirs) = Connection::pair().unwrap();
        client.send(request, &[]).unwrap();
        let child = self.start(&theirs);
        drop(theirs);
        let Received::Message(answer, _) = client.receive().unwrap() else {
            panic!(
                "no answer: {}",
                String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr)
            );
        };
        drop(client);
        (answer, child.wait_with_output().unwrap())
    }

    fn start(&self, socket: &OwnedFd) -> Child {
        let mut command = self.criu(&["swrk", "3"]);
        let number = socket.as_raw_fd();
        #[allow(unsafe_code, reason = "only dup2 and fcntl run between fork and exec")]
        // SAFETY: both are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                if number == NUMBER {
                    fcntl(
                        std::os::fd::BorrowedFd::borrow_raw(number),
                        FcntlArg::F_SETFD(FdFlag::empty()),
                    )?;
                } else if libc::dup2(number, NUMBER) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn().unwrap()
    }
}

fn ours() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_criu"))
}

/// The fake real criu. `cargo test --test program` alone does not build examples.
fn fake() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--example", "fake_criu"]);
        assert!(
            cargo
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap()
                .success()
        );
    });
    ours().parent().unwrap().join("examples/fake_criu")
}

/// Runs `body` in a process of its own whose working directory is the bundle of a new place: at restore the bundle is
/// the client's working directory.
fn in_bundle(test: &str, body: impl FnOnce(&Place)) {
    const INSIDE: &str = "RESTOW_TEST_INSIDE";
    let place = Place::new();
    if std::env::var_os(INSIDE).is_some() {
        std::env::set_current_dir(place.path("bundle")).unwrap();
        return body(&place);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command
        .args(["--exact", test])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn request(kind: Kind, images: Option<&Path>) -> Vec<u8> {
    let mut opts = Message::default();
    opts.set_i32(1, -1);
    if let Some(images) = images {
        opts.set_bytes(68, images.to_str().unwrap());
    }
    let mut message = Message::default();
    message.set_u64(1, kind.0);
    message.set_bytes(2, opts.encode());
    message.encode()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn reason(answer: &[u8]) -> String {
    Message::parse(answer)
        .unwrap()
        .str(9)
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn other_commands_are_the_real_criu_with_untouched_arguments() {
    for args in [
        &["check", "--all"][..],
        &["--version"],
        &["swrk"],
        &["swrk", "99"],
        &["swrk", "x"],
        &[],
    ] {
        let place = Place::new();
        let output = place.criu(args).output().unwrap();
        // A swrk whose number is no socket is for the real criu to complain about.
        let seen = place
            .seen()
            .unwrap_or_else(|| panic!("{args:?}: {output:?}"))
            .0;
        assert_eq!(seen.join(" ").trim(), args.join(" "));
    }
}

#[test]
fn other_requests_reach_the_real_criu_unread() {
    in_bundle("other_requests_reach_the_real_criu_unread", |place| {
        place.bundle(&serde_json::json!({"restow.dev/enabled": "true"}));
        // VERSION, FEATURE_CHECK, PRE_DUMP, CHECK, and bytes that are no request.
        let mut requests: Vec<Vec<u8>> =
            [10, 9, 4, 3].map(|kind| request(Kind(kind), None)).to_vec();
        requests.push(vec![0x08, 0x0a, 0xf8, 0x3f, 0x01]);
        for sent in requests {
            let (answer, _) = place.ask(&sent);
            assert!(Response::parse(&answer).unwrap().success);
            assert_eq!(place.seen().unwrap().1, hex(&sent));
        }
    });
}

#[test]
fn containers_without_opt_in_are_passed_through() {
    in_bundle("containers_without_opt_in_are_passed_through", |place| {
        let cases = [
            serde_json::json!({}),
            serde_json::json!({"restow.dev/enabled": "false"}),
            serde_json::json!({"restow.dev/enabled.other": "true", "io.kubernetes.cri.container-name": "web"}),
        ];
        for annotations in cases {
            place.bundle(&annotations);
            for kind in [Kind::RESTORE, Kind::DUMP] {
                let sent = request(kind, Some(&place.path("images")));
                let (answer, _) = place.ask(&sent);
                assert!(Response::parse(&answer).unwrap().success, "{annotations}");
                assert_eq!(place.seen().unwrap().1, hex(&sent), "{annotations}");
            }
            let written = fs::read_dir(place.path("images")).unwrap().count();
            assert_eq!(written, 0, "{annotations}");
        }
    });
}

#[test]
fn an_unusable_node_configuration_does_not_touch_those_who_did_not_ask() {
    in_bundle(
        "an_unusable_node_configuration_does_not_touch_those_who_did_not_ask",
        |place| {
            fs::write(place.path("config.toml"), "enable = 7").unwrap();
            place.bundle(&serde_json::json!({}));
            let (answer, _) = place.ask(&request(Kind::RESTORE, Some(&place.path("images"))));
            assert!(Response::parse(&answer).unwrap().success);
        },
    );
}

#[test]
fn a_missing_real_criu_is_a_sentence() {
    let place = Place::new();
    fs::remove_file(place.path("real/criu")).unwrap();
    let output = place.criu(&["--version"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("No criu found in PATH") && text.contains("install it"),
        "{text}"
    );
}

#[test]
fn two_copies_in_path_do_not_find_each_other() {
    let place = Place::new();
    fs::create_dir(place.path("copy")).unwrap();
    copy(ours(), &place.path("copy/criu"));
    let search = format!("{}:{}", place.path("copy").display(), place.search());
    let output = place.criu(&["check"]).env("PATH", search).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(place.seen().unwrap().0, ["check"]);
}

#[test]
fn a_configured_criu_is_used_and_a_wrong_one_is_a_sentence() {
    let place = Place::new();
    copy(&fake(), &place.path("elsewhere"));
    fs::remove_file(place.path("real/criu")).unwrap();
    let config =
        |path: &Path| fs::write(place.path("config.toml"), format!("criu = {path:?}")).unwrap();
    config(&place.path("elsewhere"));
    assert!(place.criu(&["check"]).output().unwrap().status.success());
    assert_eq!(place.seen().unwrap().0, ["check"]);
    for (wrong, expected) in [
        ("none", "No such file"),
        ("ours/criu", "it is Restow's own criu"),
    ] {
        config(&place.path(wrong));
        let output = place.criu(&["check"]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(127), "{text}");
        assert!(
            text.contains("The configured criu") && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn a_container_that_asked_is_refused_with_the_reason_when_it_cannot_be_restored() {
    in_bundle(
        "a_container_that_asked_is_refused_with_the_reason_when_it_cannot_be_restored",
        |place| {
            let on = serde_json::json!({"restow.dev/enabled": "true"});

            let text = refused(place, &on);
            assert!(
                text.contains("is no whole CRIU image set: it has no inventory.img"),
                "{text}"
            );

            fs::write(place.path("images/inventory.img"), "").unwrap();
            let text = refused(place, &on);
            assert!(
                text.contains("inventory.img: at byte 0: it is empty"),
                "{text}"
            );

            let text = refused(place, &serde_json::json!({"restow.dev/hostname": "mine"}));
            assert!(
                text.contains("restow.dev/hostname is \"mine\"; it can be target or source"),
                "{text}"
            );

            fs::write(place.path("config.toml"), "enable = 7").unwrap();
            let text = refused(place, &on);
            assert!(
                text.contains("config.toml is not a valid Restow configuration"),
                "{text}"
            );
        },
    );
}

/// Asks for a restore that has to be refused before the real criu is started; returns the reason.
fn refused(place: &Place, annotations: &serde_json::Value) -> String {
    place.bundle(annotations);
    let (answer, output) = place.ask(&request(Kind::RESTORE, Some(&place.path("images"))));
    let response = Response::parse(&answer).unwrap();
    assert_eq!((response.kind, response.success), (Kind::RESTORE, false));
    assert_eq!(output.status.code(), Some(1));
    assert!(place.seen().is_none(), "the real criu was started");
    let text = reason(&answer);
    // CRIU's log, which runtimes quote, and ours say the same.
    let quoted = fs::read_to_string(place.path("images/restore.log")).unwrap();
    assert!(
        quoted.contains(&format!("Error (restow): {text}\n")),
        "{quoted}"
    );
    assert!(
        fs::read_to_string(place.path("images/restow.log"))
            .unwrap()
            .contains(&text)
    );
    text
}
