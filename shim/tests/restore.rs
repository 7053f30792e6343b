//! `Create` of containers that ask for a restore, and what follows it, as far as no runtime is needed: over a fake stock shim.

// Helpers beside the tests count as code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use criu_image::wire::Message;
use restow_shim::client::Failure;
use restow_shim::frame::{self, FAILED_PRECONDITION, HEADER, Header};
use support::{Place, SERVICE, ask, until};

const FROM: (&str, &str) = ("restow.dev/restore-from", "evening");

fn place(annotations: &[(&str, &str)], interposer: bool) -> Place {
    let place = Place::new();
    place.annotate(annotations);
    if interposer {
        place.install_interposer();
    }
    let output = place.start("web");
    assert!(output.status.success(), "{output:?}");
    place
}

fn create(place: &Place) -> Message<'static> {
    let mut create = Message::default();
    create.set_bytes(1, "web");
    create.set_bytes(2, place.path("bundle").to_str().unwrap());
    create.push_bytes(99, "of a later version");
    create
}

/// The refusal's words.
fn refused(place: &Place, create: &Message<'_>) -> String {
    match place.client("web").call(SERVICE, "Create", create) {
        Err(Failure::Status { code, message }) => {
            assert_eq!(code, FAILED_PRECONDITION, "{message}");
            message
        }
        other => panic!("it was not refused: {other:?}"),
    }
}

#[test]
fn a_container_that_asks_for_nothing_is_created_as_it_was_asked() {
    let place = place(&[("restow.dev/enabled", "true")], true);
    let create = create(&place);
    let answer = place
        .client("web")
        .call(SERVICE, "Create", &create)
        .unwrap();
    assert_eq!(answer, create.encode());
}

#[test]
fn a_restore_that_cannot_be_prepared_is_refused_and_named() {
    let place = place(&[FROM], true);
    let words = refused(&place, &create(&place));
    assert!(
        words.starts_with("restow: ") && words.contains("evening"),
        "{words}"
    );
}

#[test]
fn without_the_interposer_nothing_is_restored() {
    let place = place(&[FROM], false);
    let words = refused(&place, &create(&place));
    assert!(
        words.contains("criu") && words.contains("lib-dir"),
        "{words}"
    );
    // Put there afterwards, it is not in the PATH of the stock shim that runs.
    place.install_interposer();
    std::fs::write(
        place.path("config.toml"),
        format!("lib-dir = {:?}", place.path("lib")),
    )
    .unwrap();
    let words = refused(&place, &create(&place));
    assert!(
        words.contains("criu") || words.contains("evening"),
        "{words}"
    );
}

#[test]
fn a_wrong_annotation_is_refused() {
    for wrong in [
        ("restow.dev/restore-from", "../../etc"),
        ("restow.dev/restore-form", "a"),
    ] {
        let place = place(&[FROM, wrong], true);
        let words = refused(&place, &create(&place));
        assert!(words.contains(wrong.0), "{words}");
    }
}

#[test]
fn a_broken_configuration_fails_only_what_asks() {
    let asking = place(&[FROM], true);
    std::fs::write(asking.path("config.toml"), "misspelt = 1").unwrap();
    let words = refused(&asking, &create(&asking));
    assert!(words.contains("config.toml"), "{words}");
    let other = place(&[], true);
    std::fs::write(other.path("config.toml"), "misspelt = 1").unwrap();
    let create = create(&other);
    assert!(other.client("web").call(SERVICE, "Create", &create).is_ok());
}

#[test]
fn calls_that_come_while_a_restore_is_prepared_do_not_cost_it() {
    // What cannot be prepared is created afresh, behind the later calls.
    let place = place(&[FROM, ("restow.dev/on-failure", "start")], true);
    let create = create(&place).encode();
    let mut socket = place.connect("web");
    let calls = [
        frame::request(1, SERVICE, "Create", &create),
        frame::request(3, SERVICE, "State", &[]),
        frame::request(5, SERVICE, "Wait", &[]),
    ];
    socket.write_all(&calls.concat()).unwrap();
    let mut streams: Vec<_> = (0..3)
        .map(|_| {
            let mut answer = vec![0; HEADER];
            socket.read_exact(&mut answer).unwrap();
            let header = Header::of(&answer).unwrap();
            answer.resize(HEADER + header.length, 0);
            socket.read_exact(&mut answer[HEADER..]).unwrap();
            assert!(
                frame::outcome(&answer).is_ok(),
                "{:?}",
                frame::outcome(&answer)
            );
            header.stream
        })
        .collect();
    streams.sort_unstable();
    assert_eq!(streams, [1, 3, 5]);
}

