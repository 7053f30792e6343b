//! Sockets: where they listen after a move, and what becomes of connections.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::{Engine, Mode};
use restow_integration::journey::{Arrival, Journey, Verdict};
use restow_integration::network::{OUTSIDE, Outside, ask, bridge};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::{Stock, compare, skip};
use restow_integration::stack::Stack;
use restow_integration::suite::Suite;

on_both_suites!(
    network_1_listening_sockets_are_bound_to_the_new_pods_addresses,
    network_2_connections_to_the_outside_end,
    network_2_connections_to_the_outside_are_kept,
    network_2_without_the_old_address_nothing_can_be_kept,
    network_2_connections_to_the_outside_forbid_the_checkpoint,
    network_3_connections_inside_survive,
    network_3_what_is_in_flight_inside_arrives,
    network_2_the_rest_of_the_pod_goes_on,
    network_2_the_source_goes_on_with_its_connections,
    network_1_what_is_in_the_way_is_named,
    network_1_a_checkpoint_without_a_record_moves_too,
    network_1_unix_sockets_are_there_by_path_and_by_name,
    network_1_udp_sockets_stay_connected,
    network_2_who_has_not_been_accepted_yet_is_no_obstacle,
    network_3_a_dump_that_locked_with_nftables_moves_too,
    no_death_leaves_a_network_locked,
);

fn journey(container: ContainerOptions) -> Journey {
    let mut journey = Journey::new(container);
    journey.from = journey.from.network();
    journey.to = journey.to.network();
    journey
}

/// Every listener of a pod: on its addresses, on any and on the loopback address, unix ones by path and by abstract name.
fn listeners() -> ContainerOptions {
    [
        "0:listen:{ip4}:8001",
        "0:listen:[{ip6}]:8002",
        "0:listen:0.0.0.0:8003",
        "0:listen:[::]:8004",
        "0:listen:127.0.0.1:8005",
        "0:listen:[::1]:8006",
        "1:listen:[::ffff:{ip4}]:8007",
        "0:udp:{ip4}:8001",
        "0:udp:[{ip6}]:8002",
        "0:udp:0.0.0.0:8003",
        "0:unix:/run.sock",
        "0:unix:@restow/abstract",
        "0:unix-dgram:/data/dgram.sock",
        "0:unix-seqpacket:@restow/packets",
        "1:unix:relative.sock",
    ]
    .into_iter()
    .fold(
        ContainerOptions::new(1)
            .volume("/data")
            .probe("--cwd", "/data"),
        ContainerOptions::socket,
    )
}

/// What is asked of those listeners after the move, and whether from outside the pod.
const ASKED: [(&str, &str, bool); 14] = [
    ("tcp", "{ip4}:8001", true),
    ("tcp", "[{ip6}]:8002", true),
    ("tcp", "{ip4}:8003", true),
    ("tcp", "[{ip6}]:8004", true),
    ("tcp", "{ip4}:8004", true),
    ("tcp", "127.0.0.1:8005", false),
    ("tcp", "[::1]:8006", false),
    ("tcp", "{ip4}:8007", true),
    ("udp", "{ip4}:8001", true),
    ("udp", "[{ip6}]:8002", true),
    ("udp", "{ip4}:8003", true),
    ("unix", "/run.sock", false),
    ("unix", "@restow/abstract", false),
    ("unix-dgram", "/data/dgram.sock", false),
];

fn answers(there: &Arrival) -> Result<()> {
    let [v4, v6] = there.pod.addresses();
    for (kind, address, outside) in ASKED {
        let address = address.replace("{ip4}", &v4).replace("{ip6}", &v6);
        let answer = if outside {
            ask(there.engine, kind, &address)?
        } else {
            there.container.exec(&["/probe", "ask", kind, &address])?
        };
        let (counter, word) = answer.trim().split_once(' ').unwrap_or(("", &answer));
        ensure!(
            word == "ping"
                && counter
                    .parse()
                    .is_ok_and(|n: u64| n >= there.origin.reports[0].counter),
            "{kind} {address} answers {answer:?}"
        );
    }
    Ok(())
}

fn network_1_listening_sockets_are_bound_to_the_new_pods_addresses(suite: Suite) -> Result<()> {
    inet(
        "Network 1",
        suite,
        Stock::Wrong(&["Can't bind inet socket"]),
        |engine| {
            journey(listeners()).run(engine, |there| {
                answers(there)?;
                Ok(format!(
                    "{} listeners answer at pod B's addresses",
                    ASKED.len()
                ))
            })
        },
    )
}

