//! `restow check` on running containers, and the real dump after it: what it calls a blocker CRIU refuses, what it says
//! nothing about CRIU dumps, and what needs an option works with it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::{Checkpoint, Container};
use restow_integration::engine::{Engine, Mode, Runtime, Stack};
use restow_integration::journey::{Journey, Verdict};
use restow_integration::network::{OUTSIDE, Outside};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::suite::Suite;
use serde_json::Value;

on_both_suites!(
    check_kernel_objects_that_criu_refuses,
    check_files,
    check_sockets,
    check_connections,
    check_processes,
    check_what_criu_keeps_is_no_finding,
    check_what_is_no_finding_can_be_restored_elsewhere,
    check_what_restow_takes_care_of_is_no_blocker,
    check_a_tree_that_changes_all_the_time,
    check_process_trees_without_a_container,
    check_says_why_it_cannot_look,
);

/// What the real dump makes of it.
#[derive(Clone, Copy)]
enum Dump {
    /// It is refused, and one of these words of CRIU's log says that it is for this reason.
    Refused(&'static [&'static str]),
    /// It works.
    Works,
    /// It is refused with these words, and works with these options of the runtime's.
    Needs(&'static [&'static str], &'static [&'static str]),
}

/// One answer of `restow check`.
struct Answer {
    code: Option<i32>,
    report: Value,
}

impl Answer {
    fn of(output: &Output) -> Result<Self> {
        let text = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(&text).with_context(|| {
            let error = String::from_utf8_lossy(&output.stderr);
            format!("It does not print JSON: {text}{error}")
        })?;
        Ok(Self {
            code: output.status.code(),
            report,
        })
    }

    fn findings(&self) -> Vec<&Value> {
        let all = self.report["findings"].as_array().into_iter().flatten();
        // Of runc 1.1, said of every container.
        all.filter(|finding| finding["rule"] != "old-runtime")
            .collect()
    }

    /// Severity and rule of each, `blocker io-uring`, without doubles.
    fn said(&self) -> BTreeSet<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let findings = self.findings().into_iter();
        findings
            .map(|finding| format!("{} {}", text(&finding["severity"]), text(&finding["rule"])))
            .collect()
    }

    fn check_code(&self) -> Result<()> {
        let severities: BTreeSet<&str> = self.report["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|finding| finding["severity"].as_str())
            .collect();
        let (code, verdict) = if severities.contains("blocker") {
            (5, "no")
        } else if severities.contains("warning") {
            (1, "warnings")
        } else {
            (0, "yes")
        };
        ensure!(
            self.code == Some(code) && self.report["verdict"] == verdict,
            "Exit code {:?} and verdict {} with {severities:?}",
            self.code,
            self.report["verdict"]
        );
        Ok(())
    }
}

fn check(engine: &Engine, what: &str) -> Result<Answer> {
    let mut command = engine.restow_command()?;
    command.args(["check", "--json", what]);
    // Where no container was made there is none.
    let root = engine.runtime_root();
    if engine.node().path(&root).exists() {
        command.args(["--root", &root]);
    }
    Answer::of(&command.output().context("Start restow")?)
}

/// A container that may do what its objects take.
fn container<'e>(
    pod: &Pod<'e>,
    engine: &Engine,
    options: &ContainerOptions,
) -> Result<Container<'e>> {
    let container = pod.container(options)?;
    let config = engine.node().path(container.bundle()).join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    for set in ["bounding", "effective", "permitted"] {
        let list = spec["process"]["capabilities"][set]
            .as_array_mut()
            .context("No capabilities")?;
        list.extend(["CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"].map(Value::from));
    }
    fs::write(&config, serde_json::to_vec(&spec)?)?;
    Ok(container)
}

fn holding(what: &[&str]) -> ContainerOptions {
    let mut options = ContainerOptions::new(0);
    options.privileged = true;
    what.iter().fold(options.volume("/vol"), |options, what| {
        options.probe("--hold", what)
    })
}

/// Asks about the container by its id and by its process, while it goes on, and then dumps it.
fn judge(
    engine: &Engine,
    pod: &Pod<'_>,
    name: &str,
    options: &ContainerOptions,
    expected: &[&str],
    dump: Dump,
) -> Result<()> {
    let mut container = container(pod, engine, options)?;
    container.start().with_context(|| name.to_owned())?;
    let result = judge_running(engine, &container, name, expected, dump);
    container.remove()?;
    result.with_context(|| name.to_owned())
}

