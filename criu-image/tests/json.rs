//! JSON: the shape that `crit` prints, and that nothing is lost on the way there and back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use criu_image::json::{Options, decode, encode};
use criu_image::wire::Message;
use criu_image::{Builder, Kind, Reader};
use proptest::prelude::*;

fn to_json(bytes: &[u8], options: Options) -> String {
    let mut json = Vec::new();
    let mut reader = Reader::new("x.img", bytes, None).unwrap();
    decode(&mut reader, &mut json, options).unwrap();
    String::from_utf8(json).unwrap()
}

fn from_json(json: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    encode("x.json", json.as_bytes(), &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

const PLAIN: Options = Options {
    pretty: false,
    no_payload: false,
};
const PRETTY: Options = Options {
    pretty: true,
    no_payload: false,
};

fn comes_back(bytes: &[u8]) {
    for options in [PLAIN, PRETTY] {
        let json = to_json(bytes, options);
        assert_eq!(from_json(&json).as_deref(), Ok(bytes), "{json}");
    }
}

fn image(kind: Kind, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = Builder::new(kind);
    for payload in payloads {
        builder.push(&Message::parse(payload).unwrap());
    }
    builder.finish()
}

fn message(fields: &[(u32, u64)]) -> Message<'static> {
    let mut message = Message::default();
    for (number, value) in fields {
        message.push_u64(*number, *value);
    }
    message
}

fn reg(name: &[u8]) -> Vec<u8> {
    let mut reg = message(&[
        (1, 7),
        (2, 0o100_002),
        (3, 0),
        (7, 154),
        (8, 14),
        (10, 0o100_644),
        (11, 1),
        (11, 4_000_000_000),
    ]);
    reg.set_bytes(
        5,
        message(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]).encode(),
    );
    reg.set_bytes(6, name);
    let mut file = message(&[(1, 1), (2, 7)]);
    file.set_bytes(3, reg.encode());
    file.encode()
}

#[test]
fn a_file_looks_as_crit_prints_it() {
    let bytes = image(Kind::Files, &[reg(b"/tmp/caf\xc3\xa9\n")]);
    assert_eq!(
        to_json(&bytes, PLAIN),
        r#"{"magic": "FILES", "entries": [{"type": "REG", "id": 7, "reg": {"id": 7, "flags": 32770, "pos": 0, "fown": {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}, "name": "/tmp/caf\u00e9\n", "mnt_id": 77, "size": 14, "mode": 33188, "build_id": [1, 4000000000]}}]}"#
    );
    let pretty = to_json(&bytes, PRETTY);
    assert!(pretty.starts_with("{\n    \"magic\": \"FILES\",\n    \"entries\": [\n        {\n            \"type\": \"REG\","));
    assert!(
        pretty.contains("\"flags\": \"O_RDWR | O_LARGEFILE\""),
        "{pretty}"
    );
    comes_back(&bytes);
}

