//! Lossless reading, editing and writing of CRIU image files.
//!
//! CRIU keeps a checkpointed process tree as a directory of images: one file for each kind of object and process. This
//! crate reads, edits and writes every kind that criu 4.1 and 4.2 write, byte for byte: fields that it does not know, their order and
//! their encoding survive every edit. It knows nothing of containers, and depends on nothing.
//!
//! # The format
//!
//! ```text
//! inventory.img            other images                      stats-*, irmap-cache
//! ┌───────────────────┐    ┌─────────────────────────────┐   ┌──────────────────────────────┐
//! │ u32 magic of kind │    │ u32 IMG_COMMON_MAGIC        │   │ u32 IMG_SERVICE_MAGIC        │
//! ├───────────────────┤    │ u32 magic of kind           │   │ u32 magic of kind            │
//! │ record            │    ├─────────────────────────────┤   ├──────────────────────────────┤
//! └───────────────────┘    │ record                      │   │ record                       │
//!                          │ record                      │   └──────────────────────────────┘
//!                          │ ...                         │
//!                          └─────────────────────────────┘
//! record
//! ┌────────────┬─────────────────────────────────┬──────────────────────────────────────┐
//! │ u32 length │ protobuf message of that length │ extra bytes, as the kind has it      │
//! └────────────┴─────────────────────────────────┴──────────────────────────────────────┘
//!
//! extra bytes     pipes-data, fifo-data   the pipe's content: as many as field `bytes` says
//!                 sk-queues               a packet: `length`
//!                 tcp-stream-*            both queues: `inq_len`, then `outq_len`
//!                 bpfmap-data             keys, then values: `keys_bytes`, `values_bytes`
//!                 ipcns-shm-*             the segment: `size`, rounded up to 4; none with `in_pagemaps`
//!                 ipcns-sem-*             16-bit values: 2 x `nsems`, rounded up to 8
//!                 ipcns-msg-*             `qnum` times: u32 length, an ipc_msg, its text (`msize`, rounded up to 8)
//!                 ghost-file-*            the content up to the file's end; or, with `chunks`, more records, each a
//!                                         ghost_chunk_entry followed by `len` bytes
//! ```
//!
//! Numbers of the frame are little-endian. Messages are protobuf 2, fields in the order of their numbers, repeated numbers not
//! packed. The magic numbers are in CRIU's `criu/include/magic.h`, the messages in its `images/*.proto`, which this crate
//! carries. `pages-*.img` and what `ip`, `iptables` and `tar` write have no records ([`Named::Raw`]) and are not read.
//!
//! # The parts
//!
//! * [`Image`]: a file in memory, its records, and rewriting some of them; [`Builder`] makes one from nothing.
//! * [`Reader`]: a file record by record, in the memory of one.
//! * [`views`]: the messages that an engine edits, as plain structs.
//! * [`wire`]: messages without a schema, kept exactly as they were; also good for CRIU's RPC.
//! * [`object`] and [`schema`]: all messages by the names of the schema, for reading.
//! * [`json`]: what `crit decode` prints and `crit encode` reads, without its losses.
//!
//! # Example
//!
//! Where the open files of a checkpoint were, with one path changed:
//!
//! ```
//! use criu_image::views::{FileEntry, FownEntry, RegFileEntry, View};
//! use criu_image::{Builder, Change, Error, Image, Kind};
//!
//! # let mut builder = Builder::new(Kind::Files);
//! # let reg = RegFileEntry { id: 7, name: "/pods/a/log".into(), ..RegFileEntry::default() };
//! # builder.push(&FileEntry { type_: 1, id: 7, reg: Some(reg), ..FileEntry::default() }.to_message());
//! # let bytes = builder.finish();
//! // Image::open("checkpoint/files.img", Kind::Files)
//! let image = Image::from_bytes("files.img", bytes, Kind::Files)?;
//! let moved = image.rewrite::<Error>(|record| {
//!     let mut file: FileEntry = record.view()?;
//!     match &mut file.reg {
//!         Some(reg) if reg.name.as_path().starts_with("/pods/a") => {
//!             reg.name = reg.name.to_string().replace("/pods/a", "/pods/b").into();
//!             record.with(&file)
//!         }
//!         _ => Ok(Change::Keep),
//!     }
//! })?;
//! # let moved = Image::from_bytes("files.img", moved, Kind::Files)?;
//! # let file: FileEntry = moved.only_record()?.view()?;
//! # assert_eq!(file.reg.unwrap().name, "/pods/b/log".into());
//! # Ok::<(), Error>(())
//! ```
//!
//! # Hostile input
//!
//! Images of a checkpoint can come from anywhere. No length is believed before that many bytes are there; nesting is bounded; what
//! is wrong is an [`Error`] with file, offset and what was expected. The crate has no `unsafe` code, and fuzz targets for framing,
//! views and both directions of JSON.

mod builder;
mod error;
mod frame;
mod image;
pub mod json;
mod kind;
pub mod object;
mod reader;
pub mod schema;
mod text;
mod view;
pub mod views;
pub mod wire;

pub use builder::Builder;
pub use error::Error;
pub use image::{Change, Image, MAX_SIZE, Record, Records};
pub use kind::{Class, Framing, Kind, Named};
pub use reader::Reader;
pub use text::Bytes;
pub use view::{Sint32, Sint64};
