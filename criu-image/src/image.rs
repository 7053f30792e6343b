//! A record image: header, then records.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::frame::{self, Framer, push_record};
use crate::kind::Kind;
use crate::view::View;
use crate::wire::{self, Message};

/// The layout this code reads: `CRTOOLS_IMAGES_V1_1`.
const VERSION: u32 = 2;

/// Record images are small: the largest of an honest set, `files.img`, takes about 150 bytes a file.
pub const MAX_SIZE: u64 = 1 << 30;

/// An image in memory.
#[derive(Debug, Clone)]
pub struct Image {
    name: PathBuf,
    kind: Kind,
    bytes: Vec<u8>,
    /// Where the records start.
    start: usize,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    image: &'a Path,
    /// The image's kind.
    pub kind: Kind,
    /// Which, from 0.
    pub index: usize,
    /// Where its payload starts in the file, in bytes.
    pub offset: usize,
    /// The protobuf message.
    pub payload: &'a [u8],
    /// What follows it: the content of a pipe, a socket's queue, ...; empty for most kinds.
    pub extra: &'a [u8],
}

/// What [`Image::rewrite`] does with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Copy it as it is.
    Keep,
    /// Write this payload instead; what follows it stays.
    Replace(Vec<u8>),
    /// Write this payload and these bytes behind it.
    ReplaceAll(Vec<u8>, Vec<u8>),
    /// Leave it out.
    Remove,
}

impl Image {
    /// Reads the image at `path`.
    ///
    /// # Errors
    /// When it cannot be read or is no image of this kind.
    pub fn open(path: impl Into<PathBuf>, kind: Kind) -> Result<Self, Error> {
        let name = path.into();
        match File::open(&name) {
            Ok(file) => Self::from_file(name, file, kind),
            Err(error) => Err(Error::io(&name, "it cannot be opened", error)),
        }
    }

    /// Reads an open image; `name` is for messages.
    ///
    /// # Errors
    /// When it cannot be read, is larger than [`MAX_SIZE`] or is no image of this kind.
    pub fn from_file(name: impl Into<PathBuf>, file: File, kind: Kind) -> Result<Self, Error> {
        let name = name.into();
        let meta = file
            .metadata()
            .map_err(|error| Error::io(&name, "it cannot be read", error))?;
        if !meta.is_file() {
            return Err(Error::at(&name, 0, "it is no regular file"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(MAX_SIZE)).unwrap_or(0));
        file.take(MAX_SIZE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(&name, "it cannot be read", error))?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(Error::at(
                &name,
                0,
                format!("it is larger than {MAX_SIZE} bytes"),
            ));
        }
        Self::from_bytes(name, bytes, kind)
    }

    /// Takes an image in memory; `name` is for messages.
    ///
    /// # Errors
    /// When it is no image of this kind, or an inventory of another layout.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>, kind: Kind) -> Result<Self, Error> {
        Self::parse(name.into(), bytes, Some(kind))
    }

    /// Takes an image in memory, of the kind that its magic number tells.
    ///
    /// # Errors
    /// When it is no image of a known kind, or an inventory of another layout.
    pub fn detect(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::parse(name.into(), bytes, None)
    }

    fn parse(name: PathBuf, bytes: Vec<u8>, kind: Option<Kind>) -> Result<Self, Error> {
        let (kind, start) = frame::header(&name, &bytes[..bytes.len().min(frame::HEADER)], kind)?;
        let image = Self {
            name,
            kind,
            bytes,
            start,
        };
        if kind == Kind::Inventory {
            let record = image.only_record()?;
            check_version(&image.name, record.offset, &record.message()?)?;
        }
        Ok(image)
    }

    /// Its name.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its records. After an error there are no more.
    pub fn records(&self) -> Records<'_> {
        Records {
            image: self,
            at: self.start,
            framer: Framer::new(self.kind),
        }
    }

    /// The record of an image that has exactly one.
    ///
    /// # Errors
    /// When it has none or several.
    pub fn only_record(&self) -> Result<Record<'_>, Error> {
        let mut records = self.records();
        match (records.next().transpose()?, records.next().transpose()?) {
            (Some(record), None) => Ok(record),
            (None, _) => Err(Error::at(
                &self.name,
                self.start,
                "it has no record, expected one",
            )),
            (_, Some(second)) => Err(Error::at(
                &self.name,
                second.offset,
                "it has several records, expected one",
            )),
        }
    }

    /// The image with some records changed; everything else byte for byte as it was.
    ///
    /// # Errors
    /// When a record is damaged, or what `change` returns.
    pub fn rewrite<E: From<Error>>(
        &self,
        mut change: impl FnMut(&Record<'_>) -> Result<Change, E>,
    ) -> Result<Vec<u8>, E> {
        let mut out = Vec::with_capacity(self.bytes.len());
        out.extend_from_slice(&self.bytes[..self.start]);
        for record in self.records() {
            let record = record?;
            match change(&record)? {
                Change::Keep => push_record(&mut out, record.payload, record.extra),
                Change::Replace(payload) => push_record(&mut out, &payload, record.extra),
                Change::ReplaceAll(payload, extra) => push_record(&mut out, &payload, &extra),
                Change::Remove => {}
            }
        }
        Ok(out)
    }
}

