//! What becomes of connections, to the outside and inside the container.

use anyhow::{Result, ensure};
use restow_integration::container::Checkpoint;
use restow_integration::engine::Mode;
use restow_integration::journey::{Arrival, Verdict};
use restow_integration::kubelet::NotInPods;
use restow_integration::network::{OUTSIDE, ask};
use restow_integration::pod::{ContainerOptions, Pod, PodOptions};
use restow_integration::scenario::Stock;
use restow_integration::suite::Suite;

use crate::place::{inet, journey, outside, refused};

/// A connection to a server outside, and listeners beside it: the other end of what has to be cut or kept.
pub(crate) fn with_connections() -> ContainerOptions {
    let [v4, v6] = OUTSIDE;
    ContainerOptions::new(1)
        .socket(format!("0:connect:{v4}:7000"))
        .socket(format!("1:connect:[{v6}]:7000"))
        .socket("0:listen:{ip4}:8001")
        .socket("1:pair:127.0.0.1:8002")
}

/// What the processes say of their connections to the outside.
pub(crate) fn said_of_outside(there: &Arrival) -> Result<[String; 2]> {
    let [first, second] = &there.reports[..] else {
        anyhow::bail!("there are {} reports", there.reports.len());
    };
    Ok([
        first.socket("connect:")?.said.clone(),
        second.socket("connect:")?.said.clone(),
    ])
}

pub(crate) fn check_pair(there: &Arrival, process: usize) -> Result<()> {
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

pub(crate) fn network_2_connections_to_the_outside_end(suite: Suite) -> Result<()> {
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
            let log = there.restow_log()?;
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

pub(crate) fn network_2_connections_to_the_outside_are_kept(suite: Suite) -> Result<()> {
    inet(
        "Network 2, keep",
        suite,
        Stock::Wrong(&["Connected TCP socket"]),
        |engine| {
            let _servers = outside(engine)?;
            let container = with_connections().annotation("restow.dev/tcp", "keep");
            let mut journey = journey(container);
            if engine.kubelet().is_some() {
                return Err(NotInPods("the address that another pod had").into());
            }
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

pub(crate) fn network_2_without_the_old_address_nothing_can_be_kept(suite: Suite) -> Result<()> {
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

pub(crate) fn network_2_connections_to_the_outside_forbid_the_checkpoint(
    suite: Suite,
) -> Result<()> {
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

pub(crate) fn network_3_connections_inside_survive(suite: Suite) -> Result<()> {
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

pub(crate) fn network_3_what_is_in_flight_inside_arrives(suite: Suite) -> Result<()> {
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

pub(crate) fn network_2_who_has_not_been_accepted_yet_is_no_obstacle(suite: Suite) -> Result<()> {
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
