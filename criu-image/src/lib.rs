//! Lossless reading, editing and writing of CRIU image files.
//!
//! ```text
//! inventory.img  u32 INVENTORY_MAGIC                        record
//! other images   u32 IMG_COMMON_MAGIC  u32 magic of kind    record*
//! record         u32 length  protobuf message of that length
//! ```
//!
//! Numbers of the frame are little-endian. Fields that this crate does not know, their order and their encoding
//! survive every edit; a file that is read and written again is the same byte for byte.
//!
//! * [`Image`]: a file, its records, and rewriting some of them.
//! * [`wire`]: messages without a schema.
//! * [`views`]: typed, plain data for the messages an engine edits.

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
