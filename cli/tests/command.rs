//! The command as people and programs see it, on real image sets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn objects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/objects/criu-4.2.1")
}

fn restow(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_restow"))
        .args(args)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn succeed(args: &[&str]) -> String {
    let output = restow(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn json(view: &str) -> serde_json::Value {
    serde_json::from_str(&succeed(&[
        "image",
        view,
        "--json",
        objects().to_str().unwrap(),
    ]))
    .unwrap()
}

fn table(view: &str) -> String {
    succeed(&["image", view, objects().to_str().unwrap()])
}

#[test]
fn processes_are_a_tree() {
    let text = table("ps");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "PID  PGID  SID  THREADS  STATE  COMMAND  PROGRAM");
    assert!(lines[1].contains("alive  zoo "), "{text}");
    assert!(
        lines[2].contains("alive    zoo "),
        "the child is indented: {text}"
    );
    assert_eq!(json("ps")[1]["ppid"], 1);
}

#[test]
fn every_kind_of_open_file_is_shown() {
    let text = table("fds");
    for kind in [
        "reg",
        "pipe",
        "fifo",
        "eventfd",
        "eventpoll",
        "timerfd",
        "signalfd",
        "inotify",
        "fanotify",
        "memfd",
        "tty",
        "ns",
        "unixsk",
        "inetsk",
        "netlinksk",
        "packetsk",
        "pidfd",
    ] {
        assert!(
            text.lines()
                .any(|line| line.split_whitespace().nth(2) == Some(kind)),
            "no {kind} in\n{text}"
        );
    }
    for part in [
        "unlinked (ghost)",
        "unlinked (linked)",
        "w,append,cloexec",
        "/work/tmpfs ",
        "memfd:zoo",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let regular = json("fds");
    let regular = regular
        .as_array()
        .unwrap()
        .iter()
        .find(|fd| fd["fd"] == 3)
        .unwrap();
    assert_eq!(
        (
            regular["file"].as_str(),
            regular["pos"].as_u64(),
            regular["mount"].as_str()
        ),
        (Some("/work/regular"), Some(4), Some("/"))
    );
}

#[test]
fn sockets_have_addresses_states_and_holders() {
    let text = table("sockets");
    for part in [
        "127.0.0.1:8080",
        "[::1]:8081",
        "0.0.0.0:8082",
        "listening",
        "established",
        "/work/listener",
        "@zoo",
        "udp",
        "netlink 0",
        "1/26",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(!text.contains('\0'));
}

#[test]
fn memory_mounts_and_cgroups_are_shown() {
    let text = table("mems");
    for part in ["[vdso]", "[shared ", "[sysv ", "[aio ring]", "r-xp  /zoo"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let text = table("mounts");
    for part in ["/work/tmpfs", "cgroup2", "/sys/fs/cgroup"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let cgroups = json("cgroups");
    let paths: Vec<_> = cgroups["sets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|set| set["path"].as_str().unwrap())
        .collect();
    assert!(
        paths.iter().any(|path| path.ends_with("/inner/deep")),
        "{paths:?}"
    );
}

#[test]
fn scan_finds_host_name_and_cgroups() {
    let text = table("scan");
    for part in [
        "utsns-",
        "nodename",
        "host name",
        "cgroup.img",
        "sets[0].ctls[0].path",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}

#[test]
fn info_counts_records_and_what_follows_them() {
    let text = table("info");
    for part in [
        "image version",
        "pages_written".replace('_', " ").as_str(),
        "pipes-data.img",
        "11 B",
        "pages-1.img",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let one = succeed(&[
        "image",
        "info",
        "--json",
        objects().join("pagemap-1.img").to_str().unwrap(),
    ]);
    assert!(one.contains("\"magic\": \"PAGEMAP\""), "{one}");
}

#[test]
fn images_come_back_through_a_pipe_and_through_files() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(objects()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !matches!(criu_image::Named::of(name), criu_image::Named::Record(_)) {
            continue;
        }
        for pretty in [&[][..], &["--pretty"]] {
            let (text, back) = (dir.path().join("x.json"), dir.path().join("x.img"));
            let objects = objects();
            let decode = [
                "image",
                "decode",
                objects.to_str().unwrap(),
                name,
                "-o",
                text.to_str().unwrap(),
            ];
            succeed(&[&decode[..], pretty].concat());
            succeed(&[
                "image",
                "encode",
                text.to_str().unwrap(),
                "-o",
                back.to_str().unwrap(),
            ]);
            assert_eq!(fs::read(&back).unwrap(), fs::read(&path).unwrap(), "{name}");
        }
    }
}

#[test]
fn differences_are_told_by_field_and_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(objects()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let (a, b) = (objects(), dir.path().to_owned());
    let diff = |args: &[&str]| {
        restow(
            &[
                &["image", "diff", a.to_str().unwrap(), b.to_str().unwrap()],
                args,
            ]
            .concat(),
        )
    };
    let same = diff(&[]);
    assert_eq!((same.status.code(), same.stdout.len()), (Some(0), 0));

    let text = succeed(&["image", "decode", a.to_str().unwrap(), "files.img"])
        .replace("/work/log", "/work/other");
    let changed = dir.path().join("changed.json");
    fs::write(&changed, text).unwrap();
    succeed(&[
        "image",
        "encode",
        changed.to_str().unwrap(),
        "-o",
        b.join("files.img").to_str().unwrap(),
    ]);
    fs::remove_file(b.join("seccomp.img")).unwrap();
    let output = diff(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("files.img"))
        .unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(
        words[words.len() - 3..],
        ["reg.name", "/work/log", "/work/other"]
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("seccomp.img") && line.contains("(none)")),
        "{text}"
    );
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn exit_codes_and_errors_say_what_is_wrong() {
    let objects = objects();
    let missing = restow(&["image", "ps", "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&missing.stderr)
            .starts_with("Error: /nonexistent cannot be opened")
    );
    assert_eq!(restow(&["image", "frobnicate"]).status.code(), Some(2));
    let many = restow(&["image", "decode", objects.to_str().unwrap()]);
    assert_eq!(many.status.code(), Some(2));
    let pages = restow(&[
        "image",
        "decode",
        objects.join("pages-1.img").to_str().unwrap(),
    ]);
    assert!(
        String::from_utf8_lossy(&pages.stderr).contains("holds no records"),
        "{pages:?}"
    );
    let full = Command::new(env!("CARGO_BIN_EXE_restow"))
        .args(["image", "decode", objects.to_str().unwrap(), "files.img"])
        .stdout(fs::File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(4), "{full:?}");
}

#[test]
fn devices_are_written_to_and_not_replaced() {
    succeed(&[
        "image",
        "decode",
        objects().to_str().unwrap(),
        "fs-1.img",
        "-o",
        "/dev/null",
    ]);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn colours_are_for_terminals_and_on_request() {
    let objects = objects();
    assert!(!table("ps").contains('\x1b'));
    assert!(
        succeed(&[
            "image",
            "ps",
            "--color",
            "always",
            objects.to_str().unwrap()
        ])
        .contains("\x1b[1m")
    );
    // On a terminal of 90 columns; script(1) makes one.
    let command = format!(
        "stty cols 90 rows 24; {} image fds {}",
        env!("CARGO_BIN_EXE_restow"),
        objects.display()
    );
    for (name, value, coloured) in [
        ("TERM", "xterm", true),
        ("NO_COLOR", "1", false),
        ("TERM", "dumb", false),
    ] {
        let mut script = Command::new("script");
        script
            .args(["-qec", &command, "/dev/null"])
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .env(name, value)
            .stdin(Stdio::null());
        let Ok(output) = script.output() else {
            eprintln!("skipped: script(1) is not there");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.contains('\x1b'), coloured, "{name}={value}: {text}");
        let plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert!(
            plain
                .lines()
                .all(|line| line.trim_end().chars().count() <= 90),
            "{plain}"
        );
    }
}

#[test]
fn the_help_of_a_command_explains_every_column() {
    for view in ["ps", "fds", "mems", "sockets", "mounts", "cgroups", "scan"] {
        let help = succeed(&["image", view, "--help"]);
        let text = table(view);
        let header = text.lines().next().unwrap();
        for column in header
            .split("  ")
            .map(str::trim)
            .filter(|column| !column.is_empty())
        {
            let known = matches!(column, "WHAT" | "VALUE" | "IMAGE" | "KIND" | "OTHER FILE");
            assert!(
                help.contains(column) || known,
                "{view}: no {column} in {help}"
            );
        }
    }
}

#[test]
fn manual_and_completions_are_there() {
    assert!(succeed(&["man", "image", "diff"]).contains(".TH"));
    assert!(succeed(&["completions", "bash"]).contains("_restow"));
    assert!(succeed(&["image", "scan", "--help"]).contains("Exit codes"));
}

#[test]
fn processes_whose_parents_go_in_a_circle_are_shown_once() {
    use criu_image::views::{InventoryEntry, PstreeEntry, View};
    use criu_image::{Builder, Kind};
    let dir = tempfile::tempdir().unwrap();
    let mut inventory = Builder::new(Kind::Inventory);
    inventory.push(
        &InventoryEntry {
            img_version: 2,
            ..InventoryEntry::default()
        }
        .to_message(),
    );
    fs::write(dir.path().join("inventory.img"), inventory.finish()).unwrap();
    let mut pstree = Builder::new(Kind::Pstree);
    for (pid, ppid) in [(1, 0), (5, 6), (6, 5), (7, 7)] {
        pstree.push(
            &PstreeEntry {
                pid,
                ppid,
                ..PstreeEntry::default()
            }
            .to_message(),
        );
    }
    fs::write(dir.path().join("pstree.img"), pstree.finish()).unwrap();
    let text = succeed(&["image", "ps", dir.path().to_str().unwrap()]);
    let pids: Vec<_> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(pids, ["1", "7", "5", "6"], "{text}");
}

#[test]
fn an_empty_name_is_not_the_only_container_that_there_is() {
    for args in [
        &["check", ""][..],
        &["checkpoint", "", "--stop"],
        &["migrate", "", "--to", "/run/other.sock"],
    ] {
        let output = restow(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("value is required"), "{said}");
    }
}
