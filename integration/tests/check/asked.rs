//! What `restow check` answers, and the real dump after it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;
use serde_json::Value;

/// What the real dump makes of it.
#[derive(Clone, Copy)]
pub(crate) enum Dump {
    /// It is refused, and one of these words of CRIU's log says that it is for this reason.
    Refused(&'static [&'static str]),
    /// It works.
    Works,
    /// It is refused with these words, and works with these options of the runtime's.
    Needs(&'static [&'static str], &'static [&'static str]),
}

/// One answer of `restow check`.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
}

impl Answer {
    pub(crate) fn of(output: &Output) -> Result<Self> {
        let text = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(&text).with_context(|| {
            let error = String::from_utf8_lossy(&output.stderr);
            format!("It does not print JSON: {text}{error}")
        })?;
        Ok(Self {
            code: output.status.code(),
            report,
        })
    }

    pub(crate) fn findings(&self) -> Vec<&Value> {
        let all = self.report["findings"].as_array().into_iter().flatten();
        // Of runc 1.1, said of every container.
        all.filter(|finding| finding["rule"] != "old-runtime")
            .collect()
    }

    /// Severity and rule of each, `blocker io-uring`, without doubles.
    pub(crate) fn said(&self) -> BTreeSet<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let findings = self.findings().into_iter();
        findings
            .map(|finding| format!("{} {}", text(&finding["severity"]), text(&finding["rule"])))
            .collect()
    }

    pub(crate) fn check_code(&self) -> Result<()> {
        let severities: BTreeSet<&str> = self.report["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|finding| finding["severity"].as_str())
            .collect();
        let (code, verdict) = if severities.contains("blocker") {
            (5, "no")
        } else if severities.contains("warning") {
            (1, "warnings")
        } else {
            (0, "yes")
        };
        ensure!(
            self.code == Some(code) && self.report["verdict"] == verdict,
            "Exit code {:?} and verdict {} with {severities:?}",
            self.code,
            self.report["verdict"]
        );
        Ok(())
    }
}

pub(crate) fn check(engine: &Engine, what: &str) -> Result<Answer> {
    let mut command = engine.restow_command()?;
    command.args(["check", "--json", what]);
    // Where no container was made there is none.
    let root = engine.runtime_root();
    if engine.node().path(&root).exists() {
        command.args(["--root", &root]);
    }
    Answer::of(&command.output().context("Start restow")?)
}

/// A container that may do what its objects take.
pub(crate) fn container<'e>(
    pod: &Pod<'e>,
    engine: &Engine,
    options: &ContainerOptions,
) -> Result<Container<'e>> {
    let container = pod.container(options)?;
    let config = engine.node().path(container.bundle()).join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    for set in ["bounding", "effective", "permitted"] {
        let list = spec["process"]["capabilities"][set]
            .as_array_mut()
            .context("No capabilities")?;
        list.extend(["CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"].map(Value::from));
    }
    fs::write(&config, serde_json::to_vec(&spec)?)?;
    Ok(container)
}

pub(crate) fn holding(what: &[&str]) -> ContainerOptions {
    let mut options = ContainerOptions::new(0);
    options.privileged = true;
    what.iter().fold(options.volume("/vol"), |options, what| {
        options.probe("--hold", what)
    })
}

/// Asks about the container by its id and by its process, while it goes on, and then dumps it.
pub(crate) fn judge(
    engine: &Engine,
    pod: &Pod<'_>,
    name: &str,
    options: &ContainerOptions,
    expected: &[&str],
    dump: Dump,
) -> Result<()> {
    let mut container = container(pod, engine, options)?;
    container.start().with_context(|| name.to_owned())?;
    let result = judge_running(engine, &container, name, expected, dump);
    container.remove()?;
    result.with_context(|| name.to_owned())
}

pub(crate) fn judge_running(
    engine: &Engine,
    container: &Container<'_>,
    name: &str,
    expected: &[&str],
    dump: Dump,
) -> Result<()> {
    let before = container.reports()?[0].counter;
    let answer = check(engine, container.id())?;
    let after = container.reports()?[0].counter;
    ensure!(after > before, "The container stood still");
    answer.check_code()?;
    let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    ensure!(
        answer.said() == expected,
        "It says {:?} and not {expected:?}: {:#}",
        answer.said(),
        answer.report["findings"]
    );
    for finding in answer.findings() {
        let way = finding["way_round"].as_str().unwrap_or_default();
        ensure!(!way.is_empty(), "No way round: {finding}");
        for place in finding["places"].as_array().into_iter().flatten() {
            ensure!(place["command"] == "probe", "Not the probe's: {place}");
        }
    }
    // The process alone is enough, and so is the beginning of the id.
    let init = container.init()?.to_string();
    for what in [init.as_str(), &container.id()[..12]] {
        let again = check(engine, what)?;
        ensure!(
            again.said() == answer.said() && again.report["container"] == container.id(),
            "Asked about {what} it says {:?} of {}",
            again.said(),
            again.report["container"]
        );
    }
    judge_dump(engine, container, name, dump)?;
    println!(
        "{name} | {} | {}",
        engine.versions()?,
        expected.into_iter().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

pub(crate) fn judge_dump(
    engine: &Engine,
    container: &Container<'_>,
    name: &str,
    dump: Dump,
) -> Result<()> {
    let plain = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let (refusal, options) = match dump {
        Dump::Works => (None, Some(&[][..])),
        Dump::Refused(words) => (Some(words), None),
        Dump::Needs(words, options) => (Some(words), Some(options)),
    };
    if let Some(words) = refusal {
        let checkpoint = Checkpoint::new(engine, &format!("{plain}-refused"))?;
        match container.checkpoint_running(&checkpoint) {
            Ok(()) => bail!("CRIU dumps it"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(
                    words.iter().any(|word| text.contains(word)),
                    "CRIU refuses it, but for another reason than {words:?}: {text}"
                );
            }
        }
    }
    if let Some(options) = options {
        let checkpoint = Checkpoint::new(engine, &plain)?;
        container
            .checkpoint_running_with(&checkpoint, options)
            .context("CRIU refuses it")?;
    }
    Ok(())
}

/// A node without Restow, and a pod with a network.
pub(crate) fn stage(suite: Suite) -> Result<Engine> {
    Engine::start(Stack::v2(suite), Mode::Stock)
}

pub(crate) fn pod<'e>(engine: &'e Engine, name: &str) -> Result<Pod<'e>> {
    Pod::start(engine, &PodOptions::new(name).network())
}
