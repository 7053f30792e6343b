//! The same commands with either runtime.

use anyhow::{Context, Result, ensure};
use restow_integration::engine::Mode;
use restow_integration::podman::{IMAGE, Podman};
use restow_integration::suite::Suite;

/// What podman's own checkpoint tests do (`test/system/520-checkpoint.bats`, `test/e2e/checkpoint_test.go`): a name for each, and
/// commands that have to succeed or fail alike.
const COMMANDS: &[(&str, &[&str])] = &[
    (
        "run",
        &[
            "run",
            "--detach",
            "--name",
            "a",
            "--network",
            "none",
            IMAGE,
            "/probe",
            "run",
        ],
    ),
    (
        "checkpoint nothing",
        &["container", "checkpoint", "no-such"],
    ),
    ("restore nothing", &["container", "restore", "no-such"]),
    ("restore a running one", &["container", "restore", "a"]),
    ("checkpoint", &["container", "checkpoint", "a"]),
    (
        "its state",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.Running}} {{.State.Checkpointed}}",
            "a",
        ],
    ),
    ("checkpoint twice", &["container", "checkpoint", "a"]),
    ("restore", &["container", "restore", "a"]),
    (
        "its state",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.Running}} {{.State.Restored}}",
            "a",
        ],
    ),
    (
        "leave running",
        &["container", "checkpoint", "--leave-running", "a"],
    ),
    (
        "its state",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.Running}}",
            "a",
        ],
    ),
    ("keep", &["container", "checkpoint", "--keep", "a"]),
    (
        "restore with keep",
        &["container", "restore", "--keep", "a"],
    ),
    ("pause", &["pause", "a"]),
    ("checkpoint a paused one", &["container", "checkpoint", "a"]),
    ("unpause", &["unpause", "a"]),
    (
        "export",
        &[
            "container",
            "checkpoint",
            "--export",
            "/tmp/c.tar.gz",
            "--compress",
            "gzip",
            "a",
        ],
    ),
    (
        "import under a name that is taken",
        &["container", "restore", "--import", "/tmp/c.tar.gz"],
    ),
    (
        "import",
        &[
            "container",
            "restore",
            "--import",
            "/tmp/c.tar.gz",
            "--name",
            "b",
        ],
    ),
    (
        "name without import",
        &["container", "restore", "--name", "x", "a"],
    ),
    (
        "export without compression",
        &[
            "container",
            "checkpoint",
            "--export",
            "/tmp/d.tar",
            "--compress",
            "none",
            "b",
        ],
    ),
    ("remove", &["rm", "a"]),
    ("remove", &["rm", "b"]),
    (
        "import again",
        &["container", "restore", "--import", "/tmp/d.tar"],
    ),
    ("exec", &["exec", "b", "/probe", "writable", "/tmp"]),
    ("stop", &["stop", "b"]),
    (
        "its end",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "b",
        ],
    ),
    ("start afresh", &["start", "b"]),
    (
        "no root file system",
        &[
            "container",
            "checkpoint",
            "--ignore-rootfs",
            "--export",
            "/tmp/e.tar",
            "b",
        ],
    ),
    ("remove", &["rm", "b"]),
    (
        "import without root file system",
        &[
            "container",
            "restore",
            "--ignore-rootfs",
            "--import",
            "/tmp/e.tar",
        ],
    ),
    (
        "what there is",
        &["ps", "--all", "--format", "{{.Names}} {{.State}}"],
    ),
    ("restart", &["restart", "--time", "1", "b"]),
    ("kill", &["kill", "b"]),
    ("wait", &["wait", "b"]),
    ("remove all", &["rm", "--force", "--all"]),
];

pub(crate) fn the_same_commands_give_the_same_with_either_runtime(suite: Suite) -> Result<()> {
    let account = |mode| -> Result<Vec<String>> {
        let podman = Podman::start(suite, mode)?;
        let mut lines = Vec::new();
        for (name, args) in COMMANDS {
            let output = podman.command(args).output().context("Start podman")?;
            let said = if output.status.success() {
                &output.stdout
            } else {
                &output.stderr
            };
            let said = String::from_utf8_lossy(said);
            lines.push(format!(
                "{name}: {}: {}",
                output.status,
                without_names(&said)
            ));
        }
        Ok(lines)
    };
    let (stock, ours) = (account(Mode::Stock)?, account(Mode::Restow)?);
    for (stock, ours) in stock.iter().zip(&ours) {
        println!("podman: {suite} | {stock}");
        ensure!(stock == ours, "With stock: {stock}\nwith Restow: {ours}");
    }
    Ok(())
}

/// What a runtime says, without what differs from run to run: ids, times, and where the runtime is.
fn without_names(said: &str) -> String {
    let words = said
        .split_whitespace()
        .filter(|word| !word.starts_with("time="));
    let words: Vec<&str> = words.collect();
    let text = words
        .join(" ")
        .replace("/usr/local/lib/restow/restow-", "/usr/bin/");
    let is_hex = |c: char| c.is_ascii_hexdigit();
    let parts = text.split_inclusive(|c: char| !is_hex(c)).map(|part| {
        let (hex, rest) = part.split_at(part.trim_end_matches(|c: char| !is_hex(c)).len());
        if hex.len() >= 12 {
            format!("ID{rest}")
        } else {
            part.to_owned()
        }
    });
    parts.collect()
}
