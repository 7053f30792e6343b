//! Processes and namespaces.
#![allow(
    unsafe_code,
    reason = "hardly one of these calls has a safe form in std"
)]

use crate::sys::{self, Result, check, owned};
use crate::{Held, arg};

pub(crate) fn make(name: &str, args: &[String]) -> Option<Result<Held>> {
    Some(match name {
        "children" => children(args),
        "foreign-session" => foreign_session(),
        "traced" => traced(),
        "zombie-root" => zombie_root(),
        "nested" => nested(args),
        "pidfd" => pidfd(args),
        "thread-pidfd" => thread_pidfd(),
        "chroot" => chroot(args),
        "user" => user(args),
        "exit-signal" => exit_signal(),
        "zombie-thread" => zombie_thread(),
        "namespaces" => namespaces(args),
        _ => return None,
    })
}

fn number<T: std::str::FromStr>(args: &[String], at: usize) -> Result<T> {
    let text = arg(args, at)?;
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn children(args: &[String]) -> Result<Held> {
    for _ in 0..number::<u32>(args, 0)? {
        sys::fork_waiting(|| Ok(()))?;
    }
    Ok(Vec::new())
}

/// Goes on as a child that is in its parent's session, whose leader is not dumped with it.
fn foreign_session() -> Result<Held> {
    if sys::fork()?.is_some() {
        sys::hold_forever();
    }
    Ok(Vec::new())
}

/// A process that is traced by another one.
fn traced() -> Result<Held> {
    if sys::fork()?.is_none() {
        // SAFETY: no pointers.
        unsafe { libc::setsid() };
        // SAFETY: no pointers.
        check("PTRACE_TRACEME", unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)
        })?;
        return Ok(Vec::new());
    }
    sys::wait_forever()
}

/// A process that has ended and that nobody has buried.
fn zombie_root() -> Result<Held> {
    let Some(child) = sys::fork()? else {
        std::process::exit(0)
    };
    // SAFETY: a plain structure of integers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: the structure outlives the call.
    check("waitid", unsafe {
        libc::waitid(libc::P_PID, child.unsigned_abs(), &mut info, flags)
    })?;
    Ok(Vec::new())
}

fn namespace(name: &str) -> Result<libc::c_int> {
    Ok(match name {
        "mnt" => libc::CLONE_NEWNS,
        "pid" => libc::CLONE_NEWPID,
        "net" => libc::CLONE_NEWNET,
        "ipc" => libc::CLONE_NEWIPC,
        "uts" => libc::CLONE_NEWUTS,
        "user" => libc::CLONE_NEWUSER,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "time" => 0x80,
        other => return Err(format!("{other} is no namespace")),
    })
}

/// A child in another namespace.
fn nested(args: &[String]) -> Result<Held> {
    let kind = namespace(arg(args, 0)?)?;
    let (mut reader, writer) = sys::word("pipe", std::io::pipe())?;
    sys::fork_waiting(|| {
        // SAFETY: no pointers.
        check("unshare", unsafe { libc::unshare(kind) })?;
        if kind == libc::CLONE_NEWPID || kind == 0x80 {
            // They are entered by what is born next.
            sys::fork_waiting(|| Ok(()))?;
        }
        drop(writer);
        Ok(())
    })?;
    // Dropped with the child's copy when it is where it should be.
    let _ = std::io::copy(&mut reader, &mut std::io::sink());
    Ok(Vec::new())
}

/// This process in namespaces of its own.
fn namespaces(args: &[String]) -> Result<Held> {
    for name in args {
        let kind = namespace(name)?;
        // SAFETY: no pointers.
        check("unshare", unsafe { libc::unshare(kind) })?;
    }
    Ok(Vec::new())
}

fn pidfd(args: &[String]) -> Result<Held> {
    let pid: libc::pid_t = number(args, 0)?;
    // SAFETY: no pointers.
    let fd = owned("pidfd_open", unsafe {
        libc::syscall(libc::SYS_pidfd_open, pid, 0)
    })?;
    Ok(vec![fd])
}

fn thread_pidfd() -> Result<Held> {
    // SAFETY: no pointers. PIDFD_THREAD is O_EXCL.
    let fd = owned("pidfd_open", unsafe {
        libc::syscall(libc::SYS_pidfd_open, std::process::id(), libc::O_EXCL)
    })?;
    Ok(vec![fd])
}

/// A mount namespace of its own, and a root that is not that namespace's.
fn chroot(args: &[String]) -> Result<Held> {
    let dir = arg(args, 0)?;
    sys::word(dir, std::fs::create_dir_all(dir))?;
    // SAFETY: no pointers.
    check("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    sys::word(dir, std::os::unix::fs::chroot(dir))?;
    sys::word("/", std::env::set_current_dir("/"))?;
    Ok(Vec::new())
}

fn user(args: &[String]) -> Result<Held> {
    let id: libc::uid_t = number(args, 0)?;
    // SAFETY: no pointers.
    check("setuid", unsafe { libc::setuid(id) })?;
    Ok(Vec::new())
}

/// A child that tells of its end by another signal than SIGCHLD.
fn exit_signal() -> Result<Held> {
    // SAFETY: like fork, with one thread; no pointers but null.
    let child = check("clone", unsafe {
        libc::syscall(libc::SYS_clone, libc::SIGUSR2, 0, 0, 0, 0)
    })?;
    if child == 0 {
        sys::wait_forever();
    }
    Ok(Vec::new())
}

/// A process whose first thread has ended while another goes on.
fn zombie_thread() -> Result<Held> {
    std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    });
    if sys::fork()?.is_some() {
        return Ok(Vec::new());
    }
    std::thread::spawn(|| sys::wait_forever());
    // SAFETY: ends this thread alone.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    Ok(Vec::new())
}
