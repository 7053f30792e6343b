//! What criu can do besides goes on: leaving a tree running, a foreground restore, terminals, scripts, descriptors, cgroups.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use restow_integration::container::inode;
use restow_integration::suite::Suite;
use restow_integration::tree::{Tree, TreePod, View, eventually};

use crate::calls::{
    IMAGES, STAGING, check_arrived, check_clean, dump, engine, moved, restore, started, succeeded,
};

pub(crate) fn a_tree_can_be_dumped_and_goes_on(suite: Suite) -> Result<()> {
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

pub(crate) fn a_foreground_restore_is_criu_until_the_tree_ends(suite: Suite) -> Result<()> {
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

pub(crate) fn a_tree_on_a_terminal_goes_on_on_another(suite: Suite) -> Result<()> {
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

pub(crate) fn scripts_and_descriptors_of_the_user_work_beside_ours(suite: Suite) -> Result<()> {
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

pub(crate) fn a_checkpoint_of_criu_alone_is_restored(suite: Suite) -> Result<()> {
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

pub(crate) fn cgroups_are_criu_s_when_the_user_says_so(suite: Suite) -> Result<()> {
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

pub(crate) fn the_interposer_before_criu_is_no_hindrance(suite: Suite) -> Result<()> {
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
