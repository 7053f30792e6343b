//! Files that CRIU gets by descriptor instead of opening them by a path in the container.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::attach::read_only_copy;
use super::{open_below, open_in};
use crate::ids::HostPath;
use crate::plan::{FilePlan, Lookup, Plan};

/// Descriptors that CRIU and this process need besides.
const RESERVE: u64 = 128;

/// A descriptor for CRIU.
#[derive(Debug)]
pub struct Handed {
    /// The key under which the staged image names it.
    pub key: String,
    /// Only a path (`O_PATH`); open across exec.
    pub fd: OwnedFd,
}

/// Where the restored processes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// On the node: they have its mounts anyway.
    Node,
    /// In a container. A descriptor can be opened anew through `/proc/self/fd` with all that its mount allows, and from a
    /// directory `..` leads on; so whatever was not open for writing comes from a read-only copy of the mount.
    Container,
}

/// Opens what the plan hands to CRIU. The descriptors stay open across exec: this process becomes criu.
///
/// # Errors
/// With the file that could not be opened, or when the limit on open files is too low.
pub fn open_handed(plan: &Plan, exposure: Exposure) -> io::Result<Vec<Handed>> {
    make_room(plan.handed().count())?;
    let mut copies = BTreeMap::new();
    plan.handed()
        .map(|(key, lookup, file)| {
            let guarded = exposure == Exposure::Container && !file.writable();
            let opened = if guarded {
                open_guarded(file, lookup, &mut copies)
            } else {
                open_in(lookup.root.as_path(), &lookup.rest)
            };
            let fd = opened
                .and_then(|fd| {
                    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
                    Ok(fd)
                })
                .map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", lookup.path()))
                })?;
            Ok(Handed { key, fd })
        })
        .collect()
}

/// Opens a file below a read-only copy of its root's mounts, or a directory as a copy of its own.
fn open_guarded(
    file: &FilePlan,
    lookup: &Lookup,
    copies: &mut BTreeMap<HostPath, OwnedFd>,
) -> io::Result<OwnedFd> {
    if !file.regular {
        return read_only_copy(open_in(lookup.root.as_path(), &lookup.rest)?.as_fd());
    }
    if !copies.contains_key(&lookup.root) {
        let root = open_in(lookup.root.as_path(), "".as_ref())?;
        copies.insert(lookup.root.clone(), read_only_copy(root.as_fd())?);
    }
    open_below(copies[&lookup.root].as_fd(), &lookup.rest)
}

/// Raises the soft limit on open files as far as that many descriptors ask for. CRIU gives each restored process the
/// limits it had.
fn make_room(count: usize) -> io::Result<()> {
    let needed = RESERVE + count as u64;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        return Err(io::Error::other(format!(
            "{count} files are to be handed to CRIU, and the limit on open files (RLIMIT_NOFILE) of this process is {hard}"
        )));
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, needed, hard)?)
}
