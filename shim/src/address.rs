//! Where the proxy listens: beside the stock shim's socket, at a name that follows from it.
//!
//! So `start` of a further container of a pod, for which the stock shim repeats the address of the shim that is already there, leads to
//! the proxy that is already there, and nothing has to be written down.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};

use crate::error::{Attempt, Error};

const SCHEME: &str = "unix://";

/// What our sockets' names end with.
pub const SUFFIX: &str = ".restow";

/// The longest path that `struct sockaddr_un` takes, without the byte that ends it (`unix(7)`).
const LONGEST: usize = 107;

/// Least of a name that is kept when it has to be shortened: 64 bits of the hash that containerd makes it of.
const LEAST: usize = 16;

/// The path of a `unix://` address.
#[must_use]
pub fn path(address: &str) -> Option<&Path> {
    let path = address.strip_prefix(SCHEME)?;
    path.starts_with('/').then(|| Path::new(path))
}

/// The address of a path.
#[must_use]
pub fn of(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// The proxy's socket beside the stock shim's.
///
/// # Errors
/// When the stock shim's is no socket in the file system, or in a directory whose name is too long for another name.
pub fn beside(stock: &str) -> Result<PathBuf, Error> {
    let wrong = || Error::Address(stock.into());
    let path = path(stock).ok_or_else(wrong)?;
    let name = path.file_name().ok_or_else(wrong)?.as_bytes();
    let over = (path.as_os_str().len() + SUFFIX.len()).saturating_sub(LONGEST);
    let kept = name.len().checked_sub(over).ok_or_else(wrong)?;
    if over > 0 && kept < LEAST {
        return Err(wrong());
    }
    let name = [&name[..kept], SUFFIX.as_bytes()].concat();
    Ok(path.with_file_name(OsStr::from_bytes(&name)))
}

/// Whether somebody listens there.
#[must_use]
pub fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Removes a socket at which nobody listens.
pub fn remove_stale(path: &Path) {
    let refused = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        // Gone already is as good.
        let _ = fs::remove_file(path);
    }
}

/// A socket that listens at `path`, for root alone, as the stock shim's does. One that is left there from a shim that is gone is
/// replaced.
///
/// # Errors
/// When somebody listens there, or the socket cannot be made.
pub fn listener(path: &Path) -> Result<OwnedFd, Error> {
    remove_stale(path);
    let attempt = || format!("listen at {}", path.display());
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .attempt(attempt)?;
    let address = UnixAddr::new(path).attempt(attempt)?;
    bind(fd.as_raw_fd(), &address).attempt(attempt)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).attempt(attempt)?;
    listen(&fd, Backlog::MAXCONN).attempt(attempt)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_socket_is_beside_the_stock_shims() {
        let stock = "unix:///run/containerd/s/0123";
        let own = beside(stock).unwrap();
        assert_eq!(own, Path::new("/run/containerd/s/0123.restow"));
        assert_eq!(of(&own), "unix:///run/containerd/s/0123.restow");
    }

    #[test]
    fn a_long_name_is_shortened_to_fit() {
        let dir = format!("/{}", "d".repeat(LONGEST - 64 - 2));
        let stock = format!("unix://{dir}/{}", "a".repeat(64));
        let own = beside(&stock).unwrap();
        assert_eq!(own.as_os_str().len(), LONGEST);
        assert_eq!(own.parent(), Some(Path::new(&dir)));
        assert!(beside(&format!("unix:///{}/{}", "d".repeat(90), "a".repeat(64))).is_err());
    }

    #[test]
    fn other_addresses_are_refused() {
        for address in ["vsock://3:1", "unix://relative", "@abstract"] {
            assert!(beside(address).is_err(), "{address}");
        }
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listener(&path).unwrap();
        assert!(listener(&path).is_err());
        assert!(answers(&path));
        drop(first);
        assert!(!answers(&path));
        listener(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