/// A connection to a server outside, and listeners beside it: the other end of what has to be cut or kept.
fn with_connections() -> ContainerOptions {
    let [v4, v6] = OUTSIDE;
    ContainerOptions::new(1)
        .socket(format!("0:connect:{v4}:7000"))
        .socket(format!("1:connect:[{v6}]:7000"))
        .socket("0:listen:{ip4}:8001")
        .socket("1:pair:127.0.0.1:8002")
}

/// Servers outside, one for each family.
fn outside(engine: &Engine) -> Result<Vec<Outside>> {
    bridge(engine)?;
    let [v4, v6] = OUTSIDE;
    [format!("{v4}:7000"), format!("[{v6}]:7000")]
        .iter()
        .map(|address| Outside::start(engine, address))
        .collect()
}

/// What the processes say of their connections to the outside.
fn said_of_outside(there: &Arrival) -> Result<[String; 2]> {
    let [first, second] = &there.reports[..] else {
        anyhow::bail!("there are {} reports", there.reports.len());
    };
    Ok([
        first.socket("connect:")?.said.clone(),
        second.socket("connect:")?.said.clone(),
    ])
}

fn check_pair(there: &Arrival, process: usize) -> Result<()> {
    let pair = there.reports[process].socket("pair:")?;
    ensure!(
        pair.said.ends_with("pong"),
        "the connection inside of process {process} ({} to {:?}) says {:?}",
        pair.local,
        pair.peer,
        pair.said
    );
    Ok(())
}

fn network_2_connections_to_the_outside_end(suite: Suite) -> Result<()> {
    inet(
        "Network 2, close",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            let _servers = outside(engine)?;
            journey(with_connections()).run(engine, |there| {
            for said in said_of_outside(there)? {
                ensure!(
                    said == format!("end of file, then errno {}", 32),
                    "a connection to the outside says {said:?}"
                );
            }
            check_pair(there, 1)?;
            let [v4, _] = there.pod.addresses();
            ask(there.engine, "tcp", &format!("{v4}:8001"))?;
            let path = "/var/lib/kubelet/checkpoints/journey/work/restow.log";
            let log = std::fs::read_to_string(there.engine.node().path(path))?;
            for local in there.origin.reports.iter().map(|report| report.socket("connect:")) {
                let local = &local?.local;
                ensure!(
                    log.lines().any(|line| line.contains("warning") && line.contains(local.as_str())),
                    "no warning names the connection of {local}"
                );
            }
            Ok("the connections to the outside read end of file, those inside go on, new ones are accepted".to_owned())
        })
        },
    )
}

fn network_2_connections_to_the_outside_are_kept(suite: Suite) -> Result<()> {
    inet(
        "Network 2, keep",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            let _servers = outside(engine)?;
            let container = with_connections().annotation("restow.dev/tcp", "keep");
            let mut journey = journey(container);
            // Where the old address exists.
            journey.to.address.clone_from(&journey.from.address);
            journey.run(engine, |there| {
                for said in said_of_outside(there)? {
                    ensure!(
                        said.ends_with(" ping"),
                        "a connection to the outside says {said:?}"
                    );
                }
                check_pair(there, 1)?;
                Ok("the connections to the outside go on at the same address".to_owned())
            })
        },
    )
}

fn network_2_without_the_old_address_nothing_can_be_kept(suite: Suite) -> Result<()> {
    inet(
        "Network 2, keep elsewhere",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            let _servers = outside(engine)?;
            let container = with_connections().annotation("restow.dev/tcp", "keep");
            let verdict = journey(container).run(engine, |_| Ok("it was restored".to_owned()))?;
            Ok(refused(
                verdict,
                &[
                    "tcp=keep needs the old address",
                    "connected to 10.88.0.1:7000",
                ],
            ))
        },
    )
}

