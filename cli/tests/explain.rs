//! `restow explain` as people and programs use it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// From a restore that a test provoked with criu 4.1.1.
const RESTORE: &str = "\
(00.000016) Version: 4.1.1 (gitid 0)
(00.000697) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.000806) Reading image tree
(00.002399)    910: Error (criu/files-reg.c:2175): File tmp/w/f has bad size 9 (expect 6)
(00.002402)    910: Error (criu/files.c:1221): Unable to open fd=3 id=0x3
(00.003083) Error (criu/cr-restore.c:1258): 910 exited, status=1
(00.003093) Error (criu/cr-restore.c:2320): Restoring FAILED.
";
const DUMP: &str =
    "(00.1) Dumping processes (pid: 7 comm: a)\n(00.2) Dumping finished successfully\n";
const UNKNOWN: &str = "(00.1)   5: Error (criu/x.c:1): Nobody \x1b[31mknows this\n(00.2) Error (criu/x.c:2): Restoring FAILED.\n";

fn explain(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_restow"))
        .arg("explain")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that needs no input may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_log_is_explained_with_object_meaning_way_round_and_line() {
    let output = explain(&["-"], RESTORE);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    for words in [
        "standard input: the restore failed (criu 4.1.1)",
        "fd 3 of process 910: file /tmp/w/f [file-size-changed]",
        "9 bytes long and was 6 at the checkpoint",
        "way round: put the file back",
        "line 4: (00.002399)    910: Error",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(
        !text.contains("RLIMIT") && !text.contains("Restoring FAILED"),
        "{text}"
    );
}

#[test]
fn what_is_not_known_is_quoted_and_told_by_the_exit_code() {
    let output = explain(&["-"], UNKNOWN);
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output);
    assert!(
        text.contains("No known cause") && text.contains("line 1: "),
        "{text}"
    );
    assert!(
        text.contains("Nobody \\u{1b}[31mknows this"),
        "a log cannot drive the terminal: {text}"
    );
}

#[test]
fn a_directory_gives_all_that_is_known_about_it() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("dump.log", DUMP);
    write("20260101T000000-web-restore.log", RESTORE);
    write("notes.log", UNKNOWN);
    write(
        "restow.log",
        "2026-01-01T00:00:00Z restore web[7] refused: The restore is not possible\n",
    );
    write(
        "restow-plan.json",
        r#"{"findings": [
            {"severity": "note", "object": {"kind": "hostname"}, "text": "the pod's", "rule": "hostname"},
            {"severity": "blocker", "object": {"kind": "mount", "mount_point": "/data"}, "text": "it is in use", "rule": "mount-gone"}
        ]}"#,
    );
    // Neither a link nor a pipe is opened.
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("restore.log")).unwrap();
    let path = dir.path().to_str().unwrap();
    let output = explain(&[path], "");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for words in [
        "dump.log: the checkpoint succeeded",
        "[file-size-changed]",
        "blocker: mount /data: it is in use [mount-gone]",
        "restore web[7]: refused: The restore is not possible",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(
        !text.contains("Nobody") && !text.contains("root:") && !text.contains("the pod's"),
        "{text}"
    );

    let json = explain(&["--json", path], "");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let failed = &json["logs"][0];
    assert!(failed["log"].as_str().unwrap().ends_with("web-restore.log"));
    assert_eq!(failed["report"]["outcome"], "failed");
    let cause = &failed["report"]["causes"][0];
    assert_eq!(cause["cause"], "file-size-changed");
    assert_eq!(cause["facts"]["path"], "/tmp/w/f");
    assert_eq!(cause["finding"]["rule"], "criu");
    assert_eq!(json["logs"][1]["report"]["outcome"], "succeeded");
    assert_eq!(json["plan"][0]["rule"], "mount-gone");
}

#[test]
fn an_archive_has_its_logs_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::write(dir.path().join("in/restore.log"), RESTORE).unwrap();
    let archive = dir.path().join("checkpoint.tar.gz");
    let packed = Command::new("tar")
        .args(["-C", dir.path().to_str().unwrap(), "-czf"])
        .arg(&archive)
        .arg("in")
        .status()
        .unwrap();
    assert!(packed.success());
    let output = explain(&[archive.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output).contains("in/restore.log: the restore failed"),
        "{}",
        text(&output)
    );
    let without = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/archives/podman.tar.gz");
    let output = explain(&[without.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn what_is_no_log_is_said_to_be_none() {
    let output = explain(&["-"], "root:x:0:0\n");
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("standard input has no line of CRIU's"),
        "{error}"
    );
    let output = explain(&["/nonexistent"], "");
    assert_eq!(output.status.code(), Some(3));
    let empty = tempfile::tempdir().unwrap();
    let output = explain(&[empty.path().to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(explain(&[], "").status.code(), Some(2));
    let output = explain(&["-"], "");
    assert_eq!(
        output.status.code(),
        Some(1),
        "an empty log explains nothing"
    );
    assert!(text(&output).contains("it is empty"), "{}", text(&output));
}

#[test]
fn all_causes_are_listed() {
    let listed = text(&explain(&["--list"], ""));
    let json = explain(&["--list", "--json"], "");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let all = json.as_array().unwrap();
    assert!(all.len() >= 40);
    for cause in all {
        assert!(listed.contains(cause["cause"].as_str().unwrap()), "{cause}");
    }
}
