//! Records with bytes behind their messages, and what both ways of reading make of damaged ones.

use criu_image::wire::Message;
use criu_image::{Builder, Change, Error, Image, Kind, Reader};

fn message(fields: &[(u32, u64)]) -> Message<'static> {
    let mut message = Message::default();
    for (number, value) in fields {
        message.set_u64(*number, *value);
    }
    message
}

/// The number fields of a message, and the bytes behind it.
type Spec<'a> = (&'a [(u32, u64)], &'a [u8]);

fn image(kind: Kind, records: &[Spec<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(kind);
    for (fields, extra) in records {
        builder.push_with(&message(fields), extra);
    }
    builder.finish()
}

/// Reads both ways, checks that they agree, and returns the bytes behind each message.
fn extras(kind: Kind, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let whole = Image::from_bytes("x.img", bytes.to_vec(), kind).and_then(|image| {
        let again = image.rewrite::<Error>(|_| Ok(Change::Keep))?;
        assert_eq!(again, bytes, "rewriting nothing changes nothing");
        image
            .records()
            .map(|record| Ok(record?.extra.to_vec()))
            .collect::<Result<Vec<_>, Error>>()
    });
    let streamed = stream(kind, bytes);
    assert_eq!(whole.is_ok(), streamed.is_ok(), "{whole:?} {streamed:?}");
    if let (Ok(whole), Ok(streamed)) = (&whole, &streamed) {
        assert_eq!(whole, streamed);
    }
    whole.map_err(|error| error.to_string())
}

fn stream(kind: Kind, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut reader = Reader::new("x.img", bytes, Some(kind))?;
    let mut all = Vec::new();
    while reader.advance()? {
        let mut extra = Vec::new();
        let mut buffer = [0; 5];
        loop {
            match reader.read_extra(&mut buffer)? {
                0 => break,
                got => extra.extend_from_slice(&buffer[..got]),
            }
        }
        all.push(extra);
    }
    Ok(all)
}

#[test]
fn every_kind_of_payload_is_framed() {
    let ipc_msg = message(&[(1, 1), (2, 3)]).encode();
    let length = u32::try_from(ipc_msg.len()).unwrap().to_le_bytes();
    let queue = [
        &length[..],
        &ipc_msg,
        b"abc\0\0\0\0\0",
        &length[..],
        &ipc_msg,
        b"def\0\0\0\0\0",
    ]
    .concat();
    let cases: Vec<(Kind, Vec<Spec<'_>>)> = vec![
        (
            Kind::PipesData,
            vec![(&[(1, 7), (2, 3)], b"abc"), (&[(1, 8), (2, 0)], b"")],
        ),
        (Kind::FifoData, vec![(&[(1, 7), (2, 3)], b"abc")]),
        (
            Kind::SkQueues,
            vec![(&[(1, 7), (2, 4)], b"abcd"), (&[(1, 7), (2, 1)], b"e")],
        ),
        (
            Kind::TcpStream,
            vec![(&[(1, 2), (2, 9), (3, 3), (4, 9)], b"abcde")],
        ),
        (
            Kind::BpfmapData,
            vec![(&[(1, 1), (2, 2), (3, 3), (4, 1)], b"abcde")],
        ),
        (
            Kind::IpcShm,
            vec![(&[(2, 5)], b"abcde\0\0\0"), (&[(2, 5), (3, 1)], b"")],
        ),
        (
            Kind::IpcSem,
            vec![
                (&[(2, 3)], b"\x01\0\x02\0\x03\0\0\0"),
                (&[(2, 4)], b"\x01\0\x02\0\x03\0\x04\0"),
            ],
        ),
        (
            Kind::IpcMsg,
            vec![(&[(2, 100), (3, 2)], &queue), (&[(2, 100), (3, 0)], b"")],
        ),
        (
            Kind::GhostFile,
            vec![(&[(3, 0o100_644)], b"everything to the end")],
        ),
        (
            Kind::GhostFile,
            vec![
                (&[(9, 1)], b""),
                (&[(1, 3), (2, 0)], b"abc"),
                (&[(1, 2), (2, 4096)], b"de"),
            ],
        ),
        (
            Kind::Pagemap,
            vec![(&[(1, 1)], b""), (&[(1, 4096), (2, 1)], b"")],
        ),
    ];
    for (kind, records) in cases {
        let bytes = image(kind, &records);
        let expected: Vec<_> = records.iter().map(|(_, extra)| extra.to_vec()).collect();
        assert_eq!(extras(kind, &bytes).unwrap(), expected, "{kind}");
    }
}

#[test]
fn an_image_cut_short_anywhere_is_an_error_or_has_fewer_records() {
    let bytes = image(
        Kind::PipesData,
        &[(&[(1, 7), (2, 3)], b"abc"), (&[(1, 8), (2, 2)], b"de")],
    );
    let whole = extras(Kind::PipesData, &bytes).unwrap().len();
    for length in 0..bytes.len() {
        if let Ok(fewer) = extras(Kind::PipesData, &bytes[..length]) {
            assert!(fewer.len() < whole);
        }
    }
}

#[test]
fn hostile_lengths_are_errors_that_name_the_place() {
    let huge = u64::from(u32::MAX);
    let cases = [
        (
            Kind::PipesData,
            vec![(2, huge)],
            "is followed by 4294967295 bytes, 2 bytes are left",
        ),
        (
            Kind::TcpStream,
            vec![(1, u64::MAX), (3, u64::MAX)],
            "bytes are left",
        ),
        (Kind::IpcShm, vec![(2, u64::MAX)], "bytes are left"),
        (Kind::IpcSem, vec![(2, u64::MAX)], "bytes are left"),
        (Kind::IpcMsg, vec![(3, u64::MAX)], "message 0 is cut short"),
    ];
    for (kind, fields, expected) in cases {
        let error = extras(kind, &image(kind, &[(&fields, b"ab")])).unwrap_err();
        assert!(
            error.starts_with("x.img: at byte ") && error.contains(expected),
            "{kind}: {error}"
        );
    }
}

#[test]
fn inventory_and_service_images_have_their_own_headers() {
    let stats = image(Kind::Stats, &[(&[], b"")]);
    assert_eq!(stats[..4], 0x5510_5940_u32.to_le_bytes());
    assert_eq!(
        Image::detect("stats-dump", stats).unwrap().kind(),
        Kind::Stats
    );
    let inventory = image(Kind::Inventory, &[(&[(1, 2)], b"")]);
    assert_eq!(inventory.len(), 4 + 4 + 2);
    assert_eq!(extras(Kind::Inventory, &inventory).unwrap(), [b""]);
    let old = image(Kind::Inventory, &[(&[(1, 1)], b"")]);
    assert!(
        extras(Kind::Inventory, &old)
            .unwrap_err()
            .contains("layout version 1, expected 2")
    );
}

#[test]
fn old_layouts_are_refused_with_a_sentence() {
    let reg_files = [0x5456_4319_u32.to_le_bytes(), 0x5036_3636_u32.to_le_bytes()].concat();
    let error = extras(Kind::Files, &reg_files).unwrap_err();
    assert!(
        error.contains("this is reg-files of an old layout"),
        "{error}"
    );
    let error = Image::detect("reg-files.img", reg_files)
        .unwrap_err()
        .to_string();
    assert!(error.contains("dump again with a current criu"), "{error}");
}
