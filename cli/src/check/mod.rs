//! `restow check`: can this running tree be dumped, and restored elsewhere?

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::builder::NonEmptyStringValueParser;
use restow::check::{self, Circumstances, Facts, Finding, Verdict};
use restow::finding::Severity;
use restow::host::record::{self, Container};
use restow::host::{Bundle, live};
use restow::ids::HostPid;
use restow::policy::{NODE_CONFIG, NodeConfig, Policy};
use serde_json::{Value, json};

use crate::output::{self, Colour, Style, visible};
use crate::{Failure, verdict};

/// Options of `restow check`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// A process, by its number here, or a running container, by its id or the beginning of it
    #[arg(value_name = "PID|CONTAINER", value_parser = NonEmptyStringValueParser::new())]
    what: String,

    /// The runtime's state directory, where it is not the usual one (its own --root)
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,

    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Colour,
}

const HELP: &str = "\
Nothing is stopped, traced or changed: the tree is read from /proc while it runs, so that an answer is true for the moment.

Examples:
  restow check 4711
  restow check 22fabe
  restow check --root /run/containerd/runc/k8s.io 22fabe --json | jq '.findings[].rule'

Containers are looked for where runc, crun, containerd, Docker, podman and CRI-O keep their state. Annotations in the container's bundle count: \
what Restow takes care of is no blocker for a container that has opted in (restow.dev/enabled).

Exit codes:
  0  yes, it can be moved
  1  yes, with warnings
  2  the command line is wrong, or more than one container is meant
  3  it cannot be looked at: it is not there, or this needs root
  4  the output cannot be written
  5  no";

/// What the question is about.
struct Subject {
    root: HostPid,
    container: Option<Container>,
}

/// Runs `restow check`.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let style = Style::new(args.color);
    let subject = subject(&args.what, args.root.as_deref())?;
    let config = config()?;
    let policy = policy(&config, subject.container.as_ref())?;
    let mut facts = live::read(subject.root).map_err(|error| explain(&error, subject.root))?;
    live::settle(&mut facts);
    facts.node = live::node(config.criu.as_deref());
    if let Some(container) = &subject.container {
        let version = live::program_version(&program(container.runtime));
        facts.node.runtime = version.map(|version| (container.runtime.to_owned(), version));
    }
    let findings = check::check(&facts, &Circumstances { policy });
    if args.json {
        output::json(&report(&subject, &facts, &findings))?;
    } else {
        output::text(&text(&subject, &facts, &findings, style))?;
    }
    Ok(verdict::exit_code(
        findings.iter().map(|finding| finding.severity).max(),
    ))
}

fn subject(what: &str, root: Option<&Path>) -> Result<Subject, Failure> {
    // A number is a process while there is one; ids of containers may look like numbers.
    if let Ok(pid) = what.parse::<i32>()
        && pid > 0
        && Path::new(&format!("/proc/{pid}")).exists()
    {
        let root_pid = HostPid(pid);
        let container =
            record::of_process(root_pid, root).map_err(|error| Failure::Input(error.into()))?;
        return Ok(Subject {
            root: root_pid,
            container,
        });
    }
    match record::find(what, root) {
        Ok(container) => Ok(Subject {
            root: container.init,
            container: Some(container),
        }),
        Err(error @ record::NotFound::Several { .. }) => Err(Failure::Usage(error.into())),
        Err(record::NotFound::None { .. }) if what.parse::<u32>().is_ok() => Err(Failure::Input(
            anyhow!("There is no process {what}, and no container with such an id"),
        )),
        Err(error) => Err(Failure::Input(error.into())),
    }
}

fn explain(error: &std::io::Error, root: HostPid) -> Failure {
    Failure::Input(match error.kind() {
        std::io::ErrorKind::PermissionDenied => anyhow!("{error}; run this as root"),
        std::io::ErrorKind::NotFound => anyhow!("There is no process {root}"),
        _ => anyhow!("{error}"),
    })
}

fn config() -> Result<NodeConfig, Failure> {
    let path =
        std::env::var_os("RESTOW_CONFIG").map_or_else(|| PathBuf::from(NODE_CONFIG), PathBuf::from);
    NodeConfig::read(&path).map_err(|error| Failure::Input(error.into()))
}

fn policy(config: &NodeConfig, container: Option<&Container>) -> Result<Option<Policy>, Failure> {
    let Some(dir) = container.and_then(|container| container.bundle.as_deref()) else {
        return Ok(None);
    };
    let bundle =
        Bundle::read(dir, false).with_context(|| format!("Read the bundle {}", dir.display()))?;
    let annotations = bundle.unwrap_or_default().annotations;
    let policy = config.policy_for(&annotations);
    policy.map_err(|error| Failure::Input(error.into()))
}

fn program(name: &str) -> PathBuf {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

fn report(subject: &Subject, facts: &Facts, findings: &[Finding]) -> Value {
    let dotted = |version: [u32; 3]| version.map(|part| part.to_string()).join(".");
    json!({
        "pid": subject.root,
        "container": subject.container.as_ref().map(|container| &container.id),
        "processes": facts.tasks.len(),
        "files": files(facts),
        "criu": facts.node.criu,
        "criu_version": facts.node.criu_version.map(dotted),
        "verdict": check::verdict(findings),
        "findings": findings,
    })
}

fn files(facts: &Facts) -> usize {
    facts.tasks.iter().map(|task| task.files.len()).sum()
}

/// More who have one object are counted, not listed.
const LISTED: usize = 4;

fn text(subject: &Subject, facts: &Facts, findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, code) = match finding.severity {
            Severity::Blocker => ("blocker", "31"),
            Severity::Warning => ("warning", "33"),
            Severity::Note => ("note", "32"),
        };
        let what = format!("{}: {}", visible(&finding.object), visible(&finding.text));
        let _ = writeln!(
            text,
            "{}  {what} [{}]",
            style.paint(code, word),
            finding.rule
        );
        for place in finding.places.iter().take(LISTED) {
            let _ = writeln!(text, "         {}", visible(&place.to_string()));
        }
        if finding.places.len() > LISTED {
            let _ = writeln!(text, "         and {} more", finding.places.len() - LISTED);
        }
        let _ = writeln!(text, "         → {}", visible(&finding.way_round));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "{}", summary(subject, facts, findings, style));
    text
}

fn summary(subject: &Subject, facts: &Facts, findings: &[Finding], style: Style) -> String {
    let what = match &subject.container {
        Some(container) => format!("container {}", container.id),
        None => format!("process {}", subject.root),
    };
    let count = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let number =
        |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let (blockers, warnings) = (count(Severity::Blocker), count(Severity::Warning));
    let answer = match check::verdict(findings) {
        Verdict::Yes => format!("yes, {what} can be moved"),
        Verdict::Warnings => format!(
            "yes, {what} can be moved, with {}",
            number(warnings, "warning")
        ),
        Verdict::No => format!(
            "no, {what} cannot be moved: {}, {}",
            number(blockers, "blocker"),
            number(warnings, "warning")
        ),
    };
    let seen = format!(
        "{}, {}",
        match facts.tasks.len() {
            1 => "1 process".to_owned(),
            many => format!("{many} processes"),
        },
        number(files(facts), "open file")
    );
    format!("{} ({seen})", style.strong(&visible(&answer)))
}
