//! The calls that the standard library lacks.
#![allow(
    unsafe_code,
    reason = "most of these kernel objects have no safe form in std"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of structures, small flags"
)]

use std::ffi::CString;
use std::io::Error;
use std::mem::{size_of, zeroed};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(crate) type Result<T> = std::result::Result<T, String>;

/// The result of a call that tells errors by -1.
fn check(what: &str, result: impl Into<i64>) -> Result<i64> {
    match result.into() {
        -1 => Err(format!("{what}: {}", Error::last_os_error())),
        result => Ok(result),
    }
}

fn owned(what: &str, result: impl Into<i64>) -> Result<OwnedFd> {
    let fd = check(what, result)?;
    // SAFETY: the call that succeeded made this descriptor, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())
}

/// A named pipe.
pub(crate) fn mkfifo(path: &Path) -> Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path is a C string.
    check("mkfifo", unsafe { libc::mkfifo(path.as_ptr(), 0o644) }).map(drop)
}

/// An eventfd with a count.
pub(crate) fn eventfd(count: u32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned("eventfd", unsafe {
        libc::eventfd(count, libc::EFD_CLOEXEC)
    })
}

/// A timerfd that goes off in an hour, and then every minute.
pub(crate) fn timerfd() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = owned("timerfd_create", unsafe {
        libc::timerfd_create(libc::CLOCK_MONOTONIC, 0)
    })?;
    let spec = hourly();
    // SAFETY: the descriptor is open, the specification valid for the call, a null old one is allowed.
    check("timerfd_settime", unsafe {
        libc::timerfd_settime(raw(&fd), 0, &spec, std::ptr::null_mut())
    })?;
    Ok(fd)
}

fn raw(fd: &OwnedFd) -> RawFd {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn hourly() -> libc::itimerspec {
    libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 60,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: 3600,
            tv_nsec: 0,
        },
    }
}

/// A POSIX timer and an interval timer.
pub(crate) fn timers() -> Result<()> {
    // SAFETY: zero is a valid value of these structures of numbers and pointers; they are valid for the calls.
    unsafe {
        let mut event: libc::sigevent = zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGUSR2;
        let mut timer = zeroed();
        check(
            "timer_create",
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer),
        )?;
        check(
            "timer_settime",
            libc::timer_settime(timer, 0, &hourly(), std::ptr::null_mut()),
        )?;
        let value = libc::itimerval {
            it_interval: libc::timeval {
                tv_sec: 60,
                tv_usec: 0,
            },
            it_value: libc::timeval {
                tv_sec: 3600,
                tv_usec: 0,
            },
        };
        check(
            "setitimer",
            libc::setitimer(libc::ITIMER_REAL, &value, std::ptr::null_mut()),
        )
        .map(drop)
    }
}

/// A signalfd, and a signal with a value that waits.
pub(crate) fn signals() -> Result<OwnedFd> {
    // SAFETY: the set is initialised before it is used, and valid for the calls.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        check(
            "sigprocmask",
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()),
        )?;
        let value = libc::sigval {
            sival_ptr: 7 as *mut libc::c_void,
        };
        check(
            "sigqueue",
            libc::sigqueue(libc::getpid(), libc::SIGUSR1, value),
        )?;
        owned("signalfd", libc::signalfd(-1, &set, libc::SFD_CLOEXEC))
    }
}

/// An epoll instance that watches a descriptor.
pub(crate) fn epoll(watched: &OwnedFd) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = owned("epoll_create1", unsafe {
        libc::epoll_create1(libc::EPOLL_CLOEXEC)
    })?;
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 42,
    };
    // SAFETY: both descriptors are open, the event is valid for the call.
    check("epoll_ctl", unsafe {
        libc::epoll_ctl(raw(&fd), libc::EPOLL_CTL_ADD, raw(watched), &mut event)
    })?;
    Ok(fd)
}

/// An inotify instance that watches paths.
pub(crate) fn inotify(paths: &[&Path]) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = owned("inotify_init1", unsafe {
        libc::inotify_init1(libc::IN_NONBLOCK)
    })?;
    for path in paths {
        let path = c_path(path)?;
        // SAFETY: the descriptor is open, the path a C string.
        check("inotify_add_watch", unsafe {
            libc::inotify_add_watch(raw(&fd), path.as_ptr(), libc::IN_CREATE | libc::IN_MODIFY)
        })?;
    }
    Ok(fd)
}