fn network_2_connections_to_the_outside_forbid_the_checkpoint(suite: Suite) -> Result<()> {
    inet(
        "Network 2, refuse",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            let _servers = outside(engine)?;
            let pod = Pod::start(engine, &PodOptions::new("pod-a").network())?;
            let mut container =
                pod.container(&with_connections().annotation("restow.dev/tcp", "refuse"))?;
            container.start()?;
            container.reports()?;
            let checkpoint = Checkpoint::new(engine, "refused")?;
            let Err(error) = container.checkpoint(&checkpoint) else {
                return Ok(Verdict::Wrong("the checkpoint was made".to_owned()));
            };
            let verdict = Verdict::Wrong(format!("{error:#}"));
            if engine.mode() == Mode::Stock {
                return Ok(verdict);
            }
            let verdict = refused(
                verdict,
                &["tcp=refuse forbids", "connected to 10.88.0.1:7000"],
            );
            // Nothing has happened to it.
            for report in container.reports()? {
                let said = &report.socket("connect:")?.said;
                ensure!(
                    said.ends_with(" ping"),
                    "after the refusal a connection says {said:?}"
                );
            }
            pod.remove(vec![container])?;
            Ok(verdict)
        },
    )
}

/// What failed as it should, in these words.
fn refused(verdict: Verdict, words: &[&str]) -> Verdict {
    match verdict {
        Verdict::Wrong(text) if words.iter().all(|word| text.contains(word)) => {
            Verdict::Right(format!("refused: {text}"))
        }
        Verdict::Right(text) => Verdict::Wrong(format!("it is not refused: {text}")),
        wrong => wrong,
    }
}

fn network_3_connections_inside_survive(suite: Suite) -> Result<()> {
    let pairs = [
        "127.0.0.1:8001",
        "[::1]:8002",
        "{ip4}:8003",
        "[{ip6}]:8004",
        "[::ffff:{ip4}]:8005",
    ];
    let container = pairs
        .iter()
        .fold(ContainerOptions::new(1), |container, address| {
            container.socket(format!("0:pair:{address}"))
        });
    // Between processes too, over the pod's own address and over a unix socket.
    let container = container
        .socket("0:listen:{ip4}:8006")
        .socket("1:connect:{ip4}:8006")
        .socket("0:unix:@restow/inside")
        .socket("1:unix-connect:@restow/inside");
    inet(
        "Network 3",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            journey(container.clone()).run(engine, |there| {
                let first = &there.reports[0];
                for socket in first
                    .sockets
                    .iter()
                    .filter(|socket| socket.opened.starts_with("pair:"))
                {
                    ensure!(
                        socket.said == "0 bytes intact, pong",
                        "{} ({} to {:?}) says {:?}",
                        socket.opened,
                        socket.local,
                        socket.peer,
                        socket.said
                    );
                }
                for kind in ["connect:", "unix-connect:"] {
                    let said = &there.reports[1].socket(kind)?.said;
                    ensure!(said.ends_with(" ping"), "{kind} says {said:?}");
                }
                let [v4, _] = there.pod.addresses();
                let local = &there.reports[1].socket("connect:")?.local;
                ensure!(
                    local.starts_with(&v4),
                    "the connection inside is at {local}"
                );
                Ok("connections over loopback and over the pod's own address go on".to_owned())
            })
        },
    )
}

fn network_3_what_is_in_flight_inside_arrives(suite: Suite) -> Result<()> {
    let container = ["127.0.0.1:8001", "[::1]:8002", "{ip4}:8003"]
        .iter()
        .fold(ContainerOptions::new(0), |container, address| {
            container.socket(format!("0:full:{address}"))
        });
    inet(
        "Network 3, in flight",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            journey(container.clone()).run(engine, |there| {
                for socket in &there.reports[0].sockets {
                    ensure!(
                        socket.said.ends_with("bytes intact, pong")
                            && !socket.said.starts_with("0 "),
                        "{} says {:?}",
                        socket.opened,
                        socket.said
                    );
                }
                Ok(format!("{} arrived", there.reports[0].sockets[0].said))
            })
        },
    )
}

/// The rules that are left in the network namespace of a pod's sandbox.
fn rules(engine: &Engine, pod: &Pod) -> Result<String> {
    let sandbox = pod.sandbox().init()?.to_string();
    let rules = engine.run(
        "nsenter",
        &["--target", &sandbox, "--net", "iptables", "-S"],
    )?;
    let rules: Vec<&str> = rules.lines().filter(|line| line.contains("CRIU")).collect();
    Ok(rules.join(" "))
}

