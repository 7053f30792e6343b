//! The frame of an image: magic numbers, lengths, and how much follows each record's message.

use std::path::Path;

use crate::error::Error;
use crate::kind::{Class, Framing, Kind, old_image};
use crate::wire::{self, fields};

/// First word of every image but the inventory and the service images (`IMG_COMMON_MAGIC`).
const COMMON_MAGIC: u32 = 0x5456_4319;

/// First word of the service images, which are no part of the set (`IMG_SERVICE_MAGIC`).
const SERVICE_MAGIC: u32 = 0x5510_5940;

/// The longest header, in bytes.
pub(crate) const HEADER: usize = 8;

/// The header of an image of this kind.
pub(crate) fn header_of(kind: Kind) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    match kind.class() {
        Class::Inventory => {}
        Class::Normal => bytes.extend(COMMON_MAGIC.to_le_bytes()),
        Class::Service => bytes.extend(SERVICE_MAGIC.to_le_bytes()),
    }
    bytes.extend(kind.magic().to_le_bytes());
    bytes
}

/// Checks the magic numbers in the first [`HEADER`] bytes of a file (fewer when it is shorter). Returns the kind and
/// where the records start.
pub(crate) fn header(
    name: &Path,
    bytes: &[u8],
    expected: Option<Kind>,
) -> Result<(Kind, usize), Error> {
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|word| word.try_into().ok())
            .map(u32::from_le_bytes)
            .ok_or_else(|| {
                let what = match bytes.len() {
                    0 => "it is empty, expected a magic number".to_owned(),
                    length => format!(
                        "it is cut short after {length} bytes, expected a magic number of 4 bytes"
                    ),
                };
                Error::at(name, at.min(bytes.len()), what)
            })
    };
    let first = word(0)?;
    let class = match first {
        COMMON_MAGIC => Class::Normal,
        SERVICE_MAGIC => Class::Service,
        _ => Class::Inventory,
    };
    let at = if class == Class::Inventory { 0 } else { 4 };
    let found = word(at)?;
    let kind = Kind::of_magic(found).filter(|kind| kind.class() == class);
    match (kind, expected) {
        (Some(kind), None) => return Ok((kind, at + 4)),
        (Some(kind), Some(expected)) if kind == expected => return Ok((kind, at + 4)),
        _ => {}
    }
    if class == Class::Inventory
        && Kind::of_magic(found).is_some_and(|kind| kind != Kind::Inventory)
    {
        let what = "it has layout version 1, without the common magic number; dump again with a current criu";
        return Err(Error::at(name, 0, what));
    }
    let what = match (at, expected) {
        (0, Some(kind)) if kind.class() != Class::Inventory => {
            format!(
                "magic number {found:#010x}, expected {COMMON_MAGIC:#010x}{}",
                meaning(found)
            )
        }
        (_, Some(kind)) => format!(
            "magic number {found:#010x}, expected {:#010x} ({kind}){}",
            kind.magic(),
            meaning(found)
        ),
        (0, None) => format!(
            "magic number {found:#010x}, which no image starts with{}",
            meaning(found)
        ),
        (_, None) => format!(
            "magic number {found:#010x}, which is of no known kind of image{}",
            meaning(found)
        ),
    };
    Err(Error::at(name, at, what))
}

/// What a wrong magic number is the right one of.
fn meaning(magic: u32) -> String {
    if let Some(pattern) = old_image(magic) {
        return format!(
            "; this is {pattern} of an old layout, which files, core and mm replaced; dump again with a current criu"
        );
    }
    match magic {
        SERVICE_MAGIC => "; this is a service image".to_owned(),
        COMMON_MAGIC => "; this is no inventory".to_owned(),
        _ => Kind::of_magic(magic)
            .map_or_else(String::new, |kind| format!("; this is an image of {kind}")),
    }
}

/// How much follows the message of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    /// So many bytes.
    Bytes(u64),
    /// All that is left.
    ToEnd,
    /// So many messages, each with a length of its own.
    Messages(u64),
}

