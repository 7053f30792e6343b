//! Its options are those of criu, and wrong calls are answered by it.

use std::fs;
use std::process::Output;

use anyhow::{Result, ensure};
use restow_cli::criu::options::{WITH_OPTIONAL_VALUE, WITH_VALUE, WITHOUT_VALUE};
use restow_integration::suite::Suite;
use restow_integration::tree::{TreePod, View};

use crate::calls::{IMAGES, check_clean, engine};

pub(crate) fn the_options_are_those_of_criu(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let said = |option: &str| -> Result<String> {
        let output = engine
            .node()
            .command("criu")
            .args([option, "check"])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout))
    };
    for name in WITH_VALUE {
        let output = engine
            .node()
            .command("criu")
            .arg(format!("--{name}"))
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(text.contains("requires an argument"), "--{name}: {text}");
    }
    // Options of criu 4.2 that 4.1 has not got.
    let newer = ["allow-uprobes", "no-allow-uprobes"];
    for name in WITHOUT_VALUE {
        if suite == Suite::Stable && newer.contains(&name) {
            continue;
        }
        let text = said(&format!("--{name}=x"))?;
        ensure!(
            text.contains("doesn't allow an argument"),
            "--{name}: {text}"
        );
    }
    for name in WITH_OPTIONAL_VALUE {
        let text = said(&format!("--{name}"))?;
        let wrong = ["requires an argument", "unrecognized", "ambiguous"];
        ensure!(
            !wrong.iter().any(|word| text.contains(word)),
            "--{name}: {text}"
        );
    }
    // And there are no others: criu's own list of them.
    let help = engine.run("criu", &["--help"])?;
    for word in help.split("--").skip(1) {
        let name: String = word
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '-')
            .collect();
        if name.is_empty() {
            continue;
        }
        let known = WITH_VALUE
            .iter()
            .chain(&WITH_OPTIONAL_VALUE)
            .chain(&WITHOUT_VALUE)
            .any(|known| known.starts_with(name.as_str()));
        ensure!(known, "criu --help names --{name}");
    }
    Ok(())
}

pub(crate) fn wrong_calls_are_answered_by_criu(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let pod = TreePod::start(&engine, "aaaa", View::Node)?;
    fs::create_dir_all(engine.node().path(IMAGES))?;
    // The time in a log line differs.
    let plain = |output: &Output| {
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text
            .lines()
            .map(|line| line.split_once(") ").map_or(line, |(_, rest)| rest));
        (
            output.status.code(),
            lines.map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    for words in [
        &["restore", "--no-such-option"][..],
        &["restore", "-D"],
        &["restore", "-D", "/nowhere"],
        &["restore", "-D", IMAGES],
        &["dump", "-D", IMAGES],
        &["dump", "-t", "999999", "-D", IMAGES],
        &["nonsense"],
        &["--version"],
        &["check", "--feature", "mem_dirty_track"],
    ] {
        let through = plain(&pod.criu(words, &[])?);
        let alone = plain(&pod.command(&[&["criu"], words].concat()).output()?);
        ensure!(
            through.0 == alone.0,
            "{words:?}: {through:?}, criu: {alone:?}"
        );
        // A dump that gets as far as to look for the process has our action script.
        let same = through.1.iter().filter(|line| !alone.1.contains(line));
        let more: Vec<_> = same.collect();
        ensure!(more.is_empty(), "{words:?}: {more:?} besides {alone:?}");
        check_clean(&engine)?;
    }
    let output = pod.criu(&["restore", "-D", IMAGES], &["--restow-set", "colour=red"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("restow.dev/colour does not exist"));
    let help = pod.criu(&["--help"], &[])?;
    ensure!(String::from_utf8_lossy(&help.stdout).contains("All options but these go to criu"));
    Ok(())
}
