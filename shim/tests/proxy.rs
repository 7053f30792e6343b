//! What goes through the proxy, and how the two shims end, over a fake stock shim.

// Helpers beside the tests count as code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use criu_image::wire::Message;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use restow_shim::frame::{self, HEADER, Header};
use support::{Place, SERVICE, ask, lives, text, there, until};

fn read_frame(from: &mut impl Read) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    from.read_exact(&mut frame).unwrap();
    let length = Header::of(&frame).unwrap().length;
    frame.resize(HEADER + length, 0);
    from.read_exact(&mut frame[HEADER..]).unwrap();
    frame
}

fn started(id: &str) -> Place {
    let place = Place::new();
    let output = place.start(id);
    assert!(output.status.success(), "{output:?}");
    place
}

#[test]
fn calls_and_failures_go_through() {
    let place = started("web");
    let mut client = place.client("web");
    for said in ["", "a", &"long ".repeat(100_000)] {
        assert_eq!(ask(&mut client, "State", said).unwrap(), said);
    }
    assert_eq!(
        ask(&mut client, "Fail", "x").unwrap_err().to_string(),
        "as asked"
    );
    // Of a later version, or of another service.
    assert_eq!(ask(&mut client, "Unheard", "x").unwrap(), "x");
}

#[test]
fn a_slow_call_holds_nobody_up() {
    let place = started("web");
    let mut socket = place.connect("web");
    socket
        .write_all(&frame::request(1, SERVICE, "Later", &text("slow").encode()))
        .unwrap();
    socket
        .write_all(&frame::request(3, SERVICE, "State", &text("fast").encode()))
        .unwrap();
    let answers = [read_frame(&mut socket), read_frame(&mut socket)];
    assert_eq!(
        answers.map(|frame| Header::of(&frame).unwrap().stream),
        [3, 1]
    );
    // Nor does one that is never answered, on another connection.
    socket
        .write_all(&frame::request(5, SERVICE, "Later", &[]))
        .unwrap();
    assert_eq!(ask(&mut place.client("web"), "State", "x").unwrap(), "x");
}

#[test]
fn frames_of_streams_go_through_undecoded() {
    let place = started("web");
    let mut socket = place.connect("web");
    let frames = [
        frame::encode(1, 3, 1, b"\xff\xff no message"),
        frame::encode(1, 3, 4, b""),
        frame::encode(9, 7, 0xff, &[0xee; 70_000]),
    ];
    for frame in &frames {
        socket.write_all(frame).unwrap();
        assert_eq!(&read_frame(&mut socket), frame);
    }
}

#[test]
fn a_reader_that_takes_its_time_loses_nothing() {
    let place = started("web");
    let mut socket = place.connect("web");
    // More than all buffers on the way hold together, so that every side has to wait for another.
    let frames: Vec<_> = (0..64u8)
        .map(|at| frame::encode(u32::from(at), 3, 0, &vec![at; 100_000]))
        .collect();
    let mut writer = socket.try_clone().unwrap();
    let sent = frames.clone();
    let writing = std::thread::spawn(move || {
        for frame in sent {
            writer.write_all(&frame).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(
        ask(&mut place.client("web"), "State", "meanwhile").unwrap(),
        "meanwhile"
    );
    for frame in &frames {
        assert_eq!(&read_frame(&mut socket), frame);
    }
    writing.join().unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
}

#[test]
fn many_clients_come_and_go() {
    let place = started("web");
    let mut clients: Vec<_> = (0..50).map(|_| place.client("web")).collect();
    for client in &mut clients {
        assert_eq!(ask(client, "State", "x").unwrap(), "x");
    }
    clients.truncate(1);
    let open = || {
        std::fs::read_dir(format!("/proc/{}/fd", place.proxy_pid("web")))
            .unwrap()
            .count()
    };
    until(|| open() < 20);
    assert_eq!(ask(&mut clients[0], "State", "y").unwrap(), "y");
}

#[test]
fn both_end_with_a_shutdown_and_its_answer_arrives() {
    let place = started("web");
    let (stock, proxy) = (place.stock_pid("web"), place.proxy_pid("web"));
    let mut client = place.client("web");
    client
        .call(SERVICE, "Shutdown", &Message::default())
        .unwrap();
    until(|| !lives(stock) && !lives(proxy));
    assert!(!there(&place.own_socket("web")) && !there(&place.stock_socket("web")));
}

#[test]
fn a_killed_proxy_takes_the_stock_shim_with_it() {
    let place = started("web");
    let (stock, proxy) = (place.stock_pid("web"), place.proxy_pid("web"));
    kill(Pid::from_raw(proxy), Signal::SIGKILL).unwrap();
    until(|| !lives(stock) && !lives(proxy));
    let args = ["-namespace", "ns", "-id", "web", "-bundle", ".", "delete"];
    assert_eq!(place.shim(&args, b"").stdout, b"deleted");
    assert!(!there(&place.own_socket("web")) && !there(&place.stock_socket("web")));
}

#[test]
fn a_killed_stock_shim_takes_the_proxy_with_it() {
    let place = started("web");
    let (stock, proxy) = (place.stock_pid("web"), place.proxy_pid("web"));
    let mut socket = place.connect("web");
    kill(Pid::from_raw(stock), Signal::SIGKILL).unwrap();
    // containerd sees the end of its connection, and finds no socket then.
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    assert!(!there(&place.own_socket("web")) && !there(&place.stock_socket("web")));
    until(|| !lives(stock) && !lives(proxy));
    assert!(place.start("web").status.success());
    assert_eq!(
        ask(&mut place.client("web"), "State", "again").unwrap(),
        "again"
    );
}

#[test]
fn what_a_killed_stock_shim_has_not_read_ends_with_the_sockets() {
    let place = started("web");
    let stock = Pid::from_raw(place.stock_pid("web"));
    let mut client = place.client("web");
    kill(stock, Signal::SIGSTOP).unwrap();
    let waiting = thread::spawn(move || client.call(SERVICE, "State", &Message::default()));
    // To what it has not read, its end is a reset.
    thread::sleep(Duration::from_millis(50));
    kill(stock, Signal::SIGKILL).unwrap();
    assert!(waiting.join().unwrap().is_err());
    assert!(!there(&place.own_socket("web")) && !there(&place.stock_socket("web")));
}

#[test]
fn a_request_to_end_is_the_stock_shims_too() {
    let place = started("web");
    let (stock, proxy) = (place.stock_pid("web"), place.proxy_pid("web"));
    kill(Pid::from_raw(proxy), Signal::SIGTERM).unwrap();
    until(|| !lives(stock) && !lives(proxy));
}
