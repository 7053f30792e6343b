//! Decides whether Restow has anything to do with a call of `criu`, and does it in the right order.

// The socket arrives as a number on the command line; taking ownership of it is the one unsafe step.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use restow::chain;
use restow::host::Bundle;
use restow::host::real_program::RealProgram;
use restow::ids::HostPid;
use restow::policy::maps::Origin;
use restow::policy::{self, Enable, NodeConfig, Policy};

use crate::dump::Dump;
use crate::launch::launch;
use crate::node_config;
use crate::operation::{Directories, Operation};
use crate::peer::Peer;
use crate::restore::Restore;
use crate::rpc::{self, Kind, Request};
use crate::seqpacket::{self, Connection, Received};

/// Exit status when there is no criu to run; what a shell uses for "command not found".
const NOT_FOUND: u8 = 127;

/// Explicit maps, one a line, for restores that are made by hand: runtimes hand their environment on. They win over those of
/// annotations and of the configuration.
const MAPS_VARIABLE: &str = "RESTOW_MAPS";

/// Runs as `criu` with these arguments (the program's name first). Returns only when something failed.
pub fn run(args: &[OsString]) -> ExitCode {
    let config = node_config();
    let configured = config.as_ref().ok().and_then(|config| config.criu.clone());
    let real = match RealProgram::criu(configured.as_deref()) {
        Ok(real) => real,
        Err(error) => {
            eprintln!("restow: {}", chain(&error));
            return ExitCode::from(NOT_FOUND);
        }
    };
    // Where PATH has two copies, what the first has edited must not be edited again.
    if let Some(number) = service_socket(args).filter(|_| !real.after_another) {
        // SAFETY: the runtime handed the descriptor to this process, and nothing else here owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if let Some(asked) = decide(&socket, config) {
            return match Connection::new(socket) {
                Ok(client) => work(args, &real, client, asked),
                Err(_) => ExitCode::FAILURE,
            };
        }
        // It belongs to the real criu now.
        std::mem::forget(socket);
    }
    let error = real.exec(args);
    eprintln!("restow: cannot run {}: {error}", real.path.display());
    ExitCode::from(NOT_FOUND)
}

/// The descriptor in `criu [options] swrk N`, when it is a socket of the right kind.
fn service_socket(args: &[OsString]) -> Option<RawFd> {
    let at = args.iter().position(|arg| arg == "swrk")?;
    let number: RawFd = args.get(at + 1)?.to_str()?.parse().ok()?;
    if number < 0 {
        return None;
    }
    // SAFETY: used for this one question only; a closed descriptor gives an error.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    (getsockopt(&socket, sockopt::SockType) == Ok(SockType::SeqPacket)).then_some(number)
}

/// What Restow was asked to do.
struct Asked {
    kind: Kind,
    peer: Peer,
    bundle: Bundle,
    /// What pod and node ask for, or why that cannot be used.
    policy: Result<Policy, String>,
}

/// Reads the request without taking it, and the bundle's annotations. `None`: this call is passed through. So is
/// whatever cannot be found out: only a container that asked for Restow can be failed by it.
fn decide(socket: &OwnedFd, config: Result<NodeConfig, policy::Error>) -> Option<Asked> {
    let request = seqpacket::peek(socket.as_fd()).ok()?;
    let kind = rpc::kind(&request).filter(|kind| [Kind::DUMP, Kind::RESTORE].contains(kind))?;
    let peer = Peer::of(socket).ok()?;
    let dir = match kind {
        Kind::RESTORE => peer.restore_bundle(),
        // Without a pid CRIU dumps its client: that is not a container's dump.
        _ => peer.dump_bundle(HostPid(Request::parse(&request).ok()?.pid()?))?,
    };
    let for_all = match &config {
        Ok(config) => config.enable == Enable::All,
        Err(error) => error.for_all(),
    };
    let bundle = Bundle::read(&dir, !for_all).ok()??.resolved();
    let policy = match config {
        Ok(config) => config
            .policy_for(&bundle.annotations)
            .transpose()?
            .map_err(|error| chain(&error))
            .and_then(with_maps),
        // An unusable configuration concerns those who asked for Restow, and everybody where it says so.
        Err(error) => {
            let asked = NodeConfig::default()
                .policy_for(&bundle.annotations)
                .map_or(true, |policy| policy.is_some());
            (asked || error.for_all()).then(|| Err(chain(&error)))?
        }
    };
    Some(Asked {
        kind,
        peer,
        bundle,
        policy,
    })
}

/// The policy with the maps of the environment.
fn with_maps(mut policy: Policy) -> Result<Policy, String> {
    if let Some(text) = std::env::var_os(MAPS_VARIABLE) {
        let place = format!("{MAPS_VARIABLE} in the environment");
        let added = policy
            .maps
            .add(&text.to_string_lossy(), Origin::Command, &place);
        added.map_err(|error| error.to_string())?;
    }
    Ok(policy)
}

/// Takes the request and works on it. Returns only when something failed.
fn work(args: &[OsString], real: &RealProgram, client: Connection, asked: Asked) -> ExitCode {
    // A client that is gone before its request was taken needs no answer.
    let Ok(Received::Message(bytes, _)) = client.receive() else {
        return ExitCode::FAILURE;
    };
    let Asked {
        kind,
        peer,
        bundle,
        policy,
    } = asked;
    let opened = Request::parse(&bytes)
        .map_err(|error| format!("The request cannot be understood: {error}"))
        .and_then(|request| Ok((Directories::open(&request, &peer)?, request)))
        .and_then(|(directories, request)| {
            Ok((
                directories.journal(&request, kind, &peer)?,
                directories,
                request,
            ))
        });
    let (journal, directories, request) = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            // There is no directory to log to.
            eprintln!("restow: {reason}");
            let _ = client.send(&rpc::failure(kind, &reason), &[]);
            return ExitCode::FAILURE;
        }
    };
    let mut operation = Operation {
        kind,
        client,
        peer,
        bundle,
        request,
        directories,
        journal,
    };
    let started = policy.and_then(|policy| {
        let journal = operation.journal.try_clone();
        let journal = journal.map_err(|error| chain(&error))?;
        match kind {
            Kind::DUMP => {
                let dump = Dump::new(&operation, policy)?;
                launch(args, real, &mut operation, journal, dump)
            }
            _ => {
                let restore = Restore::prepare(&mut operation, &policy)?;
                launch(args, real, &mut operation, journal, restore)
            }
        }
    });
    if let Err(reason) = started {
        operation.refuse(&reason);
    }
    ExitCode::FAILURE
}
