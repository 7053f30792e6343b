//! `restow list` and `restow rm`: the checkpoints on a node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use restow::checkpoint::{About, CheckpointName, Entry, Namespace};
use serde_json::{Value, json};

use super::node::store_of;
use crate::Failure;
use crate::output::{self, Colour, Style, Table, visible};

/// Options of `restow list`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LIST_HELP)]
pub struct ListArgs {
    /// Only those of this namespace; `_node` is that of containers without a pod
    #[arg(long, value_name = "NS", value_parser = Namespace::new)]
    namespace: Option<Namespace>,

    /// Those of the node behind this socket, not of this one
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,

    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Colour,
}

const LIST_HELP: &str = "\
Exit codes:
  0  done
  1  some checkpoints cannot be read; they are named on standard error
  2  the command line is wrong
  3  the store or the node's configuration cannot be read
  4  the output cannot be written";

/// Options of `restow rm`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = RM_HELP)]
pub struct RemoveArgs {
    /// Checkpoints, as `restow list` names them: NAMESPACE/NAME
    #[arg(required = true, value_name = "NAME")]
    names: Vec<CheckpointName>,

    /// Namespace of names that have none
    #[arg(long, value_name = "NS", default_value = "default", value_parser = Namespace::new)]
    namespace: Namespace,

