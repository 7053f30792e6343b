//! Where sockets listen after a move.

use anyhow::{Result, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::Mode;
use restow_integration::journey::Verdict;
use restow_integration::network::{OUTSIDE, ask};
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::{Stock, compare};
use restow_integration::stack::Stack;
use restow_integration::suite::Suite;

use crate::place::{ASKED, answers, inet, journey, listeners, outside};

pub(crate) fn network_1_listening_sockets_are_bound_to_the_new_pods_addresses(
    suite: Suite,
) -> Result<()> {
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

pub(crate) fn network_1_what_is_in_the_way_is_named(suite: Suite) -> Result<()> {
    let taken = [
        (
            "taken-tcp",
            "0:listen:0.0.0.0:8003",
            "tcp socket 0.0.0.0:8003: 0.0.0.0:8003 cannot be bound",
        ),
        (
            "taken-unix",
            "0:unix:@restow/taken",
            "unix socket @restow/taken: the name cannot be bound",
        ),
    ];
    let reasons = &["Can't bind inet socket", "Can't bind id"];
    inet("Network 1, taken", suite, Stock::Wrong(reasons), |engine| {
        let mut said = Vec::new();
        for (name, socket, words) in taken {
            let container = ContainerOptions::new(0).socket(socket);
            let pod_a = Pod::start(engine, &PodOptions::new("pod-a").network())?;
            let mut moves = pod_a.container(&container)?;
            moves.start()?;
            let checkpoint = Checkpoint::new(engine, name)?;
            moves.checkpoint(&checkpoint)?;
            pod_a.remove(vec![moves])?;
            let pod_b = Pod::start(engine, &PodOptions::new("another-pod-b").network())?;
            let mut other = pod_b.container(&container.clone().named("first"))?;
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

pub(crate) fn network_1_a_checkpoint_without_a_record_moves_too(suite: Suite) -> Result<()> {
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
                checkpoint.leave_out(engine, "source.json")?;
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
pub(crate) fn network_1_unix_sockets_are_there_by_path_and_by_name(suite: Suite) -> Result<()> {
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

pub(crate) fn network_1_udp_sockets_stay_connected(suite: Suite) -> Result<()> {
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
