//! What follows a record's message, as JSON: as crit has it, plus padding that is not zero.

use std::io::{Read, Write};

use super::decode::{Decoder, Options, flush};
use super::write::{BASE64_LINE, Json};
use super::{EXTRA, PADDING, WIRE};
use crate::error::Error;
use crate::frame::{number, text_length};
use crate::kind::{Framing, Kind};
use crate::reader::Reader;
use crate::schema::MessageDef;

/// What follows a record's message.
pub(super) fn extra<R: Read>(
    reader: &mut Reader<R>,
    json: &mut Json,
    out: &mut impl Write,
    options: Options,
) -> Result<(), Error> {
    let damaged = |reader: &Reader<R>| {
        let (kind, payload) = (reader.kind(), reader.payload());
        let number = |field| number(payload, field).map_err(|error| reader.damaged(&error));
        Ok::<_, Error>(match kind.framing() {
            // The length of what is data; the rest is padding.
            Framing::SharedMemory if number(3)? != 0 => Some(0),
            Framing::SharedMemory => Some(number(2)?),
            Framing::Semaphores => Some(number(2)?.saturating_mul(2)),
            // The first of several has none.
            Framing::Ghost if reader.index() == 0 && number(9)? != 0 => None,
            _ => Some(u64::MAX),
        })
    };
    let Some(data) = damaged(reader)? else {
        return Ok(());
    };
    if options.no_payload {
        let length = reader.skip_extra()?.min(data);
        if reader.kind().framing() != Framing::Ghost {
            json.key(EXTRA);
            json.quoted(format_args!("... <{}>", human(length)));
        }
        return Ok(());
    }
    match reader.kind() {
        Kind::TcpStream => {
            let inq = number(reader.payload(), 1).map_err(|error| reader.damaged(&error))?;
            json.key(EXTRA);
            json.open(b'{');
            json.key("inq");
            stream(reader, json, out, inq)?;
            json.key("outq");
            stream(reader, json, out, u64::MAX)?;
            json.close(b'}');
        }
        Kind::IpcSem => semaphores(reader, json, data)?,
        Kind::IpcMsg => messages(reader, json, options.pretty)?,
        _ => {
            json.key(EXTRA);
            stream(reader, json, out, data)?;
            let padding = rest(reader)?;
            self::padding(json, &padding);
        }
    }
    Ok(())
}

/// At most `length` bytes of what follows, as base64, without holding them.
fn stream<R: Read>(
    reader: &mut Reader<R>,
    json: &mut Json,
    out: &mut impl Write,
    length: u64,
) -> Result<(), Error> {
    json.text.push(b'"');
    let mut buffer = [0; 256 * BASE64_LINE];
    let mut left = length;
    loop {
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let got = reader.read_extra(&mut buffer[..wanted])?;
        left -= got as u64;
        json.base64_lines(&buffer[..got]);
        if got < buffer.len() {
            break;
        }
        flush(json, out, reader)?;
    }
    json.text.push(b'"');
    Ok(())
}

fn semaphores<R: Read>(reader: &mut Reader<R>, json: &mut Json, length: u64) -> Result<(), Error> {
    let all = rest(reader)?;
    let (values, padding) =
        all.split_at(usize::try_from(length).unwrap_or(usize::MAX).min(all.len()));
    json.key(EXTRA);
    json.open(b'[');
    for value in values.chunks_exact(2) {
        json.item();
        json.u64(u16::from_le_bytes([value[0], value[1]]).into());
    }
    json.close(b']');
    self::padding(json, padding);
    Ok(())
}

/// Messages and texts by turns, as crit has them.
fn messages<R: Read>(reader: &mut Reader<R>, json: &mut Json, pretty: bool) -> Result<(), Error> {
    let all = rest(reader)?;
    let mut paddings = Vec::new();
    let mut left = all.as_slice();
    json.key(EXTRA);
    json.open(b'[');
    // The reader has checked the lengths.
    while let Some((length, after)) = left.split_first_chunk::<4>() {
        let (ipc_msg, after) = split(after, u64::from(u32::from_le_bytes(*length)));
        let text = text_length(ipc_msg).map_err(|error| reader.damaged(&error))?;
        let (text, after) = split(after, text);
        let (padding, after) = split(
            after,
            (text.len() as u64).next_multiple_of(8) - text.len() as u64,
        );
        paddings.extend_from_slice(padding);
        json.item();
        json.open(b'{');
        let mut decoder = Decoder {
            json: &mut *json,
            pretty,
            odd: false,
        };
        if let Some(def) = MessageDef::of("ipc_msg") {
            decoder
                .message(def, ipc_msg, 0, 0, false)
                .map_err(|error| reader.damaged(&error))?;
        }
        if decoder.odd {
            json.key(WIRE);
            json.base64(ipc_msg);
        }
        json.close(b'}');
        json.item();
        json.base64(text);
        left = after;
    }
    json.close(b']');
    self::padding(json, &paddings);
    Ok(())
}

fn split(bytes: &[u8], length: u64) -> (&[u8], &[u8]) {
    bytes.split_at(
        usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(bytes.len()),
    )
}

fn padding(json: &mut Json, padding: &[u8]) {
    if padding.iter().any(|byte| *byte != 0) {
        json.key(PADDING);
        json.base64(padding);
    }
}

/// All that is left of what follows.
fn rest<R: Read>(reader: &mut Reader<R>) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match reader.read_extra(&mut buffer)? {
            0 => return Ok(all),
            got => all.extend_from_slice(&buffer[..got]),
        }
    }
}

/// A length as crit writes it: `512B`, `1.5KB`.
fn human(length: u64) -> String {
    let mut rest = length as f64;
    for unit in ["", "K", "M", "G", "T", "P", "E"] {
        if rest < 1024.0 {
            return if rest.fract() == 0.0 {
                format!("{rest:.0}{unit}B")
            } else {
                format!("{rest:.1}{unit}B")
            };
        }
        rest /= 1024.0;
    }
    format!("{rest:.1}ZB")
}
