//! `restow checkpoint`: a running container into the node's store.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::anyhow;
use clap::builder::NonEmptyStringValueParser;
use restow::checkpoint::{CheckpointName, Namespace};
use serde_json::json;

use super::find::{self, Subject};
use super::frozen::Frozen;
use super::node::{Node, kept};
use super::pod_files;
use super::progress::Progress;
use super::recipe::Recipe;
use super::through::{self, Through};
use super::{NodeArgs, block_on, or_interrupted};
use crate::Failure;
use crate::output::{self, visible};

const HELP: &str = "\
Without --stop the container goes on running. With --stop it ends once its checkpoint is kept, and does nothing in between. Whatever fails, \
it goes on running.

The checkpoint has the layout of containerd's own archives and is kept below the node's first root of checkpoints \
(/var/lib/restow/checkpoints unless /etc/restow/config.toml says otherwise), in the directory of its namespace; `_node` for containers without a \
pod. `restow list` shows it, `restow image info` looks into it.

Examples:
  restow checkpoint web/nginx
  restow checkpoint web/nginx --namespace shop --name before-update
  restow checkpoint 22fabe --stop --json

Exit codes:
  0  done
  2  the command line is wrong, or more than one container is meant
  3  there is no such container, or no containerd answers
  4  the output cannot be written
  5  it cannot be checkpointed; it goes on running";

/// Options of `restow checkpoint`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// A pod's container, or any container by its id or the beginning of it
    #[arg(value_name = "POD/CONTAINER|ID", value_parser = NonEmptyStringValueParser::new())]
    what: String,

    /// Name of the checkpoint; without it, pod, container and time
    #[arg(long)]
    name: Option<CheckpointName>,

    /// The pod's namespace; of a container without a pod, containerd's
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,

    /// Let the container go on running (this is the default)
    #[arg(long, conflicts_with = "stop")]
    leave_running: bool,

    /// End the container once its checkpoint is kept
    #[arg(long)]
    stop: bool,

    /// How: by CRI where it can, else by containerd's API, unless said here
    #[arg(long, value_name = "WAY")]
    through: Option<Through>,

    #[command(flatten)]
    node: NodeArgs,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// What becomes of the container once it is dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It goes on at once.
    Run,
    /// It is held still, until somebody decides.
    Hold,
}

/// A checkpoint that was made.
#[derive(Debug)]
pub struct Taken {
    /// Its name, with the namespace.
    pub name: CheckpointName,
    /// Where it is, as a path of this process.
    pub path: PathBuf,
    /// How it was made.
    pub through: Through,
    /// Its size, in bytes.
    pub size: u64,
    /// The container, if it is held still.
    pub frozen: Option<Frozen>,
}

