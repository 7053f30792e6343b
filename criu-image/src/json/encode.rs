//! JSON to image, a record at a time.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::decode::{decode_record, definition, push_field};
use super::parse::{Parser, Value};
use super::write::{from_base64, from_quoted_printable};
use super::{EXTRA, MAX_DEPTH, OLD_PAGEMAP_ENTRY, PADDING, UNKNOWN, WIRE, extra_in, values};
use crate::error::Error;
use crate::frame::{self, Extra, Framer, push_record};
use crate::kind::{Framing, Kind};
use crate::schema::{FieldDef, Label, MessageDef, Style, Type};
use crate::wire::{WireType, push_varint, zigzag};

/// Writes the image that JSON describes; `name` is for messages. Returns its kind.
///
/// # Errors
/// When the JSON is damaged or describes no image, with the place in the JSON and the field; or when the output cannot
/// be written.
pub fn encode(
    name: impl Into<PathBuf>,
    input: impl Read,
    mut out: impl Write,
) -> Result<Kind, Error> {
    let mut parser = Parser::new(name.into(), input);
    let mut encoder: Option<Encoder> = None;
    let mut early: Option<Vec<Value>> = None;
    let mut entries = false;
    let mut first = true;
    parser.expect(b'{')?;
    while parser.more(b'}', first)? {
        first = false;
        match (parser.key()?.as_str(), &mut encoder) {
            ("magic", None) => {
                let kind = match parser.value()? {
                    Value::Text(name) => std::str::from_utf8(&name).ok().and_then(Kind::of_name),
                    _ => None,
                };
                let Some(kind) = kind else {
                    return parser.error("magic names no kind of image");
                };
                write(&parser, &mut out, &frame::header_of(kind))?;
                let mut started = Encoder {
                    framer: Framer::new(kind),
                    record: Vec::new(),
                };
                for value in early.take().unwrap_or_default() {
                    let record = started.entry(value).or_else(|what| parser.error(what))?;
                    write(&parser, &mut out, record)?;
                }
                encoder = Some(started);
            }
            ("entries", Some(encoder)) if !entries => {
                entries = true;
                parser.expect(b'[')?;
                let mut first = true;
                while parser.more(b']', first)? {
                    first = false;
                    let value = parser.value()?;
                    let record = encoder.entry(value).or_else(|what| parser.error(what))?;
                    write(&parser, &mut out, record)?;
                }
            }
            // Tools that sort keys put the entries first; then they have to be held.
            ("entries", None) if !entries => {
                entries = true;
                match parser.value()? {
                    Value::Array(values) => early = Some(values),
                    other => {
                        return parser
                            .error(format!("entries is {}, expected an array", other.what()));
                    }
                }
            }
            (name @ ("magic" | "entries"), _) => {
                return parser.error(format!("{name} is there twice"));
            }
            (other, _) => {
                return parser.error(format!(
                    "an image has no {other}, expected magic and entries"
                ));
            }
        }
    }
    parser.end()?;
    let Some(encoder) = encoder.filter(|_| entries) else {
        return parser.error("expected an object with magic and entries");
    };
    out.flush()
        .map_err(|error| Error::output(parser.name(), error))?;
    Ok(encoder.framer.kind)
}

fn write<R: Read>(parser: &Parser<R>, out: &mut impl Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes)
        .map_err(|error| Error::output(parser.name(), error))
}

struct Encoder {
    framer: Framer,
    record: Vec<u8>,
}

pub(super) type Encoded<T> = Result<T, String>;

impl Encoder {
    fn entry(&mut self, value: Value) -> Encoded<&[u8]> {
        let index = self.framer.index;
        let record = self
            .try_entry(value)
            .map_err(|what| format!("entry {index}: {what}"))?;
        self.record.clear();
        push_record(&mut self.record, &record.0, &record.1);
        Ok(&self.record)
    }

    fn try_entry(&mut self, value: Value) -> Encoded<(Vec<u8>, Vec<u8>)> {
        let (kind, index) = (self.framer.kind, self.framer.index);
        let Value::Object(mut members) = value else {
            return Err(format!("it is {}, expected an object", value.what()));
        };
        let mut take = |name: &str| {
            let at = members.iter().position(|(key, _)| key == name)?;
            Some(members.remove(at).1)
        };
        let (wire, padding) = (take(WIRE), take(PADDING));
        let extra = if kind.framing() == Framing::Plain {
            None
        } else {
            take(EXTRA)
        };
        let payload = payload(kind, index, &members, wire)?;
        let follows = self
            .framer
            .next(&payload)
            .map_err(|error| error.to_string())?;
        let padding = padding
            .map(|padding| bytes(PADDING, &padding))
            .transpose()?
            .unwrap_or_default();
        let extra = extra_in::extra(kind, &payload, extra, &padding)?;
        match follows {
            Extra::Bytes(length) if length != extra.len() as u64 => Err(format!(
                "the message says that {length} bytes follow it, extra gives {}",
                extra.len()
            )),
            follows => {
                let length = frame::extent(follows, &extra)?;
                if length == extra.len() {
                    Ok((payload, extra))
                } else {
                    Err("extra has more than the message says".into())
                }
            }
        }
    }
}

