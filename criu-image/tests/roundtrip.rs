//! Properties of the wire tree and the views.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fuzz;

use criu_image::Bytes;
use criu_image::views::{
    CgMemberEntry, CgSetEntry, FdinfoEntry, FileEntry, MntEntry, RegFileEntry, View,
};
use criu_image::wire::Message;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes)
}

fn reg() -> impl Strategy<Value = RegFileEntry> {
    let validation = (
        any::<Option<u64>>(),
        any::<Option<u32>>(),
        prop::collection::vec(any::<u32>(), 0..5),
    );
    (
        any::<u32>(),
        any::<u64>(),
        text(),
        any::<Option<i32>>(),
        validation,
    )
        .prop_map(|(id, pos, name, mnt_id, (size, mode, build_id))| {
            let mnt_id = mnt_id.map(criu_image::Sint32);
            RegFileEntry {
                id,
                pos,
                name,
                mnt_id,
                size,
                mode,
                build_id,
                ..RegFileEntry::default()
            }
        })
}

fn set() -> impl Strategy<Value = CgSetEntry> {
    let member = (text(), text(), any::<Option<u32>>()).prop_map(|(name, path, cgns_prefix)| {
        CgMemberEntry {
            name,
            path,
            cgns_prefix,
        }
    });
    (any::<u32>(), prop::collection::vec(member, 0..5))
        .prop_map(|(id, ctls)| CgSetEntry { id, ctls })
}

/// Whatever a message held before, it reads back as what was written, and keeps the fields that the view has not got.
fn written<T: View + std::fmt::Debug>(before: &T, after: &T) {
    let mut message = before.to_message();
    message.push_bytes(9999, b"unknown");
    after.write_into(&mut message).unwrap();
    let bytes = message.encode();
    let again = Message::parse(&bytes).unwrap();
    assert_eq!(&T::read(&again).unwrap(), after);
    assert_eq!(again.bytes(9999), Some(&b"unknown"[..]));
    // Written once more, nothing changes.
    let mut same = again.clone();
    after.write_into(&mut same).unwrap();
    assert_eq!(same.encode(), bytes);
}

proptest! {
    #[test]
    fn what_is_written_is_read(a in reg(), b in reg(), c in set(), d in set()) {
        written(&a, &b);
        written(&c, &d);
        let file = |reg: &RegFileEntry| FileEntry { type_: 1, id: reg.id, reg: Some(reg.clone()), ..FileEntry::default() };
        written(&file(&a), &file(&b));
        written(&file(&a), &FileEntry { reg: None, ..file(&a) });
    }

    #[test]
    fn messages_that_parse_come_back_byte_for_byte(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn views_of_any_message_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        fuzz::views(&bytes);
    }

    #[test]
    fn plain_views_survive(fd in any::<(u32, u32, u32, u32)>(), point in text(), key in prop::option::of(text())) {
        let (id, flags, type_, fd) = fd;
        written(&FdinfoEntry::default(), &FdinfoEntry { id, flags, type_, fd });
        written(&MntEntry::default(), &MntEntry { mnt_id: id, mountpoint: point, ext_key: key, ..MntEntry::default() });
    }
}
