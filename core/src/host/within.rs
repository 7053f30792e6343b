//! Work in the namespaces of another process.

// The child is a fork.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, chroot, fchdir, fork};

use crate::ids::HostPid;

/// Runs `work` in a child that has entered the mount namespace of `init`: paths are the container's. This process must have
/// one thread.
///
/// # Errors
/// What `work` returns, as text; or when the namespace cannot be entered.
pub(super) fn mounts_of(init: HostPid, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{init}/ns/mnt"))?;
    in_child(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        work().map(|()| Vec::new())
    })
    .map(drop)
}

/// Runs `work` in a child that is where a program would be that the process `pid` started: with its root directory, and in its
/// mount, cgroup, network and process namespaces. It is not in its cgroup. Returns what `work` does. This process must have
/// one thread.
///
/// # Errors
/// What `work` returns, as text; or when the process is gone or a namespace cannot be entered.
pub(super) fn place_of(
    pid: HostPid,
    work: impl FnOnce() -> io::Result<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    let open = |what: &str| File::open(format!("/proc/{pid}/{what}"));
    let root = open("root")?;
    let entered = [
        ("ns/cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ns/net", CloneFlags::CLONE_NEWNET),
        ("ns/mnt", CloneFlags::CLONE_NEWNS),
    ];
    let entered = entered.map(|(name, kind)| open(name).map(|file| (file, kind)));
    // Only children are born into it, and /proc there shows no others.
    let (processes, own) = (open("ns/pid")?, File::open("/proc/self/ns/pid")?);
    setns(&processes, CloneFlags::CLONE_NEWPID)?;
    let done = in_child(|| {
        for namespace in entered {
            let (file, kind) = namespace?;
            setns(&file, kind)?;
        }
        fchdir(root.as_fd())?;
        chroot(".")?;
        work()
    });
    setns(&own, CloneFlags::CLONE_NEWPID)?;
    done
}

/// Runs `work` in a child and returns what it does.
fn in_child(work: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    /// What the child's answer begins with.
    const DONE: u8 = 0;
    const FAILED: u8 = 1;
    let (mut told, tell) = io::pipe()?;
    // SAFETY: this process has one thread, so the child may do whatever it could.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let (kind, answer) = match work() {
                Ok(answer) => (DONE, answer),
                Err(error) => (FAILED, error.to_string().into_bytes()),
            };
            let told = (&tell)
                .write_all(&[kind])
                .and_then(|()| (&tell).write_all(&answer));
            // SAFETY: no destructor of the parent's values may run here.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut answer = Vec::new();
            told.read_to_end(&mut answer)?;
            let status = waitpid(child, None)?;
            match (answer.split_first(), status) {
                (Some((&DONE, answer)), WaitStatus::Exited(_, 0)) => Ok(answer.to_vec()),
                (Some((&FAILED, text)), _) => {
                    Err(io::Error::other(String::from_utf8_lossy(text).into_owned()))
                }
                (_, status) => Err(io::Error::other(format!(
                    "the process that works in the other's namespaces ended: {status:?}"
                ))),
            }
        }
    }
}