/// The records of an image; see [`Image::records`].
#[derive(Debug, Clone)]
pub struct Records<'a> {
    image: &'a Image,
    at: usize,
    framer: Framer,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.image.bytes.len() {
            return None;
        }
        let record = self.record();
        self.at = record.as_ref().map_or(self.image.bytes.len(), |record| {
            record.offset + record.payload.len() + record.extra.len()
        });
        Some(record)
    }
}

impl<'a> Records<'a> {
    fn record(&mut self) -> Result<Record<'a>, Error> {
        let image = self.image;
        let index = self.framer.index;
        let rest = &image.bytes[self.at..];
        let failed = |at: usize, what: String| Err(Error::at(&image.name, at, what));
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            let what = format!(
                "the length of record {index} is cut short ({} of 4 bytes)",
                rest.len()
            );
            return failed(self.at, what);
        };
        let length = u32::from_le_bytes(*length);
        let Some((payload, rest)) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_checked(length))
        else {
            let what = format!(
                "record {index} has a length of {length} bytes, {} bytes are left",
                rest.len()
            );
            return failed(self.at, what);
        };
        let offset = self.at + 4;
        let extra = self.framer.next(payload).map_err(|error| {
            Error::at(
                &image.name,
                offset + error.offset,
                format!("record {index}: {}", error.what),
            )
        })?;
        let length = frame::extent(extra, rest).map_err(|what| {
            Error::at(
                &image.name,
                offset + payload.len(),
                format!("record {index} {what}"),
            )
        })?;
        Ok(Record {
            image: &image.name,
            kind: image.kind,
            index,
            offset,
            payload,
            extra: &rest[..length],
        })
    }
}

/// Refuses an inventory of another layout.
pub(crate) fn check_version(
    name: &Path,
    offset: usize,
    inventory: &Message<'_>,
) -> Result<(), Error> {
    let version = inventory.u32(1).unwrap_or(0);
    if version == VERSION {
        return Ok(());
    }
    let what = format!(
        "the images have layout version {version}, expected {VERSION}; dump again with a current criu"
    );
    Err(Error::at(name, offset, what))
}

impl<'a> Record<'a> {
    /// A record of bytes that are not in the image; errors name it.
    pub fn new(image: &'a Image, index: usize, payload: &'a [u8]) -> Self {
        Self {
            image: &image.name,
            kind: image.kind,
            index,
            offset: 0,
            payload,
            extra: &[],
        }
    }

