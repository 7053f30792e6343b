//! `restow restore`: a checkpoint of the store as a new pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow};
use restow::checkpoint::{CheckpointName, Entry, Form, Namespace};
use restow_cri::api::{ContainerState, ImageSpec, PullImageRequest};
use restow_cri::{ContainerId, K8S_NAMESPACE, PodId};
use serde_json::json;

use super::handlers::Handlers;
use super::identity::{self, Identity};
use super::layout::failed;
use super::node::{Node, call, kept};
use super::pod_files::{self, Made};
use super::progress::Progress;
use super::recipe::{FILE_NAME, Recipe};
use super::{NodeArgs, block_on, interrupted, trust, why};
use crate::Failure;
use crate::output::{self, visible};

const HELP: &str = "\
The pod is made through CRI from what the old one was made from, with a uid and a name of its own. The container is restored by Restow's shim (a \
runtime handler of containerd with `runtime_path` = containerd-shim-restow-v2 and `pod_annotations` = [\"restow.dev/*\"]), or by CRI's own restore \
where there is no such handler and containerd has it (2.1 to 2.3). If it fails, nothing of the new pod is left.

A pod that reaches into the node (host network, host paths, devices, added capabilities, ...) is not made unless --allow-node-access says so: what \
a checkpoint asks for is whatever its maker wrote.

On a node with a kubelet, the kubelet removes pods that it does not know. There, give a pod of the cluster the annotation restow.dev/restore-from.

Examples:
  restow restore shop/web-nginx-20261127T132700Z
  restow restore before-update --namespace shop --pod web-2 --json

Exit codes:
  0  done: it runs
  2  the command line is wrong
  3  there is no such checkpoint, or no containerd answers
  4  the output cannot be written
  5  it cannot be restored; nothing is left of it";

/// Options of `restow restore`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// The checkpoint, as `restow list` names it
    name: CheckpointName,

    #[command(flatten)]
    into: Into,

    #[command(flatten)]
    node: NodeArgs,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// What the new pod is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Into {
    /// Name of the new pod; without it, the old one's with some letters behind it
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,

    /// Namespace of the new pod; without it, the old one's
    #[arg(long, value_name = "NS", value_parser = Namespace::new)]
    pub namespace: Option<Namespace>,

    /// Runtime handler of the new pod, where the one that fits is not wanted
    #[arg(long, value_name = "HANDLER")]
    pub handler: Option<String>,

    /// Make the pod although it reaches into the node
    #[arg(long)]
    pub allow_node_access: bool,
}

/// A pod that was made.
#[derive(Debug)]
pub struct Restored {
    /// Who it is.
    pub identity: Identity,
    /// Its sandbox.
    pub pod: PodId,
    /// The restored container.
    pub container: ContainerId,
    /// The container's name.
    pub container_name: String,
    /// The runtime handler.
    pub handler: String,
}

/// Who restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Shim,
    Cri,
}

