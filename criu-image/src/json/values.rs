//! Numbers as people like to see them, and back: CRIU's field options.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::write::Json;
use crate::schema::{FieldDef, Style};

type Names<T> = &'static [(&'static str, T)];

const PROT: Names<u64> = &[("PROT_READ", 1), ("PROT_WRITE", 2), ("PROT_EXEC", 4)];

const MMAP: Names<u64> = &[
    ("MAP_SHARED", 1),
    ("MAP_PRIVATE", 2),
    ("MAP_DROPPABLE", 8),
    ("MAP_ANON", 0x20),
    ("MAP_GROWSDOWN", 0x100),
];

/// `criu/include/image.h`.
const VMA: Names<u64> = &[
    ("VMA_AREA_REGULAR", 1 << 0),
    ("VMA_AREA_STACK", 1 << 1),
    ("VMA_AREA_VSYSCALL", 1 << 2),
    ("VMA_AREA_VDSO", 1 << 3),
    ("VMA_AREA_HEAP", 1 << 5),
    ("VMA_FILE_PRIVATE", 1 << 6),
    ("VMA_FILE_SHARED", 1 << 7),
    ("VMA_ANON_SHARED", 1 << 8),
    ("VMA_ANON_PRIVATE", 1 << 9),
    ("VMA_AREA_SYSVIPC", 1 << 10),
    ("VMA_AREA_SOCKET", 1 << 11),
    ("VMA_AREA_VVAR", 1 << 12),
    ("VMA_AREA_AIORING", 1 << 13),
    ("VMA_AREA_MEMFD", 1 << 14),
    ("VMA_AREA_SHSTK", 1 << 15),
    ("VMA_AREA_UPROBES", 1 << 17),
    ("VMA_UNSUPP", 1 << 31),
];

/// `open(2)` on x86-64.
const OPEN: Names<u64> = &[
    ("O_WRONLY", 0o1),
    ("O_RDWR", 0o2),
    ("O_CREAT", 0o100),
    ("O_EXCL", 0o200),
    ("O_NOCTTY", 0o400),
    ("O_TRUNC", 0o1000),
    ("O_APPEND", 0o2000),
    ("O_NONBLOCK", 0o4000),
    ("O_DSYNC", 0o10000),
    ("FASYNC", 0o20000),
    ("O_DIRECT", 0o40000),
    ("O_LARGEFILE", 0o100_000),
    ("O_DIRECTORY", 0o200_000),
    ("O_NOFOLLOW", 0o400_000),
    ("O_NOATIME", 0o1_000_000),
    ("O_CLOEXEC", 0o2_000_000),
];

const SEALS: Names<u64> = &[
    ("F_SEAL_SEAL", 1),
    ("F_SEAL_SHRINK", 2),
    ("F_SEAL_GROW", 4),
    ("F_SEAL_WRITE", 8),
    ("F_SEAL_FUTURE_WRITE", 16),
];

const PAGEMAP: Names<u64> = &[("PE_PARENT", 1), ("PE_LAZY", 2), ("PE_PRESENT", 4)];

/// The flags that a set of names covers.
fn flags(set: &str) -> Option<Names<u64>> {
    Some(match set {
        "mmap.prot" => PROT,
        "mmap.flags" => MMAP,
        "mmap.status" => VMA,
        "rfile.flags" => OPEN,
        "pmap.flags" => PAGEMAP,
        "seals.flags" => SEALS,
        _ => return None,
    })
}

/// The names of a dictionary; which one is told by the dictionary and the field.
fn names(dict: &str, field: &str) -> Names<u64> {
    match (dict, field) {
        ("gen", "task_state") => &[("Alive", 1), ("Zombie", 3), ("Stopped", 6)],
        ("sk", "family") => &[
            ("UNIX", 1),
            ("INET", 2),
            ("INET6", 10),
            ("NETLINK", 16),
            ("PACKET", 17),
        ],
        ("sk", "type") => &[
            ("STREAM", 1),
            ("DGRAM", 2),
            ("RAW", 3),
            ("SEQPACKET", 5),
            ("PACKET", 10),
        ],
        ("sk", "state") => &[
            ("ESTABLISHED", 1),
            ("SYN_SENT", 2),
            ("SYN_RECV", 3),
            ("FIN_WAIT1", 4),
            ("FIN_WAIT2", 5),
            ("TIME_WAIT", 6),
            ("CLOSE", 7),
            ("CLOSE_WAIT", 8),
            ("LAST_ACK", 9),
            ("LISTEN", 10),
        ],
        ("sk", "proto") => &[("IP", 0), ("TCP", 6), ("UDP", 17), ("UDPLITE", 136)],
        _ => &[],
    }
}

