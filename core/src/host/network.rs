//! A network namespace seen from inside: its addresses, and whether a socket can be put somewhere.
//!
//! Everything is asked on a thread of its own that enters the namespace and ends there, so that this one never has to come back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage,
    UnixAddr, bind, connect, setsockopt, socket, sockopt,
};

use crate::source::manifest::InterfaceAddress;
use crate::source::{Protocol, UnixKind};
use crate::target::{Endpoint, Trial};

/// Runs `work` in the network namespace that `namespace` (an `ns/net` file) stands for.
///
/// # Errors
/// As `setns(2)`, and what `work` says.
pub fn within<T: Send>(
    namespace: impl AsFd + Send,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        let panicked = |_| {
            Err(io::Error::other(
                "the thread in the network namespace panicked",
            ))
        };
        worker.join().unwrap_or_else(panicked)
    })
}

/// The addresses of a network namespace, in the order in which the kernel lists its interfaces.
///
/// # Errors
/// As [`within`].
pub fn addresses(namespace: &File) -> io::Result<Vec<InterfaceAddress>> {
    within(namespace, listed)
}

fn listed() -> io::Result<Vec<InterfaceAddress>> {
    let all = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().into(),
            (None, Some(v6)) => v6.ip().into(),
            (None, None) => return None,
        };
        Some(InterfaceAddress {
            interface: interface.interface_name,
            address,
        })
    });
    Ok(all.collect())
}

/// Tries to put a socket at each endpoint, as CRIU will, and takes it away again. No connection is accepted and no packet sent.
///
/// # Errors
/// As [`within`]; what a trial gives is no error.
pub fn try_endpoints(
    namespace: &File,
    endpoints: &BTreeSet<Endpoint>,
) -> io::Result<BTreeMap<Endpoint, Trial>> {
    if endpoints.is_empty() {
        return Ok(BTreeMap::new());
    }
    within(namespace, || {
        let tried = endpoints
            .iter()
            .map(|endpoint| Ok((endpoint.clone(), try_one(endpoint)?)));
        tried.collect()
    })
}

fn try_one(endpoint: &Endpoint) -> io::Result<Trial> {
    match endpoint {
        Endpoint::Inet {
            protocol: Protocol::Other,
            ..
        } => Ok(Trial::Fine),
        Endpoint::Inet {
            protocol,
            local,
            peer,
            v6only,
        } => {
            let fd = match inet(*protocol, local, *v6only) {
                Ok(fd) => fd,
                // A family that the kernel has not got.
                Err(errno) => return Ok(Trial::NotBound(errno as i32)),
            };
            if let Err(errno) = bind_to(&fd, *local) {
                return Ok(Trial::NotBound(errno as i32));
            }
            // Of UDP this sends nothing; of TCP it would.
            let connected = match peer.filter(|_| *protocol == Protocol::Udp) {
                Some(peer) => connect(fd.as_raw_fd(), &SockaddrStorage::from(peer)),
                None => Ok(()),
            };
            Ok(connected.map_or_else(|errno| Trial::NotConnected(errno as i32), |()| Trial::Fine))
        }
        Endpoint::Abstract { kind, name } => {
            let kind = match kind {
                UnixKind::Stream => SockType::Stream,
                UnixKind::Datagram => SockType::Datagram,
                UnixKind::Seqpacket => SockType::SeqPacket,
            };
            let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
            let bound = UnixAddr::new_abstract(name).and_then(|to| bind(fd.as_raw_fd(), &to));
            Ok(bound.map_or_else(|errno| Trial::NotBound(errno as i32), |()| Trial::Fine))
        }
    }
}

/// A socket with the options that CRIU sets before it binds one (`criu/sk-inet.c`, `open_inet_sk`, `inet_bind`).
fn inet(protocol: Protocol, local: &SocketAddr, v6only: bool) -> Result<OwnedFd, Errno> {
    let family = if local.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = match protocol {
        Protocol::Udp => SockType::Datagram,
        Protocol::Tcp | Protocol::Other => SockType::Stream,
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    if local.is_ipv6() {
        if v6only {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        // An address may still be tentative.
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
    }
    Ok(fd)
}

fn bind_to(fd: &OwnedFd, local: SocketAddr) -> Result<(), Errno> {
    match local {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4) as &dyn SockaddrLike),
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6) as &dyn SockaddrLike),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn own() -> File {
        File::open("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn the_loopback_address_is_listed_and_a_listener_is_in_the_way() {
        let listed = match addresses(&own()) {
            // setns(2) needs CAP_SYS_ADMIN even for one's own namespace.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return,
            listed => listed.unwrap(),
        };
        assert!(listed.iter().any(|at| at.interface == "lo"), "{listed:?}");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let endpoint = |local| Endpoint::Inet {
            protocol: Protocol::Tcp,
            local,
            peer: None,
            v6only: false,
        };
        let gone = endpoint("203.0.113.77:7".parse().unwrap());
        let asked = BTreeSet::from([endpoint(local), gone.clone()]);
        let tried = try_endpoints(&own(), &asked).unwrap();
        assert_eq!(tried[&endpoint(local)], Trial::NotBound(libc::EADDRINUSE));
        assert_eq!(tried[&gone], Trial::NotBound(libc::EADDRNOTAVAIL));
        drop(listener);
        let asked = BTreeSet::from([endpoint(local)]);
        assert_eq!(
            try_endpoints(&own(), &asked).unwrap()[&endpoint(local)],
            Trial::Fine
        );
    }
}
