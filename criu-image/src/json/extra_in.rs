//! What follows a record's message, from JSON.

use super::encode::{Encoded, bytes, message};
use super::parse::Value;
use super::{EXTRA, WIRE};
use crate::frame::{self, push_record};
use crate::kind::{Framing, Kind};
use crate::schema::MessageDef;

/// What follows a record's message.
pub(super) fn extra(
    kind: Kind,
    payload: &[u8],
    extra: Option<Value>,
    mut padding: &[u8],
) -> Encoded<Vec<u8>> {
    if let Some(Value::Text(text)) = &extra
        && text.starts_with(b"... <")
    {
        return Err("its payload was left out when it was decoded".into());
    }
    let Some(extra) = extra else {
        return Ok(Vec::new());
    };
    let number = |field| frame::number(payload, field).map_err(|error| error.to_string());
    let mut out = match (kind, &extra) {
        (Kind::TcpStream, Value::Object(members)) => {
            let queue = |name: &str, field| {
                let queue = members
                    .iter()
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| bytes(name, value));
                let queue = queue.unwrap_or(Ok(Vec::new()))?;
                let length = number(field)?;
                if queue.len() as u64 == length {
                    Ok(queue)
                } else {
                    Err(format!("{name} is not {length} bytes long"))
                }
            };
            let mut out = queue("inq", 1)?;
            out.extend(queue("outq", 3)?);
            out
        }
        (Kind::IpcSem, Value::Array(items)) => {
            let item = |item: &Value| match item {
                Value::Number(number) => u16::try_from(*number).ok().map(u16::to_le_bytes),
                _ => None,
            };
            let values = items.iter().map(item).collect::<Option<Vec<_>>>();
            values
                .ok_or("extra is an array of numbers up to 65535")?
                .concat()
        }
        (Kind::IpcMsg, Value::Array(items)) => return messages(items, padding),
        (Kind::TcpStream | Kind::IpcSem | Kind::IpcMsg, other) => {
            return Err(format!("extra is {}, which a {kind} has not", other.what()));
        }
        (_, extra) => bytes(EXTRA, extra)?,
    };
    let align: usize = match kind.framing() {
        Framing::SharedMemory => 4,
        Framing::Semaphores => 8,
        _ => 1,
    };
    pad(&mut out, align, &mut padding);
    Ok(out)
}

/// Fills up to a multiple of `align`.
fn pad(out: &mut Vec<u8>, align: usize, padding: &mut &[u8]) {
    let missing = out.len().next_multiple_of(align) - out.len();
    let (given, rest) = padding.split_at(missing.min(padding.len()));
    out.extend_from_slice(given);
    out.resize(out.len() + missing - given.len(), 0);
    *padding = rest;
}

/// Messages and texts by turns.
fn messages(items: &[Value], mut padding: &[u8]) -> Encoded<Vec<u8>> {
    let mut out = Vec::new();
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("extra has a message without its text".into());
    }
    for [head, text] in pairs {
        let Value::Object(members) = head else {
            return Err(format!("a message is {}, expected an object", head.what()));
        };
        let def = MessageDef::of("ipc_msg").ok_or("ipc_msg is not in the schema")?;
        let wire = members
            .iter()
            .find(|(key, _)| key == WIRE)
            .map(|(_, value)| bytes(WIRE, value))
            .transpose()?;
        let members: Vec<_> = members
            .iter()
            .filter(|(key, _)| key != WIRE)
            .cloned()
            .collect();
        let mut head = message(def, &members, 0, wire.is_none())?;
        if let Some(wire) = wire
            && number_of(&wire, 2) == number_of(&head, 2)
            && number_of(&wire, 1) == number_of(&head, 1)
        {
            head = wire;
        }
        let text = bytes(EXTRA, text)?;
        if number_of(&head, 2) != Some(text.len() as u64) {
            return Err(format!(
                "a message's msize is not its text's length, {}",
                text.len()
            ));
        }
        push_record(&mut out, &head, &text);
        // Each text starts on no boundary in particular, so it is filled up by itself.
        let mut filled = text;
        let length = filled.len();
        pad(&mut filled, 8, &mut padding);
        out.extend_from_slice(&filled[length..]);
    }
    Ok(out)
}

fn number_of(message: &[u8], field: u32) -> Option<u64> {
    frame::number(message, field).ok()
}
