//! What processes hold: kernel objects, files, sockets, connections, and the processes themselves.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::engine::{Engine, Runtime};
use restow_integration::network::{OUTSIDE, Outside};
use restow_integration::pod::Pod;
use restow_integration::suite::Suite;
use serde_json::Value;

use crate::asked::{Dump, check, container, holding, judge, judge_dump, pod, stage};

pub(crate) fn check_kernel_objects_that_criu_refuses(suite: Suite) -> Result<()> {
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

pub(crate) fn check_files(suite: Suite) -> Result<()> {
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

pub(crate) fn check_sockets(suite: Suite) -> Result<()> {
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
pub(crate) fn asks_too_much(suite: Suite) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let kernel = (numbers.next(), numbers.next());
    suite == Suite::Stable && kernel >= (Some(6), Some(16))
}

pub(crate) fn check_connections(suite: Suite) -> Result<()> {
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

pub(crate) fn check_processes(suite: Suite) -> Result<()> {
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
pub(crate) fn may_exceed_limits() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    Ok(u64::from_str_radix(line.unwrap_or("0"), 16)? & (1 << 24) != 0)
}

/// A program that `exec` started is not dumped.
pub(crate) fn beside(engine: &Engine, pod: &Pod<'_>) -> Result<()> {
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
