//! `restow image`: what is in CRIU images.

mod cgroups;
mod codec;
mod diff;
mod fds;
mod help;
mod info;
mod mems;
mod model;
mod mounts;
mod ps;
mod scan;
mod sockets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use crate::Failure;
use crate::input::{ImageSet, Input};
use crate::output::{self, Colour, Style, Table};

/// Options of all `restow image` commands.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,

    /// When to use colours
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto")]
    color: Colour,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show an image for people: indented JSON with flags, devices and addresses as text, without payloads
    ///
    /// Without NAME, a directory or archive is shown as by `info`.
    #[command(after_long_help = help::ONE_IMAGE)]
    Show(codec::Show),

    /// Print an image as JSON, with the keys that crit prints
    ///
    /// Nothing is lost: `restow image encode` makes the same bytes of it. Besides crit's keys there can be `_unknown` (fields
    /// that are not in the schema), `_wire` (the message in base64, where it is encoded in an unusual way) and `_padding`;
    /// crit ignores them. Bytes of names that are not UTF-8 are \udc80 to \udcff. Memory is that of one record.
    #[command(after_long_help = help::ONE_IMAGE)]
    Decode(codec::Decode),

    /// Make an image of JSON, as `decode` or crit print it
    Encode(codec::Encode),

    /// Tell what a file, directory or archive holds: kinds, records, sizes, the dump's circumstances
    #[command(after_long_help = help::INFO)]
    Info(View),

    /// Show the processes as a tree
    #[command(after_long_help = help::PS)]
    Ps(View),

    /// Show the open files of each process, and its directories and program
    #[command(after_long_help = help::FDS)]
    Fds(View),

    /// Show the memory areas of each process
    #[command(after_long_help = help::MEMS)]
    Mems(View),

    /// Show the sockets: internet, unix, netlink and packet
    #[command(after_long_help = help::SOCKETS)]
    Sockets(View),

    /// Show the mounts of each mount namespace
    #[command(after_long_help = help::MOUNTS)]
    Mounts(View),

    /// Show the cgroups: who is where, and what CRIU would make again
    #[command(after_long_help = help::CGROUPS)]
    Cgroups(View),

    /// Find every text that names a pod, a sandbox or a node
    ///
    /// These are what a move to another pod has to change or to leave behind: cgroup paths, pod uids, container ids, paths of
    /// kubelet and containerd, timestamp directories of projected volumes, addresses, the host name, security labels.
    #[command(after_long_help = help::SCAN)]
    Scan(View),

    /// Compare two images, directories or archives by what they mean
    ///
    /// Records are matched by their ids, fields are compared by name. The encoding does not count, nor do memory pages
    /// (only their sizes). Exit code 1 says that there are differences.
    #[command(after_long_help = help::DIFF)]
    Diff(diff::Args),
}

/// A command that shows something of a directory or archive.
#[derive(Debug, clap::Args)]
struct View {
    /// Image directory or checkpoint archive (for `info` also an image file)
    input: PathBuf,

    /// Print JSON for programs instead of a table
    #[arg(long)]
    json: bool,
}

impl View {
    fn set(&self) -> anyhow::Result<ImageSet> {
        Input::set(&self.input)
    }

    fn show(
        &self,
        style: Style,
        view: impl FnOnce(&ImageSet) -> anyhow::Result<Report>,
    ) -> Result<ExitCode, Failure> {
        let report = view(&self.set()?)?;
        report.print(self.json, style)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What a command has to say, for people and for programs.
#[derive(Debug)]
struct Report {
    /// Tables with their headings, which may be empty.
    tables: Vec<(String, Table)>,
    json: Value,
}

impl Report {
    fn new(table: Table, json: Value) -> Self {
        Self {
            tables: vec![(String::new(), table)],
            json,
        }
    }

    fn print(&self, json: bool, style: Style) -> std::io::Result<()> {
        if json {
            return output::json(&self.json);
        }
        let mut text = String::new();
        for (heading, table) in self
            .tables
            .iter()
            .filter(|(heading, table)| !table.is_empty() || heading.is_empty())
        {
            if !text.is_empty() {
                text.push('\n');
            }
            if !heading.is_empty() {
                text.push_str(&style.strong(&output::visible(heading)));
                text.push('\n');
            }
            text.push_str(&table.render(&style));
        }
        output::text(&text)
    }
}

/// Runs a `restow image` command.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let style = Style::new(args.color);
    match &args.command {
        Command::Show(show) => codec::show(show, style),
        Command::Decode(decode) => codec::decode(decode),
        Command::Encode(encode) => codec::encode(encode),
        Command::Info(view) => info::run(&view.input, view.json, style),
        Command::Ps(view) => view.show(style, ps::report),
        Command::Fds(view) => view.show(style, fds::report),
        Command::Mems(view) => view.show(style, mems::report),
        Command::Sockets(view) => view.show(style, sockets::report),
        Command::Mounts(view) => view.show(style, mounts::report),
        Command::Cgroups(view) => view.show(style, cgroups::report),
        Command::Scan(view) => view.show(style, scan::report),
        Command::Diff(args) => diff::run(args, style),
    }
}