/// Waits until CRIU's rules are gone: criu or the relay may still be at it when the runtime has its answer.
fn unlocked(engine: &Engine, pod: &Pod) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = rules(engine, pod)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "CRIU's lock is still there: {left}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks until there is an answer: what follows a checkpoint may take a moment.
fn answers_again(engine: &Engine, address: &str) -> Result<String> {
    ask(engine, "tcp", address).or_else(|_| ask(engine, "tcp", address))
}

fn network_2_the_rest_of_the_pod_goes_on(suite: Suite) -> Result<()> {
    inet(
        "Network 2, rest of the pod",
        suite,
        Stock::Wrong(&["the other container of pod A does not answer"]),
        |engine| {
            let address = |pod: &Pod| format!("{}:9000", pod.addresses()[0]);
            let other = ContainerOptions::new(0).socket("0:listen:0.0.0.0:9000");
            let moving = ContainerOptions::new(0)
                .socket("0:listen:{ip4}:8001")
                .socket("0:pair:{ip4}:8002");
            // Stock cannot dump a connection.
            let moving = if engine.mode() == Mode::Stock {
                ContainerOptions::new(0).socket("0:listen:0.0.0.0:8001")
            } else {
                moving
            };
            let pod_a = Pod::start(engine, &PodOptions::new("pod-a").network())?;
            let mut stays = pod_a.container(&other)?;
            stays.start()?;
            let mut moves = pod_a.container(&moving)?;
            moves.start()?;
            moves.reports()?;
            answers_again(engine, &address(&pod_a))?;
            let checkpoint = Checkpoint::new(engine, "one-of-two")?;
            moves.checkpoint(&checkpoint)?;
            if let Err(error) = answers_again(engine, &address(&pod_a)) {
                return Ok(Verdict::Wrong(format!(
                    "the other container of pod A does not answer: {error:#}"
                )));
            }
            unlocked(engine, &pod_a)?;
            let pod_b = Pod::start(engine, &PodOptions::new("another-pod-b").network())?;
            let mut there = pod_b.container(&other)?;
            there.start()?;
            let mut moved = pod_b.container(&moving)?;
            moved.restore(&checkpoint)?;
            answers_again(engine, &address(&pod_b))?;
            unlocked(engine, &pod_b)?;
            let said = moved.reports()?[0].socket("pair:")?.said.clone();
            ensure!(
                said.ends_with("pong"),
                "the connection inside says {said:?}"
            );
            pod_a.remove(vec![stays, moves])?;
            pod_b.remove(vec![there, moved])?;
            Ok(Verdict::Right(
                "the other containers of both pods answer, no lock is left".to_owned(),
            ))
        },
    )
}

fn network_2_the_source_goes_on_with_its_connections(suite: Suite) -> Result<()> {
    inet(
        "Network 2, source goes on",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            let _servers = outside(engine)?;
            let mut journey = journey(with_connections());
            journey.leave_running = true;
            journey.run(engine, |there| {
                let left = there
                    .left_behind
                    .ok_or_else(|| anyhow!("nothing was left running"))?;
                for report in left.reports()? {
                    let said = &report.socket("connect:")?.said;
                    ensure!(
                        said.ends_with(" ping"),
                        "in pod A a connection says {said:?}"
                    );
                }
                let said = left.reports()?[1].socket("pair:")?.said.clone();
                ensure!(
                    said.ends_with("pong"),
                    "in pod A the connection inside says {said:?}"
                );
                for said in said_of_outside(there)? {
                    ensure!(
                        said.starts_with("end of file"),
                        "in pod B a connection says {said:?}"
                    );
                }
                check_pair(there, 1)?;
                Ok("pod A keeps its connections, pod B has those inside".to_owned())
            })
        },
    )
}

