//! Image to JSON, straight from the wire, a record at a time.

use std::io::{Read, Write};

use super::values;
use super::write::{Json, quoted_printable};
use super::{MAX_DEPTH, OLD_PAGEMAP_ENTRY, UNKNOWN, WIRE, extra_out};
use crate::error::Error;
use crate::kind::{Framing, Kind};
use crate::reader::Reader;
use crate::schema::{FieldDef, Label, MessageDef, Style, Type};
use crate::wire::{self, FieldRef, WireType, fields, push_varint, unzigzag, varint_length};

/// How to write an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// For people: indented, with flags, devices and addresses as text (`crit decode --pretty`).
    pub pretty: bool,
    /// Only tell the length of what follows records (`crit show --nopl`). Such JSON cannot be encoded again.
    pub no_payload: bool,
}

/// Writes an image as JSON.
///
/// # Errors
/// When the image is damaged, or the output cannot be written.
pub fn decode<R: Read>(
    reader: &mut Reader<R>,
    mut out: impl Write,
    options: Options,
) -> Result<(), Error> {
    let mut json = Json::new(options.pretty);
    json.open(b'{');
    json.key("magic");
    json.quoted(format_args!("{}", reader.kind().name()));
    json.key("entries");
    json.open(b'[');
    // Looked up once: names are compared to find them.
    let defs = [0, 1].map(|index| MessageDef::of(reader.kind().message(index)));
    while reader.advance()? {
        json.item();
        entry(reader, &mut json, &mut out, options, &defs)?;
        if json.text.len() > 1 << 15 {
            flush(&mut json, &mut out, reader)?;
        }
    }
    json.close(b']');
    json.close(b'}');
    flush(&mut json, &mut out, reader)?;
    out.flush()
        .map_err(|error| Error::output(reader.name(), error))
}

/// One message as a JSON object; without what follows it in its record.
///
/// # Errors
/// When it is no such message, or nests too deeply.
pub fn decode_record(
    kind: Kind,
    index: usize,
    payload: &[u8],
    pretty: bool,
) -> Result<Vec<u8>, wire::Error> {
    let mut json = Json::new(pretty);
    record(&mut json, definition(kind, index, payload), payload, pretty)?;
    json.close(b'}');
    Ok(json.text)
}

pub(super) fn flush<R: Read>(
    json: &mut Json,
    out: &mut impl Write,
    reader: &Reader<R>,
) -> Result<(), Error> {
    let written = out.write_all(&json.text);
    json.text.clear();
    written.map_err(|error| Error::output(reader.name(), error))
}

fn entry<R: Read>(
    reader: &mut Reader<R>,
    json: &mut Json,
    out: &mut impl Write,
    options: Options,
    defs: &[Option<&'static MessageDef>; 2],
) -> Result<(), Error> {
    let (kind, index) = (reader.kind(), reader.index());
    let def = old_pagemap(kind, index, reader.payload()).or(defs[index.min(1)]);
    record(json, def, reader.payload(), options.pretty).map_err(|error| reader.damaged(&error))?;
    if kind.framing() != Framing::Plain {
        extra_out::extra(reader, json, out, options)?;
    }
    json.close(b'}');
    Ok(())
}

/// A record's message, without the closing bracket.
fn record(
    json: &mut Json,
    def: Option<&'static MessageDef>,
    payload: &[u8],
    pretty: bool,
) -> Result<(), wire::Error> {
    let unnamed = || wire::Error {
        offset: 0,
        what: "its message is not in the schema".into(),
    };
    let def = def.ok_or_else(unnamed)?;
    let mut decoder = Decoder {
        json,
        pretty,
        odd: false,
    };
    decoder.json.open(b'{');
    decoder.message(def, payload, 0, 0, false)?;
    if decoder.odd {
        json.key(WIRE);
        json.base64(payload);
    }
    Ok(())
}

/// The definition of a record's message.
pub(crate) fn definition(kind: Kind, index: usize, payload: &[u8]) -> Option<&'static MessageDef> {
    old_pagemap(kind, index, payload).or_else(|| MessageDef::of(kind.message(index)))
}

/// The old definition of a pagemap's entry, if this is one.
fn old_pagemap(kind: Kind, index: usize, payload: &[u8]) -> Option<&'static MessageDef> {
    let is_new = || fields(payload).any(|field| field.is_ok_and(|field| field.number == 5));
    (kind == Kind::Pagemap && index > 0 && !is_new()).then_some(&OLD_PAGEMAP_ENTRY)
}

