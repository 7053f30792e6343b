//! Typed views of messages: plain data that is read from a message and written back into it.
//!
//! [`View::write_into`] touches only the known fields whose value differs from what the message holds. So read, change,
//! write is lossless for everything else: unknown fields, order, and how untouched numbers were encoded.
//!
//! In a repeated field, elements that stay the same at both ends keep their bytes; between them the old and the new
//! elements are paired in order. So taking one out or putting one in leaves the others untouched.

use std::cell::Cell;

use crate::text::Bytes;
use crate::wire::{Error, Field, FieldRef, Message, WireType, unzigzag, zigzag};

/// A message type as plain data.
pub trait View: Sized + Default + PartialEq {
    /// Name of the message in CRIU's schema.
    const NAME: &'static str;

    /// The known fields, by number and name.
    const FIELDS: &'static [(u32, &'static str)];

    /// Reads the known fields.
    ///
    /// # Errors
    /// When a required field is missing or a value does not fit its type.
    fn read(message: &Message<'_>) -> Result<Self, Error>;

    /// Reads the known fields of a message in bytes, in one pass and without a [`Message`].
    ///
    /// # Errors
    /// As [`Self::read`], and when it is no protobuf message.
    fn decode(bytes: &[u8]) -> Result<Self, Error>;

    /// Writes the fields that differ from what the message holds.
    ///
    /// # Errors
    /// When a nested message cannot be parsed.
    fn write_into(&self, message: &mut Message<'_>) -> Result<(), Error>;

    /// A new message with these fields only.
    fn to_message(&self) -> Message<'static> {
        let mut message = Message::default();
        // An empty message has no nested one that could be damaged.
        let _ = self.write_into(&mut message);
        message
    }
}

/// A `sint32`, which is zig-zag encoded. `reg_file_entry.mnt_id` is one, `mnt_entry.mnt_id` is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sint32(pub i32);

/// A `sint64`, which is zig-zag encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sint64(pub i64);