/// A fanotify group that watches a file.
pub(crate) fn fanotify(path: &Path) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = owned("fanotify_init", unsafe {
        libc::fanotify_init(libc::FAN_CLASS_NOTIF, libc::O_RDONLY as u32)
    })?;
    let path = c_path(path)?;
    // SAFETY: the descriptor is open, the path a C string.
    let marked = unsafe {
        libc::fanotify_mark(
            raw(&fd),
            libc::FAN_MARK_ADD,
            libc::FAN_MODIFY | libc::FAN_CLOSE,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    };
    check("fanotify_mark", marked)?;
    Ok(fd)
}

/// A memory file with a seal.
pub(crate) fn memfd() -> Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = owned("memfd_create", unsafe {
        libc::memfd_create(c"zoo".as_ptr(), libc::MFD_ALLOW_SEALING)
    })?;
    let text = b"in memory";
    // SAFETY: the descriptor is open and the buffer as long as told.
    let written = unsafe { libc::write(raw(&fd), text.as_ptr().cast(), text.len()) };
    check("write", written as i64)?;
    // SAFETY: no pointers.
    check("F_ADD_SEALS", unsafe {
        libc::fcntl(raw(&fd), libc::F_ADD_SEALS, libc::F_SEAL_GROW)
    })?;
    Ok(fd)
}

/// A page that parent and children share.
pub(crate) fn shared_memory() -> Result<()> {
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping at an address that the kernel picks; it is as long as what is written into it, and stays.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
        check("mmap", if page == libc::MAP_FAILED { -1 } else { 0i64 })?;
        page.cast::<[u8; 6]>().write(*b"shared");
    }
    Ok(())
}

/// Starts a child that does `work` and waits for ever.
pub(crate) fn fork_waiting(work: impl FnOnce()) -> Result<i32> {
    // SAFETY: there is one thread, so the child may do everything.
    match check("fork", unsafe { libc::fork() })? {
        0 => {
            work();
            wait_forever()
        }
        child => Ok(child as i32),
    }
}

/// Waits until it is killed.
pub(crate) fn wait_forever() -> ! {
    loop {
        // SAFETY: no pointers.
        unsafe { libc::pause() };
    }
}

/// A session of its own.
pub(crate) fn new_session() -> Result<()> {
    // SAFETY: no pointers.
    check("setsid", unsafe { libc::setsid() }).map(drop)
}

/// A descriptor of a process.
pub(crate) fn pidfd(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned("pidfd_open", unsafe {
        libc::syscall(libc::SYS_pidfd_open, pid, 0)
    })
}

/// A seccomp filter that allows everything.
pub(crate) fn allow_all_filter() -> Result<()> {
    let mut allow = libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &mut allow,
    };
    // SAFETY: the program and its one instruction are valid for the call.
    check("seccomp", unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
    })
    .map(drop)
}

/// Locks of both kinds on a file.
pub(crate) fn locks(file: &OwnedFd) -> Result<()> {
    // SAFETY: the descriptor is open; zero is a valid flock structure, valid for the call.
    unsafe {
        check("flock", libc::flock(raw(file), libc::LOCK_EX))?;
        let mut lock: libc::flock = zeroed();
        lock.l_type = libc::F_WRLCK as i16;
        lock.l_len = 4;
        check("F_SETLK", libc::fcntl(raw(file), libc::F_SETLK, &lock)).map(drop)
    }
}

/// A pseudo terminal: both ends, with input that was not read.
pub(crate) fn terminal() -> Result<[OwnedFd; 2]> {
    // SAFETY: the path is a C string, the buffers are as long as told, descriptors are open.
    unsafe {
        let master = owned(
            "open /dev/ptmx",
            libc::open(c"/dev/ptmx".as_ptr(), libc::O_RDWR | libc::O_NOCTTY),
        )?;
        check("unlockpt", libc::unlockpt(raw(&master)))?;
        let mut name = [0; 64];
        check(
            "ptsname_r",
            i64::from(-libc::ptsname_r(raw(&master), name.as_mut_ptr(), name.len()).signum()),
        )?;
        let slave = owned(
            "open the terminal",
            libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY),
        )?;
        check(
            "write",
            libc::write(raw(&master), b"typed\n".as_ptr().cast(), 6) as i64,
        )?;
        Ok([master, slave])
    }
}

