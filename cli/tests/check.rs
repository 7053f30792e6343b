//! `restow check` on this process, which needs neither root nor criu.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::Value;

fn restow(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_restow"))
        .args(args)
        // No criu, and no configuration of this node's.
        .env("PATH", "/nonexistent")
        .env("RESTOW_CONFIG", "/nonexistent")
        .output()
        .unwrap()
}

#[test]
fn the_exit_code_is_the_verdict_and_each_finding_has_a_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    let file = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut &file, &vec![7; 2 << 20]).unwrap();
    file.sync_all().unwrap();
    std::fs::remove_file(&path).unwrap();
    let output = restow(&["check", "--json", &std::process::id().to_string()]);
    assert_eq!(output.status.code(), Some(5));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verdict"], "no");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| {
        finding["way_round"]
            .as_str()
            .is_some_and(|way| !way.is_empty())
    }));
    let large = findings
        .iter()
        .find(|finding| finding["rule"] == "unlinked-large")
        .unwrap();
    assert_eq!(large["object"], path.to_str().unwrap());
    assert!(large["places"][0]["fd"].is_u64());
    assert!(findings.iter().any(|finding| finding["rule"] == "no-criu"));
}

#[test]
fn people_read_the_worst_first_and_the_verdict_last() {
    let output = restow(&["check", "--color", "never", &std::process::id().to_string()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("blocker"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("no, process "), "{text}");
}

#[test]
fn what_is_not_there_is_told_from_a_wrong_command_line() {
    let output = restow(&["check", "4000000000"]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("There is no process 4000000000"), "{text}");
    assert_eq!(restow(&["check"]).status.code(), Some(2));
    let output = restow(&["check", "--root", "/nonexistent", "x"]);
    assert_eq!(output.status.code(), Some(3));
}
