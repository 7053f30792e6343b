//! Protobuf messages without a schema, kept exactly as they were written.
//!
//! A [`Message`] is the ordered list of its fields, each with its bytes as they stood: unknown fields, fields out of
//! order, repeated ones and numbers encoded longer than needed all survive. Only a field that is set anew is encoded
//! anew, in its old place. So `Message::parse(x)?.encode() == x` for every `x` that parses, and an edit changes what it
//! names and nothing else. (`prost` drops unknown fields, `rust-protobuf` moves them to the end.)
//!
//! One level is parsed at a time; nested messages are parsed when asked for.

mod fields;

use std::borrow::Cow;

pub use fields::{Error, FieldRef, Fields, WireType, fields, unzigzag, zigzag};
pub(crate) use fields::{push_varint, varint_length};

/// One field as it stands in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    number: u32,
    wire_type: WireType,
    /// Tag and value.
    raw: Cow<'a, [u8]>,
    /// Where the value (without a length) starts in `raw`.
    value: usize,
    /// Where `raw` stood in the message that was parsed.
    offset: usize,
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

    /// Where the value stood in the message that was parsed, in bytes; 0 for a field that was set anew.
    pub fn value_offset(&self) -> usize {
        match self.raw {
            Cow::Borrowed(_) => self.offset + self.value,
            Cow::Owned(_) => 0,
        }
    }

    /// The value as a number; `None` for [`WireType::Len`].
    pub fn as_u64(&self) -> Option<u64> {
        fields::number(self.wire_type, self.value())
    }

    /// The field, to look at.
    pub fn as_ref(&self) -> FieldRef<'_> {
        let Self {
            number,
            wire_type,
            ref raw,
            offset,
            ..
        } = *self;
        FieldRef {
            number,
            wire_type,
            raw,
            value: self.value(),
            offset,
        }
    }

    /// A number.
    pub(crate) fn number_field(number: u32, value: u64) -> Self {
        let mut bytes = Vec::with_capacity(varint_length(value));
        push_varint(&mut bytes, value);
        Self::new(number, WireType::Varint, &bytes)
    }

    /// Bytes, text or a message.
    pub(crate) fn bytes_field(number: u32, value: &[u8]) -> Self {
        Self::new(number, WireType::Len, value)
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
            offset: 0,
        }
    }

    pub(crate) fn into_owned(self) -> Field<'static> {
        let Self {
            number,
            wire_type,
            raw,
            value,
            offset,
        } = self;
        Field {
            number,
            wire_type,
            raw: Cow::Owned(raw.into_owned()),
            value,
            offset,
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
    /// When a field is cut short, has number 0, or is a group, which CRIU never had.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        // Most messages have a handful of fields; this saves growing by steps.
        let mut all = Vec::with_capacity((bytes.len() / 4).min(8));
        for field in fields(bytes) {
            let FieldRef {
                number,
                wire_type,
                raw,
                value,
                offset,
            } = field?;
            let value = raw.len() - value.len();
            all.push(Field {
                number,
                wire_type,
                raw: raw.into(),
                value,
                offset,
            });
        }
        Ok(Self { fields: all })
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

    /// Adds one more `fixed32` field behind those of the same number.
    pub fn push_fixed32(&mut self, number: u32, value: u32) {
        self.insert(Field::new(number, WireType::Fixed32, &value.to_le_bytes()));
    }

    /// Adds one more `fixed64` field behind those of the same number.
    pub fn push_fixed64(&mut self, number: u32, value: u64) {
        self.insert(Field::new(number, WireType::Fixed64, &value.to_le_bytes()));
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

    /// Replaces `count` of the fields with this number, from the `start`th on, by others of the same number.
    pub(crate) fn splice(
        &mut self,
        number: u32,
        start: usize,
        count: usize,
        mut with: Vec<Field<'a>>,
    ) {
        let places = |fields: &[Field<'_>]| -> Vec<usize> {
            let places = fields
                .iter()
                .enumerate()
                .filter(|(_, field)| field.number == number);
            places.map(|(place, _)| place).collect()
        };
        let old = places(&self.fields);
        // Behind the last that stays before, else where the number belongs.
        let more = with.split_off(count.min(with.len()));
        let kept = with.len();
        for (place, field) in old.iter().skip(start).zip(with) {
            self.fields[*place] = field;
        }
        let mut left_out = old
            .into_iter()
            .skip(start + kept)
            .take(count - kept)
            .collect::<Vec<_>>();
        while let Some(place) = left_out.pop() {
            self.fields.remove(place);
        }
        if !more.is_empty() {
            let place = match places(&self.fields).get(start + kept) {
                Some(next) => *next,
                None => self.place(number),
            };
            self.fields.splice(place..place, more);
        }
    }

    pub(crate) fn put(&mut self, field: Field<'a>) {
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
        let place = self.place(field.number);
        self.fields.insert(place, field);
    }

    /// Where a new field goes.
    fn place(&self, number: u32) -> usize {
        self.fields
            .iter()
            .rposition(|old| old.number <= number)
            .map_or(0, |before| before + 1)
    }
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