fn judge_running(
    engine: &Engine,
    container: &Container<'_>,
    name: &str,
    expected: &[&str],
    dump: Dump,
) -> Result<()> {
    let before = container.reports()?[0].counter;
    let answer = check(engine, container.id())?;
    let after = container.reports()?[0].counter;
    ensure!(after > before, "The container stood still");
    answer.check_code()?;
    let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    ensure!(
        answer.said() == expected,
        "It says {:?} and not {expected:?}: {:#}",
        answer.said(),
        answer.report["findings"]
    );
    for finding in answer.findings() {
        let way = finding["way_round"].as_str().unwrap_or_default();
        ensure!(!way.is_empty(), "No way round: {finding}");
        for place in finding["places"].as_array().into_iter().flatten() {
            ensure!(place["command"] == "probe", "Not the probe's: {place}");
        }
    }
    // The process alone is enough, and so is the beginning of the id.
    let init = container.init()?.to_string();
    for what in [init.as_str(), &container.id()[..12]] {
        let again = check(engine, what)?;
        ensure!(
            again.said() == answer.said() && again.report["container"] == container.id(),
            "Asked about {what} it says {:?} of {}",
            again.said(),
            again.report["container"]
        );
    }
    judge_dump(engine, container, name, dump)?;
    println!(
        "{name} | {} | {}",
        engine.versions()?,
        expected.into_iter().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

fn judge_dump(engine: &Engine, container: &Container<'_>, name: &str, dump: Dump) -> Result<()> {
    let plain = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let (refusal, options) = match dump {
        Dump::Works => (None, Some(&[][..])),
        Dump::Refused(words) => (Some(words), None),
        Dump::Needs(words, options) => (Some(words), Some(options)),
    };
    if let Some(words) = refusal {
        let checkpoint = Checkpoint::new(engine, &format!("{plain}-refused"))?;
        match container.checkpoint_running(&checkpoint) {
            Ok(()) => bail!("CRIU dumps it"),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(
                    words.iter().any(|word| text.contains(word)),
                    "CRIU refuses it, but for another reason than {words:?}: {text}"
                );
            }
        }
    }
    if let Some(options) = options {
        let checkpoint = Checkpoint::new(engine, &plain)?;
        container
            .checkpoint_running_with(&checkpoint, options)
            .context("CRIU refuses it")?;
    }
    Ok(())
}

/// A node without Restow, and a pod with a network.
fn stage(suite: Suite) -> Result<Engine> {
    Engine::start(Stack::v2(suite), Mode::Stock)
}

fn pod<'e>(engine: &'e Engine, name: &str) -> Result<Pod<'e>> {
    Pod::start(engine, &PodOptions::new(name).network())
}

fn check_kernel_objects_that_criu_refuses(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let unknown = Dump::Refused(&["of that type"]);
    let mapping = Dump::Refused(&["mapfile link"]);
    for (kind, rule, dump) in [
        ("io-uring", "io-uring", Dump::Refused(&["send_fds failed"])),
        ("io-uring-map", "io-uring", mapping),
        ("userfaultfd", "anonymous-file", unknown),
        ("perf-event", "anonymous-file", unknown),
        ("perf-map", "anonymous-mapping", mapping),
        ("bpf-map", "anonymous-file", unknown),
        ("bpf-prog", "anonymous-file", unknown),
        ("seccomp-notify", "anonymous-file", unknown),
        (
            "memfd-secret",
            "secret-memory",
            Dump::Refused(&["Can't lookup mount"]),
        ),
        ("secret-map", "secret-memory", mapping),
        (
            "memfd-huge",
            "huge-memfd",
            Dump::Refused(&["Can't lookup mount"]),
        ),
        // /dev/fuse, and a block device.
        ("node:c,10,229", "device", unknown),
        ("node:b,7,0", "device", unknown),
    ] {
        let expected = format!("blocker {rule}");
        judge(&engine, &pod, kind, &holding(&[kind]), &[&expected], dump)?;
    }
    Ok(())
}

