//! `restow restore` and `restow migrate`: new pods from old ones, on the same node and on another of which nothing is shared.

mod command;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use command::{Lab, ProbePod, STORE};
use restow_cri::ContainerId;
use restow_cri::api::ContainerState;
use restow_integration::containerd::{Shim, handler};
use restow_integration::on_both_suites;
use restow_integration::suite::Suite;
use serde_json::Value;

on_both_suites!(
    a_checkpoint_becomes_a_new_pod_when_the_old_one_is_gone,
    a_pod_that_reaches_into_the_node_is_made_only_on_request,
    of_a_failed_restore_nothing_is_left,
    a_pod_moves_to_a_node_that_shares_nothing,
    after_a_failed_move_the_source_goes_on,
);

/// Where the log of a container that was restored is.
fn log_of(restored: &Value) -> Result<String> {
    let text = |name: &str| restored[name].as_str().with_context(|| name.to_owned());
    Ok(format!(
        "/var/log/pods/{}_{}_{}/probe/0.log",
        text("namespace")?,
        text("pod")?,
        text("uid")?
    ))
}

/// The container that was restored, which runs.
fn runs(lab: &Lab, restored: &Value) -> Result<ContainerId> {
    let id = ContainerId(
        restored["container"]
            .as_str()
            .context("container")?
            .to_owned(),
    );
    ensure!(
        lab.state(&id)? == ContainerState::ContainerRunning,
        "{restored}"
    );
    Ok(id)
}

/// The restored probe goes on from where the old one was, with what its pod had.
fn goes_on(lab: &Lab, old: &ProbePod, from: u64, restored: &Value) -> Result<()> {
    let id = runs(lab, restored)?;
    let log = log_of(restored)?;
    lab.counts_beyond(&log, from)?;
    let first = lab.first_count(&log)?;
    ensure!(first > 20, "It has counted from the beginning: {first}");
    ensure!(restored["uid"] != old.uid.as_str(), "{restored}");
    let exec = |path: &str| {
        lab.ctr(&[
            "tasks",
            "exec",
            "--exec-id",
            "cat",
            id.as_str(),
            "/probe",
            "cat",
            path,
        ])
    };
    ensure!(exec("/settings/colour")?.trim() == "green");
    let mounts = exec("/proc/1/mountinfo")?;
    ensure!(
        !mounts.contains(&old.uid),
        "A mount of the old pod: {mounts}"
    );
    let hosts = exec("/etc/hosts")?;
    let name = restored["pod"].as_str().context("pod")?;
    ensure!(hosts.contains(name), "The hosts file is another's: {hosts}");
    Ok(())
}

fn a_checkpoint_becomes_a_new_pod_when_the_old_one_is_gone(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    let pod = lab.pod("web", "0c4d-11", Shim::Restow, &["run"])?;
    let from = lab.counts_beyond(pod.log(), 100)?;
    lab.restow(&["checkpoint", "web/probe", "--name", "one", "--json"])?
        .json()?;
    lab.remove(&pod)?;
    let restored = lab
        .restow(&["restore", "one", "--pod", "web-2", "--json"])?
        .json()?;
    ensure!(restored["pod"] == "web-2", "{restored}");
    ensure!(
        restored["handler"] == handler(lab.runtime, Shim::Restow),
        "{restored}"
    );
    goes_on(&lab, &pod, from, &restored)?;
    // As often as wanted, beside it.
    let again = lab.restow(&["restore", "default/one", "--json"])?.json()?;
    let name = again["pod"].as_str().context("pod")?;
    ensure!(name.starts_with("web-") && name != "web-2", "{again}");
    goes_on(&lab, &pod, from, &again)?;
    let missing = lab.restow(&["restore", "two"])?;
    let said = missing.refusal(3)?;
    ensure!(said.contains("no checkpoint two"), "{said}");
    Ok(())
}

/// Everything of pods on a node.
fn of_pods(lab: &Lab) -> Result<Vec<String>> {
    let mut all = lab.pods()?;
    for dir in ["/var/lib/kubelet/pods", "/var/log/pods"] {
        let Ok(entries) = fs::read_dir(lab.path(dir)) else {
            continue;
        };
        for entry in entries {
            all.push(entry?.path().display().to_string());
        }
    }
    all.sort();
    Ok(all)
}

/// Makes a pod, puts a checkpoint `one` of it into the store through containerd, and removes the pod.
fn checkpointed(lab: &Lab) -> Result<()> {
    let pod = lab.pod("web", "0c4d-11", Shim::Restow, &["run"])?;
    let args = [
        "checkpoint",
        "web/probe",
        "--name",
        "one",
        "--through",
        "containerd",
    ];
    let made = lab.restow(&args)?;
    ensure!(made.code == Some(0), "{}", made.error);
    lab.remove(&pod)
}