/// Tells how much follows each message of an image, in order.
#[derive(Debug, Clone)]
pub(crate) struct Framer {
    pub(crate) kind: Kind,
    pub(crate) index: usize,
    chunks: bool,
}

impl Framer {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            index: 0,
            chunks: false,
        }
    }

    /// What follows the next record's message.
    pub(crate) fn next(&mut self, payload: &[u8]) -> Result<Extra, wire::Error> {
        let index = self.index;
        self.index += 1;
        let number = |field| number(payload, field);
        Ok(match self.kind.framing() {
            Framing::Plain => Extra::Bytes(0),
            Framing::Sized(lengths) => {
                let mut sum = 0u64;
                for field in lengths {
                    sum = sum.saturating_add(number(*field)?);
                }
                Extra::Bytes(sum)
            }
            // ipc_shm_entry: size 2, in_pagemaps 3.
            Framing::SharedMemory if number(3)? != 0 => Extra::Bytes(0),
            Framing::SharedMemory => Extra::Bytes(round_up(number(2)?, 4)),
            // ipc_msg_entry: qnum 3.
            Framing::MessageQueue => Extra::Messages(number(3)?),
            // ipc_sem_entry: nsems 2.
            Framing::Semaphores => Extra::Bytes(round_up(number(2)?.saturating_mul(2), 8)),
            // ghost_file_entry: chunks 9; ghost_chunk_entry: len 1.
            Framing::Ghost if index == 0 => {
                self.chunks = number(9)? != 0;
                if self.chunks {
                    Extra::Bytes(0)
                } else {
                    Extra::ToEnd
                }
            }
            Framing::Ghost if self.chunks => Extra::Bytes(number(1)?),
            Framing::Ghost => Extra::Bytes(0),
        })
    }
}

/// Rounds up to a power of two; what does not fit is too long for any file anyway.
pub(crate) fn round_up(number: u64, to: u64) -> u64 {
    number.checked_next_multiple_of(to).unwrap_or(u64::MAX)
}

/// A number field of a message, 0 when it is not there.
pub(crate) fn number(payload: &[u8], number: u32) -> Result<u64, wire::Error> {
    let mut found = 0;
    for field in fields(payload) {
        let field = field?;
        if field.number == number {
            found = field.as_u64().ok_or_else(|| wire::Error {
                offset: field.value_offset(),
                what: format!("field {number} is not a number"),
            })?;
        }
    }
    Ok(found)
}

/// The length of a message of a message queue: its `ipc_msg` says how long the text behind it is.
pub(crate) fn text_length(ipc_msg: &[u8]) -> Result<u64, wire::Error> {
    number(ipc_msg, 2)
}

/// The length of what follows a message, in bytes, when it is all in `rest`; else why not.
pub(crate) fn extent(extra: Extra, rest: &[u8]) -> Result<usize, String> {
    let fits = |length: u64, left: usize| match usize::try_from(length) {
        Ok(length) if length <= left => Ok(length),
        _ => Err(format!(
            "is followed by {length} bytes, {left} bytes are left"
        )),
    };
    match extra {
        Extra::ToEnd => Ok(rest.len()),
        Extra::Bytes(length) => fits(length, rest.len()),
        Extra::Messages(count) => {
            let mut at = 0;
            for index in 0..count {
                let Some((length, _)) = rest[at..].split_first_chunk::<4>() else {
                    return Err(format!(
                        "has {count} messages, message {index} is cut short"
                    ));
                };
                at += 4;
                let length = fits(u64::from(u32::from_le_bytes(*length)), rest.len() - at)?;
                let text = text_length(&rest[at..at + length])
                    .map_err(|error| format!("message {index}: {error}"))?;
                at += length;
                at += fits(round_up(text, 8), rest.len() - at)?;
            }
            Ok(at)
        }
    }
}

/// Appends a record.
pub(crate) fn push_record(out: &mut Vec<u8>, payload: &[u8], extra: &[u8]) {
    // A payload comes from a file of bounded size and grows by a path; CRIU could not read more than this either.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(extra);
}
