//! Going through a tar archive in the memory of one header.
//!
//! Archives are untrusted. This reads what a header says, with the extensions of GNU and POSIX for long names, large files
//! and extended attributes; it makes no files. Every length is checked against a bound before it is believed, which
//! general tar libraries do not do for long names.

use std::io::{self, Read};

/// The unit of a tar archive, in bytes.
const BLOCK: usize = 512;

/// Names and extended headers are no longer than this: an extended attribute has at most 64 KiB (`linux/limits.h`,
/// `XATTR_SIZE_MAX`), and a file seldom more than one of that size.
const MAX_HEADER: u64 = 256 << 10;

/// Prefix of the keyword of a pax record with an extended attribute, as Go's and GNU's archivers write it. The value is raw.
const PAX_ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

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
    /// What it is.
    pub kind: MemberKind,
    /// Where a link leads, as it stands in the archive.
    pub link: Vec<u8>,
    /// Permissions with set-user-id, set-group-id and sticky; `None` when the header has no such number.
    pub mode: Option<u32>,
    /// User and group that own it; `None` when the header names none that exists.
    pub owner: Option<(u32, u32)>,
    /// Time of its last change, in seconds since the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u64, u64),
    /// Names and values of its extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A regular file of which the archive has only parts.
    Sparse,
    /// Another name of an earlier member.
    Link,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Something else, by its letter in the header.
    Other(u8),
}

impl std::fmt::Display for MemberKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File => "a file",
            Self::Sparse => "a sparse file",
            Self::Link => "a hard link",
            Self::Symlink => "a symbolic link",
            Self::CharDevice => "a character device",
            Self::BlockDevice => "a block device",
            Self::Directory => "a directory",
            Self::Fifo => "a named pipe",
            Self::Other(letter) => {
                return write!(f, "of type {:?}", char::from(*letter));
            }
        })
    }
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
        let mut long_link = None;
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
                b'L' => long_path = Some(self.read_name()?),
                b'K' => long_link = Some(self.read_name()?),
                b'x' => pax = Pax::parse(&self.read_short()?)?,
                b'g' => {}
                kind => {
                    if kind == b'S' {
                        self.skip_sparse_map(&header)?;
                    }
                    let path = pax
                        .path
                        .take()
                        .or(long_path)
                        .unwrap_or_else(|| short_path(&header));
                    let link = pax.link.take().or(long_link);
                    return Ok(Some(Member::new(&header, path, link, size, pax)));
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

    /// The content of the current member as a stream, which fails when it ends too early.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { tar: self }
    }

    fn read_name(&mut self) -> io::Result<Vec<u8>> {
        let mut name = self.read_short()?;
        let end = name.iter().position(|byte| *byte == 0);
        name.truncate(end.unwrap_or(name.len()));
        Ok(name)
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

/// The content of a member.
#[derive(Debug)]
pub struct Content<'t, R> {
    tar: &'t mut Tar<R>,
}

impl<R: Source> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.tar.left).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        if most == 0 {
            return Ok(0);
        }
        let got = self.tar.source.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.tar.left -= got as u64;
        Ok(got)
    }
}

impl Member {
    fn new(
        header: &[u8; BLOCK],
        path: Vec<u8>,
        link: Option<Vec<u8>>,
        size: u64,
        pax: Pax,
    ) -> Self {
        let kind = match header[156] {
            b'S' => MemberKind::Sparse,
            0 | b'0' | b'7' if pax.sparse => MemberKind::Sparse,
            // How archivers before POSIX wrote a directory.
            0 | b'0' if path.ends_with(b"/") => MemberKind::Directory,
            0 | b'0' | b'7' => MemberKind::File,
            b'1' => MemberKind::Link,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::CharDevice,
            b'4' => MemberKind::BlockDevice,
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => MemberKind::Other(other),
        };
        let short = |field: &[u8]| number(field).ok().and_then(|n| u32::try_from(n).ok());
        let seconds = number(&header[136..148]).ok();
        let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
        Self {
            path,
            size,
            is_file: kind == MemberKind::File,
            kind,
            link: link.unwrap_or_else(|| text(&header[157..257])),
            mode: short(&header[100..108]).map(|mode| mode & 0o7777),
            owner: pax
                .uid
                .or_else(|| short(&header[108..116]))
                .zip(pax.gid.or_else(|| short(&header[116..124]))),
            mtime: pax.mtime.or(seconds.map(|s| (s, 0))).unwrap_or_default(),
            device: (
                number(&header[329..337]).unwrap_or(u64::MAX),
                number(&header[337..345]).unwrap_or(u64::MAX),
            ),
            attributes: pax.attributes,
        }
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

/// A field up to its end.
fn text(field: &[u8]) -> Vec<u8> {
    let mut parts = field.split(|byte| *byte == 0);
    parts.next().unwrap_or_default().to_vec()
}

fn short_path(header: &[u8; BLOCK]) -> Vec<u8> {
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
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
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
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"uid" => pax.uid = decimal(value),
                b"gid" => pax.gid = decimal(value),
                b"mtime" => pax.mtime = std::str::from_utf8(value).ok().and_then(time),
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|size| size.parse().ok());
                    let Some(size) = size else {
                        return damaged("an extended header's size is no number");
                    };
                    pax.size = Some(size);
                }
                key => match key.strip_prefix(PAX_ATTRIBUTE) {
                    Some(name) => pax.attributes.push((name.to_vec(), value.to_vec())),
                    None => pax.sparse |= key.starts_with(b"GNU.sparse."),
                },
            }
            text = &text[length..];
        }
        Ok(pax)
    }
}

fn decimal(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with or without a fraction.
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.chars().chain(std::iter::repeat('0')).take(9);
    let digits: String = digits.collect();
    Some((seconds.parse().ok()?, digits.parse().ok()?))
}
