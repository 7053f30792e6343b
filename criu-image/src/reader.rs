//! Reading an image record by record, in the memory of one: for images too big to hold, like the pagemap of a large
//! process.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::frame::{self, Extra, Framer};
use crate::image::check_version;
use crate::kind::Kind;
use crate::wire::Message;

/// A stream of records.
///
/// ```
/// # use criu_image::{Kind, Reader};
/// # fn main() -> Result<(), criu_image::Error> {
/// let image = [0x19, 0x43, 0x56, 0x54, 0x30, 0x20, 0x43, 0x54, 2, 0, 0, 0, 0x08, 0x07];
/// let mut reader = Reader::new("ids-7.img", &image[..], Some(Kind::Ids))?;
/// while reader.advance()? {
///     assert_eq!(reader.message()?.u32(1), Some(7));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    name: PathBuf,
    framer: Framer,
    /// Where the input stands, in bytes.
    at: u64,
    payload: Vec<u8>,
    /// Where the payload started.
    offset: u64,
    rest: Rest,
    /// Longer records are not read.
    limit: u32,
}

/// What of the extra bytes was not read yet.
#[derive(Debug)]
enum Rest {
    Bytes(u64),
    ToEnd,
    Held(io::Cursor<Vec<u8>>),
}

impl<R: Read> Reader<R> {
    /// Starts reading; `name` is for messages. Without a kind the magic number tells.
    ///
    /// # Errors
    /// When it cannot be read or is no image of this kind.
    pub fn new(name: impl Into<PathBuf>, input: R, expected: Option<Kind>) -> Result<Self, Error> {
        let name = name.into();
        let mut input = BufReader::with_capacity(1 << 16, input);
        let mut start = Vec::with_capacity(frame::HEADER);
        let failed = |error| Error::io(&name, "it cannot be read", error);
        // The inventory has one magic number; the next four bytes are the length of its record.
        input
            .by_ref()
            .take(4)
            .read_to_end(&mut start)
            .map_err(failed)?;
        if start != Kind::Inventory.magic().to_le_bytes() {
            input
                .by_ref()
                .take(4)
                .read_to_end(&mut start)
                .map_err(failed)?;
        }
        let (kind, at) = frame::header(&name, &start, expected)?;
        let framer = Framer::new(kind);
        Ok(Self {
            input,
            name,
            framer,
            at: at as u64,
            payload: Vec::new(),
            offset: 0,
            rest: Rest::Bytes(0),
            limit: u32::MAX,
        })
    }

