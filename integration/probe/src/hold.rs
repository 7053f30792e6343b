//! One object of a kind that CRIU refuses, loses or keeps only on request, for `restow check` to find.
//!
//! `--hold KIND[:ARG]` makes it in the first process and keeps it until the end.
#![allow(
    unsafe_code,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "most of these objects have no safe form in std; sizes of structures and descriptors are small"
)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, Write};
use std::mem::{size_of, zeroed};
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
        "nothing" => Ok(()),
        "io-uring" => io_uring(false),
        "io-uring-map" => io_uring(true),
        "aio" => aio(),
        "userfaultfd" => keep(call("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0])?),
        "perf-event" => perf_event(),
        "bpf-map" => keep(bpf_map()?),
        "bpf-prog" => keep(bpf_prog()?),
        "memfd" => memfd(0),
        "memfd-hugetlb" => memfd(4),
        "memfd-secret" => memfd_secret(),
        "fanotify" => fanotify(),
        "watch" => {
            std::mem::forget(crate::sys::watch(argument)?);
            Ok(())
        }
        "flock" => lock(argument, flock),
        "posix-lock" => lock(argument, |fd| fcntl_lock(fd, libc::F_SETLK)),
        "ofd-lock" => lock(argument, |fd| fcntl_lock(fd, libc::F_OFD_SETLK)),
        "lease" => lease(argument),
        "unlinked" => unlinked(argument),
        "linked-elsewhere" => linked_elsewhere(argument),
        "deleted-cwd" => deleted_cwd(argument),
        "socket" => socket(argument),
        "unix-outside" => connect_unix(argument, libc::SOCK_STREAM),
        "unix-dgram-outside" => connect_unix(argument, libc::SOCK_DGRAM),
        "unix-in-flight" => in_flight(),
        "pidfd" => pidfd(argument),
        "node" => node(argument),
        "netlink-data" => netlink_data(),
        "overmounted" => overmounted(argument),
        "user" => child(|| {
            let id: u32 = number(argument)?;
            // SAFETY: no pointers.
            positive(
                "setresuid",
                i64::from(unsafe { libc::setresuid(id, id, id) }),
            )
            .map(drop)
        }),
        "churn" => child_then(|| Ok(()), churn),
        "vfork" => child_then(|| Ok(()), vfork),
        "perf-map" => perf_map(),
        "secret-map" => secret_map(),
        "listen-full" => listen_full(),
        "tty" => keep(open(argument, libc::O_RDWR | libc::O_NOCTTY)?),
        "pty" => pty(),
        "device" | "file" => keep(open(argument, libc::O_RDONLY)?),
        "device-map" => device_map(argument),
        "trigger" => trigger(argument),
        "namespace" => child(|| unshare(argument)),
        "traced" => child(|| {
            // SAFETY: no memory is involved.
            positive("ptrace", unsafe { libc::ptrace(libc::PTRACE_TRACEME) }).map(drop)
        }),
        "stopped" => child_then(
            || Ok(()),
            || {
                // SAFETY: no memory is involved.
                unsafe { libc::raise(libc::SIGSTOP) };
            },
        ),
        "zombie" => zombie(),
        "seccomp-notify" => child(seccomp_notify),
        "strict" => child_then(|| Ok(()), strict),
        "sysv-shm" => sysv_shm(),
        "mqueue" => mqueue(),
        "removed-cgroup" => removed_cgroup(),
        "mapped-unlinked" => mapped_unlinked(argument),
        "hugetlb-map" => anonymous_map(libc::MAP_HUGETLB),
        "shared-map" => anonymous_map(0),
        "files" => (0..number(argument)?).try_for_each(|_| keep(open("/probe", libc::O_RDONLY)?)),
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

/// `struct io_uring_params` is 120 bytes; the kernel fills it.
fn io_uring(mapped: bool) -> Result<()> {
    let mut params = [0_u64; 15];
    let ring = call(
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        [4, params.as_mut_ptr() as usize, 0, 0, 0],
    )?;
    if mapped {
        map(Some(&ring), 4096, libc::MAP_SHARED, 0)?;
        // The mapping alone, as a library leaves it that registers its ring.
        return Ok(());
    }
    keep(ring)
}

fn aio() -> Result<()> {
    let mut context = 0_usize;
    // SAFETY: the context is valid for the call.
    positive("io_setup", unsafe {
        libc::syscall(libc::SYS_io_setup, 8, &raw mut context)
    })
    .map(drop)
}

/// `struct perf_event_attr`: type software, size 64, config CPU clock.
fn perf_event() -> Result<()> {
    let mut attributes = [0_u64; 8];
    attributes[0] = 1 | (64 << 32);
    let none = usize::MAX;
    keep(call(
        "perf_event_open",
        libc::SYS_perf_event_open,
        [attributes.as_ptr() as usize, 0, none, none, 0],
    )?)
}

/// `BPF_MAP_CREATE` of an array of four.
fn bpf_map() -> Result<OwnedFd> {
    let attributes: [u32; 18] = [2, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    call(
        "bpf",
        libc::SYS_bpf,
        [0, attributes.as_ptr() as usize, 72, 0, 0],
    )
}

/// `BPF_PROG_LOAD` of a socket filter that returns 0.
fn bpf_prog() -> Result<OwnedFd> {
    let instructions: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let mut attributes = [0_u64; 9];
    attributes[0] = 1 | (2 << 32);
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = licence.as_ptr() as u64;
    call(
        "bpf",
        libc::SYS_bpf,
        [5, attributes.as_ptr() as usize, 72, 0, 0],
    )
}

fn memfd(flags: usize) -> Result<()> {
    let fd = call(
        "memfd_create",
        libc::SYS_memfd_create,
        [c"held".as_ptr() as usize, flags, 0, 0, 0],
    )?;
    keep(fd)
}

fn memfd_secret() -> Result<()> {
    let fd = call("memfd_secret", libc::SYS_memfd_secret, [0, 0, 0, 0, 0])?;
    let file = File::from(fd);
    file.set_len(4096).map_err(|error| error.to_string())?;
    keep(file.into())
}

fn fanotify() -> Result<()> {
    // SAFETY: no pointers.
    let fd = positive(
        "fanotify_init",
        i64::from(unsafe { libc::fanotify_init(0, 0) }),
    )? as RawFd;
    // SAFETY: the path is a C string.
    let marked = unsafe {
        libc::fanotify_mark(
            fd,
            libc::FAN_MARK_ADD,
            libc::FAN_OPEN,
            libc::AT_FDCWD,
            c"/data".as_ptr(),
        )
    };
    positive("fanotify_mark", i64::from(marked)).map(drop)
}

fn lock(path: &str, take: impl FnOnce(RawFd) -> i32) -> Result<()> {
    let fd = open(path, libc::O_RDWR | libc::O_CREAT)?;
    positive("lock", i64::from(take(fd.as_raw_fd())))?;
    keep(fd)
}

fn flock(fd: RawFd) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::flock(fd, libc::LOCK_EX) }
}

fn fcntl_lock(fd: RawFd, command: i32) -> i32 {
    // SAFETY: all zeroes is a valid value: the whole file.
    let mut lock: libc::flock = unsafe { zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    // SAFETY: the lock is valid for the call.
    unsafe { libc::fcntl(fd, command, &raw const lock) }
}

fn lease(path: &str) -> Result<()> {
    fs::write(path, "leased").map_err(|error| error.to_string())?;
    let fd = open(path, libc::O_RDONLY)?;
    // SAFETY: no pointers.
    let taken = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    positive("F_SETLEASE", i64::from(taken))?;
    keep(fd)
}

/// `PATH,SIZE`: a file of so many bytes without a name.
fn unlinked(argument: &str) -> Result<()> {
    let (path, size) = argument.split_once(',').ok_or("not PATH,SIZE")?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|error| error.to_string())?;
    let content = vec![7; number(size)? as usize];
    file.write_all(&content)
        .map_err(|error| error.to_string())?;
    fs::remove_file(path).map_err(|error| error.to_string())?;
    keep(file.into())
}

/// A file that lost the name it was opened by and has another.
fn linked_elsewhere(path: &str) -> Result<()> {
    fs::write(path, "linked").map_err(|error| error.to_string())?;
    let fd = open(path, libc::O_RDONLY)?;
    fs::hard_link(path, format!("{path}.other")).map_err(|error| error.to_string())?;
    fs::remove_file(path).map_err(|error| error.to_string())?;
    keep(fd)
}

fn deleted_cwd(path: &str) -> Result<()> {
    let wrong = |error: Error| format!("{path}: {error}");
    fs::create_dir(path).map_err(wrong)?;
    std::env::set_current_dir(path).map_err(wrong)?;
    fs::remove_dir(path).map_err(wrong)
}

/// `FAMILY,TYPE,PROTOCOL` in numbers.
fn socket(argument: &str) -> Result<()> {
    let numbers: Vec<u32> = argument.split(',').map(number).collect::<Result<_>>()?;
    let [family, kind, protocol] = numbers[..] else {
        return Err("not FAMILY,TYPE,PROTOCOL".into());
    };
    keep(call(
        "socket",
        libc::SYS_socket,
        [family as usize, kind as usize, protocol as usize, 0, 0],
    )?)
}

fn connect_unix(path: &str, kind: i32) -> Result<()> {
    let fd = call(
        "socket",
        libc::SYS_socket,
        [libc::AF_UNIX as usize, kind as usize, 0, 0, 0],
    )?;
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, byte) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = byte.cast_signed();
    }
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address is valid for its length.
    let done = unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) };
    positive(path, i64::from(done))?;
    keep(fd)
}