fn check_files(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let locks = Dump::Needs(&["file locks are hold"], &["--file-locks"]);
    let link_remap = Dump::Refused(&["Can't create link remap"]);
    for (kind, expected, dump) in [
        ("flock:/tmp/lock", "warning file-lock", locks),
        ("posix-lock:/tmp/lock", "warning file-lock", locks),
        ("ofd-lock:/tmp/lock", "warning file-lock", locks),
        ("lease:/tmp/lease", "warning file-lock", locks),
        (
            "unlinked:/tmp/large,1500000",
            "blocker unlinked-large",
            Dump::Refused(&["increase limit"]),
        ),
        (
            "linked-elsewhere:/tmp/linked",
            "blocker unlinked-linked",
            link_remap,
        ),
        ("overmounted:/tmp/over", "blocker hidden-file", link_remap),
        ("removed-cgroup", "blocker removed-cgroup", link_remap),
        (
            "watch:/etc/hosts",
            "blocker watch",
            Dump::Refused(&["Can't find suitable path"]),
        ),
        (
            "trigger:/sys/fs/cgroup/cpu.pressure",
            "warning pressure-trigger",
            Dump::Works,
        ),
        (
            "trigger:/proc/pressure/memory",
            "warning pressure-trigger",
            Dump::Works,
        ),
    ] {
        judge(&engine, &pod, kind, &holding(&[kind]), &[expected], dump)?;
    }
    let foreign = holding(&[]).left_open("/etc/hostname").open("all:fd:0:3");
    let lookup = Dump::Refused(&["Can't lookup mount"]);
    judge(
        &engine,
        &pod,
        "left open",
        &foreign,
        &["blocker foreign-file"],
        lookup,
    )
}

fn check_sockets(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let family = Dump::Refused(&["Unknown socket collected", "Unsupported proto"]);
    for (kind, rule, dump) in [
        // VSOCK, XDP, MPTCP.
        ("socket:40,1,0", "socket-family", family),
        ("socket:44,3,0", "socket-family", family),
        ("socket:2,1,262", "socket-family", family),
        (
            "netlink-data",
            "netlink-waiting",
            Dump::Refused(&["has data to read"]),
        ),
    ] {
        let expected = format!("blocker {rule}");
        judge(&engine, &pod, kind, &holding(&[kind]), &[&expected], dump)?;
    }
    // TCP, UDP, IPv6, raw and packet sockets: an old criu on a new kernel.
    for kind in [
        "socket:2,1,0",
        "socket:2,2,0",
        "socket:10,1,0",
        "socket:2,3,1",
        "socket:17,3,0",
    ] {
        let (expected, dump): (&[&str], _) = if asks_too_much(suite) {
            (
                &["blocker socket-options"],
                Dump::Refused(&["Can't get 1:16 opt"]),
            )
        } else {
            (&[], Dump::Works)
        };
        judge(&engine, &pod, kind, &holding(&[kind]), expected, dump)?;
    }
    // A server in another container of the pod, met on a volume of both.
    let server = holding(&[])
        .socket("0:unix:/vol/stream")
        .socket("0:unix-dgram:/vol/dgram");
    let mut server = container(&pod, &engine, &server)?;
    server.start()?;
    let half = Dump::Refused(&["External socket is used", "Can't dump half of stream"]);
    let stream = holding(&["unix-outside:/vol/stream"]);
    judge(
        &engine,
        &pod,
        "stream outside",
        &stream,
        &["blocker unix-outside"],
        half,
    )?;
    let external = Dump::Needs(&["External socket is used"], &["--ext-unix-sk"]);
    let dgram = holding(&["unix-dgram-outside:/vol/dgram"]);
    judge(
        &engine,
        &pod,
        "datagrams outside",
        &dgram,
        &["warning unix-outside"],
        external,
    )?;
    server.remove()
}

/// criu 4.1 asks every socket for SO_PASSCRED, which Linux 6.16 and newer refuse to most.
fn asks_too_much(suite: Suite) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let kernel = (numbers.next(), numbers.next());
    suite == Suite::Stable && kernel >= (Some(6), Some(16))
}

