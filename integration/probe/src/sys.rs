//! The few calls that the standard library lacks.
#![allow(
    unsafe_code,
    reason = "fork and signal waiting have no safe form in std, and nix would triple the probe's build"
)]

use std::ffi::CString;
use std::fs::File;
use std::io::Error;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
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

/// A fanotify group with one mark: on the inode at a path, or on its mount.
pub(crate) fn mark(path: &str, mount: bool) -> Result<File, String> {
    let wrong = || format!("marking {path}: {}", Error::last_os_error());
    let text = CString::new(path).map_err(|_| format!("{path:?} has a NUL byte"))?;
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC;
    // SAFETY: the call takes flags only.
    let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY.cast_unsigned()) };
    if fd < 0 {
        return Err(wrong());
    }
    // SAFETY: the kernel has just made it; nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    let what = if mount { libc::FAN_MARK_MOUNT } else { 0 };
    let events = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
    // SAFETY: the path is a valid C string for the length of the call.
    let result = unsafe {
        libc::fanotify_mark(
            fd,
            libc::FAN_MARK_ADD | what,
            events,
            libc::AT_FDCWD,
            text.as_ptr(),
        )
    };
    if result < 0 {
        return Err(wrong());
    }
    Ok(file)
}

/// Reads what a fanotify group has to tell, and closes the files that come with it; the number of events.
pub(crate) fn marked_events(file: &File) -> usize {
    const SIZE: usize = size_of::<libc::fanotify_event_metadata>();
    let mut buffer = [0_u8; 64 * SIZE];
    let read = std::io::Read::read(&mut &*file, &mut buffer).unwrap_or(0);
    let events = buffer[..read].chunks_exact(SIZE);
    for event in events.clone() {
        // SAFETY: the chunk has the size of an event, and every pattern of bytes is one.
        let event: libc::fanotify_event_metadata =
            unsafe { std::ptr::read_unaligned(event.as_ptr().cast()) };
        if event.fd >= 0 {
            // SAFETY: the kernel has just made it for this process.
            unsafe { libc::close(event.fd) };
        }
    }
    events.count()
}

/// Opens a file for reading and leaves it open for whatever this process and its children become.
pub(crate) fn open_for_good(path: &str) -> Result<(), String> {
    let text = CString::new(path).map_err(|_| format!("{path:?} has a NUL byte"))?;
    // SAFETY: the path is a valid C string for the length of the call.
    if unsafe { libc::open(text.as_ptr(), libc::O_RDONLY) } < 0 {
        return Err(format!("{path}: {}", Error::last_os_error()));
    }
    Ok(())
}

/// A file that was open when this program started.
pub(crate) fn inherited(fd: libc::c_int) -> File {
    // SAFETY: whoever started the probe says that it is there for the probe.
    unsafe { File::from_raw_fd(fd) }
}

/// Whether the parent's descriptor of the same number stands for the same open file description.
pub(crate) fn shares_with_parent(fd: libc::c_int) -> bool {
    /// `KCMP_FILE` of `linux/kcmp.h`.
    const FILE: libc::c_int = 0;
    // SAFETY: all arguments are numbers.
    unsafe {
        let (parent, own) = (libc::getppid(), libc::getpid());
        libc::syscall(
            libc::SYS_kcmp,
            parent,
            own,
            FILE,
            libc::c_long::from(fd),
            libc::c_long::from(fd),
        ) == 0
    }
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

/// The address of a path, or of an abstract name after `@`, and its length.
/// How many microseconds processors have worked for children that have ended, and for theirs that they waited for.
pub(crate) fn processor_micros() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, and all zeroes are a valid one.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| time.tv_sec * 1_000_000 + time.tv_usec)
        .sum()
}

fn unix_address(name: &str) -> Result<(libc::sockaddr_un, libc::socklen_t), Error> {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(Error::other)?;
    if name.len() >= address.sun_path.len() {
        return Err(Error::other("the name is too long"));
    }
    for (to, byte) in address.sun_path.iter_mut().zip(name.bytes()) {
        *to = byte.cast_signed();
    }
    if name.starts_with('@') {
        address.sun_path[0] = 0;
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name.len();
    Ok((
        address,
        libc::socklen_t::try_from(length).map_err(Error::other)?,
    ))
}

fn seqpacket() -> Result<OwnedFd, Error> {
    // SAFETY: the call takes numbers only.
    match unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) } {
        // SAFETY: the kernel has just made it; nobody else owns it.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::last_os_error()),
    }
}

/// A listening socket for sequences of packets.
pub(crate) fn seqpacket_listener(name: &str) -> Result<OwnedFd, Error> {
    let socket = seqpacket()?;
    let (address, length) = unix_address(name)?;
    let at = std::ptr::from_ref(&address).cast();
    // SAFETY: the address is valid for its length, and the descriptor is open.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), at, length) == 0 && libc::listen(socket.as_raw_fd(), 8) == 0
    };
    if bound {
        Ok(socket)
    } else {
        Err(Error::last_os_error())
    }
}

/// A connection to such a socket.
pub(crate) fn seqpacket_connect(name: &str) -> Result<OwnedFd, Error> {
    let socket = seqpacket()?;
    let (address, length) = unix_address(name)?;
    // SAFETY: the address is valid for its length, and the descriptor is open.
    match unsafe {
        libc::connect(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            length,
        )
    } {
        0 => Ok(socket),
        _ => Err(Error::last_os_error()),
    }
}

/// The name of a unix socket, abstract ones after `@`.
pub(crate) fn socket_name(socket: &OwnedFd) -> String {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap_or(0);
    let at = std::ptr::from_mut(&mut address).cast();
    // SAFETY: the address has room for `length` bytes.
    if unsafe { libc::getsockname(socket.as_raw_fd(), at, &mut length) } != 0 {
        return format!("({})", Error::last_os_error());
    }
    let length = usize::try_from(length).unwrap_or(0);
    let used = length.saturating_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path));
    let bytes: Vec<u8> = address.sun_path[..used.min(address.sun_path.len())]
        .iter()
        .map(|byte| byte.cast_unsigned())
        .collect();
    match bytes.split_first() {
        Some((0, name)) => format!("@{}", String::from_utf8_lossy(name)),
        _ => String::from_utf8_lossy(&bytes)
            .trim_end_matches('\0')
            .to_owned(),
    }
}
