//! Protobuf messages without a schema, kept exactly as they were written.
//!
//! A [`Message`] is the ordered list of its fields, each with its bytes as they stood: unknown fields, fields out of
//! order, repeated ones and numbers encoded longer than needed all survive. Only a field that is set anew is encoded
//! anew, in its old place. So `Message::parse(x)?.encode() == x` for every `x` that parses, and an edit changes what it
//! names and nothing else. (`prost` drops unknown fields, `rust-protobuf` moves them to the end.)
//!
//! One level is parsed at a time; nested messages are parsed when asked for.

use std::borrow::Cow;
use std::fmt;

/// Why bytes are no protobuf message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Offset in bytes from the start of the message.
    pub offset: usize,
    /// What was found and what was expected.
    pub what: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of the message: {}", self.offset, self.what)
    }
}

impl std::error::Error for Error {}

fn error<T>(offset: usize, what: impl Into<String>) -> Result<T, Error> {
    Err(Error {
        offset,
        what: what.into(),
    })
}

/// How a field's value is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireType {
    /// A number of up to 64 bits in groups of 7.
    Varint,
    /// 8 bytes.
    Fixed64,
    /// A length and that many bytes: text, bytes, a message or packed numbers.
    Len,
    /// 4 bytes.
    Fixed32,
}

impl WireType {
    fn number(self) -> u64 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Len => 2,
            Self::Fixed32 => 5,
        }
    }
}

/// One field as it stands in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    number: u32,
    wire_type: WireType,
    /// Tag and value.
    raw: Cow<'a, [u8]>,
    /// Where the value (without a length) starts in `raw`.
    value: usize,
}

impl<'a> Field<'a> {
    /// The field's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How its value is encoded.
    pub fn wire_type(&self) -> WireType {
        self.wire_type
    }

    /// The encoded value, without tag and length.
    pub fn value(&self) -> &[u8] {
        &self.raw[self.value..]
    }

    /// The value as a number; `None` for [`WireType::Len`].
    pub fn as_u64(&self) -> Option<u64> {
        match self.wire_type {
            WireType::Varint => varint(self.value(), 0).ok().map(|(number, _)| number),
            WireType::Fixed64 => self.value().try_into().ok().map(u64::from_le_bytes),
            WireType::Fixed32 => self
                .value()
                .try_into()
                .ok()
                .map(u32::from_le_bytes)
                .map(u64::from),
            WireType::Len => None,
        }
    }

    fn new(number: u32, wire_type: WireType, value: &[u8]) -> Self {
        let mut raw = Vec::with_capacity(value.len() + 12);
        push_varint(&mut raw, u64::from(number) << 3 | wire_type.number());
        if wire_type == WireType::Len {
            push_varint(&mut raw, value.len() as u64);
        }
        let start = raw.len();
        raw.extend_from_slice(value);
        Self {
            number,
            wire_type,
            raw: raw.into(),
            value: start,
        }
    }

    fn into_owned(self) -> Field<'static> {
        let Self {
            number,
            wire_type,
            raw,
            value,
        } = self;
        Field {
            number,
            wire_type,
            raw: Cow::Owned(raw.into_owned()),
            value,
        }
    }
}

/// A message: its fields in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message<'a> {
    fields: Vec<Field<'a>>,
}

