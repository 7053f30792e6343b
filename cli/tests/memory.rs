//! Memory is that of one record, however large the image, and that of nothing for lengths that are not there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{BufWriter, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use criu_image::wire::Message;
use criu_image::{Builder, Kind};

/// What a program of this size takes anyway, and some, in KiB.
const ENOUGH: u64 = 16 << 10;

/// Feeds `restow image ...` and returns its memory at its peak in KiB, taken before its input ends.
fn peak(args: &[&str], feed: impl FnOnce(&mut BufWriter<ChildStdin>)) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_restow"))
        .arg("image")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let drain = std::thread::spawn(move || {
        std::io::copy(&mut output.by_ref(), &mut std::io::sink()).unwrap()
    });
    let mut input = BufWriter::new(child.stdin.take().unwrap());
    feed(&mut input);
    // It has ended already when it did not like its input.
    let _ = input.flush();
    let kib = memory(&child);
    drop(input);
    child.wait().unwrap();
    drain.join().unwrap();
    kib
}

fn memory(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    // A process that has ended has none.
    line.map_or(0, |line| {
        line.trim().trim_end_matches(" kB").parse().unwrap()
    })
}

#[test]
fn a_large_pagemap_is_decoded_in_the_memory_of_one_record() {
    let kib = peak(&["decode"], |out| {
        let mut builder = Builder::new(Kind::Pagemap);
        let mut head = Message::default();
        head.set_u64(1, 1);
        builder.push(&head);
        out.write_all(&builder.finish()).unwrap();
        let mut entry = Message::default();
        entry.set_u64(1, 0x7f00_0000_0000);
        entry.set_u64(2, 1);
        entry.set_u64(4, 4);
        entry.set_u64(5, 1);
        let entry = entry.encode();
        for _ in 0..300_000 {
            out.write_all(&u32::try_from(entry.len()).unwrap().to_le_bytes())
                .unwrap();
            out.write_all(&entry).unwrap();
        }
    });
    assert!(kib > 0 && kib < ENOUGH, "{kib} KiB");
}

#[test]
fn large_json_is_encoded_in_the_memory_of_one_record() {
    let kib = peak(&["encode"], |out| {
        out.write_all(br#"{"magic": "PAGEMAP", "entries": [{"pages_id": 1}"#)
            .unwrap();
        for _ in 0..200_000 {
            out.write_all(
                br#", {"vaddr": 139637976727552, "compat_nr_pages": 1, "flags": 4, "nr_pages": 1}"#,
            )
            .unwrap();
        }
        out.write_all(b"]").unwrap();
    });
    assert!(kib > 0 && kib < ENOUGH, "{kib} KiB");
}

#[test]
fn a_length_of_four_gibibytes_takes_no_memory() {
    let kib = peak(&["decode"], |out| {
        out.write_all(&Builder::new(Kind::Files).finish()).unwrap();
        out.write_all(&[0xff; 4]).unwrap();
        out.write_all(&[0x0a; 4096]).unwrap();
        out.flush().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
    });
    assert!(kib < ENOUGH, "{kib} KiB");
}

#[test]
fn a_large_payload_is_decoded_without_holding_it() {
    let kib = peak(&["decode"], |out| {
        let mut builder = Builder::new(Kind::GhostFile);
        let mut ghost = Message::default();
        for (number, value) in [(1, 0), (2, 0), (3, 0o100_644)] {
            ghost.set_u64(number, value);
        }
        builder.push(&ghost);
        out.write_all(&builder.finish()).unwrap();
        for _ in 0..384 {
            out.write_all(&[7; 64 << 10]).unwrap();
        }
    });
    assert!(kib > 0 && kib < ENOUGH, "{kib} KiB");
}
