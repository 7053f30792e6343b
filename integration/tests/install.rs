//! Restow comes onto a node by its own command, moves a container there, and leaves the node as it was. What is wrong with a node is
//! said in a sentence, and containers that do not ask for Restow do not notice.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::installation::{
    self, BUILT, INSTALLED, bring, complaints, differences, moves, only_complaint, others_go_on,
    restow, restow_done, snapshot,
};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::stack::Runtime;
use restow_integration::suite::Suite;

on_both_suites!(
    a_container_moves_and_the_node_is_as_it_was_again,
    containerd_keeps_all_that_it_was_told,
    the_command_of_the_daemonset_works_on_a_mounted_node,
    a_node_without_the_real_criu_is_told_so,
    two_copies_in_path_are_told_apart,
    wrong_permissions_are_told,
    a_read_only_run_is_told,
    a_missing_kernel_feature_is_told,
);

const MAIN: &str = "/etc/containerd/config.toml";

/// A node with Restow's programs on it, and a runtime that finds criu where everybody does.
fn clean(suite: Suite) -> Result<Engine> {
    let engine = Engine::start(Stack::v2(suite), Mode::Stock)?;
    bring(engine.node())?;
    Ok(engine)
}

fn installed(suite: Suite) -> Result<Engine> {
    let engine = clean(suite)?;
    restow_done(engine.node(), &["install", "--criu-in-path"])?;
    Ok(engine)
}

fn a_container_moves_and_the_node_is_as_it_was_again(suite: Suite) -> Result<()> {
    let engine = clean(suite)?;
    let node = engine.node();
    let before = snapshot(node)?;
    restow_done(node, &["install", "--dry-run"])?;
    ensure!(
        differences(&before, &snapshot(node)?).is_empty(),
        "A dry run changes the node"
    );
    let said = restow_done(node, &["install", "--criu-in-path"])?;
    ensure!(
        said.contains("nothing was restarted: `systemctl restart containerd`"),
        "It is not said that containerd has to be restarted: {said}"
    );
    let bad = complaints(node)?;
    ensure!(bad.is_empty(), "Doctor is not content: {bad:#?}");
    for runtime in ["runc", "crun"] {
        let format = ["info", "--format", "{{.Host.OCIRuntime.Path}}"];
        let path = engine.run("podman", &[&["--runtime", runtime], &format[..]].concat())?;
        ensure!(
            path.trim() == format!("{INSTALLED}/restow-{runtime}"),
            "podman's runtime {runtime} is {path}"
        );
    }
    let again = snapshot(node)?;
    restow_done(node, &["install", "--criu-in-path"])?;
    ensure!(
        differences(&again, &snapshot(node)?).is_empty(),
        "A second installation changes the node"
    );
    let moved = moves(&engine)?;
    println!("installed | {suite} | {moved}");
    // What moves leave (logs of failures, state of runtimes) is not the installation's.
    let before = installation::with_the_rest(&before, &snapshot(node)?, &again);
    restow_done(node, &["uninstall"])?;
    let left = differences(&before, &snapshot(node)?);
    ensure!(left.is_empty(), "The node is not as it was: {left:#?}");
    println!(
        "uninstalled | {suite} | all {} paths are as they were",
        before.len()
    );
    Ok(())
}

/// The CRI plugin's settings as containerd itself has read them, as lines.
fn settings(engine: &Engine) -> Result<String> {
    let mut args = vec!["config", "dump"];
    if engine.node().path(MAIN).exists() {
        args.splice(0..0, ["--config", MAIN]);
    }
    engine.run("containerd", &args)
}