/// Runs `restow restore`.
///
/// # Errors
/// When there is no such checkpoint, or it cannot be restored.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let progress = Progress::new(args.json);
    let restored = block_on(async {
        let node = Node::open(&args.node.socket).await?;
        let default = Namespace::new("default").map_err(|error| Failure::Usage(error.into()))?;
        let namespace = args.into.namespace.clone().unwrap_or(default);
        let entry = node
            .store
            .find(&args.name, &namespace)
            .map_err(|error| Failure::Input(error.into()))?;
        restore(&node, &entry, &args.into, &progress).await
    })?;
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        output::json(&json!({
            "checkpoint": args.name,
            "pod": restored.identity.name,
            "namespace": restored.identity.namespace,
            "uid": restored.identity.uid,
            "sandbox": restored.pod.as_str(),
            "container": restored.container.as_str(),
            "container_name": restored.container_name,
            "handler": restored.handler,
            "seconds": seconds,
        }))?;
    } else {
        output::text(&format!(
            "{}/{} ({}): restored in {seconds:.1} s, container {}\n",
            visible(&restored.identity.name),
            visible(&restored.container_name),
            visible(&restored.identity.namespace),
            restored.container
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be made.
#[derive(Debug)]
struct Wish<'a> {
    entry: &'a Entry,
    recipe: Recipe,
    handler: String,
    way: Way,
}

/// Restores `entry` on its node as a new pod.
///
/// # Errors
/// When it cannot be done; nothing of the pod is left.
pub async fn restore(
    node: &Node,
    entry: &Entry,
    into: &Into,
    progress: &Progress,
) -> Result<Restored, Failure> {
    let wish = wish(node, entry, into).await?;
    let identity = Identity::of(&wish.recipe.pod);
    progress.step(format!("{}: image", identity.name));
    image(node, &wish.recipe).await?;
    progress.step(format!("{}: pod", identity.name));
    let logs = log_dirs(node, &wish.recipe)?;
    let pod = make_pod(node, &wish).await?;
    progress.step(format!("{}: restore", identity.name));
    let made = tokio::select! {
        made = container(node, &wish, &pod) => made,
        failure = interrupted() => Err(failure),
    };
    match made {
        Ok((container, files)) => {
            files.keep();
            logs.keep();
            Ok(Restored {
                identity,
                pod,
                container,
                container_name: container_name(&wish.recipe),
                handler: wish.handler,
            })
        }
        Err(failure) => {
            progress.step(format!("{}: take it away again", identity.name));
            Err(take_away(node, &pod, failure).await)
        }
    }
}

/// Makes the pod. When this is interrupted meanwhile, the answer is waited for: who does not know the pod cannot take it away.
async fn make_pod(node: &Node, wish: &Wish<'_>) -> Result<PodId, Failure> {
    let making = node.cri.run_pod(&wish.recipe.pod, &wish.handler);
    tokio::pin!(making);
    let failure = tokio::select! {
        made = &mut making => return made.map_err(call),
        failure = interrupted() => failure,
    };
    Err(match making.await {
        Ok(pod) => take_away(node, &pod, failure).await,
        Err(_) => failure,
    })
}

/// Takes a pod away again. The first fault is what the user needs; what does not go is named.
async fn take_away(node: &Node, pod: &PodId, failure: Failure) -> Failure {
    let removed = async {
        node.cri.stop_pod(pod).await?;
        node.cri.remove_pod(pod).await
    };
    match removed.await {
        Ok(()) => failure,
        Err(error) => also(failure, pod, &error),
    }
}

fn also(failure: Failure, pod: &PodId, error: &restow_cri::Error) -> Failure {
    let more = format!("pod {pod} is left, as it cannot be removed: {error}");
    match failure {
        Failure::Refused(error) => Failure::Refused(anyhow!("{error:#}; {more}")),
        other => other,
    }
}

/// Works out what to make, and whether that may be.
async fn wish<'a>(node: &Node, entry: &'a Entry, into: &Into) -> Result<Wish<'a>, Failure> {
    let recipe = Recipe::read(entry)?.ok_or_else(|| {
        Failure::Refused(anyhow!(
            "Checkpoint {} does not tell what its pod was made from ({FILE_NAME}, which restow checkpoint writes for containers of pods): make \
             the pod yourself, with the annotation restow.dev/restore-from: {}",
            entry.name,
            entry.name
        ))
    })?;
    let old = Identity::of(&recipe.pod);
    let uid = identity::fresh_uid().context("Make a uid for the pod")?;
    let new = Identity {
        name: match &into.pod {
            Some(name) => name.clone(),
            None => format!("{}-{}", old.name, uid.get(..5).unwrap_or(&uid)),
        },
        namespace: match &into.namespace {
            Some(namespace) => namespace.to_string(),
            None => old.namespace.clone(),
        },
        uid,
    };
    let mut recipe = identity::renamed(&recipe, &new);
    if let Some(path) = trust::crooked_path(&recipe) {
        return Err(Failure::Refused(anyhow!(
            "Checkpoint {} names the path {path:?}, which restow checkpoint never writes: it is damaged, or made to reach into the node",
            entry.name
        )));
    }
    let reach = trust::reach(&recipe);
    if !reach.is_empty() && !into.allow_node_access {
        return Err(Failure::Refused(anyhow!(
            "Checkpoint {} asks for a pod that reaches into the node: {}; if that is meant, allow it with --allow-node-access",
            entry.name,
            reach.join(", ")
        )));
    }
    let (handler, way) = way(node, entry, &recipe, into).await?;
    let name = container_name(&recipe);
    match way {
        Way::Shim => {
            let annotation = format!("restow.dev/restore-from.{name}");
            let annotations = &mut recipe.pod.annotations;
            // Those of an earlier restore mean another checkpoint.
            annotations.retain(|name, _| !name.starts_with("restow.dev/restore-from"));
            annotations.insert(annotation, entry.name.to_string());
        }
        Way::Cri => {
            let archive = node.inside(&entry.path).to_string_lossy().into_owned();
            recipe.container.image = Some(ImageSpec {
                image: archive,
                ..ImageSpec::default()
            });
        }
    }
    Ok(Wish {
        entry,
        recipe,
        handler,
        way,
    })
}