/// A descriptor that has been sent over a unix socket and not been received yet.
fn in_flight() -> Result<()> {
    let mut pair = [0; 2];
    // SAFETY: the array has room for both.
    let made = unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            0,
            pair.as_mut_ptr(),
        )
    };
    positive("socketpair", i64::from(made))?;
    let fd = open("/probe", libc::O_RDONLY)?;
    let mut byte = [7_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0_u64; 4];
    // SAFETY: all zeroes is a valid value; the pointers in it live as long as the call, and the control buffer is aligned and large
    // enough for one descriptor.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(fd.as_raw_fd());
        positive(
            "sendmsg",
            libc::sendmsg(pair[0], &raw const message, 0) as i64,
        )?;
    }
    Ok(())
}

/// Of `self`, or of a process number.
fn pidfd(argument: &str) -> Result<()> {
    let pid = if argument == "self" {
        std::process::id()
    } else {
        number(argument)?
    };
    keep(call(
        "pidfd_open",
        libc::SYS_pidfd_open,
        [pid as usize, 0, 0, 0, 0],
    )?)
}

/// A pseudo terminal, both ends.
fn pty() -> Result<()> {
    let master = open("/dev/pts/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    let unlocked = 0;
    // SAFETY: the number is valid for the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    positive("TIOCSPTLCK", i64::from(done))?;
    let mut index = 0_u32;
    // SAFETY: the number is valid for the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut index) };
    positive("TIOCGPTN", i64::from(done))?;
    let slave = open(&format!("/dev/pts/{index}"), libc::O_RDWR | libc::O_NOCTTY)?;
    keep(master)?;
    keep(slave)
}

fn device_map(path: &str) -> Result<()> {
    let fd = open(path, libc::O_RDWR)?;
    map(Some(&fd), 4096, libc::MAP_SHARED, 0)
}

/// `KIND,MAJOR,MINOR`: a device node of its own, opened.
fn node(argument: &str) -> Result<()> {
    let mut parts = argument.split(',');
    let kind = if parts.next() == Some("b") {
        libc::S_IFBLK
    } else {
        libc::S_IFCHR
    };
    let numbers: Vec<u32> = parts.map(number).collect::<Result<_>>()?;
    let [major, minor] = numbers[..] else {
        return Err("not KIND,MAJOR,MINOR".into());
    };
    let path =
        CString::new(format!("/dev/held-{major}-{minor}")).map_err(|error| error.to_string())?;
    // SAFETY: the path is a C string.
    let made = unsafe { libc::mknod(path.as_ptr(), kind | 0o600, libc::makedev(major, minor)) };
    positive("mknod", i64::from(made))?;
    keep(open(
        &path.to_string_lossy(),
        libc::O_RDONLY | libc::O_NONBLOCK,
    )?)
}

/// A route socket with an answer that was not read: `RTM_GETLINK` of everything.
fn netlink_data() -> Result<()> {
    let family = libc::AF_NETLINK as usize;
    let fd = call(
        "socket",
        libc::SYS_socket,
        [family, libc::SOCK_RAW as usize, 0, 0, 0],
    )?;
    let request: [u32; 8] = [32, 18 | (0x301 << 16), 1, 0, 0, 0, 0, 0];
    // SAFETY: the buffer has 32 bytes.
    let sent = unsafe { libc::send(fd.as_raw_fd(), request.as_ptr().cast(), 32, 0) };
    positive("send", sent as i64)?;
    keep(fd)
}

/// A file in a directory that something is then mounted on.
fn overmounted(dir: &str) -> Result<()> {
    let wrong = |error: Error| format!("{dir}: {error}");
    fs::create_dir_all(dir).map_err(wrong)?;
    fs::write(format!("{dir}/file"), "below").map_err(wrong)?;
    let fd = open(&format!("{dir}/file"), libc::O_RDONLY)?;
    let target = CString::new(dir).map_err(|error| error.to_string())?;
    // SAFETY: all texts are C strings.
    let mounted = unsafe {
        libc::mount(
            c"none".as_ptr(),
            target.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    positive("mount", i64::from(mounted))?;
    keep(fd)
}

/// Opens and closes files and makes children that end, for ever.
fn churn() {
    loop {
        let files: Vec<_> = (0..50)
            .filter_map(|_| open("/probe", libc::O_RDONLY).ok())
            .collect();
        // SAFETY: the process has one thread, and the child ends at once.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(0),
                child => libc::waitpid(child, null_mut(), 0),
            };
        }
        drop(files);
    }
}

/// Waits for ever for a child that shares its memory.
fn vfork() {
    // SAFETY: the child only waits, and the parent does not go on before it has ended.
    unsafe {
        if libc::syscall(
            libc::SYS_clone,
            libc::CLONE_VFORK | libc::SIGCHLD,
            0,
            0,
            0,
            0,
        ) == 0
        {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            loop {
                libc::pause();
            }
        }
    }
}

fn perf_map() -> Result<()> {
    let mut attributes = [0_u64; 8];
    attributes[0] = 1 | (64 << 32);
    let none = usize::MAX;
    let event = call(
        "perf_event_open",
        libc::SYS_perf_event_open,
        [attributes.as_ptr() as usize, 0, none, none, 0],
    )?;
    map(Some(&event), 8192, libc::MAP_SHARED, 0)
}

fn secret_map() -> Result<()> {
    let file = File::from(call(
        "memfd_secret",
        libc::SYS_memfd_secret,
        [0, 0, 0, 0, 0],
    )?);
    file.set_len(4096).map_err(|error| error.to_string())?;
    map(Some(&file.into()), 4096, libc::MAP_SHARED, 0)
}

/// A listener with a connection that nobody has accepted; the other end is closed, so that only the waiting one is left.
fn listen_full() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    drop(std::net::TcpStream::connect(address).map_err(|error| error.to_string())?);
    keep(listener.into())
}

