//! One object of a kind that CRIU refuses, loses or keeps only on request, for `restow check` to find.
//!
//! `--hold KIND[:ARG]` makes it in the first process and keeps it until the end.
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "most of these objects have no safe form in std; sizes of structures and descriptors are small"
)]

mod files;
mod kernel;
mod sockets;
mod tasks;

use std::ffi::CString;
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;

type Result<T> = std::result::Result<T, String>;

/// Makes the object and keeps it.
pub(crate) fn hold(wanted: &str) -> Result<()> {
    let (kind, argument) = wanted.split_once(':').unwrap_or((wanted, ""));
    make(kind, argument).map_err(|error| format!("--hold {wanted}: {error}"))
}

fn make(kind: &str, argument: &str) -> Result<()> {
    match kind {
        "io-uring" => kernel::io_uring(false),
        "io-uring-map" => kernel::io_uring(true),
        "aio" => kernel::aio(),
        "userfaultfd" => keep(call("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0])?),
        "perf-event" => kernel::perf_event(),
        "bpf-map" => keep(kernel::bpf_map()?),
        "bpf-prog" => keep(kernel::bpf_prog()?),
        "memfd" => kernel::memfd(0),
        "memfd-huge" => kernel::memfd(4),
        "memfd-secret" => kernel::memfd_secret(),
        "fanotify" => kernel::fanotify(),
        "watch" => {
            std::mem::forget(crate::sys::watch(argument)?);
            Ok(())
        }
        "flock" => files::lock(argument, files::flock),
        "posix-lock" => files::lock(argument, |fd| files::fcntl_lock(fd, libc::F_SETLK)),
        "ofd-lock" => files::lock(argument, |fd| files::fcntl_lock(fd, libc::F_OFD_SETLK)),
        "fifo" => files::fifo(argument),
        "dirty-map" => files::dirty_map(argument),
        "lease" => files::lease(argument),
        "unlinked" => files::unlinked(argument),
        "linked-elsewhere" => files::linked_elsewhere(argument),
        "deleted-cwd" => files::deleted_cwd(argument),
        "socket" => sockets::socket(argument),
        "unix-outside" => sockets::connect_unix(argument, libc::SOCK_STREAM),
        "unix-dgram-outside" => sockets::connect_unix(argument, libc::SOCK_DGRAM),
        "unix-in-flight" => sockets::in_flight(),
        "pidfd" => kernel::pidfd(argument),
        "node" => kernel::node(argument),
        "netlink-data" => sockets::netlink_data(),
        "overmounted" => files::overmounted(argument),
        "user" => tasks::child(|| {
            let id: u32 = number(argument)?;
            // SAFETY: no pointers.
            positive(
                "setresuid",
                i64::from(unsafe { libc::setresuid(id, id, id) }),
            )
            .map(drop)
        }),
        "churn" => tasks::child_then(|| Ok(()), tasks::churn),
        "vfork" => tasks::child_then(|| Ok(()), tasks::vfork),
        "perf-map" => kernel::perf_map(),
        "secret-map" => kernel::secret_map(),
        "listen-full" => sockets::listen_full(),
        "pty" => kernel::pty(),
        "device" | "file" => keep(open(argument, libc::O_RDONLY)?),
        "device-map" => kernel::device_map(argument),
        "trigger" => kernel::trigger(argument),
        "namespace" => tasks::child(|| tasks::unshare(argument)),
        "traced" => tasks::child(|| {
            // SAFETY: no memory is involved.
            positive("ptrace", unsafe { libc::ptrace(libc::PTRACE_TRACEME) }).map(drop)
        }),
        "stopped" => tasks::child_then(
            || Ok(()),
            || {
                // SAFETY: no memory is involved.
                unsafe { libc::raise(libc::SIGSTOP) };
            },
        ),
        "zombie" => tasks::zombie(),
        "seccomp-notify" => tasks::child(tasks::seccomp_notify),
        "strict" => tasks::child_then(|| Ok(()), tasks::strict),
        "sysv-shm" => kernel::sysv_shm(),
        "mqueue" => kernel::mqueue(),
        "removed-cgroup" => files::removed_cgroup(),
        "mapped-unlinked" => files::mapped_unlinked(argument),
        "shared-map" => kernel::anonymous_map(),
        "threads" => (0..number(argument)?).try_for_each(|_| {
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(|| {
                    loop {
                        std::thread::park();
                    }
                })
                .map(drop)
                .map_err(|error| error.to_string())
        }),
        _ => Err("no such kind".into()),
    }
}

fn number(text: &str) -> Result<u32> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// The result of a call that tells errors by -1.
fn positive(what: &str, result: i64) -> Result<i64> {
    match result {
        ..0 => Err(format!("{what}: {}", Error::last_os_error())),
        result => Ok(result),
    }
}

/// A system call that makes a descriptor.
fn call(what: &str, number: libc::c_long, args: [usize; 5]) -> Result<OwnedFd> {
    let [a, b, c, d, e] = args;
    // SAFETY: pointers among the arguments are valid for the call; each caller sees to it.
    let fd = positive(what, unsafe { libc::syscall(number, a, b, c, d, e) })?;
    // SAFETY: the kernel has just made it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Kept open until the end.
#[allow(clippy::unnecessary_wraps, reason = "the end of many chains")]
fn keep(fd: OwnedFd) -> Result<()> {
    std::mem::forget(fd);
    Ok(())
}

fn open(path: &str, flags: i32) -> Result<OwnedFd> {
    let text = CString::new(path).map_err(|error| error.to_string())?;
    // SAFETY: the path is a C string.
    let fd = positive(
        path,
        i64::from(unsafe { libc::open(text.as_ptr(), flags | libc::O_CLOEXEC, 0o644) }),
    )?;
    // SAFETY: the kernel has just made it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn map(fd: Option<&OwnedFd>, length: usize, flags: i32, offset: i64) -> Result<()> {
    let number = fd.map_or(-1, AsRawFd::as_raw_fd);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel picks.
    let at = unsafe { libc::mmap(null_mut(), length, access, flags, number, offset) };
    if at == libc::MAP_FAILED {
        return Err(format!("mmap: {}", Error::last_os_error()));
    }
    Ok(())
}
