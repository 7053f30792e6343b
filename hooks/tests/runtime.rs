//! The program `restow-runtime` before a fake real runtime, without root.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use programs::{copy, script};
use serde_json::Value;

/// Directories with ours (`ours`) and the real ones (`real`).
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for dir in ["ours", "real", "bundle"] {
            fs::create_dir(place.path(dir)).unwrap();
        }
        for name in ["restow-runtime", "restow-runc", "restow-crun"] {
            place.ours(&format!("ours/{name}"));
        }
        place.program("ours/criu", "exit 0");
        for name in ["runc", "crun"] {
            place.runtime(&format!("real/{name}"));
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ours(&self, name: &str) {
        copy(
            Path::new(env!("CARGO_BIN_EXE_restow-runtime")),
            &self.path(name),
        );
    }

    fn program(&self, name: &str, body: &str) {
        script(&self.path(name), body);
    }

    /// A runtime that says who it is, with which PATH, working directory and arguments it was called.
    fn runtime(&self, name: &str) {
        self.program(
            name,
            r#"printf '%s\n' "$0" "$PATH" "$PWD" "$$"; for arg; do printf '[%s]\n' "$arg"; done; exit 7"#,
        );
    }

    fn config(&self, text: &str) {
        fs::write(self.path("config.toml"), text).unwrap();
    }

    fn call(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("ours").join(name));
        command
            .args(args)
            .current_dir(self.path("bundle"))
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.path("real").display()),
            )
            .env("RESTOW_CONFIG", self.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What the real runtime saw.
    fn seen(&self, mut command: Command) -> Seen {
        let child = command.spawn().unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        // Its exit status is the runtime's.
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap();
        let (program, path, dir) = (next(), next(), next());
        // It is the process that the caller started.
        assert_eq!(next(), pid.to_string());
        assert_eq!(Path::new(&dir), self.path("bundle").canonicalize().unwrap());
        Seen {
            program: PathBuf::from(program),
            path,
            args: lines.collect::<Vec<_>>().join(" "),
        }
    }
}

struct Seen {
    program: PathBuf,
    path: String,
    args: String,
}

#[test]
fn arguments_reach_the_runtime_untouched_with_our_criu_first_in_path() {
    let calls: [&[&str]; 6] = [
        &["--version"],
        &[],
        &[
            "--root",
            "/r",
            "--log=/dev/null",
            "create",
            "--bundle",
            "/b",
            "--no-pivot",
            "id",
        ],
        &["restore", "--image-path", "", "--weird= x", "id"],
        &["kill", "id", "9"],
        &["checkpoint", "--help"],
    ];
    let place = Place::new();
    for args in calls {
        let seen = place.seen(place.call("restow-runtime", args));
        let expected: Vec<_> = args.iter().map(|arg| format!("[{arg}]")).collect();
        assert_eq!(seen.args, expected.join(" "));
        assert_eq!(seen.program, place.path("real/crun"));
        let (first, rest) = seen.path.split_once(':').unwrap();
        assert_eq!(Path::new(first), place.path("ours").canonicalize().unwrap());
        assert_eq!(
            rest,
            format!("{}:/usr/bin:/bin", place.path("real").display())
        );
    }
}

#[test]
fn the_name_then_the_configuration_says_which_runtime_it_is() {
    let place = Place::new();
    let program = |name: &str| place.seen(place.call(name, &["state"])).program;
    assert_eq!(program("restow-runc"), place.path("real/runc"));
    place.config("runtime = 'runc'");
    assert_eq!(program("restow-runtime"), place.path("real/runc"));
    assert_eq!(program("restow-crun"), place.path("real/crun"));
    fs::create_dir(place.path("elsewhere")).unwrap();
    place.runtime("elsewhere/runc");
    place.config(&format!("runtime = {:?}", place.path("elsewhere/runc")));
    assert_eq!(program("restow-runtime"), place.path("elsewhere/runc"));
    assert_eq!(program("restow-runc"), place.path("elsewhere/runc"));
    assert_eq!(program("restow-crun"), place.path("real/crun"));
    // Containers that ask for nothing go on working whatever is wrong with it.
    place.config("runtime = 7");
    assert_eq!(program("restow-runtime"), place.path("real/crun"));
}

#[test]
fn no_subreaper_is_kept_from_crun_alone() {
    let place = Place::new();
    let args = |name: &str, command: &str| {
        place
            .seen(place.call(name, &[command, "--no-subreaper", "--detach", "id"]))
            .args
    };
    assert_eq!(args("restow-crun", "restore"), "[restore] [--detach] [id]");
    assert_eq!(
        args("restow-runc", "restore"),
        "[restore] [--no-subreaper] [--detach] [id]"
    );
    assert_eq!(
        args("restow-crun", "run"),
        "[run] [--no-subreaper] [--detach] [id]"
    );
}