/// A type that a field of a view can have.
pub(crate) trait FieldValue: Sized + PartialEq {
    /// What was found so far.
    type Slot: Default;
    /// Takes one field of the number.
    fn take(slot: &mut Self::Slot, field: &FieldRef<'_>) -> Result<(), Error>;
    /// `None`: the field is not there and has to be.
    fn finish(slot: Self::Slot) -> Option<Self>;
    /// Writes the value; only called when it differs.
    fn set(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error>;

    /// The value that a message holds.
    fn get(message: &Message<'_>, number: u32) -> Result<Option<Self>, Error> {
        let mut slot = Self::Slot::default();
        for field in message.all(number) {
            Self::take(&mut slot, &field.as_ref())?;
        }
        Ok(Self::finish(slot))
    }
}

/// A value that takes one field and can be repeated.
pub(crate) trait Single: Sized + PartialEq {
    /// Protobuf merges two messages in a field that holds one. CRIU never writes that, and a reader that takes the last
    /// would see something else than CRIU does, so it is refused. Of two numbers or texts all readers take the last.
    const UNIQUE: bool = false;

    fn from_field(field: &FieldRef<'_>) -> Result<Self, Error>;
    fn to_field(&self, number: u32) -> Field<'static>;
    /// The value as a field that takes the place of another.
    fn over(&self, old: &Field<'_>) -> Result<Field<'static>, Error> {
        Ok(self.to_field(old.number()))
    }
}

fn wrong<T>(field: &FieldRef<'_>, expected: &str) -> Result<T, Error> {
    let what = format!("field {} is not {expected}", field.number);
    Err(Error {
        offset: field.value_offset(),
        what,
    })
}

/// Takes the field of a value that is not repeated.
pub(crate) fn take_one<T: Single>(slot: &mut Option<T>, field: &FieldRef<'_>) -> Result<(), Error> {
    if T::UNIQUE && slot.is_some() {
        let what = format!("field {} is there twice", field.number);
        return Err(Error {
            offset: field.value_offset(),
            what,
        });
    }
    *slot = Some(T::from_field(field)?);
    Ok(())
}

pub(crate) fn put<T: Single>(
    value: &T,
    message: &mut Message<'_>,
    number: u32,
) -> Result<(), Error> {
    let field = match message.get(number) {
        Some(old) => value.over(old)?,
        None => value.to_field(number),
    };
    message.put(field);
    Ok(())
}

macro_rules! single {
    ($type:ty) => {
        impl $crate::view::FieldValue for $type {
            type Slot = Option<Self>;
            fn take(
                slot: &mut Self::Slot,
                field: &$crate::wire::FieldRef<'_>,
            ) -> Result<(), $crate::wire::Error> {
                $crate::view::take_one(slot, field)
            }
            fn finish(slot: Self::Slot) -> Option<Self> {
                slot
            }
            fn set(
                &self,
                message: &mut $crate::wire::Message<'_>,
                number: u32,
            ) -> Result<(), $crate::wire::Error> {
                $crate::view::put(self, message, number)
            }
        }
    };
}
pub(crate) use single;

macro_rules! number {
    ($type:ty, $expected:literal, $from:expr, $to:expr) => {
        impl Single for $type {
            fn from_field(field: &FieldRef<'_>) -> Result<Self, Error> {
                let from: fn(u64) -> Option<$type> = $from;
                field
                    .as_u64()
                    .and_then(from)
                    .map_or_else(|| wrong(field, $expected), Ok)
            }
            fn to_field(&self, number: u32) -> Field<'static> {
                let to: fn($type) -> u64 = $to;
                Field::number_field(number, to(*self))
            }
        }
        single!($type);
    };
}

number!(u32, "a 32-bit number", |n| n.try_into().ok(), u64::from);
number!(u64, "a number", Some, |n| n);
number!(
    i32,
    "a signed 32-bit number",
    |n| n.cast_signed().try_into().ok(),
    |n| i64::from(n).cast_unsigned()
);
number!(
    i64,
    "a signed number",
    |n| Some(n.cast_signed()),
    i64::cast_unsigned
);
number!(bool, "true or false", |n| Some(n != 0), u64::from);
number!(
    Sint32,
    "a signed 32-bit number",
    |n| unzigzag(n).try_into().ok().map(Sint32),
    |n| zigzag(i64::from(n.0))
);
number!(
    Sint64,
    "a signed number",
    |n| Some(Sint64(unzigzag(n))),
    |n| zigzag(n.0)
);

impl Single for Bytes {
    fn from_field(field: &FieldRef<'_>) -> Result<Self, Error> {
        match field.wire_type {
            WireType::Len => Ok(Self(field.value.to_vec())),
            _ => wrong(field, "text"),
        }
    }
    fn to_field(&self, number: u32) -> Field<'static> {
        Field::bytes_field(number, &self.0)
    }
}
single!(Bytes);

impl<T: Single> FieldValue for Option<T> {
    type Slot = Self;
    fn take(slot: &mut Self, field: &FieldRef<'_>) -> Result<(), Error> {
        take_one(slot, field)
    }
    fn finish(slot: Self) -> Option<Self> {
        Some(slot)
    }
    fn set(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error> {
        match self {
            Some(value) => put(value, message, number),
            None => {
                message.remove(number);
                Ok(())
            }
        }
    }
}

impl<T: Single> FieldValue for Vec<T> {
    type Slot = Self;
    fn take(slot: &mut Self, field: &FieldRef<'_>) -> Result<(), Error> {
        slot.push(T::from_field(field)?);
        Ok(())
    }
    fn finish(slot: Self) -> Option<Self> {
        Some(slot)
    }

    fn set(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error> {
        let old = Self::get(message, number)?.unwrap_or_default();
        let start = old
            .iter()
            .zip(self)
            .take_while(|(old, new)| old == new)
            .count();
        let (old, new) = (&old[start..], &self[start..]);
        let end = old
            .iter()
            .rev()
            .zip(new.iter().rev())
            .take_while(|(old, new)| old == new)
            .count();
        let (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);
        let fields = message.all(number).skip(start);
        let fields = fields
            .take(old.len())
            .zip(old.iter().zip(new))
            .map(|(field, (old, new))| {
                // An equal one between two others keeps its bytes as well.
                if old == new {
                    Ok(field.clone().into_owned())
                } else {
                    new.over(field)
                }
            });
        let mut fields = fields.collect::<Result<Vec<_>, _>>()?;
        fields.extend(
            new.iter()
                .skip(old.len())
                .map(|value| value.to_field(number)),
        );
        message.splice(number, start, old.len(), fields);
        Ok(())
    }
}

/// Reads a nested message, unless messages nest too deeply: cgroups hold cgroups, and each level takes stack.
pub(crate) fn deeper<T>(read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    const MAX_DEPTH: usize = 100;
    thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
    }
    DEPTH.with(|depth| {
        if depth.get() >= MAX_DEPTH {
            return Err(Error {
                offset: 0,
                what: format!("messages nest deeper than {MAX_DEPTH}"),
            });
        }
        depth.set(depth.get() + 1);
        let read = read();
        depth.set(depth.get() - 1);
        read
    })
}

/// The bytes of the message in a field.
pub(crate) fn nested<'f>(field: &FieldRef<'f>) -> Result<&'f [u8], Error> {
    match field.wire_type {
        WireType::Len => Ok(field.value),
        _ => wrong(field, "a message"),
    }
}

/// Defines views: `number => name: Type` for each known field. A field of type `T` is required, `Option<T>` optional,
/// `Vec<T>` repeated.
macro_rules! view {
    ($($(#[$doc:meta])* pub struct $name:ident = $message:literal {
        $($(#[$field_doc:meta])* $number:literal => $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            fn collect<'f>(
                fields: impl Iterator<Item = Result<$crate::wire::FieldRef<'f>, $crate::wire::Error>>,
            ) -> Result<Self, $crate::wire::Error> {
                $(let mut $field = <$type as $crate::view::FieldValue>::Slot::default();)*
                for found in fields {
                    let found = found?;
                    match found.number {
                        $($number => <$type as $crate::view::FieldValue>::take(&mut $field, &found)?,)*
                        _ => {}
                    }
                }
                Ok(Self {$(
                    $field: <$type as $crate::view::FieldValue>::finish($field).ok_or_else(|| {
                        let what = concat!($message, " has no field ", $number, " (", stringify!($field), ")");
                        $crate::wire::Error { offset: 0, what: what.into() }
                    })?,
                )*})
            }
        }

        impl $crate::view::View for $name {
            const NAME: &'static str = $message;
            const FIELDS: &'static [(u32, &'static str)] = &[$(($number, stringify!($field)),)*];

            fn read(message: &$crate::wire::Message<'_>) -> Result<Self, $crate::wire::Error> {
                Self::collect(message.fields().iter().map(|field| Ok(field.as_ref())))
            }

            fn decode(bytes: &[u8]) -> Result<Self, $crate::wire::Error> {
                Self::collect($crate::wire::fields(bytes))
            }

            fn write_into(&self, message: &mut $crate::wire::Message<'_>) -> Result<(), $crate::wire::Error> {
                $(
                    let held = <$type as $crate::view::FieldValue>::get(message, $number)?;
                    if held.as_ref() != Some(&self.$field) {
                        $crate::view::FieldValue::set(&self.$field, message, $number)?;
                    }
                )*
                Ok(())
            }
        }

        impl $crate::view::Single for $name {
            const UNIQUE: bool = true;

            fn from_field(field: &$crate::wire::FieldRef<'_>) -> Result<Self, $crate::wire::Error> {
                let bytes = $crate::view::nested(field)?;
                let read = $crate::view::deeper(|| $crate::view::View::decode(bytes));
                read.map_err(|error| error.within(field.value_offset()))
            }
            fn to_field(&self, number: u32) -> $crate::wire::Field<'static> {
                $crate::wire::Field::bytes_field(number, &$crate::view::View::to_message(self).encode())
            }
            fn over(&self, old: &$crate::wire::Field<'_>) -> Result<$crate::wire::Field<'static>, $crate::wire::Error> {
                let old = old.as_ref();
                let mut nested = $crate::wire::Message::parse($crate::view::nested(&old)?)?;
                $crate::view::View::write_into(self, &mut nested)?;
                Ok($crate::wire::Field::bytes_field(old.number, &nested.encode()))
            }
        }
        $crate::view::single!($name);
    )*};
}
pub(crate) use view;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{CgMemberEntry, CgSetEntry, FileEntry, RegFileEntry};

    fn set(names: &[&str]) -> CgSetEntry {
        let ctls = names.iter().map(|name| CgMemberEntry {
            name: (*name).into(),
            ..CgMemberEntry::default()
        });
        CgSetEntry {
            id: 1,
            ctls: ctls.collect(),
        }
    }

    #[test]
    fn an_element_taken_out_or_put_in_leaves_what_others_hold_beside() {
        let mut message = Message::default();
        for name in ["a", "b", "c"] {
            let mut member = CgMemberEntry {
                name: name.into(),
                ..CgMemberEntry::default()
            }
            .to_message();
            member.set_bytes(99, name.as_bytes());
            message.push_bytes(2, member.encode());
        }
        message.set_u64(1, 1);
        let extras = |message: &Message<'_>| -> Vec<Option<String>> {
            message
                .messages(2)
                .map(|member| member.unwrap().str(99).map(str::to_owned))
                .collect()
        };
        let some = |text: &str| Some(text.to_owned());
        set(&["a", "c"]).write_into(&mut message).unwrap();
        assert_eq!(extras(&message), [some("a"), some("c")]);
        set(&["a", "x", "c"]).write_into(&mut message).unwrap();
        assert_eq!(extras(&message), [some("a"), None, some("c")]);
        set(&["a", "y", "c"]).write_into(&mut message).unwrap();
        assert_eq!(extras(&message), [some("a"), None, some("c")]);
        set(&[]).write_into(&mut message).unwrap();
        assert_eq!(message.encode(), [8, 1]);
    }

    #[test]
    fn zig_zag_and_plain_numbers_are_told_apart() {
        let reg = RegFileEntry {
            mnt_id: Some(Sint32(77)),
            ..RegFileEntry::default()
        };
        assert_eq!(reg.to_message().u64(7), Some(154));
    }

    #[test]
    fn a_message_that_is_there_twice_is_refused() {
        let mut message = FileEntry {
            reg: Some(RegFileEntry::default()),
            ..FileEntry::default()
        }
        .to_message();
        let again = message.bytes(3).unwrap().to_vec();
        message.push_bytes(3, again);
        let bytes = message.encode();
        let error = FileEntry::read(&Message::parse(&bytes).unwrap()).unwrap_err();
        assert!(error.what.contains("field 3 is there twice"), "{error}");
    }

    #[test]
    fn messages_that_nest_too_deeply_are_refused() {
        use crate::views::CgroupDirEntry;
        let nested = |depth: usize| {
            let mut dir = CgroupDirEntry {
                dir_name: "a".into(),
                ..CgroupDirEntry::default()
            }
            .to_message()
            .encode();
            for _ in 0..depth {
                let mut outer = Message::default();
                outer.set_bytes(1, "a");
                outer.set_bytes(2, &dir);
                dir = outer.encode();
            }
            dir
        };
        assert!(CgroupDirEntry::decode(&nested(90)).is_ok());
        for _ in 0..2 {
            let error = CgroupDirEntry::decode(&nested(5000)).unwrap_err();
            assert!(error.what.contains("nest deeper than 100"), "{error}");
        }
        assert!(CgroupDirEntry::decode(&nested(90)).is_ok());
    }

    #[test]
    fn errors_in_nested_messages_count_from_the_outer_one() {
        // file_entry { type: 1, id: 1, reg: { id: 1, flags: <cut short> } }
        let bytes = [0x08, 1, 0x10, 1, 0x1a, 3, 0x08, 1, 0x10];
        let error = FileEntry::read(&Message::parse(&bytes).unwrap()).unwrap_err();
        assert_eq!(error.offset, 9, "{error}");
    }
}
