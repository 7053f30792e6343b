//! Makes and uses nodes: Debian roots with real container runtimes, in namespaces of their own.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use restow_integration::node::{self, CgroupView, NodeOptions, Order};
use restow_integration::root::{self, Root};
use restow_integration::suite::Suite;

/// Makes and uses nodes.
///
/// A node is a Debian root with containerd, runc, crun, podman and criu that runs in namespaces and cgroups of its own on this
/// machine. What it writes goes to memory and vanishes with it.
#[derive(Parser)]
#[command(name = "node", bin_name = "cargo xtask node")]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build the root file systems that nodes are made from
    ///
    /// They are kept in $RESTOW_CACHE, or else restow below $XDG_CACHE_HOME or ~/.cache. Packages come from $RESTOW_MIRROR, by
    /// default from deb.debian.org.
    Build {
        /// Which ones (all, unless named)
        suites: Vec<SuiteName>,
        /// Print what there is as JSON
        #[arg(long)]
        json: bool,
    },
    /// Start a node that stays until `down`
    Up {
        /// What it is made from
        #[arg(default_value = "stable")]
        suite: SuiteName,
        /// Its name and host name (made up, unless given)
        #[arg(long)]
        name: Option<String>,
        /// Give it cgroup version 1 controllers beside version 2
        #[arg(long)]
        hybrid: bool,
        /// Print the node as JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a program in a node, and end with its exit code
    Exec {
        /// Pass the environment on as it is, PATH included
        #[arg(long, hide = true)]
        keep_env: bool,
        /// The node
        id: String,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
    /// Open a shell in a node, in a fresh one when none is named
    Shell {
        /// The node
        id: Option<String>,
        /// What a fresh node is made from
        #[arg(long, default_value = "stable")]
        suite: SuiteName,
        /// Give a fresh node cgroup version 1 controllers beside version 2
        #[arg(long)]
        hybrid: bool,
    },
    /// List running nodes
    Ls {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take nodes down
    Down {
        /// Which ones
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Collect what killed nodes left behind
    Gc {
        /// Remove the cached root file systems too
        #[arg(long)]
        roots: bool,
        /// Print what was removed as JSON
        #[arg(long)]
        json: bool,
    },
    /// Start a node that lives as long as this process, and print its name
    #[command(hide = true)]
    Own { suite: SuiteName },
    #[command(hide = true)]
    Supervise { order: String },
    #[command(hide = true)]
    Init { order: String },
}

#[derive(Clone, Copy, ValueEnum)]
enum SuiteName {
    Stable,
    Testing,
}

impl From<SuiteName> for Suite {
    fn from(name: SuiteName) -> Self {
        match name {
            SuiteName::Stable => Self::Stable,
            SuiteName::Testing => Self::Testing,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let internal = matches!(cli.action, Action::Supervise { .. } | Action::Init { .. });
    match run(cli.action) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            if internal {
                // The one who started us reads our output and reports it.
                let _ = node::Answer::Error(format!("{error:#}")).send();
            } else {
                eprintln!("Error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<i32> {
    match action {
        Action::Build { suites, json } => build(&suites, json)?,
        Action::Up {
            suite,
            name,
            hybrid,
            json,
        } => up(suite, name, hybrid, json)?,
        Action::Exec {
            keep_env,
            id,
            program,
        } => return exec(keep_env, &id, &program),
        Action::Shell { id, suite, hybrid } => return shell(id, suite, hybrid),
        Action::Ls { json } => ls(json)?,
        Action::Down { ids, all } => {
            let ids = if all {
                node::list()?.into_iter().map(|node| node.id).collect()
            } else {
                ids
            };
            ids.iter().try_for_each(|id| node::down(id))?;
        }
        Action::Gc { roots, json } => gc(roots, json)?,
        Action::Own { suite } => own(suite)?,
        Action::Supervise { order } => node::supervise(&parse(&order)?)?,
        Action::Init { order } => node::init(&parse(&order)?)?,
    }
    Ok(0)
}

fn parse(order: &str) -> Result<Order> {
    serde_json::from_str(order).context("This is for internal use")
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out).context("Write to standard output")
}

fn build(suites: &[SuiteName], json: bool) -> Result<()> {
    let suites: Vec<Suite> = if suites.is_empty() {
        Suite::ALL.to_vec()
    } else {
        suites.iter().map(|name| (*name).into()).collect()
    };
    let mut roots = Vec::new();
    for suite in suites {
        let root = Root::build(suite, &mut |step| eprintln!("  {suite}: {step}"))?;
        if !json {
            println!("{suite}\t{}", root.path.display());
        }
        roots.push(root);
    }
    if json { print(&roots) } else { Ok(()) }
}

fn options(suite: SuiteName, hybrid: bool) -> NodeOptions {
    let options = NodeOptions::new(suite.into());
    if hybrid { options.hybrid() } else { options }
}

fn up(suite: SuiteName, name: Option<String>, hybrid: bool, json: bool) -> Result<()> {
    Root::build(suite.into(), &mut |step| eprintln!("  {step}"))?;
    let started = Instant::now();
    let state = node::up(&NodeOptions {
        id: name,
        ..options(suite, hybrid)
    })?;
    if json {
        return print(&state);
    }
    println!(
        "{} is up after {} ms; cargo xtask node shell {}",
        state.id,
        started.elapsed().as_millis(),
        state.id
    );
    Ok(())
}

fn exec(keep_env: bool, id: &str, program: &[OsString]) -> Result<i32> {
    if !keep_env {
        // This machine's directories and settings mean nothing in the node.
        let mut env = vec![
            ("PATH", node::NODE_PATH.into()),
            ("HOME", "/root".into()),
            ("LANG", "C.UTF-8".into()),
        ];
        env.extend(std::env::var_os("TERM").map(|term| ("TERM", term)));
        return node::enter(id, program, Some(&env));
    }
    node::enter(id, program, None)
}

fn shell(id: Option<String>, suite: SuiteName, hybrid: bool) -> Result<i32> {
    if let Some(id) = id {
        return exec(false, &id, &["bash".into()]);
    }
    Root::build(suite.into(), &mut |step| eprintln!("  {step}"))?;
    let node = node::Node::start(&options(suite, hybrid))?;
    let status = node
        .command("bash")
        .stdin(std::process::Stdio::inherit())
        .status()
        .context("Start a shell")?;
    node.stop()?;
    Ok(status.code().unwrap_or(1))
}

fn own(suite: SuiteName) -> Result<()> {
    let node = node::Node::start(&NodeOptions::new(suite.into()))?;
    println!("{}", node.id());
    loop {
        std::thread::park();
    }
}

fn ls(json: bool) -> Result<()> {
    let nodes = node::list()?;
    if json {
        return print(&nodes);
    }
    for node in nodes {
        let view = if node.cgroup_view == CgroupView::Hybrid {
            "hybrid"
        } else {
            "v2"
        };
        let init = node
            .init
            .map_or("starting".to_owned(), |init| init.pid.to_string());
        println!("{}\t{}\t{view}\tprocess {init}", node.id, node.suite);
    }
    Ok(())
}

fn gc(roots: bool, json: bool) -> Result<()> {
    let nodes = node::sweep()?;
    if roots && root::roots_dir()?.exists() {
        std::fs::remove_dir_all(root::roots_dir()?)
            .context("Remove the cached root file systems")?;
    }
    if json {
        return print(&nodes);
    }
    for node in nodes {
        println!("removed what was left of {node}");
    }
    Ok(())
}
