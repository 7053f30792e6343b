//! Going through a tar archive in the memory of one header.
//!
//! Archives are untrusted. This reads names, types and sizes, with the extensions for long names and large files of GNU
//! and POSIX, and nothing else; it makes no files. Every length is checked against a bound before it is believed, which
//! general tar libraries do not do for long names.

use std::io::{self, Read};

/// The unit of a tar archive, in bytes.
const BLOCK: usize = 512;

/// Names and extended headers are no longer than this.
const MAX_HEADER: u64 = 64 << 10;

/// A stream that can leave bytes out.
pub trait Source: Read {
    /// Goes past so many bytes.
    ///
    /// # Errors
    /// When they cannot be read, or are not there.
    fn skip(&mut self, count: u64) -> io::Result<()>
    where
        Self: Sized,
    {
        let skipped = io::copy(&mut self.by_ref().take(count), &mut io::sink())?;
        if skipped == count {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl Source for &[u8] {}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, as it stands in the archive.
    pub path: Vec<u8>,
    /// Length of its content in bytes.
    pub size: u64,
    /// Whether it is a regular file, not a link, directory or device.
    pub is_file: bool,
}

/// An archive on its way.
#[derive(Debug)]
pub struct Tar<R> {
    source: R,
    /// Content of the current member that was not read, and the filling behind it.
    left: u64,
    filling: u64,
}

fn damaged<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

impl<R: Source> Tar<R> {
    /// Starts at the source's place.
    pub fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            filling: 0,
        }
    }

    /// The next member, `None` at the end.
    ///
    /// # Errors
    /// When the archive cannot be read or is damaged.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let mut long_path = None;
        let mut pax = Pax::default();
        loop {
            self.source.skip(self.left + self.filling)?;
            (self.left, self.filling) = (0, 0);
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number(&header[124..136])?;
            let size = if matches!(header[156], b'x' | b'g' | b'L' | b'K') {
                size
            } else {
                pax.size.unwrap_or(size)
            };
            // Links and devices have no content, whatever their size says.
            let content = if matches!(header[156], b'1'..=b'6') {
                0
            } else {
                size
            };
            if content > u64::MAX / 2 {
                return damaged("a member is longer than any file");
            }
            self.left = content;
            self.filling = content.next_multiple_of(BLOCK as u64) - content;
            match header[156] {
                b'L' => {
                    let mut path = self.read_short()?;
                    path.truncate(
                        path.iter()
                            .position(|byte| *byte == 0)
                            .unwrap_or(path.len()),
                    );
                    long_path = Some(path);
                }
                b'x' => pax = Pax::parse(&self.read_short()?)?,
                b'g' | b'K' => {}
                kind => {
                    if kind == b'S' {
                        self.skip_sparse_map(&header)?;
                    }
                    let path = pax
                        .path
                        .or(long_path)
                        .unwrap_or_else(|| short_path(&header));
                    return Ok(Some(Member {
                        path,
                        size,
                        is_file: matches!(kind, 0 | b'0' | b'7') && !pax.sparse,
                    }));
                }
            }
        }
    }

    /// The content of the current member.
    ///
    /// # Errors
    /// When it cannot be read or ends too early.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Grows with what is there, not with what the header says.
        let got = (&mut self.source).take(self.left).read_to_end(&mut bytes)? as u64;
        if got < self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = 0;
        Ok(bytes)
    }

    fn read_short(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_HEADER {
            return damaged("a member's name or extended header is too long");
        }
        self.read()
    }

    /// A header with a right checksum; `None` at the two empty blocks at the end, or when nothing follows.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut header = [0; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.source.read(&mut header[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !is_header(&header) {
            return damaged("a header's checksum is wrong");
        }
        Ok(Some(header))
    }

    /// Goes past the blocks that tell where the data of an old GNU sparse file lies.
    fn skip_sparse_map(&mut self, header: &[u8; BLOCK]) -> io::Result<()> {
        let mut more = header[482] != 0;
        let mut block = [0; BLOCK];
        while more {
            self.source.read_exact(&mut block)?;
            more = block[504] != 0;
        }
        Ok(())
    }
}

/// Whether a block is a header: its checksum is right.
pub(super) fn is_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..BLOCK) else {
        return false;
    };
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            u64::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum();
    number(&block[148..156]).is_ok_and(|checksum| checksum == sum)
}

/// A number in octal digits or, for large ones, in base 256.
fn number(field: &[u8]) -> io::Result<u64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        let fold = |number: u64, byte: &u8| {
            let shifted = number.checked_mul(256)?;
            Some(shifted | u64::from(*byte))
        };
        return match rest.iter().try_fold(u64::from(first & 0x7f), fold) {
            Some(number) => Ok(number),
            None => damaged("a number is larger than any file"),
        };
    }
    let text = field
        .split(|byte| matches!(byte, 0))
        .next()
        .unwrap_or_default()
        .trim_ascii();
    text.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'7' => Ok(number << 3 | u64::from(byte - b'0')),
        _ => damaged("a number is not octal"),
    })
}

fn short_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let text = |field: &[u8]| {
        field
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
            .to_vec()
    };
    let name = text(&header[..100]);
    let prefix = text(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/".to_vec(), name].concat()
    } else {
        name
    }
}

/// What POSIX's extended header says about the next member.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Pax {
    /// Lines of `<length of the line> <key>=<value>\n`.
    fn parse(mut text: &[u8]) -> io::Result<Self> {
        let mut pax = Self::default();
        while !text.is_empty() {
            let line = text
                .iter()
                .position(|byte| *byte == b' ')
                .and_then(|space| {
                    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
                    let line = text.get(space + 1..length)?.strip_suffix(b"\n")?;
                    let equals = line.iter().position(|byte| *byte == b'=')?;
                    Some((length, &line[..equals], &line[equals + 1..]))
                });
            let Some((length, key, value)) = line else {
                return damaged("an extended header is damaged");
            };
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|size| size.parse().ok());
                    let Some(size) = size else {
                        return damaged("an extended header's size is no number");
                    };
                    pax.size = Some(size);
                }
                key => pax.sparse |= key.starts_with(b"GNU.sparse."),
            }
            text = &text[length..];
        }
        Ok(pax)
    }
}
