//! `restow criu`: criu's own command line, with Restow around `dump` and `restore` of a process tree without a container.
//!
//! ```text
//!   restow criu restore … ── plan, stage ─┬─ fork ─▶ companion (the node's namespaces) ◀──┐ what to do at each stage
//!                                         └─ exec ─▶ criu restore … ── action script ─────┘ (restow once more)
//! ```
//!
//! This process becomes the real criu, so that exit code, signals, standard streams and the place in the process tree are
//! criu's. What has to be done later is done by a companion process, which criu reaches through an action script; the
//! script is this program again.
//!
//! * [`options`]: criu's command line and configuration files, as far as they matter here.
//! * [`setup`]: what dump and restore have in common.
//! * [`dump`], [`restore`]: what is prepared, and what is done at each stage.
//! * [`companion`], [`script`]: the two ends of the way back from criu.

mod companion;
mod dump;
pub mod options;
mod restore;
pub mod script;
mod setup;

use std::ffi::OsString;
use std::process::ExitCode;

use restow::chain;
use restow::host::real_program::RealProgram;
use restow::policy::NodeConfig;

use options::CommandLine;
use setup::Setup;

/// Exit status when there is no criu to run; what a shell uses for "command not found".
const NOT_FOUND: u8 = 127;

/// Exit status of criu when it fails, and so ours.
const FAILED: u8 = 1;

/// Exit status for a wrong option of ours.
const USAGE: u8 = 2;

/// What `restow criu` takes.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_version_flag = true,
    after_long_help = HELP
)]
pub struct Args {
    /// criu's command with its options, and Restow's own among them
    #[arg(
        value_name = "CRIU ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

const HELP: &str = "\
All options but these go to criu untouched and in order; `criu --help` lists them.

Restow's options, for `dump` and `restore`:
  --restow-set NAME=VALUE   a setting, as the annotation restow.dev/NAME of a pod:
                              cgroup-files=remap|ignore, manage-cgroups=auto|ignore
  --restow-map MAP          an explicit map, which wins over the rules: path:/OLD=/NEW, cgroup:/OLD=/NEW,
                            file:/OLD=/NEW (see docs/maps.md)
  --restow-staging DIR      where edited copies of small images are kept during a restore
                              [default: /run/restow/staging]

What Restow adds:
  dump      writes source.json beside the images while the tree is frozen, and names files that
            criu cannot look up (--external file[…]), as far as they are open before the freeze
  restore   plans as for a container, with this process's cgroups and mounts as the new place: old
            cgroup paths and files of the pod become the new ones, and every descriptor is compared
            with the plan before the tree runs. Cgroups are not criu's business then
            (--manage-cgroups=ignore), unless you say otherwise

Anything else, for example `restow criu check`, is criu alone. What was done is in restow.log in
criu's work directory.

Exit codes are criu's; 1 is also a refusal of Restow's, 2 a wrong option of Restow's, 127 no criu.

  # restow criu dump -t 4711 -D /images -o dump.log --shell-job
  # restow criu restore -D /images -o restore.log --shell-job --restow-set cgroup-files=ignore";

/// Runs criu, with what Restow adds. Returns only when criu was not started.
pub fn run(args: Args) -> ExitCode {
    if wants_help(&args.words) {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let (line, config) =
        match CommandLine::parse(args.words).and_then(|line| Ok((line, setup::node_config()?))) {
            Ok(parsed) => parsed,
            Err(reason) => return fail(&reason, USAGE),
        };
    let real = match RealProgram::criu(config.criu.as_deref()) {
        Ok(real) => real,
        Err(error) => return fail(&chain(&error), NOT_FOUND),
    };
    let call = match prepare(&line, &config) {
        Ok(call) => call,
        Err((reason, code)) => return fail(&reason, code),
    };
    let mut words = vec![OsString::from("criu")];
    words.extend(call.words);
    let variable = call
        .companion
        .as_deref()
        .map(|name| (script::VARIABLE, name));
    let error = real.exec_with(&words, variable);
    fail(
        &format!("Cannot run {}: {error}", real.path.display()),
        NOT_FOUND,
    )
}

/// A call of criu.
#[derive(Debug)]
struct Call {
    /// Its words.
    words: Vec<OsString>,
    /// The address of the companion, when Restow takes part.
    companion: Option<String>,
}

impl Call {
    /// criu alone, just as it was called.
    fn alone(line: &CommandLine) -> Self {
        Self {
            words: line.with([]),
            companion: None,
        }
    }
}

/// Does what has to be done before criu starts. An error comes with its exit status.
fn prepare(line: &CommandLine, config: &NodeConfig) -> Result<Call, (String, u8)> {
    // What lacks a value is criu's to refuse, and nothing may be put behind it.
    if line.incomplete() {
        return Ok(Call::alone(line));
    }
    let setup = Setup::of(line, config).map_err(|reason| (reason, USAGE))?;
    let prepared = match setup {
        None => Ok(Call::alone(line)),
        Some(setup) if setup.line.command() == Some("dump") => dump::prepare(&setup),
        Some(setup) => restore::prepare(&setup),
    };
    prepared.map_err(|reason| (reason, FAILED))
}

fn fail(reason: &str, code: u8) -> ExitCode {
    eprintln!("restow: {}", crate::output::visible(reason));
    ExitCode::from(code)
}

/// criu itself prints its help whenever one of these is there, and otherwise does nothing (`criu/config.c`, `pre_parse`).
fn wants_help(words: &[OsString]) -> bool {
    words.is_empty() || words.iter().any(|word| word == "--help" || word == "-h")
}

fn help() -> String {
    use clap::CommandFactory;
    let mut all = crate::Cli::command();
    all.build();
    let command = all.find_subcommand_mut("criu");
    command.map_or_else(String::new, |command| {
        command.render_long_help().to_string()
    })
}
