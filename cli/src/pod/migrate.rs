//! `restow migrate`: a pod's container from one node to another, both of whose sockets are reachable from here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::anyhow;
use clap::builder::NonEmptyStringValueParser;
use restow::checkpoint::Entry;
use serde_json::json;

use super::checkpoint::{After, Taken, take};
use super::find::{self, Subject};
use super::node::{Node, kept};
use super::progress::Progress;
use super::restore::{self, Restored};
use super::through::Through;
use super::{NodeArgs, block_on, or_interrupted};
use crate::Failure;
use crate::output::{self, visible};

const HELP: &str = "\
The container is held still from its checkpoint until the new one runs; then it is ended. Whatever fails before, it goes on running and nothing is \
left on the other node. Even if this command is killed, it goes on.

The files of both nodes are reached through the processes that listen on their sockets, so that a node in a container of this machine will do as \
well as this machine itself.

On a node with a kubelet, the kubelet starts the container that was ended once more: remove its pod from the cluster.

Example:
  restow migrate web/nginx --to /run/node-b/containerd.sock

Exit codes:
  0  done: it runs there and has ended here
  2  the command line is wrong, or more than one container is meant
  3  there is no such container, or one of the nodes does not answer
  4  the output cannot be written
  5  it cannot be moved; it goes on running here, or, as the message then says, in both places";

/// Options of `restow migrate`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// A pod's container, or one by its id or the beginning of it
    #[arg(value_name = "POD/CONTAINER|ID", value_parser = NonEmptyStringValueParser::new())]
    what: String,

    /// Socket of containerd on the other node
    #[arg(long, value_name = "SOCKET")]
    to: PathBuf,

    /// Namespace of the pod
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,

    /// Name of the new pod; without it, the old one's
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,

    /// Runtime handler of the new pod, where the one that fits is not wanted
    #[arg(long, value_name = "HANDLER")]
    handler: Option<String>,

    /// Move it although its pod reaches into the node
    #[arg(long)]
    allow_node_access: bool,

    /// How it is checkpointed: by CRI where it can, else by containerd's API, unless said here
    #[arg(long, value_name = "WAY")]
    through: Option<Through>,

    /// Keep the checkpoint on both nodes
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    node: NodeArgs,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Runs `restow migrate`.
///
/// # Errors
/// When it cannot be moved; the container then goes on running where it is.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let progress = Progress::new(args.json);
    let Moved {
        subject,
        restored,
        left,
    } = block_on(migrate(args, &progress))?;
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        output::json(&json!({
            "from": {"container": subject.id.as_str(), "pod": subject.pod.as_ref().map(|pod| &pod.name)},
            "to": {
                "socket": args.to,
                "pod": restored.identity.name,
                "namespace": restored.identity.namespace,
                "uid": restored.identity.uid,
                "sandbox": restored.pod.as_str(),
                "container": restored.container.as_str(),
                "handler": restored.handler,
            },
            "left": left,
            "seconds": seconds,
        }))?;
    } else {
        output::text(&format!(
            "{}: moved in {seconds:.1} s, runs as {}/{} on {}\n",
            visible(&subject.display()),
            visible(&restored.identity.name),
            visible(&restored.container_name),
            args.to.display()
        ))?;
    }
    for reason in &left {
        eprintln!("A checkpoint of the move is left: {}", visible(reason));
    }
    Ok(ExitCode::SUCCESS)
}

/// A container that was moved.
struct Moved {
    subject: Subject,
    restored: Restored,
    /// Checkpoints of the move that could not be removed, in words.
    left: Vec<String>,
}

