//! `restow criu` is criu: its options, exit codes and messages, and what the user has of his own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use restow_cli::criu::options::{WITH_OPTIONAL_VALUE, WITH_VALUE, WITHOUT_VALUE};
use restow_integration::container::inode;
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::on_both_suites;
use restow_integration::suite::Suite;
use restow_integration::tree::{Tree, TreePod, View, eventually};

on_both_suites!(
    the_options_are_those_of_criu,
    wrong_calls_are_answered_by_criu,
    a_tree_can_be_dumped_and_goes_on,
    a_foreground_restore_is_criu_until_the_tree_ends,
    a_tree_on_a_terminal_goes_on_on_another,
    scripts_and_descriptors_of_the_user_work_beside_ours,
    a_restore_that_fails_leaves_nothing,
    a_criu_that_is_killed_leaves_nothing,
    a_tree_that_is_not_as_planned_does_not_run,
    a_checkpoint_of_criu_alone_is_restored,
    cgroups_are_criu_s_when_the_user_says_so,
    the_interposer_before_criu_is_no_hindrance,
);

const IMAGES: &str = "/run/tree/img";
const STAGING: &str = "/run/restow/staging";

fn engine(suite: Suite) -> Result<Engine> {
    Engine::start(Stack::v2(suite), Mode::Restow)
}

/// A parent and a child that hold a file of the pod's cgroup.
fn started<'e>(pod: &TreePod<'e>) -> Result<Tree<'e>> {
    let open = format!("all:r:3:{}/cgroup.events", pod.cgroup_inside());
    pod.tree(&["--children", "1", "--exit", "7", "--open", &open])
}

fn dump(engine: &Engine, pod: &TreePod<'_>, tree: &Tree<'_>, more: &[&str]) -> Result<Output> {
    fs::create_dir_all(engine.node().path(IMAGES))?;
    let pid = tree.pid.to_string();
    let words = ["dump", "-t", &pid, "-D", IMAGES, "-o", "dump.log", "-v4"];
    pod.criu(&[&words, more].concat(), &[])
}

fn restore(pod: &TreePod<'_>, more: &[&str]) -> Result<Output> {
    let words = ["restore", "-D", IMAGES, "-o", "restore.log", "-v4"];
    pod.criu(&[&words, more].concat(), &[])
}

fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// The tree has moved from pod A, which is gone, to a pod B.
fn moved<'e>(engine: &'e Engine) -> Result<(TreePod<'e>, Tree<'e>)> {
    let pod_a = TreePod::start(engine, "aaaa", View::Node)?;
    let tree = started(&pod_a)?;
    tree.reports()?;
    succeeded(&dump(engine, &pod_a, &tree, &[])?)?;
    pod_a.remove()?;
    Ok((TreePod::start(engine, "another-bbbb", View::Node)?, tree))
}

fn check_arrived(pod: &TreePod<'_>, tree: &Tree<'_>) -> Result<()> {
    let events = inode(&pod.cgroup_dir().join("cgroup.events"))?;
    for report in tree.reports()? {
        let file = &report.files[0];
        ensure!(file.inode == events && file.offset == 3, "{file:?}");
    }
    ensure!(pod.population()? == 2);
    Ok(())
}

/// No process of Restow's, no staging directory.
fn check_clean(engine: &Engine) -> Result<()> {
    let script = "for p in /proc/[0-9]*; do case \"$(readlink $p/exe)\" in /opt/restow/*) exit 1;; esac; done";
    eventually("nothing of Restow runs", || {
        engine.run("sh", &["-c", script]).ok()
    })?;
    let staging = engine.node().path(STAGING);
    let left = fs::read_dir(&staging).map_or(0, Iterator::count);
    ensure!(left == 0, "{left} staging directories are left");
    Ok(())
}

