//! `restow plan`, compared with the restore that follows: with the plan that the interposer made, and with what the
//! verification saw.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::node::CgroupView;
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions, Qos};
use restow_integration::suite::Suite;
use restow_integration::tree::{TreePod, View};
use serde_json::Value;

on_both_suites!(
    a_plan_for_a_bundle_or_a_process_is_that_of_the_restore,
    a_plan_for_a_tree_without_a_container_is_that_of_the_restore,
    a_plan_says_in_words_and_by_its_exit_code_what_is_in_the_way,
);

fn stacks(suite: Suite) -> [Stack; 2] {
    [Stack::v2(suite), Stack::hybrid(suite)]
}

fn a_plan_for_a_bundle_or_a_process_is_that_of_the_restore(suite: Suite) -> Result<()> {
    for stack in stacks(suite) {
        let engine = Engine::start(stack, Mode::Restow)?;
        let here = ContainerOptions::new(2)
            .volume("/data")
            .volume("/only/in/a")
            .config_map("/etc/map")
            .open("all:rw:2:/data/pod")
            .open("each:r:0:/etc/hosts")
            .open("each:r:0:/etc/map/pod")
            .open("1:watch:0:/etc/map");
        // criu 4.1 cannot dump internet sockets on kernels since 6.16, which have no SO_PASSCRED for them.
        let here = match suite {
            Suite::Stable => here,
            Suite::Testing => here.socket("0:listen:{ip4}:7000"),
        };
        let views = match stack.cgroup_view {
            CgroupView::V2 => vec![
                here.clone()
                    .host_cgroups()
                    .open("all:r:3:{container}/cgroup.events")
                    .open("each:r:0:{pod}/cpu.stat")
                    .open("1:r:0:{qos}/cgroup.events")
                    .open("1:watch:0:{container}/cgroup.events"),
                here.open("all:r:3:/sys/fs/cgroup/cgroup.events")
                    .open("1:r:0:/sys/fs/cgroup/cpu.stat"),
            ],
            CgroupView::Hybrid => vec![
                here.open("all:r:0:/sys/fs/cgroup/pids/pids.current")
                    .open("1:r:3:/sys/fs/cgroup/memory/memory.usage_in_bytes"),
            ],
        };
        for (number, here) in views.iter().enumerate() {
            let mut there = here.clone().volume("/var/only/in/b");
            there.volumes.retain(|volume| volume != "/only/in/a");
            compare(&engine, here, &there).with_context(|| format!("{stack:?}, {number}"))?;
        }
    }
    Ok(())
}

fn compare(engine: &Engine, here: &ContainerOptions, there: &ContainerOptions) -> Result<()> {
    let pod_a = Pod::start(engine, &PodOptions::new("pod-a").network())?;
    let mut container = pod_a.container(here)?;
    container.start()?;
    let checkpoint = Checkpoint::new(engine, "plan")?;
    container.checkpoint(&checkpoint)?;
    pod_a.remove(vec![container])?;
    // Of the same length, so that the file on the volume is.
    let mut options = PodOptions::new("pod-b").qos(Qos::BestEffort).network();
    options.address = "10.88.0.201".to_owned();
    let pod_b = Pod::start(engine, &options)?;
    let mut container = pod_b.container(there)?;

    let archive = format!("{}.tar.gz", checkpoint.images);
    let base = Path::new(&checkpoint.images);
    let parent = base
        .parent()
        .context("The images have a parent")?
        .display()
        .to_string();
    engine.run("tar", &["-czf", &archive, "-C", &parent, "checkpoint"])?;

    let bundle = plan(engine, &checkpoint.images, &container.bundle())?;
    let packed = plan(engine, &archive, &container.bundle())?;
    same("archive", "", &packed, &bundle, &|_, _, _| false)?;
    let init = container.create_only()?;
    let mut process = plan(engine, &checkpoint.images, &init.to_string())?;
    let created = inodes(&container)?;
    container.forget()?;

    container.restore(&checkpoint)?;
    let work = engine.node().path(&checkpoint.work);
    let real = json(&work.join("restow-plan.json"))?;
    let seen = json(&work.join("restow-verified.json"))?;
    // What is in a cgroup that did not exist cannot have been known.
    let unknown = |_: &str, before: &Value, real: &Value| before.is_null() && real["ino"].is_u64();
    same("bundle", "", &bundle, &real, &|path, before, real| {
        path.ends_with("/expect") && unknown(path, before, real)
    })?;
    let made_again = forget_own_cgroup(&mut process, container.cgroup(), &created)?;
    ensure!(made_again > 0, "no file is in the container's cgroup");
    same("process", "", &process, &real, &|path, before, real| {
        // `/proc` spells options of a mount in another way than a spec does.
        path.starts_with("/added_mounts/") && path.contains("/options")
            || path.ends_with("/expect") && unknown(path, before, real)
            // A mask of something that is not there is only in a spec.
            || ["/masked", "/read_only_paths", "/findings"].contains(&path)
            // Runtimes leave the file system above the version 1 hierarchies writable, whatever the spec says.
            || path == "/read_only_mounts" && *real == serde_json::json!(["/sys/fs/cgroup"])
    })?;
    let mut compared = 0;
    for plan in [&bundle, &process] {
        compared += seen_as_planned(plan, &seen)?;
    }
    println!("{compared} comparisons of plans with what the verification saw");
    container.remove()?;
    pod_b.remove(Vec::<Container>::new())
}