fn check_connections(suite: Suite) -> Result<()> {
    if asks_too_much(suite) {
        // Whatever connections there are, the sockets themselves are refused first.
        return Ok(());
    }
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let [outside, _] = OUTSIDE;
    let outside = format!("{outside}:7001");
    let _server = Outside::start(&engine, &outside)?;
    let established = Dump::Needs(&["Connected TCP socket"], &["--tcp-established"]);
    let inside = holding(&[]).socket("0:pair:127.0.0.1:7000");
    judge(
        &engine,
        &pod,
        "inside",
        &inside,
        &["warning tcp-established"],
        established,
    )?;
    let client = holding(&[]).socket(format!("0:connect:{outside}"));
    judge(
        &engine,
        &pod,
        "outside",
        &client,
        &["warning tcp-established"],
        established,
    )?;
    for (name, kind, expected) in [
        ("any address", "0:listen:0.0.0.0:7002", &[][..]),
        ("loopback", "0:listen:127.0.0.1:7002", &[]),
        (
            "pod's address",
            "0:listen:{ip4}:7002",
            &["warning listen-address"],
        ),
        (
            "pod's address, UDP over IPv6",
            "0:udp:[{ip6}]:7002",
            &["warning listen-address"],
        ),
    ] {
        let options = holding(&[]).socket(kind);
        judge(&engine, &pod, name, &options, expected, Dump::Works)?;
    }
    let in_flight = Dump::Refused(&["In-flight connection"]);
    judge(
        &engine,
        &pod,
        "listen-full",
        &holding(&["listen-full"]),
        &["blocker tcp-waiting"],
        in_flight,
    )
}

fn check_processes(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod_a = pod(&engine, "pod-a")?;
    for namespace in ["uts", "ipc", "user", "cgroup", "pid", "time"] {
        let kind = format!("namespace:{namespace}");
        let nested = Dump::Refused(&["Can't dump nested"]);
        judge(
            &engine,
            &pod_a,
            &kind,
            &holding(&[&kind]),
            &["blocker namespace"],
            nested,
        )?;
    }
    // runc passes CRIU the network namespace so that there can be no second one.
    let (expected, dump) = match Runtime::chosen() {
        Runtime::Runc => ("blocker namespace", Dump::Refused(&["more than one netns"])),
        Runtime::Crun => ("warning namespace", Dump::Works),
    };
    let nested = holding(&["namespace:net"]);
    judge(&engine, &pod_a, "net", &nested, &[expected], dump)?;
    let traced = Dump::Refused(&["while seizing", "is traced"]);
    judge(
        &engine,
        &pod_a,
        "traced",
        &holding(&["traced"]),
        &["blocker traced"],
        traced,
    )?;
    // CRIU waits 10 s for it.
    let stuck = Dump::Refused(&["Timeout reached", "state D"]);
    judge(
        &engine,
        &pod_a,
        "vfork",
        &holding(&["vfork"]),
        &["warning uninterruptible"],
        stuck,
    )?;
    let (expected, dump): (&[&str], _) = if may_exceed_limits()? {
        (&[], Dump::Works)
    } else {
        (&["blocker user"], Dump::Refused(&["Dump core"]))
    };
    judge(
        &engine,
        &pod_a,
        "user",
        &holding(&["user:1000"]),
        expected,
        dump,
    )?;
    beside(&engine, &pod_a)?;
    // Its queues are the pod's and stay, so it has one of its own.
    let pod_q = pod(&engine, "pod-q")?;
    let queues = Dump::Refused(&["mqueue isn't empty", "Can't lookup mount"]);
    let expected = &["blocker message-queue", "blocker foreign-file"];
    judge(
        &engine,
        &pod_q,
        "mqueue",
        &holding(&["mqueue"]),
        expected,
        queues,
    )
}

/// Whether this process has CAP_SYS_RESOURCE.
fn may_exceed_limits() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    Ok(u64::from_str_radix(line.unwrap_or("0"), 16)? & (1 << 24) != 0)
}