async fn way(
    node: &Node,
    entry: &Entry,
    recipe: &Recipe,
    into: &Into,
) -> Result<(String, Way), Failure> {
    let handlers = Handlers::ask(node).await?;
    let chosen = match &into.handler {
        Some(name) => Some(handlers.get(name).ok_or_else(|| {
            Failure::Refused(anyhow!(
                "The node has no runtime handler {name}; it has {}",
                handlers.names()
            ))
        })?),
        None => handlers
            .restoring(&recipe.handler)
            .or_else(|| handlers.get(&recipe.handler)),
    };
    let chosen = chosen.ok_or_else(|| {
        Failure::Refused(anyhow!(
            "The node has no runtime handler {}; it has {}",
            recipe.handler,
            handlers.names()
        ))
    })?;
    if chosen.restow {
        return Ok((chosen.name.clone(), Way::Shim));
    }
    let version = node.cri.version().await.map_err(call)?;
    let own = version.runtime_name == "containerd" && restores_itself(&version.runtime_version);
    if !own {
        return Err(Failure::Refused(anyhow!(
            "Nothing on the node restores: none of its runtime handlers has Restow's shim, and {} {} has no restore of its own; set \
             `runtime_path` of a handler to containerd-shim-restow-v2",
            version.runtime_name,
            version.runtime_version
        )));
    }
    if entry.form == Form::Directory {
        return Err(Failure::Refused(anyhow!(
            "Checkpoint {} is a directory, which only Restow's shim restores, and none of the node's runtime handlers has it; containerd's own \
             restore takes archives, as restow checkpoint --through cri makes them",
            entry.name
        )));
    }
    Ok((chosen.name.clone(), Way::Cri))
}

/// containerd restores on CreateContainer from 2.1 on, and not any more from 2.4 on.
fn restores_itself(version: &str) -> bool {
    let mut numbers = version
        .trim_start_matches('v')
        .split(['.', '~', '-', '+'])
        .map(|part| part.parse::<u32>().ok());
    matches!(
        (numbers.next(), numbers.next()),
        (Some(Some(2)), Some(Some(1..=3)))
    )
}

fn container_name(recipe: &Recipe) -> String {
    let meta = recipe.container.metadata.as_ref();
    meta.map(|meta| meta.name.clone()).unwrap_or_default()
}

/// Sees that the node has the image, and pulls it otherwise. It is asked for by name: an id is one of the old node's.
async fn image(node: &Node, recipe: &Recipe) -> Result<(), Failure> {
    let name = &recipe.image;
    if name.is_empty() || node.cri.image(name).await.map_err(call)?.is_some() {
        return Ok(());
    }
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: name.clone(),
            ..ImageSpec::default()
        }),
        sandbox_config: Some(recipe.pod.clone()),
        ..PullImageRequest::default()
    };
    let mut images = node.cri.images();
    let pulled = tokio::select! {
        pulled = images.pull_image(request) => pulled,
        failure = interrupted() => return Err(failure),
    };
    pulled.map(drop).map_err(|status| {
        Failure::Refused(anyhow!(
            "The node has not got the image {name}, and cannot pull it: {}",
            status.message()
        ))
    })
}

/// The directories for logs, which the kubelet makes for its pods. Dropped, they go.
#[derive(Debug)]
struct Logs(Option<PathBuf>);