#[test]
fn two_checkpoints_at_once_are_refused() {
    let place = place(&[FROM], true);
    let mut create = create(&place);
    create.set_bytes(8, "/var/lib/containerd/image");
    let words = refused(&place, &create);
    assert!(
        words.contains("evening") && words.contains("/var/lib/containerd/image"),
        "{words}"
    );
}

#[test]
fn a_fresh_start_where_the_pod_wants_one_has_a_line_in_the_log() {
    let place = place(&[FROM, ("restow.dev/on-failure", "start")], true);
    let log = place.path("bundle/log");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Of both kinds, so that opening it waits for nobody.
    let mut reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    let create = create(&place);
    let answer = place
        .client("web")
        .call(SERVICE, "Create", &create)
        .unwrap();
    assert_eq!(answer, create.encode());
    let mut line = [0; 4096];
    let read = reader.read(&mut line).unwrap();
    let line = String::from_utf8_lossy(&line[..read]);
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    assert!(
        line.starts_with("level=warning") && line.contains("starts afresh"),
        "{line}"
    );
    assert!(line.contains("evening"), "{line}");
}

#[test]
fn other_calls_go_on_while_a_restore_is_prepared() {
    let place = place(&[FROM], true);
    // The worker waits until somebody writes its configuration.
    let config = place.path("config.toml");
    std::fs::remove_file(&config).unwrap();
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut socket = place.connect("web");
    let stream = |socket: &mut std::os::unix::net::UnixStream| {
        let mut header = [0; HEADER];
        socket.read_exact(&mut header).unwrap();
        let header = Header::parse(&header);
        socket.read_exact(&mut vec![0; header.length]).unwrap();
        header.stream
    };
    let wanted = create(&place).encode();
    socket
        .write_all(&frame::request(1, SERVICE, "Create", &wanted))
        .unwrap();
    socket
        .write_all(&frame::request(3, SERVICE, "State", b""))
        .unwrap();
    assert_eq!(stream(&mut socket), 3);
    std::fs::write(&config, "misspelt = 1").unwrap();
    assert_eq!(stream(&mut socket), 1);
}

#[test]
fn workers_leave_no_zombies_behind() {
    let place = place(&[FROM], true);
    for _ in 0..3 {
        refused(&place, &create(&place));
    }
    let proxy = place.proxy_pid("web");
    let children =
        || std::fs::read_to_string(format!("/proc/{proxy}/task/{proxy}/children")).unwrap();
    until(|| children().trim().is_empty());
    assert_eq!(ask(&mut place.client("web"), "State", "x").unwrap(), "x");
}

#[test]
fn a_checkpoint_is_published() {
    let mut place = Place::new();
    let events = place.path("events.sock");
    place.set("TTRPC_ADDRESS", events.to_str().unwrap());
    place.start("web");
    let containerd = UnixListener::bind(&events).unwrap();
    let mut checkpoint = Message::default();
    checkpoint.set_bytes(1, "web");
    checkpoint.set_bytes(2, "/images");
    place
        .client("web")
        .call(SERVICE, "Checkpoint", &checkpoint)
        .unwrap();
    let (mut shim, _) = containerd.accept().unwrap();
    let mut header = [0; HEADER];
    shim.read_exact(&mut header).unwrap();
    let mut payload = vec![0; Header::parse(&header).length];
    shim.read_exact(&mut payload).unwrap();
    let request = Message::parse(&payload).unwrap();
    assert_eq!(request.str(2), Some("Forward"));
    let forward = request.message(3).unwrap().unwrap();
    let envelope = forward.message(1).unwrap().unwrap();
    assert_eq!(
        (envelope.str(2), envelope.str(3)),
        (Some("ns"), Some("/tasks/checkpointed"))
    );
    shim.write_all(&frame::success(1, b"")).unwrap();
}
