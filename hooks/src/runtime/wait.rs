//! Standing in for a process: waiting for it, with the signals that it would have got.

use std::io;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What runtimes pass on to the program that they wait for.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Runs the command and returns its exit status, 128 and the signal's number when a signal ended it. Signals go on to it.
///
/// # Errors
/// When it cannot be started.
pub fn wait(command: &mut Command) -> io::Result<u8> {
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    for signal in PASSED_ON {
        signals.add(signal);
    }
    // Only now: the child is to have none of them blocked.
    signals.thread_block()?;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or(0)));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match signals.wait()? {
            Signal::SIGCHLD => {}
            // One that has just ended is seen next.
            signal => drop(kill(pid, signal)),
        }
    }
}
