//! Commands in README and docs are run: by this test where they need no node, else by the test that the line before them names.
//!
//! ```text
//! <!-- run here -->                              by this test, in a directory with a checkpoint
//! <!-- run by integration/tests/plan.rs -->      that file has the command's words
//! <!-- run by hand: why -->                      nothing runs it
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A block of commands, with who runs it.
struct Block {
    /// Commands are behind prompts, and between them is what they print.
    prompts: bool,
    place: String,
    mark: String,
    commands: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = docs
        .filter(|path| path.extension().is_some_and(|it| it == "md"))
        .collect();
    found.push(root().join("README.md"));
    found.sort();
    found
}

/// The command in a line of a console block: behind a prompt (`$`, `#`, `podA#`).
fn command(line: &str) -> Option<String> {
    let (prompt, rest) = line.split_once(' ')?;
    let host = prompt.strip_suffix(['$', '#'])?;
    if !host.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    typed(rest)
}

/// A command, without what is said of it behind two spaces and `#`.
fn typed(line: &str) -> Option<String> {
    let command = line.split("  #").next().unwrap_or(line).trim();
    (!command.is_empty()).then(|| command.to_owned())
}

fn blocks(path: &Path) -> Vec<Block> {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut found = Vec::new();
    let mut last = "";
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(mut block) = open.take() {
            if line.trim() == "```" {
                found.push(block);
            } else {
                block.commands.extend(match block.prompts {
                    true => command(line),
                    false => typed(line),
                });
                open = Some(block);
            }
        } else if let "```console" | "```sh" = line.trim() {
            let mark = last
                .strip_prefix("<!-- run ")
                .and_then(|rest| rest.strip_suffix(" -->"));
            open = Some(Block {
                prompts: line.trim() == "```console",
                place: format!("{name}:{}", number + 1),
                mark: mark.unwrap_or_default().to_owned(),
                commands: Vec::new(),
            });
        }
        if !line.trim().is_empty() {
            last = line.trim();
        }
    }
    found
}

/// The words that say which of a program's commands it is: `restow`, `image`, `ps`.
fn words(command: &str) -> Vec<&str> {
    // Whoever runs any of it has done this, and looks at what has become of it in another way.
    if ["apt ", "cargo build ", "cat ", "ls "]
        .iter()
        .any(|start| command.starts_with(start))
    {
        return Vec::new();
    }
    let words = command
        .split_whitespace()
        .filter(|word| !word.contains('='));
    let words = words.skip_while(|word| *word == "cargo" || *word == "sudo");
    let plain = words.take_while(|word| {
        word.bytes()
            .all(|c| c.is_ascii_lowercase() || b"-/_".contains(&c))
            && !word.starts_with('-')
    });
    plain
        .take(2)
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        .collect()
}

#[test]
fn every_command_is_run_somewhere() {
    let mut count = 0;
    for path in documents() {
        for block in blocks(&path) {
            let place = &block.place;
            if block.mark == "here" || block.mark.starts_with("by hand: ") {
                count += block.commands.len();
                continue;
            }
            let Some(file) = block.mark.strip_prefix("by ") else {
                panic!(
                    "{place}: say before the block who runs it: <!-- run here -->, <!-- run by FILE --> or <!-- run by hand: WHY -->"
                );
            };
            let text = fs::read_to_string(root().join(file))
                .unwrap_or_else(|error| panic!("{place}: {file}: {error}"));
            for command in &block.commands {
                for word in words(command) {
                    assert!(
                        text.contains(word),
                        "{place}: {file} does not run `{command}`: it has no {word:?}"
                    );
                }
                count += 1;
            }
        }
    }
    assert!(count > 20, "only {count} commands were found");
}

#[test]
fn what_needs_no_node_works_as_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::copy(
        root().join("testdata/archives/podman.tar.zst"),
        at("checkpoint.tar.zst"),
    )
    .unwrap();
    fs::write(at("dump.log"), include_str!("dump.log")).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_restow")).parent().unwrap();
    let path = env::var_os("PATH").unwrap();
    let search = [programs.to_owned()]
        .into_iter()
        .chain(env::split_paths(&path));
    let search = env::join_paths(search).unwrap();
    let mut count = 0;
    for path in documents() {
        for block in blocks(&path)
            .into_iter()
            .filter(|block| block.mark == "here")
        {
            for command in block.commands {
                let output = Command::new("sh")
                    .args(["-c", &command])
                    .current_dir(dir.path())
                    .env("PATH", &search)
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(
                    output.status.success(),
                    "{}: `{command}`: {errors}",
                    block.place
                );
                assert!(
                    !output.stdout.is_empty(),
                    "{}: `{command}` prints nothing",
                    block.place
                );
                count += 1;
            }
        }
    }
    assert!(count >= 2, "only {count} commands were run");
}

/// Where the links in a text lead, as they are written: `[…](here)`.
fn links(text: &str) -> Vec<&str> {
    let parts = text.split("](").skip(1);
    parts
        .filter_map(|part| part.split_once(')'))
        .map(|(link, _)| link)
        .filter(|link| !link.contains("://"))
        .collect()
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    let plain: String = heading.chars().filter(kept).collect();
    plain.replace(' ', "-")
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.with_file_name(path),
            };
            let place = format!("{}: {link}", document.display());
            assert!(target.exists(), "{place}: there is no such file");
            if !heading.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{place}: there is no such heading"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} links are found");
}

#[test]
fn every_file_of_the_project_that_is_named_is_there() {
    const DIRS: [&str; 9] = [
        "cli/",
        "core/",
        "cri/",
        "criu-image/",
        "deploy/",
        "docs/",
        "hooks/",
        "integration/",
        "shim/",
    ];
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = DIRS.iter().any(|dir| name.starts_with(dir))
                && !name.contains(|c: char| c.is_whitespace() || "*<…".contains(c));
            if is_path {
                assert!(
                    root().join(name).exists(),
                    "{}: there is no {name}",
                    document.display()
                );
            }
        }
    }
}
