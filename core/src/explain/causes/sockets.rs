//! Sockets and the network.

use super::Cause;

pub(super) const CAUSES: &[Cause] = &[
    Cause {
        name: "tcp-established",
        lines: &["Connected TCP socket, consider using --{option} option."],
        object: "[{holder}: ]TCP connection",
        meaning: "the process has an established TCP connection, which CRIU saves only when asked to",
        remedy: "checkpoint with --tcp-established (both ends inside, or the address moves with the pod), or have connections closed at \
                 the restore: CRIU's option tcp-close, Restow's annotation restow.dev/tcp",
        ..Cause::NEW
    },
    Cause {
        name: "tcp-established-in-image",
        lines: &[
            "Connected TCP socket in image",
            "Need to set the --tcp-close options.",
        ],
        object: "[{holder}: ]TCP connection[ of {address} port {port}]",
        meaning: "the checkpoint has an established TCP connection, and the restore was not told what to do with it",
        remedy: "restore with --tcp-established (to go on with it) or CRIU's option tcp-close (to close it)",
        ..Cause::NEW
    },
    Cause {
        name: "tcp-in-flight",
        lines: &["In-flight connection (l) for {socket}"],
        object: "[{holder}: ]listening TCP socket",
        meaning: "a client has connected and the program has not accepted yet: such a connection cannot be saved",
        remedy: "try again, or give CRIU the option skip-in-flight, which drops it (the client connects anew)",
        ..Cause::NEW
    },
    Cause {
        name: "mptcp",
        lines: &["Unsupported proto 262 for socket {socket}"],
        object: "[{holder}: ]MPTCP socket",
        meaning: "CRIU cannot save multipath TCP, which Go programs use for listening sockets since Go 1.24",
        remedy: "run Go programs with GODEBUG=multipathtcp=0, others without IPPROTO_MPTCP; or net.mptcp.enabled=0 in the pod",
        ..Cause::NEW
    },
    Cause {
        name: "socket-protocol-not-supported",
        lines: &[
            "Unsupported proto {protocol#} for socket {socket}",
            "Unsupported socket type: {protocol#}",
            "Can't dump {protocol#} inet socket {socket}. Only stream, dgram and raw are supported.",
        ],
        object: "[{holder}: ]internet socket of protocol {protocol}",
        meaning: "CRIU saves TCP, UDP, UDP-Lite and raw sockets, no others",
        remedy: "have the program close it before the checkpoint",
        ..Cause::NEW
    },
    Cause {
        name: "socket-family-not-supported",
        lines: &[
            "BUG! Unknown socket collected (family {family#})",
            "Unsupported socket family: {family#}",
            "Unknown socket family {family#}",
        ],
        object: "[{holder}: ]socket of address family {family}",
        meaning: "CRIU saves internet, unix, netlink and packet sockets; it knows no sockets of this family (38 is AF_ALG, 40 AF_VSOCK, \
                  44 AF_XDP, 31 AF_BLUETOOTH)",
        remedy: "have the program close it before the checkpoint (OpenSSL's afalg engine, guest agents)",
        ..Cause::NEW
    },
    Cause {
        name: "socket-options-refused",
        lines: &["Can't get 1:{option#} opt: Operation not supported"],
        object: "[{holder}: ]socket",
        meaning: "the kernel refuses an option that CRIU asks every socket for: Linux 6.16 and later with criu before 4.2 \
                  (SO_PASSCRED of sockets that are not unix sockets)",
        remedy: "use criu 4.2 or later on this node",
        ..Cause::NEW
    },
    Cause {
        name: "udp-corked",
        lines: &["Can't dump corked dgram socket {socket}"],
        object: "[{holder}: ]UDP socket",
        meaning: "the socket holds back data (UDP_CORK, MSG_MORE) that CRIU cannot read",
        remedy: "try again when it has been sent",
        ..Cause::NEW
    },
    Cause {
        name: "netlink-unread",
        lines: &["The socket has data to read"],
        object: "[{holder}: ]netlink socket",
        meaning: "messages of the kernel wait in the socket, and CRIU cannot save them",
        remedy: "try again; a program that never reads its netlink socket has to close it",
        ..Cause::NEW
    },
    Cause {
        name: "unix-peer-outside",
        lines: &[
            "External socket is used. Consider using --ext-unix-sk option.",
            "Can't dump half of stream unix connection. name: {name}; peer name: {path}",
            "Can't dump name-less external socket.",
            "Unix socket {inode#} with unreachable peer {peer#} ({_})",
        ],
        object: "[{holder}: ]unix socket[ with inode {inode}][ whose peer has inode {peer}][ at {path}]",
        meaning: "the other end of the unix socket is outside of the tree (a log daemon, D-Bus, a runtime, an `exec` session)",
        remedy: "close it before the checkpoint; CRIU's option ext-unix-sk (--ext-unix-sk) allows it for datagram sockets, which are \
                 connected again at the restore; `ss -xp` on the node shows who has the inode of the peer",
        ..Cause::NEW
    },
    Cause {
        name: "unix-peer-missing",
        lines: &["FATAL: Peer {peer#} unresolved for {inode#}"],
        object: "[{holder}: ]unix socket with inode {inode} whose peer had inode {peer}",
        meaning: "the checkpoint was allowed to leave out the other end of the unix socket, and the restore is not",
        remedy: "restore with --ext-unix-sk, and with the peer listening at its old path",
        ..Cause::NEW
    },
    Cause {
        name: "unix-in-flight",
        lines: &["Found a closed in-flight socket to {socket}"],
        object: "[{holder}: ]listening unix socket",
        meaning: "a client has connected and gone before the program accepted: CRIU cannot save what it sent",
        remedy: "try again when the program has accepted",
        ..Cause::NEW
    },
    Cause {
        name: "unix-path-in-use",
        lines: &["Can't bind id {_} ino {inode#} addr {path}: Address already in use"],
        object: "[{holder}: ]unix socket {path}",
        meaning: "something else is where the socket was bound",
        remedy: "remove it before the restore",
        ..Cause::NEW
    },
    Cause {
        name: "unix-path-missing",
        lines: &["Can't bind id {_} ino {inode#} addr {path}: {error}"],
        object: "[{holder}: ]unix socket {path}",
        meaning: "the socket cannot be bound again where it was: {error}",
        remedy: "see that its directory is there and can be written",
        ..Cause::NEW
    },
    Cause {
        name: "port-in-use",
        lines: &[
            "Can't bind inet socket (id {socket#}): Address already in use",
            "Can't bind inet socket back: Address already in use",
        ],
        object: "[{holder}: ]socket[ of {address} port {port}]",
        meaning: "another socket has the address and port",
        remedy: "end whoever has it (`ss -lntup` in the pod's network namespace), or restore into another network namespace",
        ..Cause::NEW
    },
    Cause {
        name: "address-not-here",
        lines: &[
            "Can't bind inet socket (id {socket#}): {error}",
            "Can't bind inet socket back: {error}",
        ],
        object: "[{holder}: ]socket[ of {address} port {port}]",
        meaning: "the socket cannot be bound to the address that it had: {error}",
        remedy: "give the new pod the address, or have the program listen on any address (0.0.0.0, ::); an established connection to a \
                 lost address can only be closed (CRIU's option tcp-close)",
        ..Cause::NEW
    },
    Cause {
        name: "network-not-locked",
        lines: &[
            "Locking network failed: iptables-restore returned {code#}. {_}",
            "Locking network failed using nftables",
            "Locking connection failed using nftables",
            "Iptables configuration failed",
        ],
        object: "network namespace",
        meaning: "CRIU could not hold back packets with iptables or nftables while it works",
        remedy: "install iptables (iptables-restore and ip6tables-restore) or give CRIU the option network-lock with nftables or skip; \
                 the kernel needs xt_mark",
        ..Cause::NEW
    },
    Cause {
        name: "network-device-not-supported",
        lines: &[
            "Unsupported link {index#} (type {kind_number#} kind {kind})",
            "Unsupported link type {kind}",
        ],
        object: "network device[ {index}] of kind {kind}",
        meaning: "the network namespace belongs to the container alone and has a device that CRIU cannot make again",
        remedy: "remove it before the checkpoint, or have the namespace made by the pod (a sandbox), so that CRIU does not save it",
        ..Cause::NEW
    },
];