impl<'a> Message<'a> {
    /// Splits bytes into fields.
    ///
    /// # Errors
    /// When a field is cut short, has number 0, or is of a kind that protobuf 3 has not got (groups).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (tag, after_tag) = varint(bytes, at)?;
            let number = match u32::try_from(tag >> 3) {
                Ok(number) if number != 0 && number < 1 << 29 => number,
                _ => return error(at, format!("field number {} is not possible", tag >> 3)),
            };
            let (wire_type, value, end) = match tag & 7 {
                0 => (WireType::Varint, after_tag, varint(bytes, after_tag)?.1),
                1 => (WireType::Fixed64, after_tag, after_tag + 8),
                5 => (WireType::Fixed32, after_tag, after_tag + 4),
                2 => {
                    let (length, start) = varint(bytes, after_tag)?;
                    let left = bytes.len() - start;
                    match usize::try_from(length) {
                        Ok(length) if length <= left => (WireType::Len, start, start + length),
                        _ => {
                            let what = format!(
                                "field {number} has a length of {length} bytes, {left} bytes are left"
                            );
                            return error(after_tag, what);
                        }
                    }
                }
                other => {
                    return error(
                        at,
                        format!("field {number} has wire type {other}, expected 0, 1, 2 or 5"),
                    );
                }
            };
            let Some(raw) = bytes.get(at..end) else {
                return error(after_tag, format!("field {number} is cut short"));
            };
            fields.push(Field {
                number,
                wire_type,
                raw: raw.into(),
                value: value - at,
            });
            at = end;
        }
        Ok(Self { fields })
    }

    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.fields.iter().map(|field| field.raw.len()).sum());
        for field in &self.fields {
            bytes.extend_from_slice(&field.raw);
        }
        bytes
    }

    /// A message that borrows from nothing.
    pub fn into_owned(self) -> Message<'static> {
        Message {
            fields: self.fields.into_iter().map(Field::into_owned).collect(),
        }
    }

    /// All fields in order.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    /// All fields with this number, in order.
    pub fn all(&self, number: u32) -> impl DoubleEndedIterator<Item = &Field<'a>> {
        self.fields
            .iter()
            .filter(move |field| field.number == number)
    }

    /// The field with this number; of several, the last, as protobuf has it.
    pub fn get(&self, number: u32) -> Option<&Field<'a>> {
        self.all(number).next_back()
    }

    /// A field of type `uint64` (or `uint32`, an enum).
    pub fn u64(&self, number: u32) -> Option<u64> {
        self.get(number)?.as_u64()
    }

    /// A field of type `uint32`; `None` also when it does not fit.
    pub fn u32(&self, number: u32) -> Option<u32> {
        self.u64(number)?.try_into().ok()
    }

    /// A field of type `int32`, which encodes negative numbers as 64-bit ones.
    pub fn i32(&self, number: u32) -> Option<i32> {
        self.u64(number)?.cast_signed().try_into().ok()
    }

    /// A field of type `bool`.
    pub fn bool(&self, number: u32) -> Option<bool> {
        self.u64(number).map(|number| number != 0)
    }

    /// A field of type `bytes`, `string` or a message.
    pub fn bytes(&self, number: u32) -> Option<&[u8]> {
        self.get(number)
            .filter(|field| field.wire_type == WireType::Len)
            .map(Field::value)
    }

    /// A field of type `string`; `None` also when it is not UTF-8.
    pub fn str(&self, number: u32) -> Option<&str> {
        std::str::from_utf8(self.bytes(number)?).ok()
    }

    /// A repeated `string` field, those that are UTF-8.
    pub fn strs(&self, number: u32) -> impl Iterator<Item = &str> {
        self.all(number)
            .filter_map(|field| std::str::from_utf8(field.value()).ok())
    }

    /// A nested message.
    ///
    /// # Errors
    /// When the field is there and is no message.
    pub fn message(&self, number: u32) -> Result<Option<Message<'_>>, Error> {
        self.bytes(number).map(Message::parse).transpose()
    }

    /// A repeated nested message.
    pub fn messages(&self, number: u32) -> impl Iterator<Item = Result<Message<'_>, Error>> {
        self.all(number)
            .filter(|field| field.wire_type == WireType::Len)
            .map(|field| Message::parse(field.value()))
    }

    /// Sets a number field. The last field of that number is replaced where it stands, earlier ones stay; a new one
    /// goes where the order of numbers puts it, which is how CRIU writes.
    pub fn set_u64(&mut self, number: u32, value: u64) {
        let mut bytes = Vec::with_capacity(10);
        push_varint(&mut bytes, value);
        self.put(Field::new(number, WireType::Varint, &bytes));
    }

    /// Sets an `int32` field, see [`Self::set_u64`].
    pub fn set_i32(&mut self, number: u32, value: i32) {
        self.set_u64(number, i64::from(value).cast_unsigned());
    }

    /// Sets a `bool` field, see [`Self::set_u64`].
    pub fn set_bool(&mut self, number: u32, value: bool) {
        self.set_u64(number, u64::from(value));
    }

    /// Sets a `bytes`, `string` or message field, see [`Self::set_u64`].
    pub fn set_bytes(&mut self, number: u32, value: impl AsRef<[u8]>) {
        self.put(Field::new(number, WireType::Len, value.as_ref()));
    }

    /// Adds one more `bytes`, `string` or message field behind those of the same number.
    pub fn push_bytes(&mut self, number: u32, value: impl AsRef<[u8]>) {
        self.insert(Field::new(number, WireType::Len, value.as_ref()));
    }

    /// Adds one more number field behind those of the same number.
    pub fn push_u64(&mut self, number: u32, value: u64) {
        let mut bytes = Vec::with_capacity(10);
        push_varint(&mut bytes, value);
        self.insert(Field::new(number, WireType::Varint, &bytes));
    }

    /// Replaces the value of the `index`th field of this number (of wire type [`WireType::Len`]); `false` when there
    /// are not so many.
    pub fn replace_bytes(&mut self, number: u32, index: usize, value: impl AsRef<[u8]>) -> bool {
        let Some(field) = self
            .fields
            .iter_mut()
            .filter(|field| field.number == number)
            .nth(index)
        else {
            return false;
        };
        *field = Field::new(number, WireType::Len, value.as_ref());
        true
    }

    /// Removes all fields of this number.
    pub fn remove(&mut self, number: u32) {
        self.fields.retain(|field| field.number != number);
    }

    /// Removes the fields of this number behind the first `count`.
    pub fn truncate(&mut self, number: u32, count: usize) {
        let mut seen = 0;
        self.fields.retain(|field| {
            seen += usize::from(field.number == number);
            field.number != number || seen <= count
        });
    }

    fn put(&mut self, field: Field<'a>) {
        match self
            .fields
            .iter_mut()
            .rfind(|old| old.number == field.number)
        {
            Some(old) => *old = field,
            None => self.insert(field),
        }
    }

    fn insert(&mut self, field: Field<'a>) {
        let at = self
            .fields
            .iter()
            .rposition(|old| old.number <= field.number)
            .map_or(0, |before| before + 1);
        self.fields.insert(at, field);
    }
}