fn the_options_are_those_of_criu(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let said = |option: &str| -> Result<String> {
        let output = engine
            .node()
            .command("criu")
            .args([option, "check"])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout))
    };
    for name in WITH_VALUE {
        let output = engine
            .node()
            .command("criu")
            .arg(format!("--{name}"))
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(text.contains("requires an argument"), "--{name}: {text}");
    }
    // Options of criu 4.2 that 4.1 has not got.
    let newer = ["allow-uprobes", "no-allow-uprobes"];
    for name in WITHOUT_VALUE {
        if suite == Suite::Stable && newer.contains(&name) {
            continue;
        }
        let text = said(&format!("--{name}=x"))?;
        ensure!(
            text.contains("doesn't allow an argument"),
            "--{name}: {text}"
        );
    }
    for name in WITH_OPTIONAL_VALUE {
        let text = said(&format!("--{name}"))?;
        let wrong = ["requires an argument", "unrecognized", "ambiguous"];
        ensure!(
            !wrong.iter().any(|word| text.contains(word)),
            "--{name}: {text}"
        );
    }
    // And there are no others: criu's own list of them.
    let help = engine.run("criu", &["--help"])?;
    for word in help.split("--").skip(1) {
        let name: String = word
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '-')
            .collect();
        if name.is_empty() {
            continue;
        }
        let known = WITH_VALUE
            .iter()
            .chain(&WITH_OPTIONAL_VALUE)
            .chain(&WITHOUT_VALUE)
            .any(|known| known.starts_with(name.as_str()));
        ensure!(known, "criu --help names --{name}");
    }
    Ok(())
}

