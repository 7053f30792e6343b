//! Files and what else has a descriptor.
#![allow(
    unsafe_code,
    reason = "hardly one of these kernel objects has a safe form in std"
)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::{self, Result, check, owned, text, word};
use crate::{Held, arg};

pub(crate) fn make(name: &str, args: &[String]) -> Option<Result<Held>> {
    Some(match name {
        "nothing" => Ok(Vec::new()),
        "open" => open(args, false),
        "open-rw" => open(args, true),
        "cwd" => cwd(args),
        "deleted-cwd" => deleted_cwd(args),
        "ghost" => ghost(args),
        "renamed" => renamed(args),
        "flock" => flock(args),
        "posix-lock" => posix_lock(args),
        "lease" => lease(args),
        "packet-pipe" => packet_pipe(),
        "overmounted" => overmounted(args),
        "foreign-mount" => foreign_mount(args),
        "mounted" => mounted(args),
        "epoll-closed" => epoll_closed(),
        "watch" => watch(args),
        "perf" => perf(),
        "bpf" => bpf(),
        "landlock" => landlock(),
        "userfaultfd" => userfaultfd(),
        "fsopen" => fsopen(),
        "fifo" => fifo(args),
        "terminal" => terminal(false),
        "half-terminal" => terminal(true),
        "mqueue" => mqueue(),
        _ => return None,
    })
}

fn file(path: &str) -> Result<OwnedFd> {
    word(path, File::create(path)).map(OwnedFd::from)
}

fn open(args: &[String], write: bool) -> Result<Held> {
    args.iter()
        .map(|path| {
            let opened = OpenOptions::new().read(true).write(write).open(path);
            word(path, opened).map(OwnedFd::from)
        })
        .collect()
}

fn cwd(args: &[String]) -> Result<Held> {
    let dir = arg(args, 0)?;
    word(dir, fs::create_dir_all(dir))?;
    word(dir, std::env::set_current_dir(dir))?;
    Ok(Vec::new())
}

fn deleted_cwd(args: &[String]) -> Result<Held> {
    let held = cwd(args)?;
    let dir = arg(args, 0)?;
    word(dir, fs::remove_dir(dir))?;
    Ok(held)
}

/// A file without a name, of so many KiB.
fn ghost(args: &[String]) -> Result<Held> {
    let path = arg(args, 0)?;
    let size: usize = arg(args, 1)?.parse().map_err(|_| "no number".to_owned())?;
    let mut ghost = word(path, File::create(path))?;
    word(path, ghost.write_all(&vec![b'x'; size << 10]))?;
    word(path, fs::remove_file(path))?;
    Ok(vec![ghost.into()])
}

/// A file whose name is gone but not its last link.
fn renamed(args: &[String]) -> Result<Held> {
    let path = arg(args, 0)?;
    let held = file(path)?;
    word(path, fs::hard_link(path, format!("{path}.other")))?;
    word(path, fs::remove_file(path))?;
    Ok(vec![held])
}

fn flock(args: &[String]) -> Result<Held> {
    let held = file(arg(args, 0)?)?;
    // SAFETY: no pointers.
    check("flock", unsafe {
        libc::flock(held.as_raw_fd(), libc::LOCK_EX)
    })?;
    Ok(vec![held])
}

fn posix_lock(args: &[String]) -> Result<Held> {
    let held = file(arg(args, 0)?)?;
    // SAFETY: a plain structure of integers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = 1; // F_WRLCK
    lock.l_len = 100;
    // SAFETY: the structure outlives the call.
    check("fcntl", unsafe {
        libc::fcntl(held.as_raw_fd(), libc::F_SETLK, &lock)
    })?;
    Ok(vec![held])
}

fn lease(args: &[String]) -> Result<Held> {
    let path = arg(args, 0)?;
    drop(file(path)?);
    let held = OwnedFd::from(word(path, File::open(path))?);
    // SAFETY: no pointers.
    check("lease", unsafe {
        libc::fcntl(held.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)
    })?;
    Ok(vec![held])
}

/// A pipe that keeps the borders of what is written.
fn packet_pipe() -> Result<Held> {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written into the array.
    check("pipe2", unsafe {
        libc::pipe2(ends.as_mut_ptr(), libc::O_DIRECT)
    })?;
    let [reader, writer] = ends.map(|end| owned("pipe2", end));
    let (reader, writer) = (reader?, writer?);
    let mut file = File::from(writer);
    word("pipe", file.write_all(b"packet"))?;
    Ok(vec![reader, file.into()])
}

