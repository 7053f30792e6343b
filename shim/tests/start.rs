//! The shim's actions over a fake stock shim.

// Helpers beside the tests count as code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;

use criu_image::wire::Message;
use restow_shim::reply::Reply;
use support::{Place, ask, until};

fn own_address(place: &Place, id: &str) -> String {
    format!("unix://{}", place.own_socket(id).display())
}

#[test]
fn the_reply_is_the_stock_shims_with_our_address() {
    for (spelling, expected) in [
        ("text", "ADDRESS"),
        (
            "json",
            r#"{"version":3,"address":"ADDRESS","protocol":"ttrpc"}"#,
        ),
    ] {
        let mut place = Place::new();
        place.set("FAKE_REPLY", spelling);
        let output = place.start("web");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let expected = expected.replace("ADDRESS", &own_address(&place, "web"));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
    let mut place = Place::new();
    place.set("FAKE_REPLY", "protobuf");
    let output = place.start("web");
    let message = Message::parse(&output.stdout).unwrap();
    assert_eq!(message.str(2), Some(&*own_address(&place, "web")));
    assert_eq!((message.u64(1), message.str(3)), (Some(3), Some("ttrpc")));
}

#[test]
fn a_further_container_of_a_pod_gets_the_same_proxy() {
    let mut place = Place::new();
    place.set("FAKE_GROUP", "pod");
    let first = place.start("a");
    let proxy = place.proxy_pid("pod");
    let second = place.start("b");
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(place.proxy_pid("pod"), proxy);
    assert_eq!(
        fs::read_to_string(place.path("bundle/address")).unwrap(),
        own_address(&place, "pod")
    );
}

#[test]
fn standard_input_reaches_the_stock_shim() {
    let place = Place::new();
    let output = place.start_with("web", b"options");
    assert!(output.status.success());
    assert_eq!(fs::read(place.path("bundle/input")).unwrap(), b"options");
}

#[test]
fn a_restarted_containerd_finds_the_proxy() {
    let place = Place::new();
    place.start("web");
    let address = fs::read_to_string(place.path("bundle/address")).unwrap();
    assert_eq!(address, own_address(&place, "web"));
}

#[test]
fn the_interposer_comes_first_in_the_stock_shims_path() {
    let place = Place::new();
    place.install_interposer();
    place.start("web");
    let path = ask(&mut place.client("web"), "Path", "").unwrap();
    assert!(
        path.starts_with(&format!("{}:", place.path("lib").display())),
        "{path}"
    );
}

#[test]
fn a_failing_stock_shim_is_heard() {
    let mut place = Place::new();
    place.set("FAKE_FAILURE", "no memory left");
    let output = place.start("web");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stderr, b"no memory left");
    assert!(!support::there(&place.own_socket("web")));
}

#[test]
fn without_a_proxy_only_what_asks_for_a_restore_fails() {
    let mut place = Place::new();
    place.set("FAKE_REPLY", "nonsense");
    let output = place.start("web");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"nonsense");
    place.annotate(&[("restow.dev/restore-from", "a")]);
    let output = place.start("db");
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.contains("reply to start is none that is known"),
        "{words}"
    );
    until(|| std::os::unix::net::UnixStream::connect(place.stock_socket("db")).is_err());
}

#[test]
fn questions_and_delete_are_answered_by_the_stock_shim() {
    let place = Place::new();
    assert_eq!(place.shim(&["-v"], b"").stdout, br#"["-v"]"#);
    assert_eq!(place.shim(&["-info"], b"x").stdout, br#"["-info"]"#);
    let output = place.shim(
        &["-namespace", "ns", "-id", "web", "-bundle", ".", "delete"],
        b"",
    );
    assert_eq!(output.stdout, b"deleted");
}

#[test]
fn a_missing_stock_shim_is_said() {
    let place = Place::new();
    fs::write(
        place.path("config.toml"),
        "stock-shim = '/nonexistent/shim'",
    )
    .unwrap();
    let output = place.start("web");
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.contains("/nonexistent/shim") && words.contains("stock-shim"),
        "{words}"
    );
}

/// Replies of real shims, recorded.
#[test]
fn recorded_replies_are_understood() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/shim-start");
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "reply")
        {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let reply = Reply::parse(&bytes).unwrap();
        assert_eq!(reply.protocol, "ttrpc", "{}", path.display());
        let own = "unix:///run/containerd/s/own.restow";
        let again = Reply::parse(&reply.with_address(own)).unwrap();
        assert_eq!(again.address, own, "{}", path.display());
        // Nothing but the address is another.
        assert_eq!(
            again.with_address(&reply.address),
            bytes.trim_ascii(),
            "{}",
            path.display()
        );
        seen += 1;
    }
    assert!(seen >= 3);
}