impl Logs {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn log_dirs(node: &Node, recipe: &Recipe) -> Result<Logs, Failure> {
    if recipe.pod.log_directory.is_empty() {
        return Ok(Logs(None));
    }
    let dir = node.outside(Path::new(&recipe.pod.log_directory));
    if dir.exists() {
        return Err(Failure::Refused(anyhow!(
            "{} is there already, and no log of another pod is written to",
            recipe.pod.log_directory
        )));
    }
    let logs = Logs(Some(dir.clone()));
    let below = Path::new(&recipe.container.log_path).parent();
    let path = below.map_or_else(|| dir.clone(), |below| dir.join(below));
    fs::create_dir_all(&path).map_err(|error| failed("make", &path, error))?;
    Ok(logs)
}

/// Makes and starts the container in its pod.
async fn container(
    node: &Node,
    wish: &Wish<'_>,
    pod: &PodId,
) -> Result<(ContainerId, Made), Failure> {
    let recipe = &wish.recipe;
    let status = node.cri.pod_status(pod, false).await.map_err(call)?;
    let network = status.status.and_then(|status| status.network);
    let addresses: Vec<String> = network
        .into_iter()
        .flat_map(|it| std::iter::once(it.ip).chain(it.additional_ips.into_iter().map(|it| it.ip)))
        .filter(|address| !address.is_empty())
        .collect();
    let hosts = pod_files::hosts(&addresses, &recipe.pod.hostname);
    let files = pod_files::provide(node, &recipe.pod, &recipe.container, &recipe.files, &hosts)?;
    let made = node
        .cri
        .create_container(pod, &recipe.container, &recipe.pod)
        .await;
    let id = made.map_err(|error| refused(node, wish, None, error))?;
    if wish.way == Way::Shim {
        arrived(node, wish, &id).await?;
    }
    let started = node.cri.start_container(&id).await;
    started.map_err(|error| refused(node, wish, Some(&id), error))?;
    let status = node.cri.container_status(&id, false).await.map_err(call)?;
    let status = status.status.unwrap_or_default();
    if status.state() != ContainerState::ContainerRunning {
        return Err(Failure::Refused(anyhow!(
            "Checkpoint {} was restored, but its container has ended at once, with status {} ({}{})",
            wish.entry.name,
            status.exit_code,
            status.reason,
            if status.message.is_empty() {
                String::new()
            } else {
                format!(": {}", status.message)
            }
        )));
    }
    Ok((id, files))
}

/// Without its annotation the container would start from the beginning instead.
async fn arrived(node: &Node, wish: &Wish<'_>, id: &ContainerId) -> Result<(), Failure> {
    let client = node.containerd(K8S_NAMESPACE).await?;
    let record = client.container(id).await.map_err(call)?;
    let spec = record.spec.map(|spec| spec.value).unwrap_or_default();
    let spec: serde_json::Value =
        serde_json::from_slice(&spec).context("Read the new container's spec")?;
    let annotations = spec["annotations"].as_object();
    let there = annotations.is_some_and(|all| {
        all.keys()
            .any(|name| name.starts_with("restow.dev/restore-from"))
    });
    if there {
        return Ok(());
    }
    Err(Failure::Refused(anyhow!(
        "Runtime handler {} does not hand annotations on, so that Restow's shim does not know of the checkpoint: set its `pod_annotations` to \
         [\"restow.dev/*\"] in containerd's configuration",
        wish.handler
    )))
}

fn refused(
    node: &Node,
    wish: &Wish<'_>,
    id: Option<&ContainerId>,
    error: restow_cri::Error,
) -> Failure {
    let logs: Vec<PathBuf> = id
        .into_iter()
        .flat_map(|id| {
            let bundle = Path::new("/run/containerd/io.containerd.runtime.v2.task")
                .join(K8S_NAMESPACE)
                .join(id.as_str());
            ["criu-restore.log", "work/restore.log", "restore.log"].map(|log| bundle.join(log))
        })
        .map(|log| node.outside(&log))
        .collect();
    let said = match error.message() {
        "" => format!("{:#}", anyhow::Error::from(error)),
        message => message.to_owned(),
    };
    Failure::Refused(anyhow!(
        "Checkpoint {} cannot be restored: {}",
        wish.entry.name,
        why::sentence(&said, &logs)
    ))
}

/// Removes a checkpoint that was only on its way.
pub(super) fn discard(
    node: &Node,
    name: &CheckpointName,
    namespace: &Namespace,
) -> Result<(), Failure> {
    node.store.remove(name, namespace).map(drop).map_err(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_own_restore_came_and_went() {
        for (version, own) in [
            ("1.7.24~ds1", false),
            ("v2.0.5", false),
            ("2.1.4~ds2", true),
            ("v2.3.4", true),
            ("v2.4.0-beta.0", false),
            ("unknown", false),
        ] {
            assert_eq!(restores_itself(version), own, "{version}");
        }
    }
}