/// Bits of the minor number in the kernel's own encoding of devices.
const MINOR_BITS: u32 = 20;

/// Writes a number the way its field asks for; `false` when it is to be written as it is.
pub(super) fn pretty(json: &mut Json, field: &FieldDef, number: u64, hex: bool) -> bool {
    match field.style {
        _ if hex => json.quoted(format_args!("{number:#x}")),
        Style::Hex => json.quoted(format_args!("{number:#x}")),
        Style::Device => json.quoted(format_args!(
            "{}:{}",
            number >> MINOR_BITS,
            number & ((1 << MINOR_BITS) - 1)
        )),
        Style::OldDevice => json.quoted(format_args!("{}:{}", major(number), minor(number))),
        Style::Flags(set) => match flags(set) {
            Some(names) => json.string(join_flags(names, number).as_bytes()),
            None => json.quoted(format_args!("{number:#x}")),
        },
        Style::Dict(dict) => match names(dict, field.name)
            .iter()
            .find(|(_, value)| *value == number)
        {
            Some((name, _)) => json.string(name.as_bytes()),
            None => return false,
        },
        Style::Plain | Style::Address | Style::UnixName => return false,
    }
    true
}

fn join_flags(names: Names<u64>, number: u64) -> String {
    let mut rest = number;
    let mut all = Vec::new();
    for (name, bit) in names {
        if number & bit != 0 {
            all.push((*name).to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 {
        all.push(format!("{rest:#x}"));
    }
    all.join(" | ")
}

/// The number that a text stands for in this field.
pub(super) fn number(field: &FieldDef, text: &str) -> Option<i128> {
    match field.style {
        Style::Device | Style::OldDevice if text.contains(':') => {
            let (major, minor) = text.split_once(':')?;
            let (major, minor) = (
                major.trim().parse::<u32>().ok()?,
                minor.trim().parse::<u32>().ok()?,
            );
            let number = match field.style {
                Style::Device => u64::from(major) << MINOR_BITS | u64::from(minor),
                _ => make_device(u64::from(major), u64::from(minor)),
            };
            Some(number.into())
        }
        Style::Flags(set) if let Some(names) = flags(set) => {
            let mut number = 0;
            for word in text
                .split('|')
                .map(str::trim)
                .filter(|_| !text.trim().is_empty())
            {
                let bit = names
                    .iter()
                    .find(|(name, _)| *name == word)
                    .map(|(_, bit)| i128::from(*bit));
                number |= bit.or_else(|| integer(word))?;
            }
            Some(number)
        }
        Style::Dict(dict) => {
            let named = names(dict, field.name)
                .iter()
                .find(|(name, _)| *name == text);
            named
                .map(|(_, number)| i128::from(*number))
                .or_else(|| integer(text))
        }
        _ => integer(text),
    }
}

/// A number as Python writes it: `0x10`, `0o20`, `0b1`, `-3`.
pub(super) fn integer(text: &str) -> Option<i128> {
    let text = text.trim();
    let (digits, sign) = match text.strip_prefix('-') {
        Some(digits) => (digits, -1),
        None => (text, 1),
    };
    let (digits, radix) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0o" | "0O") => (&digits[2..], 8),
        Some("0b" | "0B") => (&digits[2..], 2),
        _ => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(digits, radix).ok()?.checked_mul(sign)
}

/// An address as CRIU keeps it: one number for IPv4, four for IPv6, in network byte order.
pub(crate) fn address(parts: &[u32]) -> Option<IpAddr> {
    match parts {
        [v4] => Some(IpAddr::V4(Ipv4Addr::from(v4.to_ne_bytes()))),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (at, part) in [a, b, c, d].into_iter().enumerate() {
                bytes[4 * at..4 * at + 4].copy_from_slice(&part.to_ne_bytes());
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// The numbers of an address.
pub(super) fn address_parts(text: &str) -> Option<Vec<u32>> {
    let part = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    match text.parse().ok()? {
        IpAddr::V4(v4) => Some(vec![u32::from_ne_bytes(v4.octets())]),
        IpAddr::V6(v6) => v6.octets().chunks(4).map(part).collect(),
    }
}

// The C library's dev_t.
fn major(device: u64) -> u64 {
    device >> 8 & 0xfff | device >> 32 & !0xfff
}

fn minor(device: u64) -> u64 {
    device & 0xff | device >> 12 & !0xff
}

fn make_device(major: u64, minor: u64) -> u64 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}
