//! Images as JSON, in the shape that CRIU's `crit` prints and reads.
//!
//! ```json
//! {"magic": "FILES", "entries": [{"type": "REG", "id": 7, "reg": {"id": 7, "flags": 0, "pos": 0, ...}}, ...]}
//! ```
//!
//! Keys are the schema's field names, in the order of field numbers; fields that are not there are left out. Enums are
//! names, bytes are base64 in lines of 76, unix socket names are quoted-printable. What follows a record's message (the
//! content of a pipe, a socket's queues, ...) is `extra`. [`Options::pretty`] shows flags, devices and addresses for
//! people; both forms can be encoded again.
//!
//! `crit` loses what its schema has no name for. Here `encode(decode(x)) == x`, by three members more, which `crit`
//! ignores:
//!
//! * `_unknown`: fields that the schema has not got, as `{"field": 23, "varint": 5}` (or `fixed32`, `fixed64`, `bytes`).
//! * `_wire`: the message in base64, only where the rest would not give the same bytes (fields out of order, numbers
//!   encoded longer than needed). When the rest was edited it counts and `_wire` does not.
//! * `_padding`: bytes between objects, only where they are not zero.
//!
//! Bytes of a text that are not UTF-8 become lone surrogates, `\udc80` to `\udcff`, as Python does.
//!
//! CRIU 4.2 renamed the field 2 of `pagemap_entry` from `nr_pages` to `compat_nr_pages` and took the old name for field
//! 5. An entry without field 5 is shown with the old name, as the `crit` of its time does; both are understood.
//!
//! Both directions hold one record at a time, whatever the size of the image.

mod decode;
mod encode;
mod extra_in;
mod extra_out;
mod parse;
mod values;
mod write;

pub use decode::{Options, decode, decode_record};
pub use encode::encode;

pub(crate) use decode::definition;
pub(crate) use values::address;

use crate::schema::{FieldDef, Label, MessageDef, Style, Type};

/// Messages nest no deeper than this; CRIU's do so about five times, cgroups as deep as they are.
const MAX_DEPTH: usize = 100;

const UNKNOWN: &str = "_unknown";
const WIRE: &str = "_wire";
const PADDING: &str = "_padding";
const EXTRA: &str = "extra";

/// `pagemap_entry` before CRIU 4.2.
static OLD_PAGEMAP_ENTRY: MessageDef = MessageDef {
    name: "pagemap_entry",
    fields: &[
        FieldDef {
            number: 1,
            name: "vaddr",
            typ: Type::U64,
            label: Label::Required,
            style: Style::Hex,
        },
        FieldDef {
            number: 2,
            name: "nr_pages",
            typ: Type::U32,
            label: Label::Required,
            style: Style::Plain,
        },
        FieldDef {
            number: 3,
            name: "in_parent",
            typ: Type::Bool,
            label: Label::Optional,
            style: Style::Plain,
        },
        FieldDef {
            number: 4,
            name: "flags",
            typ: Type::U32,
            label: Label::Optional,
            style: Style::Flags("pmap.flags"),
        },
    ],
};