/// Between the node's view and that of a pod, whose cgroups and mounts the caller of `restow plan` does not see.
fn a_plan_for_a_tree_without_a_container_is_that_of_the_restore(suite: Suite) -> Result<()> {
    for (from, to) in [
        (View::Node, View::Private),
        (View::Private, View::Private),
        (View::Private, View::Node),
    ] {
        let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
        let compared =
            compare_tree(&engine, from, to).with_context(|| format!("{from:?} to {to:?}"))?;
        println!(
            "{from:?} to {to:?}: {compared} comparisons of a plan with what the verification saw"
        );
    }
    Ok(())
}

fn compare_tree(engine: &Engine, from: View, to: View) -> Result<usize> {
    let images = "/run/tree/img";
    let pod_a = TreePod::start(engine, "aaaa", from)?;
    let mut words: Vec<String> = ["--children", "3"].map(str::to_owned).into();
    for (how, file) in [
        ("all:r:3", "cgroup.events"),
        ("each:r:5", "cgroup.events"),
        ("each:r:0", "cpu.stat"),
        ("all:watch:0", "cgroup.events"),
    ] {
        let open = format!("{how}:{}/{file}", pod_a.cgroup_inside());
        words.extend(["--open".to_owned(), open]);
    }
    if (from, to) == (View::Private, View::Private) {
        words.extend(["--open".to_owned(), "each:r:4:/etc/hosts".to_owned()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let tree = pod_a.tree(&words)?;
    // Once every process reports, none is being made any more.
    tree.reports()?;
    fs::create_dir_all(engine.node().path(images))?;
    let pid = tree.pid.to_string();
    let dump = ["dump", "-t", &pid, "-D", images, "-o", "dump.log"];
    done(&pod_a, &dump).with_context(|| errors(&engine.node().path(images).join("dump.log")))?;
    pod_a.remove()?;
    let pod_b = TreePod::start(engine, "another-bbbb", to)?;
    let (there, planned) = pod_b.with_process(|process| {
        let planned = plan(engine, images, &process.to_string())?;
        Ok((process, planned))
    })?;
    done(
        &pod_b,
        &["restore", "-d", "-D", images, "-o", "restore.log"],
    )?;
    let dir = engine.node().path(images);
    let real = json(&dir.join("restow-plan.json"))?;
    let seen = json(&dir.join("restow-verified.json"))?;
    same(
        &format!("process {there}"),
        "",
        &planned,
        &real,
        &|_, _, _| false,
    )?;
    ensure!(
        files(&planned).any(|file| file["rule"] == "cgroup-container"),
        "no file is on the pod's cgroup: {planned}"
    );
    let compared = seen_as_planned(&planned, &seen)?;
    tree.reports().context("After the restore")?;
    pod_b.remove()?;
    Ok(compared)
}

fn errors(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("Error")).collect();
    errors.join("; ")
}

fn done(pod: &TreePod<'_>, words: &[&str]) -> Result<()> {
    let output = pod.criu(words, &[])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{words:?}: {}: {text}",
        output.status
    );
    Ok(())
}

/// `restow plan --json`; the restore has to be possible.
fn plan(engine: &Engine, image: &str, into: &str) -> Result<Value> {
    let mut command = engine.restow_command()?;
    let output = command
        .args(["plan", image, "--into", into, "--json"])
        .output()
        .context("Start restow")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "restow plan --into {into}: {}: {errors}{text}",
        output.status
    );
    serde_json::from_str(&text).with_context(|| format!("Parse the plan: {text}"))
}