fn containerd_keeps_all_that_it_was_told(suite: Suite) -> Result<()> {
    let (version, plugin) = match suite {
        Suite::Stable => (2, "io.containerd.grpc.v1.cri"),
        Suite::Testing => (3, "io.containerd.cri.v1.runtime"),
    };
    let section = format!(
        "version = {version} # as it was\n[plugins.'{plugin}']\n  max_container_log_line_size = 4711\n\
         [plugins.'{plugin}'.containerd.runtimes.runc]\n  runtime_type = 'io.containerd.runc.v2'\n  cni_conf_dir = '/etc/cni/other'\n\
         [plugins.'{plugin}'.containerd.runtimes.runc.options]\n  SystemdCgroup = true\n"
    );
    let imported = "/etc/containerd/mine.toml";
    let importing = format!("version = {version}\nimports = [\"{imported}\"]\n");
    for (what, files) in [
        ("as Debian has it", vec![]),
        ("with a section", vec![(MAIN, section.as_str())]),
        (
            "with an import",
            vec![(MAIN, importing.as_str()), (imported, section.as_str())],
        ),
    ] {
        let engine = clean(suite)?;
        for (path, text) in &files {
            fs::create_dir_all(engine.node().path("/etc/containerd"))?;
            fs::write(engine.node().path(path), text)?;
        }
        let before = settings(&engine)?;
        restow_done(engine.node(), &["install"])?;
        let after = settings(&engine)?;
        // containerd prints handlers in the order of their names, and the files it has read.
        let lines = |text: &str| -> Vec<String> {
            let lines = text
                .lines()
                .map(str::trim)
                .filter(|line| !line.starts_with("imports"));
            lines.map(str::to_owned).collect()
        };
        let mut rest = lines(&after);
        for line in lines(&before) {
            let at = rest.iter().position(|other| *other == line);
            let at = at.with_context(|| format!("{what}: containerd has lost {line:?}"))?;
            rest.remove(at);
        }
        for word in [
            format!("runtime_path = \"{INSTALLED}/containerd-shim-restow-v2\""),
            "pod_annotations = [\"restow.dev/*\"]".to_owned(),
            format!("BinaryName = \"{INSTALLED}/restow-crun\""),
        ] {
            ensure!(
                rest.iter().any(|line| line.replace('\'', "\"") == word),
                "{what}: containerd has not got {word}: {rest:#?}"
            );
        }
        if !files.is_empty() {
            let count = rest
                .iter()
                .filter(|line| *line == "SystemdCgroup = true")
                .count();
            ensure!(
                count == 2,
                "{what}: the handlers are not as the node's own: {rest:#?}"
            );
        }
        let bad = complaints(engine.node())?;
        ensure!(bad.is_empty(), "{what}: doctor is not content: {bad:#?}");
        println!(
            "containerd {what} | {suite} | nothing lost, {} lines more",
            rest.len()
        );
    }
    Ok(())
}

fn the_command_of_the_daemonset_works_on_a_mounted_node(suite: Suite) -> Result<()> {
    let engine = clean(suite)?;
    let node = engine.node();
    let before = snapshot(node)?;
    // As a container of the image: another root, in which the node's is at /host.
    let script = format!(
        "set -e\nmount -t tmpfs image /mnt\ncd /mnt\nmkdir -p usr lib lib64 dev proc tmp host opt\n\
         mount --bind /usr usr\nln -s usr/bin bin\nfor d in lib lib64 dev; do mount --rbind /$d $d; done\n\
         mkdir -p opt/built\ncp -a {BUILT}/. opt/built\nmount -t proc proc proc\nmount --rbind / host\n\
         exec chroot . /opt/built/restow \"$@\""
    );
    let image = |args: &[&str], may_fail: bool| -> Result<String> {
        let args = [
            &[
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &script,
                "sh",
            ],
            args,
        ]
        .concat();
        let output = node.command("unshare").args(args).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            may_fail || output.status.success(),
            "The command fails: {errors}"
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    image(&["install", "--root", "/host"], false)?;
    let bad = complaints(node)?;
    ensure!(bad.is_empty(), "Doctor is not content: {bad:#?}");
    // Whether it is content says its output; warnings are of this machine's rights.
    let seen = image(&["doctor", "--root", "/host", "--json"], true)?;
    ensure!(
        seen.contains("\"verdict\"") && !seen.contains("\"fail\""),
        "Doctor is not content from outside: {seen}"
    );
    image(&["uninstall", "--root", "/host"], false)?;
    let left = differences(&before, &snapshot(node)?);
    ensure!(left.is_empty(), "The node is not as it was: {left:#?}");
    println!("from an image | {suite} | installed and taken back through /host");
    Ok(())
}

fn a_node_without_the_real_criu_is_told_so(suite: Suite) -> Result<()> {
    let engine = installed(suite)?;
    let node = engine.node();
    fs::remove_file(node.path("/usr/sbin/criu"))?;
    let complaint = only_complaint(node)?;
    ensure!(
        complaint == "fail criu: there is no criu on this node besides Restow's own",
        "{complaint}"
    );
    others_go_on(&engine)?;
    let pod = Pod::start(&engine, &PodOptions::new("asks"))?;
    let mut options = ContainerOptions::new(1);
    options
        .annotations
        .push(("restow.dev/enabled".to_owned(), "true".to_owned()));
    let mut container = pod.container(&options)?;
    container.start()?;
    let called = node.command("criu").arg("--version").output()?;
    let words = String::from_utf8_lossy(&called.stderr).into_owned();
    ensure!(
        called.status.code() == Some(127)
            && words.contains("No criu found in PATH")
            && words.contains("install"),
        "criu says {words:?} ({})",
        called.status
    );
    let checkpoint = Checkpoint::new(&engine, "none")?;
    ensure!(
        container.checkpoint_running(&checkpoint).is_err(),
        "It was checkpointed without criu"
    );
    container
        .reports()
        .context("The container does not go on after the failed checkpoint")?;
    println!("no real criu | {suite} | {}", words.trim());
    pod.remove(vec![container])
}

fn two_copies_in_path_are_told_apart(suite: Suite) -> Result<()> {
    let engine = installed(suite)?;
    let node = engine.node();
    // A copy, not a link: as somebody had it by hand.
    let copy = node.path("/usr/local/bin/criu");
    fs::copy(node.path(format!("{INSTALLED}/criu")), &copy)?;
    let bad = complaints(node)?;
    ensure!(
        bad.is_empty(),
        "Two copies of the same are no fault: {bad:#?}"
    );
    moves(&engine)?;
    // An older one.
    let mut bytes = fs::read(&copy)?;
    bytes.extend(b"older");
    fs::write(&copy, bytes)?;
    let complaint = only_complaint(node)?;
    ensure!(
        complaint
            == "warn criu: /usr/local/bin/criu is Restow's, and not the one that is installed",
        "{complaint}"
    );
    others_go_on(&engine)?;
    fs::rename(&copy, node.path("/usr/local/bin/criu.old"))?;
    // Another real one.
    fs::copy(node.path("/usr/sbin/criu"), &copy)?;
    let complaint = only_complaint(node)?;
    ensure!(
        complaint == "warn criu: /usr/local/bin/criu is used, and /usr/sbin/criu is there too",
        "{complaint}"
    );
    println!("two copies | {suite} | {complaint}");
    moves(&engine).map(drop)
}

fn wrong_permissions_are_told(suite: Suite) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let engine = installed(suite)?;
    let node = engine.node();
    let set =
        |path: &str, mode| fs::set_permissions(node.path(path), fs::Permissions::from_mode(mode));
    let criu = format!("{INSTALLED}/criu");
    for (mode, expected) in [
        (0o644, "cannot be run by everybody"),
        (0o777, "can be written to by others than root"),
    ] {
        set(&criu, mode)?;
        let complaint = only_complaint(node)?;
        ensure!(
            complaint.ends_with(expected) && complaint.starts_with("fail programs"),
            "{complaint}"
        );
        others_go_on(&engine)?;
        println!("permissions {mode:o} | {suite} | {complaint}");
    }
    restow_done(node, &["install", "--criu-in-path"])?;
    let bad = complaints(node)?;
    ensure!(
        bad.is_empty(),
        "Installing again does not put it right: {bad:#?}"
    );
    fs::create_dir_all(node.path("/etc/restow"))?;
    fs::write(
        node.path("/etc/restow/config.toml"),
        "enable = 'annotated'\n",
    )?;
    set("/etc/restow/config.toml", 0o666)?;
    let complaint = only_complaint(node)?;
    ensure!(
        complaint.starts_with("fail configuration: /etc/restow/config.toml can be written"),
        "{complaint}"
    );
    set("/etc/restow/config.toml", 0o644)?;
    fs::write(node.path("/etc/restow/config.toml"), "enabel = 'all'\n")?;
    let complaint = only_complaint(node)?;
    ensure!(
        complaint.contains("not a valid Restow configuration") && complaint.contains("enabel"),
        "{complaint}"
    );
    others_go_on(&engine)
}