/// A pressure trigger: 150 ms of stall in two seconds, which needs no privilege.
fn trigger(path: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| format!("{path}: {error}"))?;
    file.write_all(b"some 150000 2000000\0")
        .map_err(|error| format!("{path}: {error}"))?;
    keep(file.into())
}

fn unshare(argument: &str) -> Result<()> {
    let flags = match argument {
        "net" => libc::CLONE_NEWNET,
        "uts" => libc::CLONE_NEWUTS,
        "ipc" => libc::CLONE_NEWIPC,
        "mnt" => libc::CLONE_NEWNS,
        "user" => libc::CLONE_NEWUSER,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "time" => 0x80,
        "pid" => libc::CLONE_NEWPID,
        _ => return Err("no such namespace".into()),
    };
    // SAFETY: no pointers.
    positive("unshare", i64::from(unsafe { libc::unshare(flags) }))?;
    // Whoever makes a pid or time namespace is not in it, but its children are.
    if ["pid", "time"].contains(&argument) {
        child(|| Ok(()))?;
    }
    Ok(())
}

/// A child that does something and then waits for its parent's end; waits until it has done it.
fn child(prepare: impl FnOnce() -> Result<()>) -> Result<()> {
    child_then(prepare, || {})
}

/// The same, with something to do that it does not come back from.
fn child_then(prepare: impl FnOnce() -> Result<()>, after: impl FnOnce()) -> Result<()> {
    let (mut told, tell) = std::io::pipe().map_err(|error| error.to_string())?;
    match crate::sys::fork()? {
        Some(_) => {
            drop(tell);
            let mut text = String::new();
            std::io::Read::read_to_string(&mut told, &mut text)
                .map_err(|error| error.to_string())?;
            if text.is_empty() { Ok(()) } else { Err(text) }
        }
        None => {
            drop(told);
            // What the parent holds is the parent's alone, and a pipe of its own parent's must not stay open here.
            let kept = tell.as_raw_fd() as u32;
            // SAFETY: no pointers; nothing here uses the descriptors that are closed.
            unsafe {
                if kept > 3 {
                    libc::syscall(libc::SYS_close_range, 3_u32, kept - 1, 0);
                }
                libc::syscall(libc::SYS_close_range, kept + 1, u32::MAX, 0);
            }
            // SAFETY: no pointers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
            if let Err(error) = prepare() {
                let _ = (&tell).write_all(error.as_bytes());
            }
            drop(tell);
            after();
            loop {
                // SAFETY: no pointers.
                unsafe { libc::pause() };
            }
        }
    }
}