pub(super) struct Decoder<'j> {
    pub(super) json: &'j mut Json,
    pub(super) pretty: bool,
    /// The JSON so far does not tell how the message was encoded.
    pub(super) odd: bool,
}

impl Decoder<'_> {
    /// Writes the members of a message; `offset` is its place in the record.
    pub(super) fn message(
        &mut self,
        def: &MessageDef,
        bytes: &[u8],
        offset: usize,
        depth: usize,
        hex: bool,
    ) -> Result<(), wire::Error> {
        if depth > MAX_DEPTH {
            return Err(wire::Error {
                offset,
                what: format!("messages nest deeper than {MAX_DEPTH}"),
            });
        }
        let mut last = 0;
        let in_order = fields(bytes).all(|field| {
            let number = field.map_or(u32::MAX, |field| field.number);
            std::mem::replace(&mut last, number) <= number
        });
        if in_order {
            return self
                .members(def, fields(bytes), depth, hex)
                .map_err(|error| error.within(offset));
        }
        self.odd = true;
        let mut sorted = fields(bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.within(offset))?;
        sorted.sort_by_key(|field| field.number);
        self.members(def, sorted.into_iter().map(Ok), depth, hex)
            .map_err(|error| error.within(offset))
    }

    /// Writes fields that are sorted by number.
    fn members<'a>(
        &mut self,
        def: &MessageDef,
        fields: impl Iterator<Item = Result<FieldRef<'a>, wire::Error>>,
        depth: usize,
        hex: bool,
    ) -> Result<(), wire::Error> {
        let mut fields = fields.peekable();
        let mut known = def.fields.iter().peekable();
        let mut unknown = Vec::new();
        while let Some(field) = fields.next().transpose()? {
            while let Some(missing) = known.next_if(|def| def.number < field.number) {
                self.odd |= missing.label == Label::Required;
            }
            let same = |next: &Result<FieldRef<'_>, _>| {
                next.as_ref().is_ok_and(|next| next.number == field.number)
            };
            let Some(def) = known.next_if(|def| def.number == field.number) else {
                self.odd |= !canonical(&field);
                unknown.push(field);
                continue;
            };
            if def.label == Label::Repeated {
                self.repeated(def, field, &mut fields, &mut unknown, depth, hex)?;
                continue;
            }
            // Of several the last counts.
            let mut field = field;
            while let Some(next) = fields.next_if(same) {
                self.odd = true;
                field = next?;
            }
            if fits(def, &field) {
                self.json.key(def.name);
                self.value(def, &field, depth, hex)?;
            } else {
                self.odd |= def.label == Label::Required || !canonical(&field);
                unknown.push(field);
            }
        }
        self.odd |= known.any(|missing| missing.label == Label::Required);
        if !unknown.is_empty() {
            self.unknown(&unknown);
        }
        Ok(())
    }

    fn repeated<'a, I: Iterator<Item = Result<FieldRef<'a>, wire::Error>>>(
        &mut self,
        def: &FieldDef,
        first: FieldRef<'a>,
        fields: &mut std::iter::Peekable<I>,
        unknown: &mut Vec<FieldRef<'a>>,
        depth: usize,
        hex: bool,
    ) -> Result<(), wire::Error> {
        let mut all = Vec::new();
        let mut next = Some(first);
        let mut open = false;
        while let Some(field) = next {
            if !fits(def, &field) {
                // Its place among the others is lost.
                self.odd = true;
                unknown.push(field);
            } else if self.pretty && def.style == Style::Address {
                self.odd |= !canonical(&field);
                all.push(u32::try_from(field.as_u64().unwrap_or(0)).unwrap_or(0));
            } else {
                if !std::mem::replace(&mut open, true) {
                    self.json.key(def.name);
                    self.json.open(b'[');
                }
                self.json.item();
                self.value(def, &field, depth, hex)?;
            }
            let same = |next: &Result<FieldRef<'_>, _>| {
                next.as_ref().is_ok_and(|next| next.number == field.number)
            };
            next = fields.next_if(same).transpose()?;
        }
        if !all.is_empty() {
            open = true;
            self.json.key(def.name);
            self.json.open(b'[');
            match values::address(&all) {
                Some(address) => {
                    self.json.item();
                    self.json.quoted(format_args!("{address}"));
                }
                None => {
                    for part in all {
                        self.json.item();
                        self.json.u64(part.into());
                    }
                }
            }
        }
        if open {
            self.json.close(b']');
        }
        Ok(())
    }

    fn value(
        &mut self,
        def: &FieldDef,
        field: &FieldRef<'_>,
        depth: usize,
        hex: bool,
    ) -> Result<(), wire::Error> {
        self.odd |= !canonical(field);
        let number = field.as_u64().unwrap_or(0);
        match def.typ {
            Type::Message(nested) => {
                self.json.open(b'{');
                // As in crit, everything in a message that is marked is hexadecimal.
                let hex = hex || def.style == Style::Hex;
                self.message(nested, field.value, field.value_offset(), depth + 1, hex)?;
                self.json.close(b'}');
            }
            Type::String => self.json.string(field.value),
            Type::Bytes if def.style == Style::UnixName => quoted_printable(self.json, field.value),
            Type::Bytes => self.json.base64(field.value),
            Type::Bool => {
                self.odd |= number > 1;
                self.json.raw(if number == 0 { "false" } else { "true" });
            }
            Type::Enum(values) => {
                let name = i32::try_from(number.cast_signed())
                    .ok()
                    .and_then(|number| values.name(number));
                self.json.string(name.unwrap_or_default().as_bytes());
            }
            Type::U32 | Type::U64 | Type::Fixed32 | Type::Fixed64 => {
                if !(self.pretty && values::pretty(self.json, def, number, hex)) {
                    self.json.u64(number);
                }
            }
            Type::I32 | Type::I64 => self.signed(number.cast_signed(), hex),
            Type::S32 | Type::S64 => self.signed(unzigzag(number), hex),
        }
        Ok(())
    }

    fn signed(&mut self, number: i64, hex: bool) {
        if self.pretty && hex {
            let sign = if number < 0 { "-" } else { "" };
            self.json
                .quoted(format_args!("{sign}{:#x}", number.unsigned_abs()));
        } else {
            self.json.i64(number);
        }
    }

    fn unknown(&mut self, fields: &[FieldRef<'_>]) {
        self.json.key(UNKNOWN);
        self.json.open(b'[');
        for field in fields {
            self.json.item();
            self.json.open(b'{');
            self.json.key("field");
            self.json.u64(field.number.into());
            self.json.key(match field.wire_type {
                WireType::Varint => "varint",
                WireType::Fixed64 => "fixed64",
                WireType::Fixed32 => "fixed32",
                WireType::Len => "bytes",
            });
            match field.as_u64() {
                Some(number) => self.json.u64(number),
                None => self.json.base64(field.value),
            }
            self.json.close(b'}');
        }
        self.json.close(b']');
    }
}