fn network_1_what_is_in_the_way_is_named(suite: Suite) -> Result<()> {
    let taken = [
        (
            "0:listen:0.0.0.0:8003",
            "tcp socket 0.0.0.0:8003: 0.0.0.0:8003 cannot be bound",
        ),
        (
            "0:unix:@restow/taken",
            "unix socket @restow/taken: the name cannot be bound",
        ),
    ];
    let reasons = &["Can't bind inet socket", "Can't bind id"];
    inet("Network 1, taken", suite, Stock::Wrong(reasons), |engine| {
        let mut said = Vec::new();
        for (socket, words) in taken {
            let container = ContainerOptions::new(0).socket(socket);
            let pod_a = Pod::start(engine, &PodOptions::new("pod-a").network())?;
            let mut moves = pod_a.container(&container)?;
            moves.start()?;
            let checkpoint = Checkpoint::new(engine, words)?;
            moves.checkpoint(&checkpoint)?;
            pod_a.remove(vec![moves])?;
            let pod_b = Pod::start(engine, &PodOptions::new("another-pod-b").network())?;
            let mut other = pod_b.container(&container)?;
            other.start()?;
            let mut moved = pod_b.container(&container)?;
            let Err(error) = moved.restore(&checkpoint) else {
                return Ok(Verdict::Wrong(format!("{socket} is there twice")));
            };
            let text = format!("{error:#}");
            if engine.mode() == Mode::Stock {
                return Ok(Verdict::Wrong(text));
            }
            ensure!(text.contains(words), "the reason is {text}");
            said.push(words);
            // The one that has it goes on.
            other.reports()?;
            pod_b.remove(vec![other, moved])?;
        }
        Ok(Verdict::Right(format!("refused: {}", said.join("; "))))
    })
}

fn network_1_a_checkpoint_without_a_record_moves_too(suite: Suite) -> Result<()> {
    inet(
        "Network 1, without source.json",
        suite,
        Stock::Wrong(&["Can't bind inet socket"]),
        |engine| {
            let container = ["0:listen:{ip4}:8001", "0:udp:[{ip6}]:8002"]
                .into_iter()
                .fold(ContainerOptions::new(0), ContainerOptions::socket);
            let pod_a = Pod::start(engine, &PodOptions::new("pod-a").network())?;
            let mut moves = pod_a.container(&container)?;
            moves.start()?;
            let checkpoint = Checkpoint::new(engine, "bare")?;
            moves.checkpoint(&checkpoint)?;
            pod_a.remove(vec![moves])?;
            if engine.mode() == Mode::Restow {
                std::fs::remove_file(
                    engine
                        .node()
                        .path(format!("{}/source.json", checkpoint.images)),
                )?;
            }
            let pod_b = Pod::start(engine, &PodOptions::new("another-pod-b").network())?;
            let mut moved = pod_b.container(&container)?;
            if let Err(error) = moved.restore(&checkpoint) {
                return Ok(Verdict::Wrong(format!("{error:#}")));
            }
            let [v4, v6] = pod_b.addresses();
            ask(engine, "tcp", &format!("{v4}:8001"))?;
            ask(engine, "udp", &format!("[{v6}]:8002"))?;
            Ok(Verdict::Right(
                "pod B's addresses, without a record of pod A's".to_owned(),
            ))
        },
    )
}

/// Names of unix sockets are in the file system and in the network namespace; every criu dumps these.
fn network_1_unix_sockets_are_there_by_path_and_by_name(suite: Suite) -> Result<()> {
    let container = [
        "0:unix:/run.sock",
        "0:unix:@restow/abstract",
        "0:unix-dgram:/data/dgram.sock",
        "0:unix-seqpacket:@restow/packets",
        "1:unix:relative.sock",
        "0:unix:@restow/inside",
        "1:unix-connect:@restow/inside",
    ]
    .into_iter()
    .fold(
        ContainerOptions::new(1)
            .volume("/data")
            .probe("--cwd", "/data"),
        ContainerOptions::socket,
    );
    compare(
        "Network 1, unix",
        Stack::v2(suite),
        Stock::Right,
        |engine| {
            journey(container.clone()).run(engine, |there| {
                for (kind, name) in [
                    ("unix", "/run.sock"),
                    ("unix", "@restow/abstract"),
                    ("unix", "/data/relative.sock"),
                    ("unix-dgram", "/data/dgram.sock"),
                    ("unix-seqpacket", "@restow/packets"),
                ] {
                    there.container.exec(&["/probe", "ask", kind, name])?;
                }
                let said = &there.reports[1].socket("unix-connect:")?.said;
                ensure!(
                    said.ends_with(" ping"),
                    "the connection inside says {said:?}"
                );
                Ok("five names answer, the connection inside goes on".to_owned())
            })
        },
    )
}