/// Makes the loopback interface work.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: zero is a valid ifreq; it is valid for the calls.
    unsafe {
        let socket = owned("socket", libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        check(
            "SIOCSIFFLAGS",
            libc::ioctl(raw(&socket), libc::SIOCSIFFLAGS, &request),
        )
        .map(drop)
    }
}

/// A socket of a family that std has not got.
pub(crate) fn socket(family: i32, typ: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned("socket", unsafe { libc::socket(family, typ, protocol) })
}

/// A pair of unix sockets; in the second's queue lie a text and a descriptor.
pub(crate) fn seqpacket_pair(sent: &OwnedFd) -> Result<[OwnedFd; 2]> {
    let mut fds = [0; 2];
    // SAFETY: the array holds two descriptors; the message and everything that it points at are valid for the call.
    unsafe {
        check(
            "socketpair",
            libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()),
        )?;
        let pair = fds.map(|fd| OwnedFd::from_raw_fd(fd));
        let mut text = *b"with a descriptor";
        let mut part = libc::iovec {
            iov_base: text.as_mut_ptr().cast(),
            iov_len: text.len(),
        };
        // u64 for the alignment of a control message.
        let mut control = [0u64; 4];
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(raw(sent));
        check("sendmsg", libc::sendmsg(raw(&pair[0]), &message, 0) as i64)?;
        Ok(pair)
    }
}

/// Attached System V shared memory with a text.
pub(crate) fn sysv_shm() -> Result<()> {
    // SAFETY: a new segment, attached where the kernel picks, larger than what is written; it stays attached.
    unsafe {
        let id = check(
            "shmget",
            libc::shmget(0x7a6f_6f01, 4099, libc::IPC_CREAT | 0o600),
        )?;
        let at = libc::shmat(id as i32, std::ptr::null(), 0);
        check("shmat", at as i64)?;
        at.cast::<[u8; 4]>().write(*b"sysv");
    }
    Ok(())
}

/// Three semaphores: 1, 2, 3.
pub(crate) fn sysv_sem() -> Result<()> {
    // SAFETY: no pointers; semctl takes the value in place of its union.
    unsafe {
        let id = check(
            "semget",
            libc::semget(0x7a6f_6f02, 3, libc::IPC_CREAT | 0o600),
        )? as i32;
        for at in 0..3 {
            check("semctl", libc::semctl(id, at, libc::SETVAL, at + 1))?;
        }
    }
    Ok(())
}

/// A message queue with two messages.
pub(crate) fn sysv_msg() -> Result<()> {
    #[repr(C)]
    struct Message {
        typ: libc::c_long,
        text: [u8; 5],
    }
    // SAFETY: the message is as long as told beside its type, and valid for the call.
    unsafe {
        let id = check("msgget", libc::msgget(0x7a6f_6f03, libc::IPC_CREAT | 0o600))? as i32;
        for (typ, text) in [(1, *b"first"), (2, *b"other")] {
            let message = Message { typ, text };
            check(
                "msgsnd",
                libc::msgsnd(id, (&raw const message).cast(), text.len(), 0),
            )?;
        }
    }
    Ok(())
}

/// A ring of asynchronous input and output.
pub(crate) fn aio() -> Result<()> {
    let mut context: libc::c_ulong = 0;
    // SAFETY: the context is valid for the call.
    check("io_setup", unsafe {
        libc::syscall(libc::SYS_io_setup, 8, &mut context)
    })
    .map(drop)
}

/// A file system in memory.
pub(crate) fn mount_tmpfs(path: &Path) -> Result<()> {
    let path = c_path(path)?;
    // SAFETY: all texts are C strings.
    let mounted = unsafe {
        libc::mount(
            c"zoo".as_ptr(),
            path.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            c"size=64k".as_ptr().cast(),
        )
    };
    check("mount", mounted).map(drop)
}