/// Undoes the zig-zag of `sint32` and `sint64`, in which small negative numbers are small.
pub fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// The zig-zag of `sint32` and `sint64`.
pub fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

/// Reads the number at `at`; returns it and where it ends.
fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Error> {
    let mut number = 0u64;
    for index in 0..10 {
        let Some(byte) = bytes.get(at + index) else {
            return error(at, "a number is cut short");
        };
        let group = u64::from(byte & 0x7f);
        // The tenth group has room for one bit.
        if index == 9 && group > 1 {
            break;
        }
        number |= group << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((number, at + index + 1));
        }
    }
    error(at, "a number has more than 64 bits")
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 1 = 5 in a longer encoding than needed, field 3 before field 2, an unknown fixed32, field 2 twice.
    const ODD: [u8; 20] = [
        0x08, 0x85, 0x00, 0x1a, 0x02, b'h', b'i', 0x10, 0x01, 0xbd, 0x06, 1, 2, 3, 4, 0x10, 0x02,
        0x2a, 0x01, 0xff,
    ];

    #[test]
    fn what_is_parsed_is_encoded_as_it_stood() {
        let message = Message::parse(&ODD).unwrap();
        assert_eq!(message.encode(), ODD);
        assert_eq!(message.u64(1), Some(5));
        assert_eq!(message.u64(2), Some(2), "the last one counts");
        assert_eq!(message.str(3), Some("hi"));
        assert_eq!(message.str(5), None, "not UTF-8");
        assert_eq!(message.u64(103), Some(0x0403_0201));
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_else() {
        let mut message = Message::parse(&ODD).unwrap();
        message.set_bytes(3, "ho!");
        let mut expected = ODD.to_vec();
        expected.splice(4..7, [3, b'h', b'o', b'!']);
        assert_eq!(message.encode(), expected);
        message.remove(103);
        expected.drain(10..16);
        assert_eq!(message.encode(), expected);
    }

    #[test]
    fn a_new_field_goes_where_its_number_belongs() {
        let mut message = Message::default();
        for number in [5, 1, 3] {
            message.set_u64(number, 1);
        }
        message.push_u64(3, 2);
        let order: Vec<_> = message.fields().iter().map(Field::number).collect();
        assert_eq!(order, [1, 3, 3, 5]);
        message.truncate(3, 1);
        assert_eq!(message.u64(3), Some(1));
    }

    #[test]
    fn negative_numbers_in_both_encodings() {
        let mut message = Message::default();
        message.set_i32(1, -1);
        assert_eq!(message.encode().len(), 11, "int32 -1 takes ten bytes");
        assert_eq!(message.i32(1), Some(-1));
        assert_eq!(unzigzag(154), 77);
        for number in [0, -1, 1, i64::MIN, i64::MAX, -77] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }
    }

    #[test]
    fn hostile_bytes_are_errors() {
        for (bytes, what) in [
            (
                &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
                "a length of 4294967295 bytes, 0 bytes are left",
            ),
            (&[0x08][..], "cut short"),
            (&[0x09, 1, 2][..], "field 1 is cut short"),
            (&[0x0b][..], "wire type 3"),
            (&[0x00, 0x00][..], "field number 0"),
            (
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2][..],
                "more than 64 bits",
            ),
        ] {
            let error = Message::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
