//! What the fuzz targets check, so that ordinary tests replay the corpus with the same checks.
//!
//! A property that does not hold is a panic here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a property that does not hold is a panic"
)]
#![allow(dead_code, reason = "each target uses one")]

use criu_image::json::{self, Options};
use criu_image::views::*;
use criu_image::wire::Message;
use criu_image::{Change, Error, Image, Kind, Named, Reader};

/// Framing: both ways of reading agree, and rewriting nothing changes nothing.
pub(crate) fn framing(bytes: &[u8]) {
    let whole = Image::detect("x.img", bytes.to_vec());
    let streamed = Reader::new("x.img", bytes, None);
    let (Ok(image), Ok(mut reader)) = (&whole, streamed) else {
        return;
    };
    let mut records = image.records();
    loop {
        match (records.next().transpose(), reader.advance()) {
            (Ok(Some(record)), Ok(true)) => {
                assert_eq!(record.payload, reader.payload());
                assert_eq!(record.index, reader.index());
                assert_eq!(record.offset as u64, reader.offset());
                let mut extra = vec![0; record.extra.len() + 1];
                let got = reader.read_extra(&mut extra).unwrap();
                assert_eq!(&extra[..got], record.extra);
                let _ = record.object();
            }
            (Ok(None), Ok(false)) => {
                assert_eq!(image.rewrite::<Error>(|_| Ok(Change::Keep)).unwrap(), bytes);
                return;
            }
            // Each notices a record that is cut short, the stream only when it comes to the end.
            (Err(_), _) | (_, Err(_)) => return,
            (whole, streamed) => panic!("{whole:?} {streamed:?}"),
        }
    }
}

/// Views: what is read and written back changes nothing, and a name set anew is read again.
pub(crate) fn views(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let Ok(message) = Message::parse(bytes) else {
        return;
    };
    assert_eq!(message.encode(), bytes);
    macro_rules! check {
        ($($view:ident),*) => {
            [$(check_view::<$view> as fn(&[u8])),*]
        };
    }
    let all = check![
        InventoryEntry,
        FileEntry,
        RegFileEntry,
        FownEntry,
        InotifyFileEntry,
        InotifyWdEntry,
        FhEntry,
        FdinfoEntry,
        MntEntry,
        CgroupEntry,
        CgSetEntry,
        CgMemberEntry,
        CgControllerEntry,
        CgroupDirEntry,
        CgroupPropEntry,
        UtsnsEntry,
        PstreeEntry,
        TaskKobjIdsEntry,
        CoreEntry,
        TaskCoreEntry,
        ThreadCoreEntry,
        FsEntry,
        MmEntry,
        VmaEntry,
        RemapFilePathEntry,
        InetSkEntry,
        UnixSkEntry,
        FanotifyFileEntry,
        FifoEntry,
        TtyFileEntry,
        NsFileEntry
    ];
    all[usize::from(*which) % all.len()](bytes);
}

fn check_view<T: View + std::fmt::Debug>(bytes: &[u8]) {
    let mut message = Message::parse(bytes).unwrap();
    let Ok(view) = T::read(&message) else { return };
    view.write_into(&mut message).unwrap();
    assert_eq!(message.encode(), bytes, "{view:?}");
    // Onto nothing, it means the same.
    let fresh = view.to_message().encode();
    assert_eq!(T::read(&Message::parse(&fresh).unwrap()).unwrap(), view);
}

/// JSON: what was decoded is encoded to the same bytes, in both forms.
pub(crate) fn json_decode(bytes: &[u8]) {
    for pretty in [false, true] {
        let Ok(mut reader) = Reader::new("x.img", bytes, None) else {
            return;
        };
        let mut text = Vec::new();
        if json::decode(
            &mut reader,
            &mut text,
            Options {
                pretty,
                no_payload: false,
            },
        )
        .is_err()
        {
            return;
        }
        let mut again = Vec::new();
        if let Err(error) = json::encode("x.json", text.as_slice(), &mut again) {
            panic!("{error}: {}", String::from_utf8_lossy(&text));
        }
        assert_eq!(again, bytes, "{}", String::from_utf8_lossy(&text));
    }
}

/// JSON of any kind: what can be encoded is an image, and comes back the same from its own JSON.
pub(crate) fn json_encode(text: &[u8]) {
    let mut image = Vec::new();
    if json::encode("x.json", text, &mut image).is_ok() {
        // An inventory of another layout can be written, for tests, and is refused when it is read.
        json_decode(&image);
    }
}

/// Names of files.
pub(crate) fn names(name: &str) {
    if let Named::Record(kind) = Named::of(name) {
        assert!(Kind::ALL.contains(&kind));
    }
}
