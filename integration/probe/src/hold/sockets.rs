//! Sockets.

use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, RawFd};

use super::{Result, call, keep, number, open, positive};

/// `FAMILY,TYPE,PROTOCOL` in numbers.
pub(super) fn socket(argument: &str) -> Result<()> {
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

pub(super) fn connect_unix(path: &str, kind: i32) -> Result<()> {
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
pub(super) fn in_flight() -> Result<()> {
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

/// A route socket with an answer that was not read: `RTM_GETLINK` of everything.
pub(super) fn netlink_data() -> Result<()> {
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

/// A listener with a connection that nobody has accepted; the other end is closed, so that only the waiting one is left.
pub(super) fn listen_full() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    drop(std::net::TcpStream::connect(address).map_err(|error| error.to_string())?);
    keep(listener.into())
}