    /// On the node behind this socket, not on this one
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

const RM_HELP: &str = "\
All names are tried, whichever fails.

Exit codes:
  0  done
  2  the command line is wrong
  3  one of them is not there, or cannot be removed
  4  the output cannot be written";

/// What is shown of a checkpoint.
struct Line {
    entry: Entry,
    size: Option<u64>,
    about: Result<About, String>,
    criu: Option<String>,
}

/// Runs `restow list`.
///
/// # Errors
/// When the store cannot be read.
pub fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let store = store_of(args.socket.as_deref())?;
    let mut lines = Vec::new();
    let mut unreadable = Vec::new();
    for entry in store.list().map_err(|error| Failure::Input(error.into()))? {
        match entry {
            Ok(entry) => lines.push(line(entry)),
            Err(error) => unreadable.push(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    if let Some(wanted) = &args.namespace {
        lines.retain(|line| namespace(line).as_deref() == Some(wanted.as_str()));
    }
    let now = SystemTime::now();
    if args.json {
        let all: Vec<Value> = lines.iter().map(to_json).collect();
        output::json(&json!({"checkpoints": all, "unreadable": unreadable}))?;
    } else {
        output::text(&table(&lines, now, Style::new(args.color)))?;
    }
    for error in &unreadable {
        eprintln!("{}", visible(error));
    }
    let damaged = lines.iter().filter_map(|line| {
        let error = line.about.as_ref().err()?;
        Some(format!("{}: {error}", line.entry.name))
    });
    let damaged: Vec<String> = damaged.collect();
    for error in &damaged {
        eprintln!("{}", visible(error));
    }
    let all_read = unreadable.is_empty() && damaged.is_empty();
    Ok(ExitCode::from(u8::from(!all_read)))
}

fn line(entry: Entry) -> Line {
    Line {
        size: entry.size().ok(),
        about: entry
            .about()
            .map_err(|error| format!("{:#}", anyhow::Error::from(error))),
        criu: criu(&entry),
        entry,
    }
}

/// The version of criu that made it, if its inventory tells: only its log does, which travels in the archive.
fn criu(entry: &Entry) -> Option<String> {
    use std::io::Read;
    /// The version is in the first lines.
    const START: u64 = 64 << 10;
    let mut text = Vec::new();
    if entry.path.is_dir() {
        let log = crate::input::regular(&entry.path.join(super::layout::DUMP_LOG)).ok()?;
        log.take(START).read_to_end(&mut text).ok()?;
    } else {
        let limits = crate::input::Limits::default();
        let found =
            crate::input::read_named(&entry.path, &limits, &[super::layout::DUMP_LOG]).ok()?;
        text = found.into_iter().next()?.1;
    }
    version(&String::from_utf8_lossy(&text))
}

/// `(00.000004) Version: 4.1 (gitid 0)` is how CRIU's log starts.
fn version(log: &str) -> Option<String> {
    let at = log
        .lines()
        .take(32)
        .find_map(|line| line.split_once("Version: "))?;
    at.1.split_whitespace().next().map(str::to_owned)
}

/// The directory's word first: what the checkpoint says of itself is anybody's.
fn namespace(line: &Line) -> Option<String> {
    if let Some(namespace) = line.entry.namespace() {
        return Some(namespace.to_string());
    }
    line.about.as_ref().ok()?.namespaces.iter().next().cloned()
}

fn to_json(line: &Line) -> Value {
    let about = line.about.as_ref().ok();
    let modified = line
        .entry
        .modified
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    json!({
        "name": line.entry.name,
        "path": line.entry.path,
        "form": line.entry.form,
        "size": line.size,
        "namespace": namespace(line),
        "pod": about.and_then(|about| about.pod.as_ref()),
        "container": about.and_then(|about| about.container.as_ref()),
        "image": about.and_then(|about| about.image.as_ref()),
        "runtime": about.and_then(|about| about.runtime.as_ref()),
        "criu": line.criu,
        "kernel": about.and_then(|about| about.kernel.as_ref()),
        "time": about.and_then(|about| about.time).unwrap_or(modified.as_secs()),
        "error": line.about.as_ref().err(),
    })
}

fn table(lines: &[Line], now: SystemTime, style: Style) -> String {
    if lines.is_empty() {
        return "No checkpoints\n".to_owned();
    }
    let names = [
        "name",
        "pod~",
        "container~",
        "size#",
        "age#",
        "runtime",
        "criu",
    ];
    let mut table = Table::new(&names);
    for line in lines {
        let about = line.about.as_ref().ok();
        let text = |get: fn(&About) -> &Option<String>| {
            let value = about.and_then(|about| get(about).clone());
            value.unwrap_or_else(|| "-".to_owned())
        };
        let time = about
            .and_then(|about| about.time)
            .map_or(line.entry.modified, |time| {
                SystemTime::UNIX_EPOCH + Duration::from_secs(time.min(1 << 40))
            });
        table.row([
            line.entry.name.to_string(),
            text(|about| &about.pod),
            text(|about| &about.container),
            line.size.map_or_else(|| "-".to_owned(), output::size),
            age(now.duration_since(time).unwrap_or_default()),
            text(|about| &about.runtime),
            line.criu.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.render(&style)
}

/// How long ago, in its largest unit, as kubectl has it.
fn age(since: Duration) -> String {
    let seconds = since.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Runs `restow rm`.
///
/// # Errors
/// When one of the checkpoints is not there or cannot be removed; the others are gone.
pub fn remove(args: &RemoveArgs) -> Result<ExitCode, Failure> {
    let store = store_of(args.socket.as_deref())?;
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for name in &args.names {
        match store.remove(name, &args.namespace) {
            Ok(path) => removed.push((name.to_string(), path)),
            Err(error) => failed.push(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    if args.json {
        let removed: Vec<Value> = removed
            .iter()
            .map(|(name, path)| json!({"name": name, "path": path}))
            .collect();
        output::json(&json!({"removed": removed, "failed": failed}))?;
    } else {
        let text: String = removed
            .iter()
            .map(|(name, _)| format!("{} removed\n", visible(name)))
            .collect();
        output::text(&text)?;
    }
    if failed.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::Input(anyhow!(failed.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_first_lines_of_the_log() {
        let log =
            "(00.000000) Unable to get $HOME directory\n(00.000011) Version: 4.1.1 (gitid 0)\n";
        assert_eq!(version(log).as_deref(), Some("4.1.1"));
        assert_eq!(version("no log"), None);
    }

    #[test]
    fn an_age_has_one_unit() {
        assert_eq!(age(Duration::from_secs(59)), "59s");
        assert_eq!(age(Duration::from_secs(60)), "1m");
        assert_eq!(age(Duration::from_secs(90_000)), "1d");
    }
}