fn network_1_udp_sockets_stay_connected(suite: Suite) -> Result<()> {
    let [v4, v6] = OUTSIDE;
    let container = [
        "1:udp:{ip4}:8001".to_owned(),
        "1:udp:127.0.0.1:8002".to_owned(),
        format!("0:udp-to:{{ip4}}:8101,{v4}:7000"),
        format!("0:udp-to:[{{ip6}}]:8102,[{v6}]:7000"),
        // To the other process, over the pod's own address and over loopback.
        "0:udp-to:{ip4}:8103,{ip4}:8001".to_owned(),
        "0:udp-to:127.0.0.1:8104,127.0.0.1:8002".to_owned(),
    ]
    .iter()
    .fold(ContainerOptions::new(1), ContainerOptions::socket);
    inet(
        "Network 1, connected UDP",
        suite,
        Stock::Wrong(&["Can't bind inet socket"]),
        |engine| {
            let _servers = outside(engine)?;
            journey(container.clone()).run(engine, |there| {
                for socket in &there.reports[0].sockets {
                    ensure!(
                        socket.said.ends_with(" ping"),
                        "{} ({} to {:?}) says {:?}",
                        socket.opened,
                        socket.local,
                        socket.peer,
                        socket.said
                    );
                }
                Ok("four connected sockets get answers, outside and inside".to_owned())
            })
        },
    )
}

fn network_2_who_has_not_been_accepted_yet_is_no_obstacle(suite: Suite) -> Result<()> {
    // The probe takes one connection from this listener and no more.
    let container = ContainerOptions::new(0).socket("0:pair:{ip4}:8001");
    let stock = Stock::Wrong(&["Connected TCP socket", "In-flight connection"]);
    inet("Network 2, not accepted", suite, stock, |engine| {
        let mut journey = journey(container.clone());
        journey.before_checkpoint = Some(|engine| {
            // It waits in vain and stays in the queue.
            ensure!(
                ask(engine, "tcp", "10.88.0.15:8001").is_err(),
                "the listener accepts"
            );
            Ok(())
        });
        journey.run(engine, |there| {
            check_pair(there, 0)?;
            Ok("it is dropped, the connection inside goes on".to_owned())
        })
    })
}

/// Kills the real criu or the relay at a stage of CRIU's, by a script that CRIU runs.
fn kill_at(engine: &Engine, stage: &str, relay: bool) -> Result<()> {
    let kill = if relay {
        "for p in /proc/[0-9]*; do [ \"$(readlink $p/exe)\" = /opt/restow/bin/criu ] && kill -9 ${p#/proc/}; done"
    } else {
        "kill -9 $PPID"
    };
    let script =
        format!("#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = {stage} ] || exit 0\n{kill}\nexit 0\n");
    let path = engine.node().path("/opt/fault.sh");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    std::fs::create_dir_all(engine.node().path("/etc/criu"))?;
    std::fs::write(
        engine.node().path("/etc/criu/default.conf"),
        "action-script /opt/fault.sh\n",
    )?;
    Ok(())
}

fn victim(relay: bool) -> &'static str {
    if relay {
        "The relay was killed"
    } else {
        "criu was killed"
    }
}

fn no_death_leaves_a_network_locked(suite: Suite) -> Result<()> {
    if let Some(why) = cannot_dump(suite)? {
        println!("no death leaves a network locked | {suite}: SKIPPED: {why}");
        return Ok(());
    }
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    let config = engine.node().path("/etc/criu/default.conf");
    let container = ContainerOptions::new(0)
        .socket("0:listen:{ip4}:8001")
        .socket("0:pair:{ip4}:8002");
    let pod_a = Pod::start(&engine, &PodOptions::new("pod-a").network())?;
    let mut moves = pod_a.container(&container)?;
    moves.start()?;
    moves.reports()?;
    let [v4, _] = pod_a.addresses();
    for relay in [false, true] {
        // The network is locked and no socket is touched yet.
        kill_at(&engine, "post-dump", relay)?;
        let checkpoint = Checkpoint::new(&engine, "lost")?;
        ensure!(
            moves.checkpoint_running(&checkpoint).is_err(),
            "the checkpoint succeeded"
        );
        std::fs::remove_file(&config)?;
        unlocked(&engine, &pod_a)
            .with_context(|| format!("At the checkpoint: {}", victim(relay)))?;
        answers_again(&engine, &format!("{v4}:8001"))?;
        let said = moves.reports()?[0].socket("pair:")?.said.clone();
        ensure!(
            said.ends_with("pong"),
            "{} and the connection inside says {said:?}",
            victim(relay)
        );
    }
    let checkpoint = Checkpoint::new(&engine, "whole")?;
    moves.checkpoint(&checkpoint)?;
    pod_a.remove(vec![moves])?;
    for relay in [false, true] {
        let pod_b = Pod::start(&engine, &PodOptions::new("another-pod-b").network())?;
        kill_at(&engine, "setup-namespaces", relay)?;
        let mut lost = pod_b.container(&container)?;
        ensure!(lost.restore(&checkpoint).is_err(), "the restore succeeded");
        std::fs::remove_file(&config)?;
        if !relay {
            unlocked(&engine, &pod_b)
                .with_context(|| format!("At the restore: {}", victim(relay)))?;
        }
        let mut moved = pod_b.container(&container)?;
        moved.restore(&checkpoint)?;
        // The relay unlocks what a dead criu leaves; what a dead relay leaves the next restore does.
        unlocked(&engine, &pod_b).with_context(|| format!("At the restore: {}", victim(relay)))?;
        let said = moved.reports()?[0].socket("pair:")?.said.clone();
        ensure!(
            said.ends_with("pong"),
            "the connection inside says {said:?}"
        );
        pod_b.remove(vec![lost, moved])?;
    }
    println!("no death leaves a network locked | {suite} | Restow: right");
    Ok(())
}

