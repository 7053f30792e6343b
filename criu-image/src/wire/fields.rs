//! Splitting a message into its fields without allocating, and the numbers in it.

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

impl Error {
    /// The same error in a message that the message is part of.
    pub(crate) fn within(mut self, offset: usize) -> Self {
        self.offset += offset;
        self
    }
}

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
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Len => 2,
            Self::Fixed32 => 5,
        }
    }
}

/// One field of a message that is only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldRef<'a> {
    /// Its number.
    pub number: u32,
    /// How its value is encoded.
    pub wire_type: WireType,
    /// Tag and value.
    pub raw: &'a [u8],
    /// The encoded value, without tag and length.
    pub value: &'a [u8],
    /// Where `raw` starts in the message.
    pub offset: usize,
}

impl FieldRef<'_> {
    /// The value as a number; `None` for [`WireType::Len`].
    pub fn as_u64(&self) -> Option<u64> {
        number(self.wire_type, self.value)
    }

    /// Where the value starts in the message.
    pub fn value_offset(&self) -> usize {
        self.offset + self.raw.len() - self.value.len()
    }
}

/// The fields of a message, in order; see [`fields`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Splits a message into its fields without allocating. After an error there are no more.
pub fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields { bytes, at: 0 }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<FieldRef<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = field(self.bytes, self.at);
        self.at = field
            .as_ref()
            .map_or(self.bytes.len(), |field| field.offset + field.raw.len());
        Some(field)
    }
}

fn field(bytes: &[u8], offset: usize) -> Result<FieldRef<'_>, Error> {
    let (tag, after_tag) = varint(bytes, offset)?;
    let number = match u32::try_from(tag >> 3) {
        Ok(number) if number != 0 && number < 1 << 29 => number,
        _ => return error(offset, format!("field number {} is not possible", tag >> 3)),
    };
    let (wire_type, start, end) = match tag & 7 {
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
                offset,
                format!("field {number} has wire type {other}, expected 0, 1, 2 or 5"),
            );
        }
    };
    match (bytes.get(offset..end), bytes.get(start..end)) {
        (Some(raw), Some(value)) => Ok(FieldRef {
            number,
            wire_type,
            raw,
            value,
            offset,
        }),
        _ => error(after_tag, format!("field {number} is cut short")),
    }
}

/// A field's value as a number.
pub(super) fn number(wire_type: WireType, value: &[u8]) -> Option<u64> {
    match wire_type {
        WireType::Varint => varint(value, 0).ok().map(|(number, _)| number),
        WireType::Fixed64 => value.try_into().ok().map(u64::from_le_bytes),
        WireType::Fixed32 => value.try_into().ok().map(u32::from_le_bytes).map(u64::from),
        WireType::Len => None,
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
#[inline]
pub(crate) fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Error> {
    match bytes.get(at) {
        // Most numbers are small.
        Some(byte) if *byte < 0x80 => Ok(((*byte).into(), at + 1)),
        _ => long_varint(bytes, at),
    }
}

fn long_varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Error> {
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

/// Writes a number in as few bytes as it takes.
pub(crate) fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(low_byte(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low_byte(number));
}

/// How many bytes [`push_varint`] writes.
pub(crate) fn varint_length(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}