#[test]
fn names_that_are_not_utf8_come_back() {
    let bytes = image(
        Kind::Files,
        &[reg(b"/a\xff\xed\xb2\x80\xf0\x9f\x92\xa9\x7f\"\\")],
    );
    let json = to_json(&bytes, PLAIN);
    assert!(
        json.contains(r#""/a\udcff\udced\udcb2\udc80\ud83d\udca9\u007f\"\\""#),
        "{json}"
    );
    comes_back(&bytes);
}

#[test]
fn unknown_fields_are_shown_and_come_back() {
    let mut file = reg(b"/x");
    file.extend(b"\xc0\x3e\x05\xc9\x3e12345678\xd2\x3e\x03new\xdd\x3e1234");
    let bytes = image(Kind::Files, &[file]);
    let json = to_json(&bytes, PLAIN);
    assert!(json.contains(r#""_unknown": [{"field": 1000, "varint": 5}, {"field": 1001, "fixed64": 4050765991979987505}, {"field": 1002, "bytes": "bmV3\n"}, {"field": 1003, "fixed32": 875770417}]"#), "{json}");
    assert!(!json.contains("_wire"));
    comes_back(&bytes);
}

#[test]
fn an_odd_encoding_comes_back_unless_what_it_means_was_edited() {
    // fs_entry with cwd_id in three bytes instead of one, and root_id before it.
    let bytes = image(Kind::Fs, &[vec![0x10, 6, 0x08, 0x85, 0x80, 0x00]]);
    let json = to_json(&bytes, PLAIN);
    assert_eq!(
        json,
        r#"{"magic": "FS", "entries": [{"cwd_id": 5, "root_id": 6, "_wire": "EAYIhYAA\n"}]}"#
    );
    comes_back(&bytes);
    let edited = from_json(&json.replace("\"root_id\": 6", "\"root_id\": 7")).unwrap();
    assert_eq!(edited, image(Kind::Fs, &[vec![0x08, 5, 0x10, 7]]));
}

#[test]
fn both_layouts_of_pagemap_entries_keep_their_names() {
    let old = message(&[(1, 0x40_0000), (2, 3), (4, 4)]).encode();
    let new = message(&[(1, 0x40_0000), (2, 3), (4, 4), (5, 3)]).encode();
    let bytes = image(Kind::Pagemap, &[message(&[(1, 1)]).encode(), old, new]);
    let json = to_json(&bytes, PRETTY);
    assert!(
        json.contains("\"nr_pages\": 3,\n            \"flags\": \"PE_PRESENT\"\n"),
        "{json}"
    );
    assert!(json.contains("\"compat_nr_pages\": 3,\n            \"flags\": \"PE_PRESENT\",\n            \"nr_pages\": 3"), "{json}");
    comes_back(&bytes);
}

#[test]
fn what_follows_records_is_shown_as_crit_does() {
    let mut builder = Builder::new(Kind::PipesData);
    builder.push_with(&message(&[(1, 7), (2, 80), (3, 65536)]), &[b'x'; 80]);
    let pipes = builder.finish();
    let json = to_json(&pipes, PLAIN);
    let line = "eHh4".repeat(19);
    assert!(
        json.contains(&format!(
            r#""size": 65536, "extra": "{line}\neHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=\n"}}"#
        )),
        "{json}"
    );
    comes_back(&pipes);
    let short = to_json(
        &pipes,
        Options {
            no_payload: true,
            ..PLAIN
        },
    );
    assert!(short.contains(r#""extra": "... <80B>""#), "{short}");
    assert!(from_json(&short).unwrap_err().contains("left out"));

    let mut builder = Builder::new(Kind::TcpStream);
    builder.push_with(
        &message(&[(1, 2), (2, 1), (3, 3), (4, 1), (5, 0), (6, 7), (7, 1460)]),
        b"abcde",
    );
    let tcp = builder.finish();
    assert!(to_json(&tcp, PLAIN).contains(r#""extra": {"inq": "YWI=\n", "outq": "Y2Rl\n"}"#));
    comes_back(&tcp);

    let desc = message(&[(1, 1), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)]).encode();
    let ipc = |fields: &[(u32, u64)]| {
        let mut message = message(fields);
        message.set_bytes(1, &desc);
        message
    };
    let mut builder = Builder::new(Kind::IpcSem);
    builder.push_with(&ipc(&[(2, 3)]), b"\x01\0\x02\0\x03\x01\0\0");
    builder.push_with(&ipc(&[(2, 1)]), b"\x01\0\x02\0\x03\x01\0\0");
    let sem = builder.finish();
    let json = to_json(&sem, PLAIN);
    assert!(json.contains(r#""extra": [1, 2, 259]}"#), "{json}");
    assert!(
        json.contains(r#""extra": [1], "_padding": "AgADAQAA\n""#),
        "{json}"
    );
    comes_back(&sem);

    let text = message(&[(1, 5), (2, 3)]).encode();
    let one = [&[4, 0, 0, 0][..], &text, b"abc\0\0\0\0\x01"].concat();
    let mut builder = Builder::new(Kind::IpcMsg);
    builder.push_with(&ipc(&[(2, 16384), (3, 2)]), &[&one[..], &one[..]].concat());
    let msg = builder.finish();
    let json = to_json(&msg, PLAIN);
    assert!(
        json.contains(
            r#""extra": [{"mtype": 5, "msize": 3}, "YWJj\n", {"mtype": 5, "msize": 3}, "YWJj\n"]"#
        ),
        "{json}"
    );
    comes_back(&msg);

    for chunks in [false, true] {
        let mut builder = Builder::new(Kind::GhostFile);
        let mut ghost = message(&[(1, 0), (2, 0), (3, 0o100_644)]);
        if chunks {
            ghost.set_bool(9, true);
            builder.push(&ghost);
            builder.push_with(&message(&[(1, 5), (2, 4096)]), b"hello");
        } else {
            builder.push_with(&ghost, &[7; 20_000]);
        }
        comes_back(&builder.finish());
    }
}

#[test]
fn addresses_devices_and_names_are_for_people() {
    let mut isk = message(&[
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 1),
        (5, 6),
        (6, 10),
        (7, 80),
        (8, 0),
        (9, 2),
        (10, 128),
        (11, u32::from_ne_bytes([127, 0, 0, 1]).into()),
        (12, 0),
        (12, 0),
        (12, 0),
        (12, u32::from_ne_bytes([0, 0, 0, 1]).into()),
    ]);
    isk.set_bytes(
        13,
        message(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]).encode(),
    );
    isk.set_bytes(
        14,
        message(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)]).encode(),
    );
    let mut file = message(&[(1, 4), (2, 1)]);
    file.set_bytes(4, isk.encode());
    let bytes = image(Kind::Files, &[file.encode()]);
    let json = to_json(&bytes, PRETTY);
    for expected in [
        "\"127.0.0.1\"",
        "\"::1\"",
        "\"INET\"",
        "\"STREAM\"",
        "\"TCP\"",
        "\"LISTEN\"",
        "\"flags\": \"0x2\"",
    ] {
        assert!(json.contains(expected), "{expected} in {json}");
    }
    comes_back(&bytes);
}

#[test]
fn keys_in_another_order_are_understood() {
    let bytes =
        from_json(r#" {"entries": [{"root_id": 6, "cwd_id": 5}], "magic": "FS"} "#).unwrap();
    assert_eq!(bytes, image(Kind::Fs, &[vec![0x08, 5, 0x10, 6]]));
}

#[test]
fn mistakes_in_json_are_named() {
    for (json, expected) in [
        ("", "expected '{', the JSON ends"),
        (
            r#"{"magic": "NOPE", "entries": []}"#,
            "magic names no kind of image",
        ),
        (
            r#"{"magic": "FS"}"#,
            "expected an object with magic and entries",
        ),
        (
            r#"{"magic": "FS", "entries": [{"cwd_id": 5}]}"#,
            "entry 0: fs_entry needs root_id",
        ),
        (
            r#"{"magic": "FS", "entries": [{"cwd": 5}]}"#,
            "fs_entry has no cwd",
        ),
        (
            r#"{"magic": "FS", "entries": [{"cwd_id": -1, "root_id": 1}]}"#,
            "cwd_id: -1 does not fit",
        ),
        (
            r#"{"magic": "FS", "entries": [{"cwd_id": "x", "root_id": 1}]}"#,
            "cwd_id: \"x\" is not one of its values",
        ),
        (
            r#"{"magic": "FS", "entries": [{"cwd_id": 1.5, "root_id": 1}]}"#,
            "1.5 is not a whole number",
        ),
        (
            r#"{"magic": "FS", "entries": []} x"#,
            "something follows the JSON",
        ),
        (
            r#"{"magic": "FS", "entries": [], "more": 1}"#,
            "an image has no more",
        ),
        (
            r#"{"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 5, "extra": "YWI=\n"}]}"#,
            "5 bytes follow it, extra gives 2",
        ),
    ] {
        let error = from_json(json).unwrap_err();
        assert!(
            error.starts_with("x.json: at byte ") && error.contains(expected),
            "{error}"
        );
    }
    let deep = format!(
        r#"{{"magic": "CGROUP", "entries": [{}{}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(from_json(&deep).unwrap_err().contains("nests deeper"));
}

/// A field of any number and type, sometimes encoded longer than needed.
fn any_field() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![1..25u32, Just(1000u32)];
    let value = prop_oneof![
        (
            Just(0u8),
            prop_oneof![0..8u64, any::<u64>(), any::<u32>().prop_map(u64::from)],
            any::<bool>()
        )
            .prop_map(|(typ, number, long)| {
                let mut bytes = varint(number);
                if long && bytes.len() < 9 {
                    *bytes.last_mut().unwrap() |= 0x80;
                    bytes.push(0);
                }
                (typ, bytes)
            }),
        any::<[u8; 8]>().prop_map(|bytes| (1u8, bytes.to_vec())),
        any::<[u8; 4]>().prop_map(|bytes| (5u8, bytes.to_vec())),
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..120),
            "[ -~é\n]{0,90}".prop_map(String::into_bytes)
        ]
        .prop_map(|bytes| (2u8, [varint(bytes.len() as u64), bytes].concat())),
    ];
    (number, value).prop_map(|(number, (typ, bytes))| {
        [varint(u64::from(number << 3 | u32::from(typ))), bytes].concat()
    })
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop::collection::vec(any_field(), 0..8).prop_map(|fields| fields.concat());
    leaf.prop_recursive(3, 24, 5, |inner| {
        let nested = (1..20u32, inner).prop_map(|(number, bytes)| {
            [
                varint((number << 3 | 2).into()),
                varint(bytes.len() as u64),
                bytes,
            ]
            .concat()
        });
        prop::collection::vec(prop_oneof![any_field(), nested], 0..8)
            .prop_map(|fields| fields.concat())
    })
}

proptest! {
    #[test]
    fn every_image_comes_back_from_json(
        kind in prop::sample::select(Kind::ALL.iter().filter(|kind| {
            kind.framing() == criu_image::Framing::Plain && **kind != Kind::Inventory
        }).copied().collect::<Vec<_>>()),
        payloads in prop::collection::vec(any_message(), 0..4),
    ) {
        // What happens to be no message where the schema has one is an error, not lost.
        let bytes = image(kind, &payloads);
        let mut json = Vec::new();
        let mut reader = Reader::new("x.img", bytes.as_slice(), Some(kind)).unwrap();
        if decode(&mut reader, &mut json, PLAIN).is_ok() {
            comes_back(&bytes);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for kind in Kind::ALL {
            let bytes = [Builder::new(*kind).finish(), bytes.clone()].concat();
            if let Ok(mut reader) = Reader::new("x.img", bytes.as_slice(), None) {
                let _ = decode(&mut reader, &mut std::io::sink(), PRETTY);
            }
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in "[\\[\\]{}\",:a-z0-9\\\\ ]{0,80}") {
        let _ = from_json(&text);
        let _ = from_json(&format!(r#"{{"magic": "FS", "entries": [{text}"#));
    }
}
