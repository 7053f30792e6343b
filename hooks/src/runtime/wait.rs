//! Standing in for a process: waiting for it, with the signals that it would have got.

use std::io;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
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
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let status = passing_on(pid, &signals);
    // Nor is what this process starts or becomes afterwards: programs inherit the mask, and runc hands it on to the container.
    before.thread_set_mask()?;
    status
}

/// Waits for the process and passes on the `signals`, which are blocked.
fn passing_on(pid: Pid, signals: &SigSet) -> io::Result<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program that this thread starts has blocked (`proc_pid_status(5)`).
    fn blocked() -> String {
        let status = Command::new("grep")
            .args(["SigBlk", "/proc/self/status"])
            .output()
            .unwrap();
        String::from_utf8(status.stdout).unwrap()
    }

    #[test]
    fn what_is_started_afterwards_gets_all_signals() {
        let before = blocked();
        let mut ended = Command::new("sh");
        assert_eq!(wait(ended.args(["-c", "exit 7"])).unwrap(), 7);
        assert_eq!(blocked(), before);
        let mut killed = Command::new("sh");
        assert_eq!(wait(killed.args(["-c", "kill -TERM $$"])).unwrap(), 143);
        assert_eq!(blocked(), before);
    }
}