/// Only reads, writes and the end are allowed from here on, so it reads until its parent ends.
fn strict() {
    let mut pair = [0; 2];
    let mut byte = 0_u8;
    // SAFETY: the array has room for both ends; the byte for what is read, which never comes.
    unsafe {
        libc::pipe(pair.as_mut_ptr());
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0);
        libc::read(pair[0], (&raw mut byte).cast(), 1);
    }
}

fn zombie() -> Result<()> {
    match crate::sys::fork()? {
        Some(_) => Ok(()),
        // SAFETY: nothing of the parent's may run here.
        None => unsafe { libc::_exit(3) },
    }
}

/// A filter that asks a supervisor about nothing, and its listener.
fn seccomp_notify() -> Result<()> {
    let mut allow = libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut allow,
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as usize;
    let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
    keep(call(
        "seccomp",
        libc::SYS_seccomp,
        [mode, listener, (&raw const program) as usize, 0, 0],
    )?)
}

fn sysv_shm() -> Result<()> {
    // SAFETY: no pointers.
    let id = positive(
        "shmget",
        i64::from(unsafe { libc::shmget(4711, 4096, libc::IPC_CREAT | 0o600) }),
    )?;
    // SAFETY: attached at an address that the kernel picks.
    let at = unsafe { libc::shmat(id as i32, std::ptr::null(), 0) };
    if at as isize == -1 {
        Err(format!("shmat: {}", Error::last_os_error()))
    } else {
        Ok(())
    }
}

fn mqueue() -> Result<()> {
    let flags = libc::O_RDWR | libc::O_CREAT;
    keep(call(
        "mq_open",
        libc::SYS_mq_open,
        [c"held".as_ptr() as usize, flags as usize, 0o600, 0, 0],
    )?)
}

fn removed_cgroup() -> Result<()> {
    let dir = "/sys/fs/cgroup/gone";
    fs::create_dir(dir).map_err(|error| error.to_string())?;
    let fd = open(&format!("{dir}/cgroup.events"), libc::O_RDONLY)?;
    fs::remove_dir(dir).map_err(|error| error.to_string())?;
    keep(fd)
}

fn mapped_unlinked(path: &str) -> Result<()> {
    fs::write(path, [7; 4096]).map_err(|error| error.to_string())?;
    let fd = open(path, libc::O_RDWR)?;
    map(Some(&fd), 4096, libc::MAP_SHARED, 0)?;
    fs::remove_file(path).map_err(|error| error.to_string())
}

fn anonymous_map(flags: i32) -> Result<()> {
    map(
        None,
        2 << 20,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS | flags,
        0,
    )
}