    /// The payload's fields.
    ///
    /// # Errors
    /// When it is no protobuf message.
    pub fn message(&self) -> Result<Message<'a>, Error> {
        Message::parse(self.payload).map_err(|error| self.error(&error))
    }

    /// The payload as a typed view.
    ///
    /// # Errors
    /// When it is not that message.
    pub fn view<T: View>(&self) -> Result<T, Error> {
        T::decode(self.payload).map_err(|error| self.error(&error))
    }

    /// The payload with the fields of `view` written into it.
    ///
    /// # Errors
    /// When it is not that message.
    pub fn with<T: View>(&self, view: &T) -> Result<Change, Error> {
        let mut message = self.message()?;
        view.write_into(&mut message)
            .map_err(|error| self.error(&error))?;
        Ok(Change::Replace(message.encode()))
    }

    pub(crate) fn error(&self, error: &wire::Error) -> Error {
        Error::at(
            self.image,
            self.offset + error.offset,
            format!("record {}: {}", self.index, error.what),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{FdinfoEntry, InventoryEntry};

    fn image(kind: Kind, payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = frame::header_of(kind);
        for payload in payloads {
            push_record(&mut bytes, payload, &[]);
        }
        bytes
    }

    fn refused(kind: Kind, bytes: Vec<u8>) -> String {
        let image = match Image::from_bytes("dir/x.img", bytes, kind) {
            Ok(image) => image,
            Err(error) => return error.to_string(),
        };
        image
            .records()
            .find_map(Result::err)
            .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn damaged_images_name_file_offset_and_expectation() {
        let fdinfo = image(Kind::Fdinfo, &[b"\x08\x01"]);
        let cases: [(Kind, Vec<u8>, &str); 9] = [
            (
                Kind::Fdinfo,
                vec![],
                "dir/x.img: at byte 0: it is empty, expected a magic number",
            ),
            (
                Kind::Fdinfo,
                fdinfo[..2].into(),
                "at byte 0: it is cut short after 2 bytes",
            ),
            (
                Kind::Fdinfo,
                fdinfo[..6].into(),
                "at byte 4: it is cut short after 6 bytes",
            ),
            (
                Kind::Fdinfo,
                fdinfo[..10].into(),
                "at byte 8: the length of record 0 is cut short (2 of 4 bytes)",
            ),
            (
                Kind::Fdinfo,
                fdinfo[..13].into(),
                "at byte 8: record 0 has a length of 2 bytes, 1 bytes are left",
            ),
            (
                Kind::Files,
                fdinfo.clone(),
                "at byte 4: magic number 0x56213732, expected 0x56303138 (files); this is an image of fdinfo-*",
            ),
            (
                Kind::Files,
                b"GIF89a!!".to_vec(),
                "at byte 0: magic number 0x38464947, expected 0x54564319",
            ),
            (
                Kind::Inventory,
                fdinfo.clone(),
                "at byte 4: magic number 0x56213732, expected 0x58313116 (inventory); this is an image of fdinfo-*",
            ),
            (Kind::Fdinfo, fdinfo[4..].into(), "layout version 1"),
        ];
        for (kind, bytes, expected) in cases {
            let text = refused(kind, bytes);
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_hostile_length_allocates_nothing() {
        let mut bytes = image(Kind::Files, &[]);
        bytes.extend([0xff; 4]);
        assert!(
            refused(Kind::Files, bytes).contains("a length of 4294967295 bytes, 0 bytes are left")
        );
    }

    #[test]
    fn a_damaged_message_is_found_by_its_place_in_the_file() {
        let image = Image::from_bytes(
            "x.img",
            image(Kind::Fdinfo, &[b"\x08\x01", b"\x08"]),
            Kind::Fdinfo,
        )
        .unwrap();
        let error = image
            .records()
            .nth(1)
            .unwrap()
            .unwrap()
            .message()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "x.img: at byte 19: record 1: a number is cut short"
        );
    }

    #[test]
    fn another_layout_version_is_refused_with_a_sentence() {
        let entry = InventoryEntry {
            img_version: 1,
            ..InventoryEntry::default()
        };
        let bytes = image(Kind::Inventory, &[&entry.to_message().encode()]);
        let text = refused(Kind::Inventory, bytes);
        assert!(text.contains("layout version 1, expected 2"), "{text}");
    }

    #[test]
    fn rewriting_changes_the_chosen_record_only() {
        let entry = |fd| {
            FdinfoEntry {
                id: 1,
                flags: 0,
                type_: 1,
                fd,
            }
            .to_message()
            .encode()
        };
        // Fields a later criu may add.
        let odd = [entry(1), b"\xba\x3e\x03new".to_vec()].concat();
        let bytes = image(Kind::Fdinfo, &[&entry(0), &odd, &entry(2)]);
        let image = Image::from_bytes("x.img", bytes.clone(), Kind::Fdinfo).unwrap();
        assert_eq!(image.rewrite::<Error>(|_| Ok(Change::Keep)).unwrap(), bytes);
        let changed = image.rewrite::<Error>(|record| match record.index {
            1 => record.with(&FdinfoEntry {
                fd: 7,
                ..record.view()?
            }),
            2 => Ok(Change::Remove),
            _ => Ok(Change::Keep),
        });
        let expected = [entry(7), b"\xba\x3e\x03new".to_vec()].concat();
        assert_eq!(
            changed.unwrap(),
            super::tests::image(Kind::Fdinfo, &[&entry(0), &expected])
        );
    }
}
