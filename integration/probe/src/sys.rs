//! The few calls that the standard library lacks.
#![allow(
    unsafe_code,
    reason = "fork and signal waiting have no safe form in std, and nix would triple the probe's build"
)]

use std::ffi::CString;
use std::fs::File;
use std::io::Error;
use std::mem::MaybeUninit;
use std::os::fd::FromRawFd;
use std::time::Duration;

/// What a process waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// SIGUSR1.
    Report,
    /// SIGTERM.
    Terminate,
    /// SIGCHLD.
    ChildEnded,
}

impl Event {
    const ALL: [Self; 3] = [Self::Report, Self::Terminate, Self::ChildEnded];

    fn number(self) -> libc::c_int {
        match self {
            Self::Report => libc::SIGUSR1,
            Self::Terminate => libc::SIGTERM,
            Self::ChildEnded => libc::SIGCHLD,
        }
    }
}

fn events() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that it is given, sigaddset changes an initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for event in Event::ALL {
            libc::sigaddset(set.as_mut_ptr(), event.number());
        }
        set.assume_init()
    }
}

/// Keeps the events from their default effect, so that they can be waited for.
pub(crate) fn block_events() -> Result<(), String> {
    // SAFETY: both pointers are valid for the call; a null old set is allowed.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &events(), std::ptr::null_mut()) } != 0 {
        return Err(format!("sigprocmask: {}", Error::last_os_error()));
    }
    Ok(())
}

/// Waits for an event, but not longer than `patience`.
pub(crate) fn wait_event(patience: Duration) -> Result<Option<Event>, String> {
    let timeout = libc::timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    // SAFETY: the set and the timeout outlive the call; a null siginfo is allowed.
    let number = unsafe { libc::sigtimedwait(&events(), std::ptr::null_mut(), &timeout) };
    if number > 0 {
        return Ok(Event::ALL
            .into_iter()
            .find(|event| event.number() == number));
    }
    match Error::last_os_error().raw_os_error() {
        // A checkpoint interrupts the wait.
        Some(libc::EAGAIN | libc::EINTR) => Ok(None),
        _ => Err(format!("sigtimedwait: {}", Error::last_os_error())),
    }
}

/// Forks; the parent gets the child's number.
pub(crate) fn fork() -> Result<Option<libc::pid_t>, String> {
    // SAFETY: the process has one thread, so the child may go on like the parent.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        child if child > 0 => Ok(Some(child)),
        _ => Err(format!("fork: {}", Error::last_os_error())),
    }
}

/// Sends `event` to a child.
pub(crate) fn signal(child: libc::pid_t, event: Event) {
    // SAFETY: no memory is involved. A child that has gone is noticed by SIGCHLD.
    unsafe { libc::kill(child, event.number()) };
}

/// Waits until a child has ended.
pub(crate) fn wait_for(child: libc::pid_t) {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

/// An inotify instance that watches one path for every change.
pub(crate) fn watch(path: &str) -> Result<File, String> {
    let wrong = || format!("watching {path}: {}", Error::last_os_error());
    let text = CString::new(path).map_err(|_| format!("{path:?} has a NUL byte"))?;
    // SAFETY: the call takes flags only.
    let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    if fd < 0 {
        return Err(wrong());
    }
    // SAFETY: the kernel has just made it; nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    // SAFETY: the path is a valid C string for the length of the call.
    if unsafe { libc::inotify_add_watch(fd, text.as_ptr(), libc::IN_ALL_EVENTS) } < 0 {
        return Err(wrong());
    }
    Ok(file)
}

/// Buries what has ended.
pub(crate) fn reap() {
    // SAFETY: a null status is allowed.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// Makes this process the parent of its descendants' orphans.
pub(crate) fn adopt_orphans() -> Result<(), String> {
    // SAFETY: no memory is involved.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(format!("prctl: {}", Error::last_os_error()));
    }
    Ok(())
}

/// Waits until a child or an adopted orphan has ended, burying others meanwhile, and returns its exit code as shells give it.
pub(crate) fn wait_among_others(wanted: libc::pid_t) -> Result<u8, String> {
    loop {
        let mut status = 0;
        // SAFETY: the status is valid for the call.
        let ended = unsafe { libc::waitpid(-1, &mut status, 0) };
        if ended < 0 {
            return Err(format!(
                "waiting for process {wanted}: {}",
                Error::last_os_error()
            ));
        }
        if ended == wanted {
            let code = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }
}
