//! The process that stays behind as the relay while this one becomes the real criu.
//!
//! It makes the socket pair to criu itself: criu opens the directories of the request through
//! `/proc/<peer>/fd/<number>` (`criu/cr-service.c`, `setup_opts_from_req`), where the peer is whoever made the pair. So
//! the descriptors live in the relay under the numbers they have in the request, and none of them leaks into criu.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use restow::host::detach::detached_into;

use crate::seqpacket::{Connection, Received};

/// Starts the helper: `work` runs in it with its end of the connection to criu, and the other end is returned here.
///
/// `keep` lists every descriptor the helper goes on using; it closes all others, among them the container's stdio,
/// whose readers wait for the end. It is in `cgroup`, if one is given and that is possible.
///
/// # Errors
/// When processes or descriptors run out, or the helper died before it was ready.
pub fn start(
    cgroup: Option<BorrowedFd<'_>>,
    keep: &[RawFd],
    work: impl FnOnce(Connection),
) -> io::Result<OwnedFd> {
    let (here, there) = Connection::pair()?;
    // Here it is closed when it has been handed on, so that the helper's death is seen.
    let mut there = Some(there);
    detached_into(cgroup, |newborn| {
        // First of all, because the other process waits for it.
        if let Some(Ok(connection)) = there.take().map(hand_over) {
            newborn.stand_alone(&[keep, &[connection.as_fd().as_raw_fd()]].concat());
            work(connection);
        }
    })?;
    drop(there);
    match here.receive()? {
        Received::Message(_, mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
        _ => Err(io::Error::other(
            "the relay process ended before it was ready",
        )),
    }
}

/// Makes the socket pair to criu and hands criu's end to the process that becomes it.
fn hand_over(parent: OwnedFd) -> io::Result<Connection> {
    let (connection, for_criu) = Connection::pair()?;
    Connection::new(parent)?.send(b"ready", &[for_criu.as_fd()])?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Tests have threads, which fork only in the sense of the async-signal-safe rules; the child does little enough.
    #[test]
    fn the_helper_owns_its_end_and_what_it_keeps() {
        let kept = File::open("/dev/zero").unwrap();
        let number = kept.as_raw_fd();
        let criu = start(None, &[number], |connection| {
            let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
            let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            let _ = connection.send(format!("{} {open}", link.display()).as_bytes(), &[]);
        })
        .unwrap();
        let criu = Connection::new(criu).unwrap();
        let Received::Message(text, _) = criu.receive().unwrap() else {
            panic!("no word from the helper")
        };
        // Standard input, output and error, the connection, what is kept, and the listing itself.
        assert_eq!(String::from_utf8(text).unwrap(), "/dev/zero 6");
        assert!(matches!(criu.receive().unwrap(), Received::End));
    }
}
