//! Typed views of messages: plain data that is read from a message and written back into it.
//!
//! [`View::write_into`] touches only the known fields whose value differs from what the message holds. So read, change,
//! write is lossless for everything else: unknown fields, order, and how untouched numbers were encoded.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::wire::{Error, Message, WireType, unzigzag, zigzag};

/// A message type as plain data.
pub trait View: Sized + Default + PartialEq {
    /// Name of the message in CRIU's schema.
    const NAME: &'static str;

    /// Reads the known fields.
    ///
    /// # Errors
    /// When a required field is missing or a value does not fit its type.
    fn read(message: &Message<'_>) -> Result<Self, Error>;

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

/// Text of an image: CRIU's `string` and `bytes`. Paths of Linux need not be UTF-8, and CRIU does not check.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl AsRef<Path> for Bytes {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<PathBuf> for Bytes {
    fn from(path: PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
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
    /// `Ok(None)`: the field is not there and has to be.
    fn get(message: &Message<'_>, number: u32) -> Result<Option<Self>, Error>;
    /// Writes the value; only called when it differs.
    fn set(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error>;
}

/// A value that takes one field and can be repeated.
pub(crate) trait Single: Sized + PartialEq {
    fn from_field(field: &crate::wire::Field<'_>) -> Result<Self, Error>;
    fn put(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error>;
    fn push(&self, message: &mut Message<'_>, number: u32);
    /// Writes the value over the `index`th field.
    fn replace(&self, message: &mut Message<'_>, number: u32, index: usize) -> Result<(), Error>;
}

fn wrong<T>(number: u32, expected: &str) -> Result<T, Error> {
    Err(Error {
        offset: 0,
        what: format!("field {number} is not {expected}"),
    })
}

macro_rules! single {
    ($type:ty) => {
        impl $crate::view::FieldValue for $type {
            fn get(
                message: &$crate::wire::Message<'_>,
                number: u32,
            ) -> Result<Option<Self>, $crate::wire::Error> {
                message
                    .get(number)
                    .map(<$type as $crate::view::Single>::from_field)
                    .transpose()
            }
            fn set(
                &self,
                message: &mut $crate::wire::Message<'_>,
                number: u32,
            ) -> Result<(), $crate::wire::Error> {
                $crate::view::Single::put(self, message, number)
            }
        }
    };
}
pub(crate) use single;

macro_rules! number {
    ($type:ty, $expected:literal, $from:expr, $to:expr) => {
        impl Single for $type {
            fn from_field(field: &crate::wire::Field<'_>) -> Result<Self, Error> {
                let from: fn(u64) -> Option<$type> = $from;
                field
                    .as_u64()
                    .and_then(from)
                    .map_or_else(|| wrong(field.number(), $expected), Ok)
            }
            fn put(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error> {
                let to: fn($type) -> u64 = $to;
                message.set_u64(number, to(*self));
                Ok(())
            }
            fn push(&self, message: &mut Message<'_>, number: u32) {
                let to: fn($type) -> u64 = $to;
                message.push_u64(number, to(*self));
            }
            fn replace(
                &self,
                message: &mut Message<'_>,
                number: u32,
                index: usize,
            ) -> Result<(), Error> {
                // Repeated numbers are rewritten as a whole: none of CRIU's is long.
                let all = Vec::<Self>::get(message, number)?.unwrap_or_default();
                message.remove(number);
                for (at, value) in all.iter().enumerate() {
                    if at == index { self } else { value }.push(message, number);
                }
                Ok(())
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
    fn from_field(field: &crate::wire::Field<'_>) -> Result<Self, Error> {
        match field.wire_type() {
            WireType::Len => Ok(Self(field.value().to_vec())),
            _ => wrong(field.number(), "text"),
        }
    }
    fn put(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error> {
        message.set_bytes(number, &self.0);
        Ok(())
    }
    fn push(&self, message: &mut Message<'_>, number: u32) {
        message.push_bytes(number, &self.0);
    }
    fn replace(&self, message: &mut Message<'_>, number: u32, index: usize) -> Result<(), Error> {
        message.replace_bytes(number, index, &self.0);
        Ok(())
    }
}
single!(Bytes);

impl<T: Single> FieldValue for Option<T> {
    fn get(message: &Message<'_>, number: u32) -> Result<Option<Self>, Error> {
        Ok(Some(message.get(number).map(T::from_field).transpose()?))
    }
    fn set(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error> {
        match self {
            Some(value) => value.put(message, number),
            None => {
                message.remove(number);
                Ok(())
            }
        }
    }
}

impl<T: Single> FieldValue for Vec<T> {
    fn get(message: &Message<'_>, number: u32) -> Result<Option<Self>, Error> {
        message
            .all(number)
            .map(T::from_field)
            .collect::<Result<_, _>>()
            .map(Some)
    }
    fn set(&self, message: &mut Message<'_>, number: u32) -> Result<(), Error> {
        let old = Self::get(message, number)?.unwrap_or_default();
        message.truncate(number, self.len());
        for (index, value) in self.iter().enumerate() {
            match old.get(index) {
                Some(same) if same == value => {}
                Some(_) => value.replace(message, number, index)?,
                None => value.push(message, number),
            }
        }
        Ok(())
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

        impl $crate::view::View for $name {
            const NAME: &'static str = $message;

            fn read(message: &$crate::wire::Message<'_>) -> Result<Self, $crate::wire::Error> {
                Ok(Self {$(
                    $field: <$type as $crate::view::FieldValue>::get(message, $number)?.ok_or_else(|| {
                        let what = concat!($message, " has no field ", $number, " (", stringify!($field), ")");
                        $crate::wire::Error { offset: 0, what: what.into() }
                    })?,
                )*})
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
            fn from_field(field: &$crate::wire::Field<'_>) -> Result<Self, $crate::wire::Error> {
                $crate::view::View::read(&$crate::wire::Message::parse(field.value())?)
            }
            fn put(
                &self,
                message: &mut $crate::wire::Message<'_>,
                number: u32,
            ) -> Result<(), $crate::wire::Error> {
                let mut nested = message.message(number)?.unwrap_or_default().into_owned();
                $crate::view::View::write_into(self, &mut nested)?;
                message.set_bytes(number, nested.encode());
                Ok(())
            }
            fn push(&self, message: &mut $crate::wire::Message<'_>, number: u32) {
                message.push_bytes(number, $crate::view::View::to_message(self).encode());
            }
            fn replace(
                &self,
                message: &mut $crate::wire::Message<'_>,
                number: u32,
                index: usize,
            ) -> Result<(), $crate::wire::Error> {
                let nested = message.messages(number).nth(index).transpose()?;
                let mut nested = nested.unwrap_or_default().into_owned();
                $crate::view::View::write_into(self, &mut nested)?;
                message.replace_bytes(number, index, nested.encode());
                Ok(())
            }
        }
        $crate::view::single!($name);
    )*};
}
pub(crate) use view;
