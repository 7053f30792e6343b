//! Messages by the names of the schema, for reading: fields are looked up when asked for, nothing is copied.
//!
//! ```
//! use criu_image::object::Object;
//! use criu_image::schema::MessageDef;
//!
//! let def = MessageDef::of("fs_entry").unwrap();
//! let fs = Object::parse(def, &[0x08, 5, 0x10, 6])?;
//! assert_eq!(fs.u64("cwd_id"), Some(5));
//! # Ok::<(), criu_image::wire::Error>(())
//! ```

use std::net::IpAddr;

use crate::image::Record;
use crate::json;
use crate::schema::{FieldDef, MessageDef, Type};
use crate::wire::{Error, FieldRef, WireType, fields, unzigzag};

/// A message with its type.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    /// Its type.
    pub def: &'static MessageDef,
    fields: Vec<FieldRef<'a>>,
}

/// What a field holds.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// A number that cannot be negative.
    Unsigned(u64),
    /// A number that can.
    Signed(i64),
    /// True or false.
    Bool(bool),
    /// A value of an enum: its name, when it has one.
    Enum(i32, Option<&'static str>),
    /// Text; not always UTF-8.
    Text(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A message.
    Object(Object<'a>),
}

impl<'a> Object<'a> {
    /// Splits a message of this type into its fields.
    ///
    /// # Errors
    /// When it is no protobuf message.
    pub fn parse(def: &'static MessageDef, bytes: &'a [u8]) -> Result<Self, Error> {
        Ok(Self {
            def,
            fields: fields(bytes).collect::<Result<_, _>>()?,
        })
    }

    /// All fields in order, those that the schema has not got without a definition.
    pub fn fields(&self) -> impl Iterator<Item = (Option<&'static FieldDef>, &FieldRef<'a>)> {
        self.fields
            .iter()
            .map(|field| (self.def.field(field.number), field))
    }

    /// The values of a repeated field.
    pub fn all(&self, name: &str) -> impl Iterator<Item = Value<'a>> {
        let def = self.def.field_named(name);
        let fields = self
            .fields
            .iter()
            .filter(move |field| def.is_some_and(|def| def.number == field.number));
        fields.filter_map(move |field| value(def?, field))
    }

    /// The value of a field; of several, the last.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        let def = self.def.field_named(name)?;
        value(
            def,
            self.fields
                .iter()
                .rfind(|field| field.number == def.number)?,
        )
    }

    /// Whether the field is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A number.
    pub fn u64(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Unsigned(number) => Some(number),
            Value::Signed(number) => number.try_into().ok(),
            Value::Bool(value) => Some(value.into()),
            Value::Enum(number, _) => number.try_into().ok(),
            _ => None,
        }
    }

    /// A number that fits into 32 bits.
    pub fn u32(&self, name: &str) -> Option<u32> {
        self.u64(name)?.try_into().ok()
    }

    /// A number that can be negative.
    pub fn i64(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Signed(number) => Some(number),
            Value::Unsigned(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// True or false; false when it is not there.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    /// The name of an enum's value.
    pub fn name_of(&self, name: &str) -> Option<&'static str> {
        match self.get(name)? {
            Value::Enum(_, name) => name,
            _ => None,
        }
    }

    /// A text or bytes.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        match self.get(name)? {
            Value::Text(bytes) | Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A text, with replacement characters for what is not UTF-8.
    pub fn text(&self, name: &str) -> Option<String> {
        self.bytes(name)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A nested message.
    pub fn object(&self, name: &str) -> Option<Object<'a>> {
        match self.get(name)? {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The messages of a repeated field.
    pub fn objects(&self, name: &str) -> impl Iterator<Item = Object<'a>> {
        self.all(name).filter_map(|value| match value {
            Value::Object(object) => Some(object),
            _ => None,
        })
    }

    /// An IPv4 or IPv6 address, which CRIU keeps as one or four numbers in network byte order.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        let parts = self.all(name).map(|value| match value {
            Value::Unsigned(number) => u32::try_from(number).ok(),
            _ => None,
        });
        json::address(&parts.collect::<Option<Vec<_>>>()?)
    }
}

impl<'a> Record<'a> {
    /// The record's message by the names of the schema.
    ///
    /// # Errors
    /// When it is no protobuf message.
    pub fn object(&self) -> Result<Object<'a>, crate::Error> {
        let def = json::definition(self.kind, self.index, self.payload);
        let missing = || Error {
            offset: 0,
            what: format!("{} is not in the schema", self.kind.message(self.index)),
        };
        let object = def
            .ok_or_else(missing)
            .and_then(|def| Object::parse(def, self.payload));
        object.map_err(|error| self.error(&error))
    }
}

/// What a field holds, `None` when that is not of its type.
pub fn value<'a>(def: &'static FieldDef, field: &FieldRef<'a>) -> Option<Value<'a>> {
    let number = field.as_u64();
    Some(match (def.typ, field.wire_type) {
        (Type::Message(def), WireType::Len) => Value::Object(Object::parse(def, field.value).ok()?),
        (Type::String, WireType::Len) => Value::Text(field.value),
        (Type::Bytes, WireType::Len) => Value::Bytes(field.value),
        (Type::Bool, WireType::Varint) => Value::Bool(number? != 0),
        (Type::Enum(values), WireType::Varint) => {
            let number = i32::try_from(number?.cast_signed()).ok()?;
            Value::Enum(number, values.name(number))
        }
        (Type::U32, WireType::Varint) => Value::Unsigned(u32::try_from(number?).ok()?.into()),
        (Type::U64, WireType::Varint)
        | (Type::Fixed32, WireType::Fixed32)
        | (Type::Fixed64, WireType::Fixed64) => Value::Unsigned(number?),
        (Type::I32 | Type::I64, WireType::Varint) => Value::Signed(number?.cast_signed()),
        (Type::S32 | Type::S64, WireType::Varint) => Value::Signed(unzigzag(number?)),
        _ => return None,
    })
}
