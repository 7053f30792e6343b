//! File systems made for a container that exists already.

// The mount calls have no safe wrapper in nix.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};

use super::attach::{attributes, checked, is_attribute};
use crate::ids::HostPid;

/// Commands of `fsconfig(2)` (`linux/mount.h`).
const SET_FLAG: libc::c_uint = 0;
const SET_STRING: libc::c_uint = 1;
const CREATE: libc::c_uint = 6;

/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`.
const CLOEXEC: libc::c_uint = 1;

/// The namespaces of a container that file systems belong to.
pub(super) struct Namespaces {
    ipc: File,
    net: File,
}

impl Namespaces {
    pub(super) fn of(init: HostPid) -> io::Result<Self> {
        Ok(Self {
            ipc: File::open(format!("/proc/{init}/ns/ipc"))?,
            net: File::open(format!("/proc/{init}/ns/net"))?,
        })
    }
}

/// Makes a file system of this type with options of the OCI specification, not attached anywhere. This process enters
/// namespaces for it and stays there.
pub(super) fn make(kind: &str, options: &[String], namespaces: &Namespaces) -> io::Result<OwnedFd> {
    match kind {
        "mqueue" => setns(&namespaces.ipc, CloneFlags::CLONE_NEWIPC)?,
        "sysfs" => setns(&namespaces.net, CloneFlags::CLONE_NEWNET)?,
        _ => {}
    }
    let kind = CString::new(kind)?;
    // SAFETY: the name is a valid C string for the length of the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })?;
    let fd = context.as_raw_fd();
    configure(
        fd,
        SET_STRING,
        Some("source"),
        Some(kind.to_str().unwrap_or_default()),
    )?;
    for option in options.iter().filter(|option| !is_attribute(option)) {
        let set = match option.split_once('=') {
            Some((name, value)) => configure(fd, SET_STRING, Some(name), Some(value)),
            None => configure(fd, SET_FLAG, Some(option), None),
        };
        set.map_err(|error| io::Error::new(error.kind(), format!("option {option}: {error}")))?;
    }
    configure(fd, CREATE, None, None)?;
    let set = attributes(options, "") | attributes(options, "r");
    // SAFETY: all arguments are numbers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, CLOEXEC, set) })
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd: RawFd = checked(result)?;
    // SAFETY: the kernel has just made it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn configure(
    fd: RawFd,
    command: libc::c_uint,
    name: Option<&str>,
    value: Option<&str>,
) -> io::Result<()> {
    let text = |text: Option<&str>| text.map(CString::new).transpose();
    let (name, value) = (text(name)?, text(value)?);
    let pointer =
        |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    let (name, value) = (pointer(&name), pointer(&value));
    // SAFETY: the texts are valid C strings for the length of the call, or null where the command takes none.
    checked(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, name, value, 0) }).map(drop)
}
