//! The process that stays in the node's namespaces while this one becomes criu.
//!
//! It lives until criu has done its work or is gone, whichever comes first, and holds what has to be given back then.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use restow::host::PidFd;
use restow::host::detach::detached;
use restow::ids::HostPid;

use super::script::WELL;

/// How long a script may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stage's name and a process number are shorter, in bytes.
const LONGEST: u64 = 256;

/// Whether the companion is still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// There is more to come.
    Stay,
    /// criu has done all that concerns it.
    Leave,
}

/// What is done when criu gets somewhere.
pub(super) trait Work {
    /// criu is at a stage; an error stops it, and its text is told to the user.
    fn stage(&mut self, action: &str, init: Option<HostPid>) -> Result<Next, String>;
    /// criu is gone, or was never started.
    fn gone(&mut self);
}

/// Starts the companion; returns the address at which the action script finds it.
///
/// `keep` lists the descriptors that `work` uses.
///
/// # Errors
/// When processes or descriptors run out.
pub(super) fn start(keep: &[RawFd], work: &mut impl Work) -> io::Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id();
    // Taken by another: so is the address, and binding fails.
    let name = format!("restow/{own}.{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    // This process: it keeps its number when it becomes criu.
    let criu = PidFd::open(nix::unistd::getpid().as_raw())?;
    let mut kept = keep.to_vec();
    kept.extend([listener.as_raw_fd(), criu.as_fd().as_raw_fd()]);
    detached(&kept, || serve(&listener, &criu, work))?;
    Ok(name)
}

fn serve(listener: &UnixListener, criu: &PidFd, work: &mut impl Work) {
    loop {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(criu.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let [asked, gone] = fds.map(|fd| fd.any().unwrap_or(false));
        if asked
            && let Ok((stream, _)) = listener.accept()
            && answer(&stream, work) == Next::Leave
        {
            return;
        }
        if gone {
            work.gone();
            return;
        }
    }
}

/// Answers one script; a stranger gets no answer.
fn answer(mut stream: &UnixStream, work: &mut impl Work) -> Next {
    let own = nix::unistd::geteuid().as_raw();
    let trusted = getsockopt(&stream, PeerCredentials).is_ok_and(|peer| peer.uid() == own);
    let mut text = String::new();
    let read = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.take(LONGEST).read_to_string(&mut text));
    if !trusted || read.is_err() {
        return Next::Stay;
    }
    let (action, init) = text
        .trim_end()
        .split_once(' ')
        .unwrap_or((text.trim_end(), ""));
    let done = work.stage(action, init.parse().ok().map(HostPid));
    let words = match &done {
        Ok(_) => WELL,
        Err(reason) => reason,
    };
    // A script that is gone needs no answer; criu sees that it failed.
    let _ = stream.write_all(words.as_bytes());
    done.unwrap_or(Next::Stay)
}
