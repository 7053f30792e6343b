//! Making images from nothing.

use crate::frame::{self, push_record};
use crate::kind::Kind;
use crate::wire::Message;

/// Makes an image from nothing.
///
/// ```
/// use criu_image::views::{FsEntry, View};
/// use criu_image::{Builder, Image, Kind};
///
/// let mut builder = Builder::new(Kind::Fs);
/// builder.push(&FsEntry { cwd_id: 5, root_id: 6, umask: Some(0o22) }.to_message());
/// let image = Image::from_bytes("fs-1.img", builder.finish(), Kind::Fs)?;
/// assert_eq!(image.only_record()?.view::<FsEntry>()?.cwd_id, 5);
/// # Ok::<(), criu_image::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// An image without records.
    pub fn new(kind: Kind) -> Self {
        Self {
            bytes: frame::header_of(kind),
        }
    }

    /// Appends a record.
    pub fn push(&mut self, message: &Message<'_>) {
        push_record(&mut self.bytes, &message.encode(), &[]);
    }

    /// Appends a record with bytes behind it.
    pub fn push_with(&mut self, message: &Message<'_>, extra: &[u8]) {
        push_record(&mut self.bytes, &message.encode(), extra);
    }

    /// The image.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
