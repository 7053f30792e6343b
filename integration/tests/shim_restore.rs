//! Containers made by `ctr` that are restored when they are created, because their annotations say so.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_cri::{ContainerId, Containerd, K8S_NAMESPACE};
use restow_integration::on_both_suites;
use restow_integration::shim::{COUNTER, STORE, ShimNode, Which};
use restow_integration::suite::Suite;

on_both_suites!(
    a_container_goes_on_in_another,
    what_is_created_does_not_run_and_its_proxys_death_leaves_nothing,
    what_cannot_be_restored_is_not_started,
    a_fresh_start_only_where_the_pod_wants_one,
    a_checkpoint_is_published
);

/// What the second container would do if it were started.
const OTHER: &str = "echo other >>/starts; while :; do :; done";

fn a_container_goes_on_in_another(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    node.run("a", COUNTER, &["restow.dev/enabled=true"], false)?;
    node.until_beyond("a", 3)?;
    node.checkpoint("a", "evening")?;
    node.remove("a")?;
    for generation in ["b", "c"] {
        node.run(
            generation,
            OTHER,
            &["restow.dev/restore-from=evening"],
            false,
        )?;
        ensure!(node.state(generation)?.as_deref() == Some("RUNNING"));
        let starts = node.file(generation, "starts")?;
        ensure!(starts == "fresh\n", "{generation} was started: {starts:?}");
        let first = node.count(generation)?;
        ensure!(first >= 3, "{generation} counts from {first}");
        node.until_beyond(generation, first)?;
        let said = node.containerd().ctr(&[
            "tasks",
            "exec",
            "--exec-id",
            "say",
            generation,
            "/bin/echo",
            "hello",
        ])?;
        ensure!(said.trim() == "hello", "{said:?}");
        node.remove(generation)?;
        node.until_nothing_is_left()?;
    }
    Ok(())
}

/// Nothing of a counter runs on the node.
fn nothing_runs(node: &ShimNode) -> Result<()> {
    let processes = node.containerd().run("ps", &["-e", "-o", "args="])?;
    let counters = processes.lines().filter(|line| line.contains("/count"));
    let counters: Vec<&str> = counters.collect();
    ensure!(counters.is_empty(), "{counters:?} run");
    Ok(())
}

fn what_is_created_does_not_run_and_its_proxys_death_leaves_nothing(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    node.run("a", COUNTER, &["restow.dev/enabled=true"], false)?;
    node.until_beyond("a", 3)?;
    node.checkpoint("a", "evening")?;
    node.remove("a")?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let api = tokio.block_on(Containerd::connect(
        node.containerd().socket(),
        K8S_NAMESPACE,
    ))?;
    let created = |id: &str| -> Result<ContainerId> {
        node.make_known(id, OTHER, &["restow.dev/restore-from=evening"])?;
        let id = ContainerId(id.to_owned());
        tokio.block_on(api.create(&id))?;
        let state = node.state(id.as_str())?;
        ensure!(state.as_deref() == Some("CREATED"), "It is {state:?}");
        nothing_runs(&node)?;
        // What it had changed is there already.
        ensure!(node.file(id.as_str(), "starts")? == "fresh\n");
        Ok(id)
    };

    // Both shims go, whichever is killed, and with them all that was prepared.
    for (id, victim) in [("b", Which::Proxy), ("c", Which::Stock)] {
        created(id)?;
        let pid = node.shim(victim, id)?.to_string();
        node.containerd().run("kill", &["-KILL", &pid])?;
        node.until_state(id, None)?;
        nothing_runs(&node)?;
        node.containerd().ctr(&["containers", "delete", id])?;
    }
    let id = created("d")?;
    let before = node.count("d")?;
    tokio.block_on(api.start(&id))?;
    ensure!(node.state("d")?.as_deref() == Some("RUNNING"));
    node.until_beyond("d", before)?;
    ensure!(node.file("d", "starts")? == "fresh\n", "It was started");
    node.remove("d")?;
    node.until_nothing_is_left()
}

