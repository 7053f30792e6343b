//! `restow plan`: the dry run of a restore.
//!
//! The plan is made by the function that the interposer calls, on a target that is put together by the same function; only
//! what the runtime is going to say is foretold.
//!
//! * [`images`]: the image directory, or what an archive has of it.
//! * [`tables`]: what changes, for people.

mod images;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use restow::host::target::{Given, Node, Runtime, of_bundle, of_process, plan_in_place_of, target};
use restow::host::{Bundle, facts};
use restow::ids::HostPid;
use restow::plan::Plan;
use restow::policy::maps::Origin;
use restow::policy::{NODE_CONFIG, NodeConfig, Policy};
use restow::source::Source;

use crate::Failure;
use crate::output::{self, Colour, Style};
use crate::verdict::exit_code;

const HELP: &str = "\
Tables:
  One row for each object that changes; objects with the same row are counted. More than 10 rows under one rule are folded, and what
  does not change is left out, unless --all is given.

  WHO    who holds it: descriptor and process, as the container counts them
  PATH   where the container has it
  OLD    what it was on the node that was left: the part of a file system, a cgroup
  NEW    what it becomes: another path, or what is at the same path, as a path of this node
  RULE   why; docs/plan.md explains each

  Findings follow, the most severe first, each with what can be done about it.

Target:
  --into BUNDLE  the directory of an OCI bundle (config.json) whose container does not exist yet. Where it is going to be is worked out
                 from the spec: cgroupsPath in the spelling of either cgroup driver, sources of mounts, namespaces that it joins
  --into PID     a process whose cgroups, mounts and namespaces stand for the container's: of one that was created in the new pod
                 (`runc create`), for example. Annotations are not known then. For a process tree without a container, a process of
                 the pod where `restow criu restore` would be run

  Needs root, as a restore does: it looks into namespaces and pods' directories. Nothing is changed.

Examples:
  restow plan /var/lib/kubelet/checkpoints/web.tar --into /run/containerd/io.containerd.runtime.v2.task/k8s.io/4f5a
  restow plan ./checkpoint --into 4711 --set cgroup-files=ignore
  restow plan ./checkpoint --into ./bundle --json | jq '.findings[] | select(.severity == \"blocker\")'

Exit codes:
  0  the restore is possible
  1  it is possible, with warnings
  2  the command line is wrong
  3  the checkpoint, the target or the configuration cannot be read
  4  the output cannot be written
  5  the restore is not possible";

/// Options of `restow plan`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// Image directory, or checkpoint archive as containerd, CRI-O and podman write them
    image: PathBuf,

    /// Where the container would go: the directory of a bundle, or a process
    #[arg(long, value_name = "BUNDLE|PID")]
    into: PathBuf,

    /// The runtime that would restore it [default: the one that made the checkpoint]
    #[arg(long, value_enum)]
    runtime: Option<RuntimeName>,

    /// A setting, as an annotation without `restow.dev/` would make it, for example cgroup-files=ignore
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,

    /// An explicit map, which wins over the rules, for example path:/old/dir=/new/dir (see docs/maps.md)
    #[arg(long = "map", value_name = "MAP")]
    maps: Vec<String>,

    /// The node's configuration [default: $RESTOW_CONFIG, or /etc/restow/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Show also what does not change, and fold nothing
    #[arg(long)]
    all: bool,

    /// Print the plan as JSON, in the form of restow-plan.json
    #[arg(long)]
    json: bool,

    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Colour,
}

/// Namespaces of the spec, with the file that is joined.
type Namespaces = BTreeMap<String, Option<PathBuf>>;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RuntimeName {
    Runc,
    Crun,
}

impl From<RuntimeName> for Runtime {
    fn from(name: RuntimeName) -> Self {
        match name {
            RuntimeName::Runc => Self::Runc,
            RuntimeName::Crun => Self::Crun,
        }
    }
}

/// Runs `restow plan`.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let style = Style::new(args.color);
    let (source, _kept) = images::read(&args.image)?;
    let (plan, joined) = plan(args, &source)?;
    if args.json {
        output::json(&serde_json::to_value(&plan).context("The plan is no JSON")?)?;
    } else {
        let shown = tables::Shown {
            source: &source,
            plan: &plan,
            joined: &joined,
            all: args.all,
        };
        output::text(&shown.render(style))?;
    }
    let severities = plan.findings.iter().map(|finding| finding.severity);
    Ok(exit_code(severities.max()))
}

/// The plan, and the namespaces that the container joins.
fn plan(args: &Args, source: &Source) -> Result<(Plan, Namespaces), Failure> {
    if source.shares_mounts {
        let pid = process(args).ok_or_else(|| {
            Failure::Usage(anyhow!(
                "{} is of a process tree without a container; name a process of the pod where it would be restored: --into PID",
                args.image.display()
            ))
        })?;
        let policy = policy(args, &Bundle::default())?;
        let plan = plan_in_place_of(pid, source, &policy).context("The plan cannot be made")?;
        return Ok((plan, Namespaces::new()));
    }
    let (given, bundle, node) = destination(args, source)?;
    let policy = policy(args, &bundle)?;
    let joined = bundle.namespaces.clone();
    let mut target = target(given, &bundle, node).context("The target cannot be worked out")?;
    let plan = facts::plan(source, &mut target, &policy).context("The plan cannot be made")?;
    Ok((plan, joined))
}

/// The process that is named as the target.
fn process(args: &Args) -> Option<HostPid> {
    args.into.to_str()?.parse().ok().map(HostPid)
}

fn destination(args: &Args, source: &Source) -> Result<(Given, Bundle, Node)> {
    if let Some(pid) = process(args) {
        return Ok(of_process(pid)?);
    }
    let made_by = source
        .manifest
        .as_ref()
        .map(|manifest| manifest.runtime.as_str());
    let likely = if made_by == Some("crun") {
        Runtime::Crun
    } else {
        Runtime::Runc
    };
    let runtime = args.runtime.map_or(likely, Runtime::from);
    Ok(of_bundle(&args.into, runtime)?)
}

/// What the interposer would go by: the bundle's annotations on top of the node's configuration, and the command line on top
/// of both.
fn policy(args: &Args, bundle: &Bundle) -> Result<Policy, Failure> {
    let named = || std::env::var_os("RESTOW_CONFIG").map(PathBuf::from);
    let path = args.config.clone().or_else(named);
    let config = NodeConfig::read(path.as_deref().unwrap_or(Path::new(NODE_CONFIG)))
        .map_err(|error| Failure::Input(error.into()))?;
    let asked = config
        .policy_for(&bundle.annotations)
        .map_err(|error| Failure::Input(error.into()))?;
    if asked.is_none() && !bundle.annotations.is_empty() {
        eprintln!(
            "Note: the bundle does not ask for Restow (annotation restow.dev/enabled), so a restore there would be CRIU's alone"
        );
    }
    let mut policy = match asked {
        Some(policy) => policy,
        None => Policy {
            maps: config
                .maps()
                .map_err(|error| Failure::Input(error.into()))?,
            ..config.defaults
        },
    };
    for map in &args.maps {
        let added = policy.maps.add(map, Origin::Command, "--map");
        added.map_err(|error| Failure::Usage(error.into()))?;
    }
    for setting in &args.settings {
        let (name, value) = setting.split_once('=').ok_or_else(|| {
            Failure::Usage(anyhow!("--set {setting:?} has no =; it is NAME=VALUE"))
        })?;
        policy
            .set(name, &format!("--set {name}"), value)
            .map_err(|error| Failure::Usage(error.into()))?;
    }
    Ok(policy)
}
