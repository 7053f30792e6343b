//! Content of a pod's volumes that travels inside the checkpoint: one archive for each volume, in the image directory.
//!
//! The archive is a tar (GNU, with pax records for extended attributes and fractions of a second) inside zstd. Regular
//! files with their holes, directories, symbolic links, hard links and named pipes are carried, with owner, mode, times
//! and extended attributes; sockets and device nodes are not. An archive is untrusted input when it is unpacked: nothing
//! in it is followed out of the volume, and what it may take is bounded by what the manifest says and by the room there is.

mod dump;
mod pack;
mod restore;
mod unpack;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use sha2::{Digest, Sha256};

pub use dump::{pack_volumes, remove};
pub use pack::{Packed, pack};
pub use restore::unpack_volumes;
pub(crate) use unpack::{Attributes, below, fill};
pub use unpack::{Unpacked, is_empty, unpack};

/// More entries are neither packed nor unpacked.
pub const MAX_ENTRIES: u64 = 4 << 20;

/// A volume whose files are larger than this together, holes counted, is neither packed nor unpacked: 16 TiB.
pub const MAX_APPARENT: u64 = 16 << 40;

/// Extended attributes that are carried. Others are the node's (security labels) or need rights that the content must not
/// have by itself (`trusted.`).
const CARRIED_ATTRIBUTES: [&str; 3] = ["user.", "security.capability", "system.posix_acl_"];

/// Keyword of a pax record with an extended attribute: name and value in hexadecimal, with a colon between. Both may hold
/// any byte, and the usual `SCHILY.xattr.` has no way to tell a line feed in them from its end.
const PAX_ATTRIBUTE: &str = "RESTOW.xattr";

pub(crate) fn is_carried(attribute: &str) -> bool {
    CARRIED_ATTRIBUTES
        .iter()
        .any(|prefix| attribute.starts_with(prefix))
}

/// Opens what is below an open directory: no link is followed, no mount is entered.
pub(crate) fn beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let mode = if flags.contains(OFlag::O_CREAT) {
        Mode::S_IRUSR | Mode::S_IWUSR
    } else {
        Mode::empty()
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    Ok(openat2(root, path, how)?)
}

/// The path by which an open file can be opened again, or its attributes be asked for.
pub(crate) fn again(fd: &impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Counts and sums what passes through.
struct Summed<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// The sum in hexadecimal.
    fn sum(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.passed(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.passed(&buffer[..read]);
        Ok(read)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pair = |pair: &[u8]| u8::try_from(digit(pair[0])? << 4 | digit(*pair.get(1)?)?).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}

pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