/// Whether a field is encoded as its type is, with a value of that type.
fn fits(def: &FieldDef, field: &FieldRef<'_>) -> bool {
    let number = field.as_u64().unwrap_or(0);
    match (def.typ, field.wire_type) {
        (Type::Message(_) | Type::String | Type::Bytes, WireType::Len)
        | (Type::Fixed32, WireType::Fixed32)
        | (Type::Fixed64, WireType::Fixed64)
        | (Type::Bool | Type::U64 | Type::I64 | Type::S64, WireType::Varint) => true,
        (Type::U32, WireType::Varint) => u32::try_from(number).is_ok(),
        (Type::I32, WireType::Varint) => i32::try_from(number.cast_signed()).is_ok(),
        (Type::S32, WireType::Varint) => i32::try_from(unzigzag(number)).is_ok(),
        (Type::Enum(values), WireType::Varint) => {
            i32::try_from(number.cast_signed()).is_ok_and(|number| values.name(number).is_some())
        }
        _ => false,
    }
}

/// Whether a field takes as few bytes as it can.
fn canonical(field: &FieldRef<'_>) -> bool {
    let tag = varint_length(u64::from(field.number) << 3);
    let length = match field.wire_type {
        WireType::Len => varint_length(field.value.len() as u64) + field.value.len(),
        WireType::Varint => varint_length(field.as_u64().unwrap_or(0)),
        WireType::Fixed32 | WireType::Fixed64 => field.value.len(),
    };
    field.raw.len() == tag + length
}

/// Appends a field as [`canonical`] has it.
pub(super) fn push_field(out: &mut Vec<u8>, number: u32, wire_type: WireType, value: &[u8]) {
    push_varint(out, u64::from(number) << 3 | wire_type.number());
    if wire_type == WireType::Len {
        push_varint(out, value.len() as u64);
    }
    out.extend_from_slice(value);
}