/// A program that `exec` started is not dumped.
fn beside(engine: &Engine, pod: &Pod<'_>) -> Result<()> {
    let mut container = container(pod, engine, &holding(&[]))?;
    container.start()?;
    let mut command = engine.runtime_command();
    let mut exec = command
        .args(["exec", container.id(), "/probe", "pause"])
        .spawn()?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while container.cgroup_population()? < 2 {
        ensure!(
            std::time::Instant::now() < deadline,
            "The program did not start"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // It is the runtime's for a moment.
    let expected = ["warning beside".to_owned()].into();
    let answer = loop {
        let answer = check(engine, container.id())?;
        let place = &answer
            .findings()
            .first()
            .map_or(Value::Null, |found| found["places"][0].clone());
        if answer.said() == expected && place["command"] == "probe" {
            break answer;
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "It says {:?} of {place}",
            answer.said()
        );
    };
    answer.check_code()?;
    judge_dump(engine, &container, "beside", Dump::Works)?;
    println!("beside | {} | warning beside", engine.versions()?);
    container.remove()?;
    exec.wait().map(drop).context("Wait for exec")
}

/// Everything here looks suspicious, and CRIU keeps it.
fn kept(suite: Suite) -> ContainerOptions {
    let mut kept = vec![
        "memfd",
        "pidfd:self",
        "aio",
        "unix-in-flight",
        "unlinked:/tmp/small,1000",
        "unlinked:/vol/small,1000",
        "mapped-unlinked:/tmp/mapped",
        "shared-map",
        "pty",
        "stopped",
        "zombie",
        "strict",
        "sysv-shm",
        "socket:16,3,0",
        "node:c,10,200",
        "watch:/vol",
        "file:/sys/fs/cgroup/cgroup.events",
        "file:/proc/1/status",
        "file:/proc/self/ns/net",
        "file:/proc/pressure/cpu",
        "device:/dev/null",
        "device-map:/dev/zero",
        "threads:3",
        "deleted-cwd:/tmp/cwd",
    ];
    if !asks_too_much(suite) {
        kept.extend([
            "socket:2,1,0",
            "socket:2,2,0",
            "socket:10,1,0",
            "socket:2,3,1",
        ]);
    }
    holding(&kept)
}

fn check_what_criu_keeps_is_no_finding(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let more = kept(suite)
        .probe("--hold", "fanotify")
        .probe("--hold", "namespace:mnt");
    judge(&engine, &pod, "kept", &more, &[], Dump::Works)
}

/// And what CRIU keeps arrives in another pod.
fn check_what_is_no_finding_can_be_restored_elsewhere(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let verdict = Journey::new(kept(suite)).run(&engine, |there| {
        there.check_progress()?;
        Ok("it goes on counting".to_owned())
    })?;
    match verdict {
        Verdict::Right(text) => {
            println!("kept, moved | {} | {text}", engine.versions()?);
            Ok(())
        }
        Verdict::Wrong(text) => bail!("{text}"),
    }
}

/// In a container that has opted in.
fn check_what_restow_takes_care_of_is_no_blocker(suite: Suite) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let pod = pod(&engine, "pod-a")?;
    judge(
        &engine,
        &pod,
        "removed",
        &holding(&["removed-cgroup"]),
        &["warning removed-cgroup"],
        Dump::Works,
    )?;
    let foreign = holding(&[]).left_open("/etc/hostname").open("all:fd:0:3");
    judge(
        &engine,
        &pod,
        "foreign",
        &foreign,
        &["warning foreign-file"],
        Dump::Works,
    )?;
    // What CRIU is certain to refuse is refused before it starts; of the rest it is said what it was.
    for (kind, expected, words) in [
        (
            "io-uring",
            "blocker io-uring",
            &["(restow): The checkpoint is not possible: fd 3 of process"],
        ),
        (
            "namespace:uts",
            "blocker namespace",
            &["(restow): The checkpoint is not possible: process"],
        ),
        (
            "userfaultfd",
            "blocker anonymous-file",
            &["(restow): CRIU failed; what it cannot dump here: fd 3 of process"],
        ),
    ] {
        judge(
            &engine,
            &pod,
            kind,
            &holding(&[kind]),
            &[expected],
            Dump::Refused(words),
        )?;
    }
    if asks_too_much(suite) {
        return Ok(());
    }
    let [outside, _] = OUTSIDE;
    let outside = format!("{outside}:7001");
    let _server = Outside::start(&engine, &outside)?;
    let inside = holding(&[]).socket("0:pair:127.0.0.1:7000");
    judge(&engine, &pod, "inside", &inside, &[], Dump::Works)?;
    let listener = holding(&[]).socket("0:listen:{ip4}:7002");
    judge(&engine, &pod, "listener", &listener, &[], Dump::Works)?;
    let waiting = holding(&["listen-full"]);
    judge(
        &engine,
        &pod,
        "waiting",
        &waiting,
        &["warning tcp-waiting"],
        Dump::Works,
    )?;
    let refused = Dump::Refused(&["The checkpoint is not possible"]);
    for (tcp, severity, dump) in [
        ("close", "warning", Dump::Works),
        ("keep", "warning", Dump::Works),
        ("refuse", "blocker", refused),
    ] {
        let client = holding(&[]).socket(format!("0:connect:{outside}"));
        let client = client.annotation("restow.dev/tcp", tcp);
        let expected = format!("{severity} tcp-established");
        judge(&engine, &pod, tcp, &client, &[&expected], dump)?;
    }
    Ok(())
}

fn check_a_tree_that_changes_all_the_time(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let mut container = container(&pod, &engine, &holding(&["churn", "churn"]))?;
    container.start()?;
    for _ in 0..30 {
        let answer = check(&engine, container.id())?;
        ensure!(
            answer.said().is_empty(),
            "It says {:#}",
            answer.report["findings"]
        );
        answer.check_code()?;
    }
    container.remove()
}

fn check_process_trees_without_a_container(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    for (leads, expected) in [(true, &[][..]), (false, &["blocker session-outside"])] {
        // Whatever this test was started with is of another mount namespace.
        let setsid = if leads { "setsid" } else { "" };
        let script = format!(
            "for n in {{4..60}}; do eval \"exec $n>&-\"; done; \
             exec 3>&1 </dev/null >/dev/null 2>&1; (exec 3>&-; exec {setsid} /opt/probe pause) & echo $! >&3"
        );
        let pid = engine.run("bash", &["-c", &script])?;
        let pid = pid.trim();
        // Until the shell's child has become the probe.
        let ready = format!(
            "until [ \"$(cat /proc/{pid}/comm)\" = probe ]; do :; done; mkdir -p /tmp/images"
        );
        engine.run("sh", &["-c", &ready])?;
        let answer = check(&engine, pid)?;
        answer.check_code()?;
        let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        ensure!(
            answer.said() == expected,
            "It says {:#}",
            answer.report["findings"]
        );
        ensure!(answer.report["container"].is_null());
        let dump = engine.run("criu", &["dump", "-t", pid, "-D", "/tmp/images"]);
        ensure!(dump.is_ok() == leads, "criu dump: {dump:?}");
        engine.run("sh", &["-c", &format!("kill -9 {pid} 2>/dev/null; true")])?;
    }
    Ok(())
}

fn check_says_why_it_cannot_look(suite: Suite) -> Result<()> {
    let engine = stage(suite)?;
    let pod = pod(&engine, "pod-a")?;
    let mut container = pod.container(&ContainerOptions::new(0))?;
    container.start()?;
    let root = engine.runtime_root();
    let restow = "/opt/restow/bin/restow";
    engine.restow_command()?;
    let init = container.init()?.to_string();
    let ask = |program: &str, args: &[&str]| -> Result<(Option<i32>, String)> {
        let output = engine.node().command(program).args(args).output()?;
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    };
    for (program, args, code, words) in [
        (
            restow,
            &["check", "4000000"][..],
            3,
            "There is no process 4000000",
        ),
        (
            restow,
            &["check", "--root", &root, "nobody"],
            3,
            "No running container has an id that begins with nobody",
        ),
        (
            restow,
            &["check", "--root", "/nowhere", "x"],
            3,
            "Cannot read the state directory /nowhere",
        ),
        // The sandbox and the container.
        (
            restow,
            &["check", "--root", &root, ""],
            2,
            "Several containers",
        ),
        (restow, &["check"], 2, "PID|CONTAINER"),
        (
            "setpriv",
            &["--reuid", "65534", "--clear-groups", restow, "check", &init],
            3,
            "run this as root",
        ),
        // Where the process has no number.
        (
            "unshare",
            &["--pid", "--fork", "--mount-proc", restow, "check", "4000"],
            3,
            "There is no process 4000",
        ),
    ] {
        let (got, text) = ask(program, args)?;
        ensure!(
            got == Some(code) && text.contains(words),
            "{args:?} gives {got:?}: {text}"
        );
    }
    // A container that has ended.
    let id = container.id().to_owned();
    container.terminate()?;
    let (code, text) = ask(restow, &["check", "--root", &root, &id])?;
    ensure!(
        code == Some(3) && text.contains("No running container"),
        "Of one that has ended: {code:?} {text}"
    );
    if Runtime::chosen() == Runtime::Runc && suite == Suite::Stable {
        let answer = check(&engine, pod.sandbox().id())?;
        let old = answer.report["findings"][0]["rule"] == "old-runtime";
        ensure!(
            old && answer.code == Some(1),
            "Of runc 1.1 it says {}",
            answer.report
        );
    }
    Ok(())
}