fn mount(kind: &str, dir: &str) -> Result<()> {
    let (kind, dir) = (text(kind)?, text(dir)?);
    // SAFETY: C strings that outlive the call; null data is allowed.
    check("mount", unsafe {
        libc::mount(
            kind.as_ptr(),
            dir.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    })
    .map(drop)
}

fn private_mounts() -> Result<()> {
    // SAFETY: no pointers.
    check("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: null is allowed for what a change of propagation does not use.
    check("mount", unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    })
    .map(drop)
}

/// A file in a directory over which something is mounted after it was opened.
fn overmounted(args: &[String]) -> Result<Held> {
    let dir = arg(args, 0)?;
    word(dir, fs::create_dir_all(dir))?;
    mount("tmpfs", dir)?;
    let held = file(&format!("{dir}/hidden"))?;
    mount("tmpfs", dir)?;
    Ok(vec![held])
}

/// A file on a mount of a mount namespace that is not this process'.
fn foreign_mount(args: &[String]) -> Result<Held> {
    let dir = arg(args, 0)?;
    word(dir, fs::create_dir_all(dir))?;
    let own = word("mount namespace", File::open("/proc/self/ns/mnt"))?;
    private_mounts()?;
    mount("tmpfs", dir)?;
    let held = file(&format!("{dir}/elsewhere"))?;
    // SAFETY: no pointers.
    check("setns", unsafe {
        libc::setns(own.as_raw_fd(), libc::CLONE_NEWNS)
    })?;
    Ok(vec![held])
}

/// A mount namespace with a file system of a kind.
fn mounted(args: &[String]) -> Result<Held> {
    let (kind, dir) = (arg(args, 0)?, arg(args, 1)?);
    word(dir, fs::create_dir_all(dir))?;
    private_mounts()?;
    mount(kind, dir)?;
    Ok(Vec::new())
}

/// An epoll instance with a descriptor that is closed, while the file goes on under another number in nobody's epoll.
fn epoll_closed() -> Result<Held> {
    // SAFETY: no pointers.
    let event = owned("eventfd", unsafe { libc::eventfd(0, 0) })?;
    // SAFETY: no pointers.
    let epoll = owned("epoll", unsafe { libc::epoll_create1(0) })?;
    let mut wanted = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 1,
    };
    // SAFETY: the structure outlives the call.
    check("epoll_ctl", unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_ADD,
            event.as_raw_fd(),
            &mut wanted,
        )
    })?;
    // The file is held by a child, so that the kernel keeps it in the epoll.
    sys::fork_waiting(|| Ok(()))?;
    drop(event);
    Ok(vec![epoll])
}

fn watch(args: &[String]) -> Result<Held> {
    let path = arg(args, 0)?;
    // SAFETY: no pointers.
    let held = owned("inotify", unsafe { libc::inotify_init1(0) })?;
    let c_path = text(path)?;
    // SAFETY: a C string that outlives the call.
    check(path, unsafe {
        libc::inotify_add_watch(held.as_raw_fd(), c_path.as_ptr(), libc::IN_MODIFY)
    })?;
    Ok(vec![held])
}

fn perf() -> Result<Held> {
    /// `perf_event_attr` up to its version 0 size, which the kernel takes for ever.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        size: u32,
        config: u64,
        rest: [u64; 6],
    }
    let attr = Attr {
        kind: 1, // PERF_TYPE_SOFTWARE
        size: 64,
        ..Attr::default()
    };
    // SAFETY: the structure outlives the call.
    let fd = owned("perf_event_open", unsafe {
        libc::syscall(libc::SYS_perf_event_open, &attr, 0, -1, -1, 0)
    })?;
    Ok(vec![fd])
}

/// A BPF program that says yes.
fn bpf() -> Result<Held> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        program: u64,
        licence: u64,
        rest: [u64; 13],
    }
    // r0 = 0; exit
    let program: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let load = Load {
        kind: 1, // BPF_PROG_TYPE_SOCKET_FILTER
        count: 2,
        program: program.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        rest: [0; 13],
    };
    // SAFETY: the structure and what it points to outlive the call.
    let fd = owned("bpf", unsafe {
        libc::syscall(libc::SYS_bpf, 5, &load, size_of::<Load>())
    })?;
    Ok(vec![fd])
}

fn landlock() -> Result<Held> {
    let access: u64 = 1;
    // SAFETY: the number outlives the call.
    let fd = owned("landlock_create_ruleset", unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &access, 8, 0)
    })?;
    Ok(vec![fd])
}

fn userfaultfd() -> Result<Held> {
    // SAFETY: no pointers.
    let fd = owned("userfaultfd", unsafe {
        libc::syscall(libc::SYS_userfaultfd, 1)
    })?;
    Ok(vec![fd])
}

fn fsopen() -> Result<Held> {
    // SAFETY: a C string.
    let fd = owned("fsopen", unsafe {
        libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0)
    })?;
    Ok(vec![fd])
}

fn fifo(args: &[String]) -> Result<Held> {
    let path = arg(args, 0)?;
    let c_path = text(path)?;
    // SAFETY: a C string.
    check("mkfifo", unsafe { libc::mkfifo(c_path.as_ptr(), 0o644) })?;
    let held = OpenOptions::new().read(true).write(true).open(path);
    Ok(vec![word(path, held)?.into()])
}

/// A pair of terminal ends, or with `half` one whose master only another process has.
fn terminal(half: bool) -> Result<Held> {
    // SAFETY: no pointers.
    let master = owned("posix_openpt", unsafe {
        libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY)
    })?;
    // SAFETY: no pointers.
    check("unlockpt", unsafe { libc::unlockpt(master.as_raw_fd()) })?;
    let mut number: libc::c_int = 0;
    // SAFETY: the number outlives the call.
    check("TIOCGPTN", unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number)
    })?;
    let path = format!("/dev/pts/{number}");
    if half && sys::fork()?.is_some() {
        // The other end is held here, by a process that is not dumped.
        sys::hold_forever();
    }
    if half {
        // SAFETY: no pointers.
        unsafe { libc::setsid() };
        drop(master);
        // A slave of a session that becomes its controlling terminal.
        let slave = OpenOptions::new().read(true).write(true).open(&path);
        return Ok(vec![word(&path, slave)?.into()]);
    }
    let slave = OpenOptions::new().read(true).write(true).open(&path);
    Ok(vec![master, word(&path, slave)?.into()])
}

fn mqueue() -> Result<Held> {
    // SAFETY: C strings; null attributes are allowed.
    let fd = owned("mq_open", unsafe {
        libc::syscall(
            libc::SYS_mq_open,
            c"snag".as_ptr(),
            libc::O_RDWR | libc::O_CREAT,
            0o600,
            std::ptr::null::<u8>(),
        )
    })?;
    Ok(vec![fd])
}