    /// The same with a bound, in bytes, on each record: an untrusted image may hold one of any length.
    #[must_use]
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.framer.kind
    }

    /// Its name.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Goes to the next record, past what was not read of this one's extra bytes. `false` at the end.
    ///
    /// # Errors
    /// When the image is damaged or cannot be read, or is an inventory of another layout.
    pub fn advance(&mut self) -> Result<bool, Error> {
        self.skip_extra()?;
        let mut length = [0; 4];
        let got = self.fill(&mut length)?;
        let index = self.framer.index;
        match got {
            0 => return Ok(false),
            4 => {}
            _ => {
                let what = format!("the length of record {index} is cut short ({got} of 4 bytes)");
                return Err(self.error(self.at - got as u64, what));
            }
        }
        let length = u32::from_le_bytes(length);
        self.offset = self.at;
        if length > self.limit {
            let what = format!(
                "record {index} has {length} bytes, which is more than the {} that are read",
                self.limit
            );
            return Err(self.error(self.offset - 4, what));
        }
        let got = self.read_payload(length)?;
        if got < u64::from(length) {
            let what =
                format!("record {index} has a length of {length} bytes, {got} bytes are left");
            return Err(self.error(self.offset - 4, what));
        }
        if self.kind() == Kind::Inventory && index == 0 {
            check_version(&self.name, 8, &self.message()?)?;
        }
        let extra = self.framer.next(&self.payload).map_err(|error| {
            self.error(
                self.offset + error.offset as u64,
                format!("record {index}: {}", error.what),
            )
        })?;
        self.rest = match extra {
            Extra::Bytes(length) => Rest::Bytes(length),
            Extra::ToEnd => Rest::ToEnd,
            Extra::Messages(count) => Rest::Held(io::Cursor::new(self.messages(count)?)),
        };
        Ok(true)
    }

    /// Reads a message; returns how much of it there was.
    fn read_payload(&mut self, length: u32) -> Result<u64, Error> {
        /// Most messages are far below this.
        const SMALL: usize = 1 << 16;
        self.payload.clear();
        if let Some(length) = usize::try_from(length)
            .ok()
            .filter(|length| *length <= SMALL)
        {
            let mut payload = std::mem::take(&mut self.payload);
            payload.resize(length, 0);
            let got = self.fill(&mut payload)?;
            self.payload = payload;
            return Ok(got as u64);
        }
        // Grows with what is there, not with what the length says.
        let got = (&mut self.input)
            .take(u64::from(length))
            .read_to_end(&mut self.payload);
        let got = got.map_err(|error| Error::io(&self.name, "it cannot be read", error))? as u64;
        self.at += got;
        Ok(got)
    }

    /// Which record this is, from 0.
    pub fn index(&self) -> usize {
        self.framer.index.saturating_sub(1)
    }

    /// Where its message starts in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The record's protobuf message as bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The record's message.
    ///
    /// # Errors
    /// When it is no protobuf message.
    pub fn message(&self) -> Result<Message<'_>, Error> {
        Message::parse(&self.payload).map_err(|error| self.damaged(&error))
    }

    /// Reads up to `buffer.len()` of the extra bytes behind the message; returns how many, 0 at their end.
    ///
    /// # Errors
    /// When it cannot be read or ends before they do.
    pub fn read_extra(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let wanted = match &mut self.rest {
            Rest::Held(bytes) => {
                return bytes
                    .read(buffer)
                    .map_err(|error| Error::io(&self.name, "it cannot be read", error));
            }
            Rest::ToEnd => buffer.len(),
            Rest::Bytes(left) => usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(buffer.len()),
        };
        let got = self.fill(&mut buffer[..wanted])?;
        if let Rest::Bytes(left) = &mut self.rest {
            *left -= got as u64;
            let left = *left;
            if got < wanted {
                let what = format!(
                    "record {} is cut short, {left} bytes are missing behind it",
                    self.index()
                );
                return Err(self.error(self.at, what));
            }
        }
        Ok(got)
    }

    /// Reads past the extra bytes; returns how many there were.
    ///
    /// # Errors
    /// As [`Self::read_extra`].
    pub fn skip_extra(&mut self) -> Result<u64, Error> {
        if let Rest::Held(bytes) = &self.rest {
            let left = bytes.get_ref().len() as u64 - bytes.position();
            self.rest = Rest::Bytes(0);
            return Ok(left);
        }
        let mut sum = 0;
        let mut buffer = [0; 4096];
        loop {
            match self.read_extra(&mut buffer)? {
                0 => return Ok(sum),
                got => sum += got as u64,
            }
        }
    }

    /// Makes an error at the record's message.
    pub(crate) fn damaged(&self, error: &crate::wire::Error) -> Error {
        self.error(
            self.offset + error.offset as u64,
            format!("record {}: {}", self.index(), error.what),
        )
    }

    pub(crate) fn error(&self, offset: u64, what: String) -> Error {
        Error::at(
            &self.name,
            usize::try_from(offset).unwrap_or(usize::MAX),
            what,
        )
    }

    /// The messages behind a message queue.
    fn messages(&mut self, count: u64) -> Result<Vec<u8>, Error> {
        let mut held = Vec::new();
        for _ in 0..count {
            let start = held.len();
            self.append(&mut held, 4)?;
            let length = held[start..].try_into().map_or(0, u32::from_le_bytes);
            self.append(&mut held, u64::from(length))?;
            let text =
                frame::text_length(&held[start + 4..]).map_err(|error| self.damaged(&error))?;
            self.append(&mut held, frame::round_up(text, 8))?;
        }
        Ok(held)
    }

    fn append(&mut self, to: &mut Vec<u8>, length: u64) -> Result<(), Error> {
        let got = (&mut self.input).take(length).read_to_end(to);
        let got = got.map_err(|error| Error::io(&self.name, "it cannot be read", error))? as u64;
        self.at += got;
        if got == length {
            return Ok(());
        }
        let what = format!(
            "a message of record {} is cut short ({got} of {length} bytes)",
            self.index()
        );
        Err(self.error(self.at, what))
    }

    /// Reads until the buffer is full or the input ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut got = 0;
        while got < buffer.len() {
            match self.input.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&self.name, "it cannot be read", error)),
            }
        }
        self.at += got as u64;
        Ok(got)
    }
}