/// A file that the interposer writes, the last ones only when the runtime has its answer.
fn json(path: &Path) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        ensure!(
            Instant::now() < deadline,
            "{} is not written",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = fs::read(path).with_context(|| format!("Read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("Parse {}", path.display()))
}

/// Whether two plans are the same but for what `allowed` (path, planned, real) lets differ.
fn same(
    what: &str,
    path: &str,
    planned: &Value,
    real: &Value,
    allowed: &dyn Fn(&str, &Value, &Value) -> bool,
) -> Result<()> {
    if planned == real || allowed(path, planned, real) {
        return Ok(());
    }
    match (planned, real) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()) {
                let (a, b) = (&planned[key], &real[key]);
                same(what, &format!("{path}/{key}"), a, b, allowed)?;
            }
            Ok(())
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                same(what, &format!("{path}/{index}"), a, b, allowed)?;
            }
            Ok(())
        }
        _ => bail!("The plan for the {what} says {path} is {planned}, the restore's {real}"),
    }
}

fn files(plan: &Value) -> impl Iterator<Item = &Value> {
    plan["files"].as_array().into_iter().flatten()
}

/// The inodes of the files that containers here hold open in their own cgroup.
fn inodes(container: &Container) -> Result<BTreeMap<String, u64>> {
    let names = ["cgroup.events", "cpu.stat"];
    let v2 = names.map(|name| Ok((name.to_owned(), container.cgroup_inode(name)?)));
    if !container.cgroup_dir().join("cpu.stat").exists() {
        return Ok(BTreeMap::new());
    }
    v2.into_iter().collect()
}