fn network_3_a_dump_that_locked_with_nftables_moves_too(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(0)
        .socket("0:pair:{ip4}:8001")
        .socket("0:full:127.0.0.1:8002");
    let stock = Stock::Wrong(&["Connected TCP socket"]);
    inet("Network 3, nftables", suite, stock, |engine| {
        std::fs::create_dir_all(engine.node().path("/etc/criu"))?;
        let config = engine.node().path("/etc/criu/default.conf");
        std::fs::write(config, "network-lock nftables\n")?;
        journey(container.clone()).run(engine, |there| {
            check_pair(there, 0)?;
            let said = &there.reports[0].socket("full:")?.said;
            ensure!(
                said.ends_with("intact, pong"),
                "what was in flight: {said:?}"
            );
            unlocked(there.engine, there.pod)?;
            let images = there
                .engine
                .node()
                .path("/var/lib/kubelet/checkpoints/journey/checkpoint");
            let inventory = std::fs::read(images.join("inventory.img"))?;
            // network_lock_method: 1.
            ensure!(
                inventory.windows(2).any(|bytes| bytes == [0x58, 1]),
                "the dump was not locked with nftables"
            );
            Ok("connections inside go on, no lock is left".to_owned())
        })
    })
}

/// Compares a scenario with internet sockets, or says by name why that cannot be done here.
fn inet(
    name: &str,
    suite: Suite,
    stock: Stock,
    run: impl Fn(&Engine) -> Result<Verdict>,
) -> Result<()> {
    match cannot_dump(suite)? {
        Some(why) => skip(name, Stack::v2(suite), &why),
        None => compare(name, Stack::v2(suite), stock.crun(stock), run),
    }
}

/// Why the suite's criu dumps no internet socket on this kernel, found by having it dump one: since Linux 6.16 the question for
/// `SO_PASSCRED` (1:16) of one is an error, and criu before 4.2 asks it of every socket.
fn cannot_dump(suite: Suite) -> Result<Option<String>> {
    static TRIED: Mutex<BTreeMap<&str, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut tried = TRIED.lock().map_err(|_| anyhow!("another test panicked"))?;
    let key = if suite == Suite::Stable {
        "stable"
    } else {
        "testing"
    };
    if let Some(known) = tried.get(key) {
        return Ok(known.clone());
    }
    let engine = Engine::start(Stack::v2(suite), Mode::Stock)?;
    let pod = Pod::start(&engine, &PodOptions::new("trial"))?;
    let mut container = pod.container(&ContainerOptions::new(0).socket("0:udp:0.0.0.0:9"))?;
    container.start()?;
    let checkpoint = Checkpoint::new(&engine, "trial")?;
    let why = match container.checkpoint(&checkpoint) {
        Ok(()) => None,
        Err(error) if format!("{error:#}").contains("Can't get 1:16 opt") => {
            let versions = engine.versions()?;
            let criu = versions.split(", ").nth(1).unwrap_or("criu");
            Some(format!(
                "{criu} cannot dump other sockets than unix on this kernel (tried: Can't get 1:16 opt)"
            ))
        }
        Err(error) => return Err(error.context("A container with one socket")),
    };
    tried.insert(key, why.clone());
    Ok(why)
}