fn wrong_calls_are_answered_by_criu(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let pod = TreePod::start(&engine, "aaaa", View::Node)?;
    fs::create_dir_all(engine.node().path(IMAGES))?;
    // The time in a log line differs.
    let plain = |output: &Output| {
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text
            .lines()
            .map(|line| line.split_once(") ").map_or(line, |(_, rest)| rest));
        (
            output.status.code(),
            lines.map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    for words in [
        &["restore", "--no-such-option"][..],
        &["restore", "-D"],
        &["restore", "-D", "/nowhere"],
        &["restore", "-D", IMAGES],
        &["dump", "-D", IMAGES],
        &["dump", "-t", "999999", "-D", IMAGES],
        &["nonsense"],
        &["--version"],
        &["check", "--feature", "mem_dirty_track"],
    ] {
        let through = plain(&pod.criu(words, &[])?);
        let alone = plain(&pod.command(&[&["criu"], words].concat()).output()?);
        ensure!(
            through.0 == alone.0,
            "{words:?}: {through:?}, criu: {alone:?}"
        );
        // A dump that gets as far as to look for the process has our action script.
        let same = through.1.iter().filter(|line| !alone.1.contains(line));
        let more: Vec<_> = same.collect();
        ensure!(more.is_empty(), "{words:?}: {more:?} besides {alone:?}");
        check_clean(&engine)?;
    }
    let output = pod.criu(&["restore", "-D", IMAGES], &["--restow-set", "colour=red"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("restow.dev/colour does not exist"));
    let help = pod.criu(&["--help"], &[])?;
    ensure!(String::from_utf8_lossy(&help.stdout).contains("All options but these go to criu"));
    Ok(())
}

fn a_tree_can_be_dumped_and_goes_on(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let pod = TreePod::start(&engine, "aaaa", View::Node)?;
    let tree = started(&pod)?;
    let before = tree.reports()?;
    for option in ["--leave-running", "-R"] {
        succeeded(&dump(&engine, &pod, &tree, &[option])?)?;
        let after = tree.reports()?;
        ensure!(after[0].counter > before[0].counter);
        let source = engine.node().path(IMAGES).join("source.json");
        ensure!(fs::read_to_string(source)?.contains("\"runtime\": \"criu\""));
    }
    // What of ours fails, fails the dump and nothing else: an image directory where source.json cannot be.
    let source = engine.node().path(IMAGES).join("source.json");
    fs::remove_file(&source)?;
    fs::create_dir(&source)?;
    let output = dump(&engine, &pod, &tree, &[])?;
    ensure!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("source.json"), "{said}");
    ensure!(tree.reports()?.len() == 2);
    check_clean(&engine)
}

fn a_foreground_restore_is_criu_until_the_tree_ends(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    let mut command = pod.criu_command(
        &[
            "restore",
            "-D",
            IMAGES,
            "-o",
            "restore.log",
            "--pidfile",
            "tree.pid",
        ],
        &[],
    );
    let mut criu = command.stdin(Stdio::null()).spawn()?;
    eventually("the tree is there", || tree.reports().ok())?;
    // criu itself is in the pod too.
    let events = inode(&pod.cgroup_dir().join("cgroup.events"))?;
    ensure!(
        tree.reports()?
            .iter()
            .all(|report| report.files[0].inode == events)
    );
    let staging = engine.node().path(STAGING);
    eventually("staging is gone while the tree runs", || {
        (fs::read_dir(&staging).ok()?.count() == 0).then_some(())
    })?;
    // Logs and pid file are where they are without Restow.
    for name in ["restore.log", "tree.pid", "restow.log", "restow-plan.json"] {
        ensure!(engine.node().path(IMAGES).join(name).exists(), "{name}");
    }
    ensure!(
        criu.try_wait()?.is_none(),
        "criu does not wait for the tree"
    );
    engine.run("kill", &[&tree.pid.to_string()])?;
    let through = criu.wait()?;

    // criu alone, for comparison, where nothing has to change.
    let second = started(&pod)?;
    succeeded(&dump(&engine, &pod, &second, &[])?)?;
    let mut alone = pod.command(&["criu", "restore", "-D", IMAGES, "-o", "restore.log"]);
    let mut criu = alone.stdin(Stdio::null()).spawn()?;
    eventually("the tree is there", || second.reports().ok())?;
    engine.run("kill", &[&second.pid.to_string()])?;
    let status = criu.wait()?;
    ensure!(
        through.code() == status.code(),
        "{through:?}, criu alone {status:?}"
    );
    check_clean(&engine)
}

/// Runs a shell line on a terminal of its own, and passes on what comes out of it. (`script` is not in every Debian root.)
const TERMINAL: &str = r#"
use POSIX;
open(my $master, "+<", "/dev/ptmx") or die "ptmx: $!";
ioctl($master, 0x40045431, my $unlocked = pack("i", 0)) or die "TIOCSPTLCK: $!";
ioctl($master, 0x80045430, my $number = pack("i", 0)) or die "TIOCGPTN: $!";
my $path = "/dev/pts/" . unpack("i", $number);
if (fork() == 0) {
    close($master);
    POSIX::setsid();
    my $terminal = POSIX::open($path, O_RDWR);
    POSIX::dup2($terminal, $_) for 0 .. 2;
    POSIX::close($terminal) if $terminal > 2;
    exec("/bin/sh", "-c", $ARGV[0]);
}
while (sysread($master, my $said, 4096)) { syswrite(STDOUT, $said); }
wait();
"#;

fn a_tree_on_a_terminal_goes_on_on_another(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let pod_a = TreePod::start(&engine, "aaaa", View::Node)?;
    fs::create_dir_all(engine.node().path(IMAGES))?;
    let on_terminal = |pod: &TreePod<'_>, line: &str| -> Command {
        let mut command = pod.command(&["perl", "-e", TERMINAL, line]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let line = format!(
        "exec bash -c 'exec 10<&-; echo $$ > /run/tree/pid; exec /opt/probe run --reports /run/tree/reports --children 1 \
         --open all:r:3:{}/cgroup.events'",
        pod_a.cgroup_inside()
    );
    let mut shell = on_terminal(&pod_a, &line).spawn()?;
    let pid = eventually("the tree runs", || {
        fs::read_to_string(engine.node().path("/run/tree/pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    })?;
    let tree = Tree::of(&engine, pid);
    eventually("the tree reports", || tree.reports().ok())?;
    let output = dump(&engine, &pod_a, &tree, &["--shell-job"])?;
    succeeded(&output)?;
    let _ = shell.wait()?;
    pod_a.remove()?;
    let pod = TreePod::start(&engine, "another-bbbb", View::Node)?;
    let line =
        format!("/opt/restow/bin/restow criu restore --shell-job -D {IMAGES} -o restore.log");
    let shell = on_terminal(&pod, &line).spawn()?;
    eventually("the tree is there", || tree.reports().ok())?;
    let events = inode(&pod.cgroup_dir().join("cgroup.events"))?;
    ensure!(
        tree.reports()?
            .iter()
            .all(|report| report.files[0].inode == events)
    );
    // It says how far it has counted, every 20.
    let restored_at = tree.reports()?[0].counter;
    eventually("the tree counts on", || {
        let now = tree.reports().ok()?[0].counter;
        (now > restored_at + 40).then_some(())
    })?;
    engine.run("kill", &[&pid.to_string()])?;
    let said = shell.wait_with_output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        said.contains("count "),
        "nothing came to the new terminal: {said}"
    );
    check_clean(&engine)
}

fn scripts_and_descriptors_of_the_user_work_beside_ours(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let pod_a = TreePod::start(&engine, "aaaa", View::Node)?;
    let (events, stat) = ("cgroup.events", "cpu.stat");
    let inside = pod_a.cgroup_inside();
    let tree = pod_a.tree(&[
        "--children",
        "1",
        "--open",
        &format!("all:r:3:{inside}/{events}"),
        "--open",
        &format!("all:r:0:{inside}/{stat}"),
    ])?;
    tree.reports()?;
    let script = engine.node().path("/run/tree/user.sh");
    fs::write(
        &script,
        "#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION >> /run/tree/stages\n",
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let user = ["--action-script", "/run/tree/user.sh"];
    succeeded(&dump(&engine, &pod_a, &tree, &user)?)?;
    pod_a.remove()?;
    let pod = TreePod::start(&engine, "another-bbbb", View::Node)?;
    fs::write(engine.node().path("/run/tree/mine"), "mine")?;
    // The user's own replacement for one of the two, by its old name.
    let key = format!("fd[9]:{}/{stat}", inside.trim_start_matches('/'));
    let words = [
        "restore",
        "-d",
        "-D",
        IMAGES,
        "-o",
        "restore.log",
        "--inherit-fd",
        &key,
    ];
    let all = [
        &[
            "bash",
            "-c",
            "exec 9</run/tree/mine; exec \"$@\"",
            "bash",
            "/opt/restow/bin/restow",
            "criu",
        ],
        &words[..],
        &user,
    ]
    .concat();
    succeeded(&pod.command(&all).output()?)?;
    let ours = inode(&pod.cgroup_dir().join(events))?;
    for report in tree.reports()? {
        ensure!(report.files[0].inode == ours, "{:?}", report.files);
        ensure!(
            report.files[1].content.as_deref() == Some("mine"),
            "{:?}",
            report.files
        );
    }
    let stages = fs::read_to_string(engine.node().path("/run/tree/stages"))?;
    for stage in [
        "pre-dump",
        "post-dump",
        "pre-restore",
        "post-restore",
        "post-resume",
    ] {
        ensure!(
            stages.lines().any(|line| line == stage),
            "{stage}: {stages}"
        );
    }
    check_clean(&engine)
}

fn a_restore_that_fails_leaves_nothing(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    // An image that only criu reads, and reads late.
    let image = engine
        .node()
        .path(IMAGES)
        .join(format!("pagemap-{}.img", tree.pid));
    let whole = fs::read(&image)?;
    fs::write(&image, "no image")?;
    let output = restore(&pod, &["-d"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(!tree.alive(), "a tree that failed runs");
    check_clean(&engine)?;
    ensure!(pod.population()? == 0);
    // And it can be tried again.
    fs::write(&image, whole)?;
    succeeded(&restore(&pod, &["-d"])?)?;
    check_arrived(&pod, &tree)?;
    check_clean(&engine)
}

fn a_criu_that_is_killed_leaves_nothing(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    let script = engine.node().path("/run/tree/user.sh");
    for stage in ["pre-restore", "post-restore", "pre-resume", "post-resume"] {
        fs::write(
            &script,
            format!("#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = {stage} ] && kill -9 $PPID\nexit 0\n"),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let output = restore(&pod, &["-d", "--action-script", "/run/tree/user.sh"])?;
        ensure!(output.status.code() == Some(137), "{stage}: {output:?}");
        eventually("no process of the tree is left", || {
            (!tree.alive()).then_some(())
        })
        .with_context(|| format!("Killed at {stage}"))?;
        check_clean(&engine)?;
    }
    succeeded(&restore(&pod, &["-d"])?)?;
    check_arrived(&pod, &tree)
}

fn a_tree_that_is_not_as_planned_does_not_run(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    // Before our own script, somebody takes a task elsewhere.
    let script = engine.node().path("/run/tree/user.sh");
    fs::write(
        &script,
        "#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = post-setup-namespaces -o $CRTOOLS_SCRIPT_ACTION = post-restore ] || exit 0\n\
         mkdir -p /sys/fs/cgroup/elsewhere && echo $CRTOOLS_INIT_PID > /sys/fs/cgroup/elsewhere/cgroup.procs\nexit 0\n",
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let output = restore(&pod, &["-d", "--action-script", "/run/tree/user.sh"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.contains("not as planned") && said.contains("/elsewhere"),
        "{said}"
    );
    ensure!(!tree.alive());
    check_clean(&engine)
}

fn a_checkpoint_of_criu_alone_is_restored(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let pod_a = TreePod::start(&engine, "aaaa", View::Node)?;
    let tree = started(&pod_a)?;
    tree.reports()?;
    fs::create_dir_all(engine.node().path(IMAGES))?;
    let pid = tree.pid.to_string();
    // From outside the pod, so that its cgroup is in the images.
    engine.run(
        "criu",
        &["dump", "-t", &pid, "-D", IMAGES, "-o", "dump.log"],
    )?;
    pod_a.remove()?;
    let pod = TreePod::start(&engine, "another-bbbb", View::Node)?;
    succeeded(&restore(&pod, &["-d"])?)?;
    check_arrived(&pod, &tree)
}

fn cgroups_are_criu_s_when_the_user_says_so(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let pod_a = TreePod::start(&engine, "aaaa", View::Node)?;
    let tree = started(&pod_a)?;
    tree.reports()?;
    fs::create_dir_all(engine.node().path(IMAGES))?;
    let restow = "/opt/restow/bin/restow";
    let pid = tree.pid.to_string();
    engine.run(
        restow,
        &["criu", "dump", "-t", &pid, "-D", IMAGES, "-o", "dump.log"],
    )?;
    let old = pod_a.cgroup().to_owned();
    pod_a.remove()?;
    // Without a root of its own criu brings back what was.
    let words = [
        "criu",
        "restore",
        "-d",
        "-D",
        IMAGES,
        "-o",
        "restore.log",
        "--manage-cgroups",
    ];
    engine.run(restow, &words)?;
    let report = &tree.reports()?[0];
    ensure!(
        report.cgroup.contains(&format!("0::{old}\n")),
        "{}",
        report.cgroup
    );
    ensure!(report.files[0].link.contains(&old), "{:?}", report.files);
    check_clean(&engine)
}

fn the_interposer_before_criu_is_no_hindrance(suite: Suite) -> Result<()> {
    let engine = engine(suite)?;
    let (pod, tree) = moved(&engine)?;
    let path = "PATH=/opt/restow/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let words = [
        "env",
        path,
        "restow",
        "criu",
        "restore",
        "-d",
        "-D",
        IMAGES,
        "-o",
        "restore.log",
    ];
    succeeded(&pod.command(&words).output()?)?;
    check_arrived(&pod, &tree)?;
    check_clean(&engine)
}