/// The runtime removes the cgroup of a container that it deletes, and makes another: what a plan knew of its files counts no
/// more, but has to have been right. Returns how many there are.
fn forget_own_cgroup(
    plan: &mut Value,
    cgroup: &str,
    created: &BTreeMap<String, u64>,
) -> Result<usize> {
    let mut forgotten = 0;
    for kind in ["files", "watches", "mounts"] {
        for object in plan[kind].as_array_mut().into_iter().flatten() {
            let place = |name: &str| object[name].as_str().map(str::to_owned);
            let mut places = ["new_object", "new", "source"]
                .into_iter()
                .filter_map(place);
            let Some(own) = places.find(|place| place.contains(cgroup)) else {
                continue;
            };
            let name = own.rsplit('/').next().unwrap_or_default();
            if let Some(inode) = created.get(name) {
                ensure!(
                    object["expect"]["ino"].as_u64() == Some(*inode),
                    "{object} is planned for {own}, which is inode {inode}"
                );
            }
            object
                .as_object_mut()
                .and_then(|object| object.remove("expect"));
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// Everything that a plan foretold against what was seen. Returns the number of comparisons.
fn seen_as_planned(plan: &Value, seen: &Value) -> Result<usize> {
    let mut compared = 0;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let descriptors = list(&seen["descriptors"]);
    for file in files(plan) {
        for holder in list(&file["holders"]) {
            let found = descriptors
                .iter()
                .find(|found| found["pid"] == holder["pid"] && found["fd"] == holder["fd"])
                .with_context(|| format!("Nobody looked at {holder} on {}", file["old"]))?;
            let expect = &file["expect"];
            let object =
                expect.is_null() || expect["dev"] == found["dev"] && expect["ino"] == found["ino"];
            ensure!(
                object && (file["regular"] != true || found["pos"] == file["pos"]),
                "{file} was planned, {found} was seen"
            );
            compared += 1;
        }
    }
    for watch in list(&plan["watches"])
        .iter()
        .filter(|watch| !watch["expect"].is_null())
    {
        let all = list(&seen["watches"]);
        let found = all.iter().filter(|found| found["wd"] == watch["wd"]);
        let same = |found: &&Value| {
            found["sdev"] == watch["expect"]["sdev"] && found["ino"] == watch["expect"]["ino"]
        };
        ensure!(
            found.clone().any(|found| same(&found)),
            "{watch} was planned, {all:?} were seen"
        );
        compared += 1;
    }
    for socket in list(&plan["sockets"]["inet"]) {
        for holder in list(&socket["holders"]) {
            let all = list(&seen["sockets"]);
            let found = all
                .iter()
                .find(|found| found["pid"] == holder["pid"] && found["fd"] == holder["fd"]);
            ensure!(
                socket["action"] == "rebind"
                    && found.is_some_and(|found| found["found"] == socket["new"]),
                "{socket} was planned, {found:?} was seen"
            );
            compared += 1;
        }
    }
    let mounts = [list(&plan["mounts"]), list(&plan["added_mounts"])].concat();
    for mount in mounts.iter().filter(|mount| !mount["expect"].is_null()) {
        let at = mount["mount_point"]
            .as_str()
            .context("A mount is somewhere")?;
        let found = &seen["mounts"][at];
        ensure!(
            *found == mount["expect"],
            "{mount} was planned, {found} was seen"
        );
        compared += 1;
    }
    let cgroups = seen["cgroups"]
        .as_object()
        .context("No cgroups were seen")?;
    for (process, found) in cgroups {
        let planned = plan["cgroup"]["container"]
            .as_object()
            .context("Cgroups are planned")?;
        for (hierarchy, path) in planned {
            ensure!(
                found[hierarchy] == *path,
                "process {process} was to be in {path}, and is in {}",
                found[hierarchy]
            );
            compared += 1;
        }
    }
    ensure!(
        seen["own_cgroup_namespace"] == plan["cgroup"]["private_namespace"]
            && seen["hostname"] == plan["hostname"]["new"],
        "cgroup namespace or host name: {seen}"
    );
    ensure!(compared > 20, "only {compared} comparisons were made");
    Ok(compared + 2)
}

fn a_plan_says_in_words_and_by_its_exit_code_what_is_in_the_way(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a"))?;
    let there = ContainerOptions::new(1);
    let here = there
        .clone()
        .volume("/old/dir")
        .open("all:r:0:/old/dir/pod");
    let mut container = pod_a.container(&here)?;
    container.start()?;
    let checkpoint = Checkpoint::new(&engine, "words")?;
    container.checkpoint(&checkpoint)?;
    pod_a.remove(vec![container])?;
    let pod_b = Pod::start(&engine, &PodOptions::new("pod-b"))?;
    let container = pod_b.container(&there)?;
    let call = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = engine.restow_command()?;
        let output = command
            .arg("plan")
            .args(args)
            .output()
            .context("Start restow")?;
        let text = [output.stdout, output.stderr].concat();
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    };
    let bundle = container.bundle();
    let (code, text) = call(&[&checkpoint.images, "--into", &bundle])?;
    println!("{text}");
    for word in [
        "/old/dir",
        "(missing)",
        "blocker: mount /old/dir (mnt_id ",
        "→ give the new pod this mount",
        "The restore is not possible: 1 blocker.",
        "host name",
        "another-name-never-seen",
    ] {
        let wanted = word != "another-name-never-seen";
        ensure!(text.contains(word) == wanted, "{word:?} in {text}");
    }
    ensure!(code == Some(5), "exit code {code:?}");
    for (args, expected) in [
        (vec!["/nowhere", "--into", bundle.as_str()], 3),
        (vec![&checkpoint.images, "--into", "/nowhere"], 3),
        (vec![&checkpoint.images, "--into", "999999"], 3),
        (vec![&checkpoint.images], 2),
        (
            vec![
                &checkpoint.images,
                "--into",
                &bundle,
                "--set",
                "hostname=mine",
            ],
            2,
        ),
    ] {
        let (code, text) = call(&args)?;
        ensure!(code == Some(expected), "{args:?} gives {code:?}: {text}");
    }
    // Nothing of all this has changed anything.
    ensure!(!container.cgroup_dir().exists(), "the plan made a cgroup");
    Ok(())
}