async fn migrate(args: &Args, progress: &Progress) -> Result<Moved, Failure> {
    let source = Node::open(&args.node.socket).await?;
    let target = Node::open(&args.to).await?;
    let subject = find::find(&source, &args.what, args.namespace.as_deref()).await?;
    let Some(pod) = &subject.pod else {
        return Err(Failure::Refused(anyhow!(
            "{} has no pod, and only containers of pods are moved; use restow checkpoint, and restore it with ctr",
            subject.display()
        )));
    };
    let into = restore::Into {
        pod: args.pod.clone().or_else(|| Some(pod.name.clone())),
        namespace: None,
        handler: args.handler.clone(),
        allow_node_access: args.allow_node_access,
    };
    let mut taken = or_interrupted(take(
        &source,
        &subject,
        None,
        args.through,
        After::Hold,
        progress,
    ))
    .await?;
    let frozen = taken.frozen.take();
    let namespace = subject.namespace()?;
    let discard = |node: &Node| restore::discard(node, &taken.name, &namespace);
    match there(&target, &subject, &taken, &into, progress).await {
        Ok((restored, shared)) => {
            // First of all: it runs there, and must not go on here as well, whatever fails now.
            if let Some(frozen) = frozen {
                progress.step(format!("{}: end it", subject.display()));
                let ended = frozen.end().await;
                ended.map_err(|failure| runs_there(&failure, &subject, &restored, &args.to))?;
            }
            // What was only on its way goes.
            let mut left = Vec::new();
            if !args.keep {
                left.extend(discard(&source).err());
                left.extend((!shared).then(|| discard(&target).err()).flatten());
            }
            Ok(Moved {
                subject,
                restored,
                left: left.iter().map(Failure::text).collect(),
            })
        }
        Err(failure) => {
            let removed = discard(&source);
            if let Some(frozen) = frozen {
                frozen.thaw().await?;
            }
            // The first fault is what the user needs.
            let failure = goes_on(failure, &subject);
            Err(match removed {
                Ok(()) => failure,
                Err(error) => also(&failure, &error),
            })
        }
    }
}

/// Brings the checkpoint to the other node and restores it there. Tells also whether both nodes have one store.
async fn there(
    target: &Node,
    subject: &Subject,
    taken: &Taken,
    into: &restore::Into,
    progress: &Progress,
) -> Result<(Restored, bool), Failure> {
    let namespace = subject.namespace()?;
    let shared = match target.store.find(&taken.name, &namespace) {
        Ok(entry) => same(&entry, taken),
        Err(_) => false,
    };
    if !shared {
        progress.step(format!("{}: to the other node", subject.display()));
        target
            .store
            .put(&taken.name, &namespace, &taken.path, false)
            .map_err(kept)?;
    }
    let restored = async {
        let entry = target.store.find(&taken.name, &namespace).map_err(kept)?;
        restore::restore(target, &entry, into, progress).await
    };
    match restored.await {
        Ok(restored) => Ok((restored, shared)),
        Err(failure) if shared => Err(failure),
        Err(failure) => match restore::discard(target, &taken.name, &namespace) {
            Ok(()) => Err(failure),
            Err(error) => Err(also(&failure, &error)),
        },
    }
}

/// Whether an entry is the very checkpoint that was made, on a file system that both nodes have.
fn same(entry: &Entry, taken: &Taken) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &std::path::Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    let theirs = id(&entry.path);
    theirs.is_some() && theirs == id(&taken.path)
}

/// A failure, and what was left behind then.
fn also(failure: &Failure, left: &Failure) -> Failure {
    Failure::Refused(anyhow!(
        "{}; a checkpoint of the move is left: {}",
        failure.text(),
        left.text()
    ))
}

/// It could not be ended here, when it ran there already.
fn runs_there(failure: &Failure, subject: &Subject, restored: &Restored, to: &Path) -> Failure {
    Failure::Refused(
        anyhow!(
            "{}; it runs as {}/{} on {} too: end one of the two",
            failure.text(),
            restored.identity.name,
            restored.container_name,
            to.display()
        )
        .context(format!("{} was moved and is still here", subject.display())),
    )
}

fn goes_on(failure: Failure, subject: &Subject) -> Failure {
    match failure {
        Failure::Refused(error) => Failure::Refused(error.context(format!(
            "{} is not moved, and goes on running",
            subject.display()
        ))),
        Failure::Input(error) => Failure::Refused(error.context(format!(
            "{} is not moved, and goes on running",
            subject.display()
        ))),
        other => other,
    }
}
