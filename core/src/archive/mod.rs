//! Opening an archive: tar, plain or compressed with gzip or zstd, in bounded memory.

pub mod tar;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::rc::Rc;

use self::tar::{Source, Tar, is_header};

pub(crate) const GZIP: &[u8] = &[0x1f, 0x8b];
pub(crate) const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Memory that a zstd stream may ask for, as a power of two in bytes; zstd's own bound for untrusted streams.
const ZSTD_WINDOW: u32 = 27;

/// How many times its own size a compressed archive may unpack to. The pages of a checkpoint shrink a few times; only a bomb
/// shrinks ten thousand times.
pub const EXPANSION: u64 = 10_000;

/// Whether a file that starts so is an archive.
#[must_use]
pub fn is_archive(start: &[u8]) -> bool {
    start.starts_with(GZIP) || start.starts_with(ZSTD) || is_header(start)
}

/// An archive's bytes without compression.
pub enum Input<'a> {
    /// They stand in a file as they are.
    Plain(Plain),
    /// They come out of a decoder.
    Packed(Unpacked<'a>),
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Packed(_) => "Packed",
        })
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Packed(input) => input.read(buffer),
        }
    }
}

impl Source for Input<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match self {
            Self::Plain(input) => input.skip(count),
            Self::Packed(input) => input.skip(count),
        }
    }
}

/// Opens an archive that is a file, from its beginning. A compressed one may unpack to `expansion` times its size.
///
/// # Errors
/// When it cannot be read.
pub fn open(mut file: File, expansion: u64) -> io::Result<Tar<Input<'static>>> {
    let mut start = Vec::new();
    file.rewind()?;
    (&mut file).take(4).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(Tar::new(
        if start.starts_with(GZIP) || start.starts_with(ZSTD) {
            Input::Packed(unpacked(file, expansion)?)
        } else {
            let left = file.metadata()?.len();
            let input = BufReader::with_capacity(1 << 16, file);
            Input::Plain(Plain { input, left })
        },
    ))
}

/// The bytes of a compressed archive.
///
/// # Errors
/// When it cannot be read.
pub fn unpacked<'a>(packed: impl Read + 'a, expansion: u64) -> io::Result<Unpacked<'a>> {
    let taken = Rc::new(Cell::new(0));
    let mut packed = BufReader::with_capacity(
        1 << 16,
        Counted {
            input: packed,
            taken: Rc::clone(&taken),
        },
    );
    let input: Box<dyn Read + 'a> = if packed.fill_buf()?.starts_with(GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(packed))
    } else {
        let mut decoder = zstd::Decoder::with_buffer(packed)?;
        decoder.window_log_max(ZSTD_WINDOW)?;
        Box::new(decoder)
    };
    Ok(Unpacked {
        input,
        given: 0,
        taken,
        expansion,
    })
}

/// A file, in which what is left out is not even read.
pub struct Plain {
    input: BufReader<File>,
    /// Up to its end; seeking goes beyond without an error.
    left: u64,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.left = self.left.saturating_sub(got as u64);
        Ok(got)
    }
}

impl Source for Plain {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match i64::try_from(count) {
            Ok(offset) if count <= self.left => {
                self.left -= count;
                self.input.seek_relative(offset)
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Counts what a decoder takes.
struct Counted<R> {
    input: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.taken.set(self.taken.get() + got as u64);
        Ok(got)
    }
}

/// A decoder's output, watched for bombs.
pub struct Unpacked<'a> {
    input: Box<dyn Read + 'a>,
    given: u64,
    taken: Rc<Cell<u64>>,
    expansion: u64,
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        /// Every archive may have this much, however small it is.
        const FREE: u64 = 1 << 30;
        let got = self.input.read(buffer)?;
        self.given += got as u64;
        if self.given > FREE && self.given / self.expansion > self.taken.get() {
            let what = format!("it unpacks to more than {} times its size", self.expansion);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(got)
    }
}

impl Source for Unpacked<'_> {}