fn a_read_only_run_is_told(suite: Suite) -> Result<()> {
    let engine = installed(suite)?;
    let node = engine.node();
    // Where the runtime keeps its state stays as it is, or nothing would run at all.
    let script = "mkdir -p /run/containerd && mount --bind /run/containerd /run/containerd && mount -o remount,ro,bind /run";
    engine.run("mount", &["--bind", "/run", "/run"])?;
    engine.run("sh", &["-c", script])?;
    let (_, lines) = installation::doctor(node)?;
    let complaint = lines.iter().find(|line| line.contains("/run is read-only"));
    let complaint = complaint.with_context(|| format!("Doctor does not see it: {lines:#?}"))?;
    println!("read-only /run | {suite} | {complaint}");
    Ok(())
}

fn a_missing_kernel_feature_is_told(suite: Suite) -> Result<()> {
    let engine = installed(suite)?;
    let node = engine.node();
    // What a kernel without CONFIG_CHECKPOINT_RESTORE has not got.
    engine.run("mount", &["-t", "tmpfs", "none", "/proc/sys/kernel"])?;
    let (code, lines) = installation::doctor(node)?;
    let words = "has no /proc/sys/kernel/ns_last_pid, which criu needs";
    ensure!(
        code == Some(5)
            && lines
                .iter()
                .any(|line| line.starts_with("fail kernel") && line.ends_with(words)),
        "Doctor does not see it: {lines:#?}"
    );
    println!("missing kernel feature | {suite} | {words}");
    let refused = restow(node, &["doctor"])?;
    ensure!(
        String::from_utf8_lossy(&refused.stdout).contains("CONFIG_CHECKPOINT_RESTORE"),
        "The way out is not said"
    );
    if Runtime::chosen() == Runtime::Crun {
        println!(
            "SKIPPED: containers on {suite}: crun starts none without /proc/sys/kernel/cap_last_cap"
        );
        return Ok(());
    }
    others_go_on(&engine)
}