fn what_cannot_be_restored_is_not_started(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    let from = "restow.dev/restore-from=evening";
    let refusal = |id: &str, annotations: &[&str]| -> Result<String> {
        let error = node
            .run(id, OTHER, annotations, false)
            .err()
            .context("It was not refused")?;
        // Nothing keeps it from being taken away.
        let _ = node.containerd().ctr(&["tasks", "delete", "--force", id]);
        let _ = node.containerd().ctr(&["containers", "delete", id]);
        node.until_nothing_is_left()?;
        Ok(format!("{error:#}"))
    };
    let words = refusal("missing", &[from])?;
    ensure!(
        words.contains("evening") && words.contains("restow"),
        "{words}"
    );

    // One that is damaged.
    node.run("a", COUNTER, &["restow.dev/enabled=true"], true)?;
    node.until_beyond("a", 1)?;
    node.checkpoint("a", "evening")?;
    node.remove("a")?;
    let images = node.path(&format!("{STORE}/evening/checkpoint"));
    let core = fs::read_dir(&images)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("core-"))
        .context("There is no core image")?
        .path();
    let whole = fs::read(&core)?;
    fs::write(&core, &whole[..whole.len() / 2])?;
    let words = refusal("damaged", &[from])?;
    ensure!(words.contains("core-"), "{words}");
    fs::write(&core, whole)?;

    // One that is whole, and for which the restore itself fails: what it uses is not there.
    fs::write(images.join("seccomp.img"), b"no image")?;
    let words = refusal("failing", &[from])?;
    ensure!(
        words.contains("seccomp") || words.contains("image"),
        "{words}"
    );
    Ok(())
}

fn a_fresh_start_only_where_the_pod_wants_one(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    let annotations = [
        "restow.dev/restore-from=evening",
        "restow.dev/on-failure=start",
    ];
    node.run("fresh", COUNTER, &annotations, false)?;
    node.until_beyond("fresh", 1)?;
    let log = node.containerd().log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("starts afresh"))
        .collect();
    ensure!(
        lines.len() == 1 && lines[0].contains("evening"),
        "{lines:?}"
    );
    node.remove("fresh")?;

    // A restore that fails at the start: the program keeps a file of a volume open that the new container has not got.
    let program = format!("exec 3>/volume/open; {COUNTER}");
    node.run("a", &program, &["restow.dev/enabled=true"], true)?;
    node.until_beyond("a", 1)?;
    node.checkpoint("a", "evening")?;
    node.remove("a")?;
    let error = node
        .run("failing", COUNTER, &annotations[..1], false)
        .err()
        .context("It was restored without its volume")?;
    // Also where the runtime only names a log.
    let words = format!("{error:#}");
    ensure!(words.contains("volume"), "It does not say why: {words}");
    let _ = node
        .containerd()
        .ctr(&["tasks", "delete", "--force", "failing"]);
    node.containerd()
        .ctr(&["containers", "delete", "failing"])?;
    node.until_nothing_is_left()?;

    node.run("afresh", COUNTER, &annotations, false)?;
    let starts = node.file("afresh", "starts")?;
    ensure!(starts == "fresh\n", "{starts:?}");
    node.until_beyond("afresh", 1)?;
    let log = node.containerd().log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("starts afresh"))
        .collect();
    ensure!(lines.len() == 2 && lines[1].contains("volume"), "{lines:?}");
    node.remove("afresh")?;
    node.until_nothing_is_left()
}

fn a_checkpoint_is_published(suite: Suite) -> Result<()> {
    let node = ShimNode::start(suite)?;
    node.run("a", COUNTER, &["restow.dev/enabled=true"], false)?;
    node.until_beyond("a", 1)?;
    let mut events = node.containerd().ctr_command();
    let mut events = events
        .arg("events")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("Start ctr events")?;
    let out = events.stdout.take().context("It has no output")?;
    let (images, work) = ("/var/tmp/evening", "/var/tmp/evening-work");
    node.containerd().run("mkdir", &[images, work])?;
    let checkpoint = ["tasks", "checkpoint", "--image-path", images];
    node.containerd()
        .ctr(&[&checkpoint[..], &["--work-path", work, "a"]].concat())?;
    // It goes on.
    let count = node.count("a")?;
    node.until_beyond("a", count)?;
    let lines = std::io::BufRead::lines(std::io::BufReader::new(out));
    // What comes before it does not matter; that it does not come is seen by the runner.
    let seen = lines
        .map_while(std::result::Result::ok)
        .find(|line| line.contains("/tasks/checkpointed"));
    events.kill().context("End ctr events")?;
    events.wait().context("Wait for ctr events")?;
    let line = seen.context("The event did not come")?;
    ensure!(
        line.contains(r#""container_id":"a""#) && line.contains("evening"),
        "{line}"
    );
    Ok(())
}