/// A record's message: as `wire` has it when that means the same as the members.
fn payload(
    kind: Kind,
    index: usize,
    members: &[(String, Value)],
    wire: Option<Value>,
) -> Encoded<Vec<u8>> {
    let def = match MessageDef::of(kind.message(index)) {
        _ if old_pagemap(kind, index, members) => &OLD_PAGEMAP_ENTRY,
        Some(def) => def,
        None => return Err(format!("{} is not in the schema", kind.message(index))),
    };
    if let Some(wire) = wire {
        let wire = bytes(WIRE, &wire)?;
        let def = definition(kind, index, &wire).unwrap_or(def);
        if message(def, members, 0, false)
            .is_ok_and(|meant| means(kind, index, def, &wire) == Ok(meant))
        {
            return Ok(wire);
        }
    }
    message(def, members, 0, true)
}

fn old_pagemap(kind: Kind, index: usize, members: &[(String, Value)]) -> bool {
    let has = |name: &str| members.iter().any(|(key, _)| key == name);
    kind == Kind::Pagemap && index > 0 && has("nr_pages") && !has("compat_nr_pages")
}

/// What a message becomes by way of JSON.
fn means(kind: Kind, index: usize, def: &MessageDef, wire: &[u8]) -> Encoded<Vec<u8>> {
    let json =
        decode_record(kind, index, wire, false).map_err(|error| format!("{WIRE}: {error}"))?;
    let value = Parser::new(WIRE.into(), json.as_slice())
        .value()
        .map_err(|error| error.to_string())?;
    let Value::Object(mut members) = value else {
        return Ok(Vec::new());
    };
    members.retain(|(key, _)| key != WIRE);
    message(def, &members, 0, false)
}

/// Encodes the members of a message, in the order of field numbers.
pub(super) fn message(
    def: &MessageDef,
    members: &[(String, Value)],
    depth: usize,
    complete: bool,
) -> Encoded<Vec<u8>> {
    if depth > MAX_DEPTH {
        return Err(format!("messages nest deeper than {MAX_DEPTH}"));
    }
    let mut fields: Vec<(u32, Vec<u8>)> = Vec::with_capacity(members.len());
    let mut unknown = Vec::new();
    for (key, value) in members {
        if key == UNKNOWN {
            unknown = unknown_fields(value)?;
            continue;
        }
        let Some(def) = def.field_named(key) else {
            return Err(format!(
                "{} has no {key}; fields without a name go into {UNKNOWN}",
                def.name
            ));
        };
        let mut out = Vec::new();
        field(def, value, depth, complete, &mut out).map_err(|what| format!("{key}: {what}"))?;
        if fields.iter().any(|(number, _)| *number == def.number) {
            return Err(format!("{key} is there twice"));
        }
        fields.push((def.number, out));
    }
    // A stable sort: of equal numbers the known ones come first.
    fields.extend(unknown);
    if complete {
        let missing = def.fields.iter().filter(|def| def.label == Label::Required);
        if let Some(missing) = missing
            .into_iter()
            .find(|def| !fields.iter().any(|(number, _)| *number == def.number))
        {
            return Err(format!("{} needs {}", def.name, missing.name));
        }
    }
    fields.sort_by_key(|(number, _)| *number);
    Ok(fields.into_iter().flat_map(|(_, bytes)| bytes).collect())
}

fn field(
    def: &FieldDef,
    value: &Value,
    depth: usize,
    complete: bool,
    out: &mut Vec<u8>,
) -> Encoded<()> {
    if def.label != Label::Repeated {
        return single(def, value, depth, complete, out);
    }
    let Value::Array(items) = value else {
        return Err(format!("it is {}, expected an array", value.what()));
    };
    for item in items {
        match item {
            Value::Text(text) if def.style == Style::Address && !text.starts_with(b"0x") => {
                let parts = std::str::from_utf8(text)
                    .ok()
                    .and_then(values::address_parts);
                for part in parts.ok_or("it is no address")? {
                    single(def, &Value::Number(part.into()), depth, complete, out)?;
                }
            }
            item => single(def, item, depth, complete, out)?,
        }
    }
    Ok(())
}