/// Runs `restow checkpoint`.
///
/// # Errors
/// When there is no such container, or it cannot be checkpointed.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let progress = Progress::new(args.json);
    let (subject, taken, inside) = block_on(or_interrupted(checkpoint(args, &progress)))?;
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        output::json(&json!({
            "name": taken.name,
            "path": inside,
            "size": taken.size,
            "through": taken.through,
            "container": subject.id.as_str(),
            "pod": subject.pod.as_ref().map(|pod| &pod.name),
            "namespace": taken.name.namespace(),
            "running": !args.stop,
            "seconds": seconds,
        }))?;
    } else {
        output::text(&format!(
            "{}: checkpoint {}, {} in {seconds:.1} s{}\n",
            visible(&subject.display()),
            taken.name,
            output::size(taken.size),
            if args.stop { "; it has ended" } else { "" }
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn checkpoint(
    args: &Args,
    progress: &Progress,
) -> Result<(Subject, Taken, PathBuf), Failure> {
    let node = Node::open(&args.node.socket).await?;
    let subject = find::find(&node, &args.what, args.namespace.as_deref()).await?;
    let after = if args.stop { After::Hold } else { After::Run };
    let name = args.name.clone();
    let mut taken = take(&node, &subject, name, args.through, after, progress).await?;
    if let Some(frozen) = taken.frozen.take() {
        progress.step(format!("{}: end it", subject.display()));
        frozen.end().await?;
    }
    let inside = node.inside(&taken.path);
    Ok((subject, taken, inside))
}

/// Checkpoints `subject` into its node's store.
///
/// # Errors
/// When it cannot be done; the container then goes on running, and nothing is left in the store.
pub async fn take(
    node: &Node,
    subject: &Subject,
    name: Option<CheckpointName>,
    through: Option<Through>,
    after: After,
    progress: &Progress,
) -> Result<Taken, Failure> {
    let own = subject.namespace()?;
    let name = match name {
        Some(name) => name,
        None => default_name(subject, SystemTime::now())?,
    };
    let name = with_namespace(name, &own)?;
    // Before anything is frozen for nothing.
    if let Ok(there) = node.store.find(&name, &own) {
        return Err(Failure::Refused(anyhow!(
            "There is a checkpoint {name} already, {}; remove it (restow rm {name}), or choose another name",
            node.inside(&there.path).display()
        )));
    }
    let through = match through {
        Some(Through::Cri) if subject.pod.is_none() => {
            return Err(Failure::Usage(anyhow!(
                "{} has no pod, and CRI knows only containers of pods: use --through containerd",
                subject.display()
            )));
        }
        Some(through) => through,
        None if subject.pod.is_some() && through::cri_checkpoints(node).await? => Through::Cri,
        None => Through::Containerd,
    };
    let mut recipe = Recipe::ask(node, subject).await?;
    if let Some(recipe) = &mut recipe {
        recipe.files = pod_files::collect(node, &recipe.pod, &recipe.container)?;
    }
    let into = node
        .store
        .incoming(&name, &own, through.form())
        .map_err(kept)?;
    let mut frozen = None;
    if after == After::Hold || through == Through::Containerd {
        frozen = Some(Frozen::freeze(node, subject).await?);
    }
    let recipe = recipe.as_ref();
    let made = match through {
        Through::Cri => through::cri(node, subject, recipe, &into, progress).await,
        Through::Containerd => through::containerd(node, subject, recipe, &into, progress).await,
    };
    if (made.is_err() || after == After::Run)
        && let Some(frozen) = frozen.take()
    {
        let thawed = frozen.thaw().await;
        // The first fault is what the user needs, and the guard tries again.
        made?;
        thawed?;
    } else {
        made?;
    }
    progress.step(format!("{}: to the disk", subject.display()));
    let size = through::size_of(&into.path())?;
    let path = into.commit(false).map_err(kept)?;
    Ok(Taken {
        name,
        path,
        through,
        size,
        frozen,
    })
}

/// A name with the namespace it is kept in.
pub(super) fn with_namespace(
    name: CheckpointName,
    own: &Namespace,
) -> Result<CheckpointName, Failure> {
    if name.namespace().is_some() {
        return Ok(name);
    }
    CheckpointName::within(own.clone(), name.name()).map_err(|error| Failure::Usage(error.into()))
}

/// `web-nginx-20261127T132700Z`; of a container without a pod its id instead.
fn default_name(subject: &Subject, now: SystemTime) -> Result<CheckpointName, Failure> {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    let time: String = time.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let who = match &subject.pod {
        Some(pod) => format!("{}-{}", pod.name, pod.container),
        None => subject.id.to_string(),
    };
    // A pod's name can be longer than a file's.
    let who: String = who.chars().take(150).collect();
    let name = format!("{who}-{time}").parse();
    name.map_err(|error: restow::checkpoint::NameError| pod_name_is_odd(anyhow::Error::from(error)))
}

fn pod_name_is_odd(error: anyhow::Error) -> Failure {
    Failure::Usage(error.context("Give it a name with --name"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use restow_cri::{ContainerId, PodId};

    use super::*;
    use crate::pod::find::OfPod;

    #[test]
    fn a_name_says_what_and_when() {
        let mut subject = Subject {
            id: ContainerId("22fabe".to_owned()),
            record: Default::default(),
            containerd_namespace: "default".to_owned(),
            pod: None,
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        let name = default_name(&subject, time).unwrap();
        assert_eq!(name.to_string(), "22fabe-19700102T000000Z");
        subject.pod = Some(OfPod {
            id: PodId("p".to_owned()),
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            container: "nginx".to_owned(),
        });
        let name = default_name(&subject, time).unwrap();
        let name = with_namespace(name, &subject.namespace().unwrap()).unwrap();
        assert_eq!(name.to_string(), "shop/web-nginx-19700102T000000Z");
    }
}