#[test]
fn the_directory_of_our_criu_can_be_configured_and_need_not_be_there() {
    let place = Place::new();
    fs::create_dir(place.path("lib")).unwrap();
    place.program("lib/criu", "exit 0");
    place.config(&format!("lib-dir = {:?}", place.path("lib")));
    let first = |place: &Place| {
        let path = place.seen(place.call("restow-runtime", &["state"])).path;
        PathBuf::from(path.split(':').next().unwrap())
    };
    assert_eq!(first(&place), place.path("lib"));
    fs::remove_file(place.path("lib/criu")).unwrap();
    assert_eq!(first(&place), place.path("real"));
}

#[test]
fn it_never_runs_itself() {
    let place = Place::new();
    let real = place.path("real");
    fs::remove_file(real.join("crun")).unwrap();
    fs::remove_file(real.join("runc")).unwrap();
    // Two copies under the real one's name, and a link.
    place.ours("real/crun");
    fs::create_dir(place.path("more")).unwrap();
    place.ours("more/crun");
    let search = format!("{}:{}:/bin", real.display(), place.path("more").display());
    let mut call = place.call("restow-crun", &["state"]);
    let output = call.env("PATH", search).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(said(&output).contains("found in PATH"), "{}", said(&output));

    place.config(&format!(
        "runtime = {:?}",
        place.path("ours/restow-runtime")
    ));
    let output = place.call("restow-runtime", &["state"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(
        said(&output).contains("it is Restow's own runtime"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_missing_runtime_is_told_where_callers_look() {
    let place = Place::new();
    place.config("runtime = '/nowhere/crun'");
    let log = place.path("log.json");
    let log = log.to_str().unwrap();
    for format in [
        &["--log", log, "--log-format", "json"][..],
        &["--log-format=json", "--log", log],
    ] {
        let output = place
            .call("restow-runtime", &[format, &["create", "id"]].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(127));
        let line: Value =
            serde_json::from_str(fs::read_to_string(log).unwrap().lines().last().unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        let message = line["msg"].as_str().unwrap();
        assert!(
            message.contains("The configured runtime /nowhere/crun cannot be run: No such file"),
            "{message}"
        );
        assert!(said(&output).contains(message));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A runtime whose container is paused, as one that is held back.
fn paused(place: &Place) {
    fs::create_dir_all(place.path("root/c")).unwrap();
    fs::write(place.path("root/c/restow-created"), "").unwrap();
    place.program(
        "real/runc",
        r#"[ "$3" = state ] && echo '{"ociVersion": "1.0.2", "id": "c", "status": "paused", "later": {"b": 1, "a": 2}}' && exit
echo "$@" >> "$1.calls"; exit 0"#,
    );
}

#[test]
fn a_container_that_waits_for_start_is_created_to_its_caller() {
    let place = Place::new();
    paused(&place);
    let root = place.path("root");
    let root = root.to_str().unwrap();
    let call = |args: &[&str]| {
        place
            .call("restow-runc", &[&["--root", root], args].concat())
            .output()
            .unwrap()
    };
    let asked = || fs::read_to_string(place.path("bundle/--root.calls")).unwrap_or_default();
    let status = || serde_json::from_slice::<Value>(&call(&["state", "c"]).stdout).unwrap();
    assert_eq!(status()["status"], "created");
    // Nothing else of it is lost or moved.
    assert_eq!(
        status().to_string(),
        r#"{"ociVersion":"1.0.2","id":"c","status":"created","later":{"b":1,"a":2}}"#
    );
    assert!(!call(&["pause", "c"]).status.success());
    assert!(!call(&["resume", "c"]).status.success());
    assert_eq!(asked(), "");
    for (args, expected) in [
        (&["kill", "c", "SIGTERM"][..], "kill c KILL"),
        (&["kill", "c"], "kill c KILL"),
        (&["kill", "--all", "c", "15"], "kill c KILL"),
        (&["kill", "c", "USR1"], "kill c USR1"),
        (&["delete", "c"], "delete --force c"),
        (&["exec", "c", "ls"], "exec c ls"),
        (&["start", "other"], "start other"),
        (&["start", "c"], "resume c"),
        // From here on it is a container like any other.
        (&["start", "c"], "start c"),
        (&["delete", "c"], "delete c"),
    ] {
        let _ = fs::remove_file(place.path("bundle/--root.calls"));
        assert!(call(args).status.success(), "{args:?}");
        assert_eq!(
            asked().trim(),
            format!("--root {root} {expected}"),
            "{args:?}"
        );
    }
    assert_eq!(status()["status"], "paused");
}

fn ask_for(place: &Place, annotations: &Value) {
    let spec = serde_json::json!({"ociVersion": "1.0.2", "annotations": annotations, "root": {"path": "rootfs"}});
    fs::write(place.path("bundle/config.json"), spec.to_string()).unwrap();
}

#[test]
fn a_container_that_cannot_be_restored_is_started_only_where_it_says_so() {
    let place = Place::new();
    place.config(&format!(
        "[checkpoints]\nroots = [{:?}]",
        place.path("store")
    ));
    let log = place.path("log.json");
    let log = log.to_str().unwrap();
    let call = || {
        place.call(
            "restow-runtime",
            &["--log", log, "--log-format", "json", "create", "c"],
        )
    };
    let last = || -> Value {
        serde_json::from_str(fs::read_to_string(log).unwrap().lines().last().unwrap()).unwrap()
    };
    ask_for(
        &place,
        &serde_json::json!({"restow.dev/restore-from": "gone"}),
    );
    let output = call().output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        output.stdout.is_empty(),
        "the runtime was called: {output:?}"
    );
    assert_eq!(last()["level"], "error");
    assert!(
        last()["msg"].as_str().unwrap().contains("gone"),
        "{}",
        last()
    );

    ask_for(
        &place,
        &serde_json::json!({"restow.dev/restore-from": "../up"}),
    );
    assert_eq!(call().output().unwrap().status.code(), Some(1));

    ask_for(
        &place,
        &serde_json::json!({"restow.dev/restore-from": "gone", "restow.dev/on-failure": "start"}),
    );
    assert!(place.seen(call()).args.ends_with("[create] [c]"));
    assert_eq!(last()["level"], "warning");

    // One that asks for nothing is not even parsed.
    fs::write(place.path("bundle/config.json"), "no json").unwrap();
    assert!(place.seen(call()).args.ends_with("[create] [c]"));
}

fn hook(place: &Place, args: &[&str], input: &str) -> Output {
    use std::io::Write;
    place.ours("ours/restow-oci-hook");
    let mut call = place.call("restow-oci-hook", args);
    let mut child = call.stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn precreate_gives_the_spec_back_as_it_was_unless_it_opts_a_container_in() {
    let place = Place::new();
    let strange =
        r#"{ "z": 1e2,  "annotations": {"b": "x", "a": "y"}, "linux": {"unheard": [null]} }"#;
    let out =
        |args: &[&str], spec: &str| String::from_utf8(hook(&place, args, spec).stdout).unwrap();
    assert_eq!(out(&["precreate"], strange), strange);
    let once = out(&["precreate", "--enable"], strange);
    let keys = r#""annotations":{"b":"x","a":"y","restow.dev/enabled":"true"},"linux":{"unheard":[null]}}"#;
    assert!(once.ends_with(keys), "{once}");
    assert_eq!(out(&["precreate", "--enable"], &once), once);
    assert_eq!(
        out(&["precreate", "--enable"], "{}"),
        r#"{"annotations":{"restow.dev/enabled":"true"}}"#
    );
    let refused = hook(
        &place,
        &["precreate"],
        r#"{"annotations":{"restow.dev/hostnam":"x"}}"#,
    );
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(
        said(&refused).contains("restow.dev/hostnam does not exist"),
        "{}",
        said(&refused)
    );
    assert!(!hook(&place, &[], "").status.success());
}

#[test]
fn create_runtime_refuses_a_fresh_start_of_what_asks_to_be_restored() {
    let place = Place::new();
    let bundle = place.path("bundle");
    let state = serde_json::json!({"id": "c", "bundle": bundle}).to_string();
    ask_for(&place, &serde_json::json!({"restow.dev/enabled": "true"}));
    assert!(hook(&place, &["createRuntime"], &state).status.success());
    ask_for(
        &place,
        &serde_json::json!({"restow.dev/restore-from": "one", "restow.dev/on-failure": "start"}),
    );
    assert!(hook(&place, &["createRuntime"], &state).status.success());
    ask_for(
        &place,
        &serde_json::json!({"restow.dev/restore-from": "one"}),
    );
    let refused = hook(&place, &["createRuntime"], &state);
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("asks to be restored from one"),
        "{}",
        said(&refused)
    );
    for _ in 0..2 {
        assert!(hook(&place, &["poststop"], &state).status.success());
    }
}