fn single(
    def: &FieldDef,
    value: &Value,
    depth: usize,
    complete: bool,
    out: &mut Vec<u8>,
) -> Encoded<()> {
    let wrong = |expected: &str| Err(format!("it is {}, expected {expected}", value.what()));
    match def.typ {
        Type::Message(nested) => {
            let Value::Object(members) = value else {
                return wrong("an object");
            };
            push_field(
                out,
                def.number,
                WireType::Len,
                &message(nested, members, depth + 1, complete)?,
            );
        }
        Type::String => {
            let Value::Text(text) = value else {
                return wrong("a text");
            };
            push_field(out, def.number, WireType::Len, text);
        }
        Type::Bytes if def.style == Style::UnixName => {
            let Value::Text(text) = value else {
                return wrong("a text");
            };
            let bytes = from_quoted_printable(text).ok_or("it is not quoted-printable")?;
            push_field(out, def.number, WireType::Len, &bytes);
        }
        Type::Bytes => push_field(out, def.number, WireType::Len, &bytes(def.name, value)?),
        _ => {
            let number = number(def, value)?;
            let out_of_range = || format!("{number} does not fit");
            let unsigned = || u64::try_from(number).map_err(|_| out_of_range());
            let signed = || i64::try_from(number).map_err(|_| out_of_range());
            let narrow = |number: i64| {
                i32::try_from(number)
                    .map(i64::from)
                    .map_err(|_| out_of_range())
            };
            let varint = match def.typ {
                Type::Fixed32 => {
                    let number = u32::try_from(number).map_err(|_| out_of_range())?;
                    push_field(out, def.number, WireType::Fixed32, &number.to_le_bytes());
                    return Ok(());
                }
                Type::Fixed64 => {
                    push_field(
                        out,
                        def.number,
                        WireType::Fixed64,
                        &unsigned()?.to_le_bytes(),
                    );
                    return Ok(());
                }
                Type::U32 | Type::Bool => u32::try_from(number).map_err(|_| out_of_range())?.into(),
                Type::I32 | Type::Enum(_) => narrow(signed()?)?.cast_unsigned(),
                Type::S32 => zigzag(narrow(signed()?)?),
                Type::I64 => signed()?.cast_unsigned(),
                Type::S64 => zigzag(signed()?),
                _ => unsigned()?,
            };
            push_field(out, def.number, WireType::Varint, &varint_bytes(varint));
        }
    }
    Ok(())
}

fn number(def: &FieldDef, value: &Value) -> Encoded<i128> {
    match (value, def.typ) {
        (Value::Number(number), _) => Ok(*number),
        (Value::Bool(value), Type::Bool) => Ok((*value).into()),
        (Value::Text(text), typ) => {
            let text = String::from_utf8_lossy(text);
            let number = match typ {
                Type::Enum(values) => values.number(&text).map(i128::from),
                _ => values::number(def, &text),
            };
            number.ok_or_else(|| format!("{text:?} is not one of its values"))
        }
        _ => Err(format!("it is {}, expected a number", value.what())),
    }
}

fn varint_bytes(number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(10);
    push_varint(&mut bytes, number);
    bytes
}

/// Fields that the schema has not got.
fn unknown_fields(value: &Value) -> Encoded<Vec<(u32, Vec<u8>)>> {
    let wrong =
        || format!("{UNKNOWN} is an array of objects like {{\"field\": 23, \"varint\": 5}}");
    let Value::Array(items) = value else {
        return Err(wrong());
    };
    let field = |item: &Value| {
        let Value::Object(members) = item else {
            return None;
        };
        let [(field, Value::Number(number)), (typ, value)] = members.as_slice() else {
            return None;
        };
        let number = u32::try_from(*number)
            .ok()
            .filter(|number| (1..1 << 29).contains(number) && field == "field")?;
        let mut out = Vec::new();
        match (typ.as_str(), value) {
            ("varint", Value::Number(value)) => {
                push_field(
                    &mut out,
                    number,
                    WireType::Varint,
                    &varint_bytes(u64::try_from(*value).ok()?),
                );
            }
            ("fixed64", Value::Number(value)) => {
                push_field(
                    &mut out,
                    number,
                    WireType::Fixed64,
                    &u64::try_from(*value).ok()?.to_le_bytes(),
                );
            }
            ("fixed32", Value::Number(value)) => {
                push_field(
                    &mut out,
                    number,
                    WireType::Fixed32,
                    &u32::try_from(*value).ok()?.to_le_bytes(),
                );
            }
            ("bytes", Value::Text(text)) => {
                push_field(&mut out, number, WireType::Len, &from_base64(text)?);
            }
            _ => return None,
        }
        Some((number, out))
    };
    items
        .iter()
        .map(|item| field(item).ok_or_else(wrong))
        .collect()
}

pub(super) fn bytes(key: &str, value: &Value) -> Encoded<Vec<u8>> {
    match value {
        Value::Text(text) => from_base64(text).ok_or_else(|| format!("{key} is not base64")),
        other => Err(format!("{key} is {}, expected base64", other.what())),
    }
}