fn a_pod_that_reaches_into_the_node_is_made_only_on_request(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    checkpointed(&lab)?;
    let recipe = lab.path(&format!("{STORE}/default/one/pod.json"));
    let mut changed: Value = serde_json::from_slice(&fs::read(&recipe)?)?;
    changed["container"]["mounts"][1]["host_path"] = "/etc".into();
    changed["pod"]["linux"]["cgroup_parent"] = "/system.slice".into();
    fs::write(&recipe, serde_json::to_vec(&changed)?)?;
    let before = of_pods(&lab)?;
    let answer = lab.restow(&["restore", "one"])?;
    let said = answer.refusal(5)?;
    ensure!(
        said.contains("/etc of the node is mounted at /settings"),
        "{said}"
    );
    ensure!(said.contains("its cgroup is below /system.slice"), "{said}");
    ensure!(said.contains("--allow-node-access"), "{said}");
    ensure!(of_pods(&lab)? == before, "{:?}", of_pods(&lab)?);
    let restored = lab
        .restow(&["restore", "one", "--allow-node-access", "--json"])?
        .json()?;
    let id = runs(&lab, &restored)?;
    let nodes = lab.exec(&id, &["/probe", "cat", "/settings/debian_version"])?;
    ensure!(nodes == fs::read_to_string(lab.path("/etc/debian_version"))?);
    Ok(())
}

fn of_a_failed_restore_nothing_is_left(suite: Suite) -> Result<()> {
    let lab = Lab::start(suite)?;
    checkpointed(&lab)?;
    let pages = lab.path(&format!("{STORE}/default/one/checkpoint/pages-1.img"));
    fs::File::options().write(true).open(pages)?.set_len(4096)?;
    let before = of_pods(&lab)?;
    let answer = lab.restow(&["restore", "one"])?;
    let said = answer.refusal(5)?;
    ensure!(
        said.contains("Checkpoint default/one cannot be restored") && said.contains("pages-1.img"),
        "{said}"
    );
    ensure!(of_pods(&lab)? == before, "{:?}", of_pods(&lab)?);
    Ok(())
}

/// A node's socket as an argument for who is outside.
fn socket(lab: &Lab) -> Result<String> {
    let path = lab.containerd.socket();
    Ok(path
        .to_str()
        .context("A socket's path is no text")?
        .to_owned())
}

fn a_pod_moves_to_a_node_that_shares_nothing(suite: Suite) -> Result<()> {
    let (a, b) = (Lab::start(suite)?, Lab::start(suite)?);
    let pod = a.pod("web", "0c4d-11", Shim::Restow, &["run"])?;
    let from = a.counts_beyond(pod.log(), 100)?;
    let answer = Lab::restow_outside(&[
        "migrate",
        "web/probe",
        "--socket",
        &socket(&a)?,
        "--to",
        &socket(&b)?,
        "--json",
    ])?;
    let moved = answer.json()?;
    ensure!(moved["to"]["pod"] == "web", "{moved}");
    a.until("the source has ended", || {
        Ok(a.state(&pod.container)? == ContainerState::ContainerExited)
    })?;
    ensure!(a.stored()?.is_empty(), "{:?}", a.stored()?);
    ensure!(b.stored()?.is_empty(), "{:?}", b.stored()?);
    ensure!(a.leftovers()?.is_empty(), "{:?}", a.leftovers()?);
    let last = a.count(pod.log())?;
    // Nothing of it exists any more.
    drop(a);
    goes_on(&b, &pod, from, &moved["to"])?;
    // What it counted is one row, without a gap and with nothing twice.
    let first = b.first_count(&log_of(&moved["to"])?)?;
    ensure!(
        first == last + 20,
        "It counted to {last} there, and from {first} on here"
    );
    Ok(())
}

fn after_a_failed_move_the_source_goes_on(suite: Suite) -> Result<()> {
    let (a, b) = (Lab::start(suite)?, Lab::start(suite)?);
    let pod = a.pod("web", "0c4d-11", Shim::Restow, &["run"])?;
    let (from, to) = (socket(&a)?, socket(&b)?);
    let before = of_pods(&b)?;
    // It fails at once, and late: when the new pod is there already, and the shim looks at the checkpoint.
    fs::create_dir_all(b.path("/etc/restow"))?;
    let config = b.path("/etc/restow/config.toml");
    let tight = "[checkpoints]\nmax-size-gib = 0\n";
    for (text, handler, expected) in [
        ("", Some("nothing"), "no runtime handler nothing"),
        (tight, None, "max-size-gib"),
    ] {
        fs::write(&config, text)?;
        let mut args = vec!["migrate", "web/probe", "--socket", &from, "--to", &to];
        args.extend(handler.iter().flat_map(|name| ["--handler", *name]));
        let answer = Lab::restow_outside(&args)?;
        let said = answer.refusal(5)?;
        ensure!(said.contains("is not moved, and goes on running"), "{said}");
        ensure!(said.contains(expected), "{said}");
        let count = a.count(pod.log())?;
        a.counts_beyond(pod.log(), count)?;
        ensure!(of_pods(&b)? == before, "{:?}", of_pods(&b)?);
        ensure!(a.stored()?.is_empty(), "{:?}", a.stored()?);
        ensure!(b.stored()?.is_empty(), "{:?}", b.stored()?);
    }
    // No node at all.
    let answer = Lab::restow_outside(&[
        "migrate",
        "web/probe",
        "--socket",
        &from,
        "--to",
        "/nowhere",
    ])?;
    let said = answer.refusal(3)?;
    ensure!(said.contains("No node behind /nowhere"), "{said}");
    ensure!(!Path::new("/nowhere").exists());
    Ok(())
}
