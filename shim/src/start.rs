//! `start`: the stock shim's `start`, and a proxy before what it started.
//!
//! 1. The stock shim's `start` runs with our standard input, in our directory, with the interposer first in PATH.
//! 2. Its reply names its socket; the proxy's follows from that ([`address`]).
//! 3. The shim that it left behind has become our child, because we adopt orphans. There is one: it gets a proxy, and is bound to it
//!    ([`guard`](crate::guard)). There is none: the container joins a pod whose proxy is there already.
//! 4. The reply is repeated with the proxy's address.
//!
//! When our own part fails, a container that asks for no restore gets the stock shim's reply as it is, and has no proxy; one that does
//! ask fails.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use restow::host::PidFd;

use crate::address;
use crate::arguments::{Arguments, PROXY};
use crate::error::{Attempt, Error};
use crate::guard::Guard;
use crate::log::{self, Level};
use crate::process;
use crate::reply::{Params, Reply};
use crate::settings::Settings;
use crate::spec::asks_for_restore;

/// Most that is read of standard input, as the stock shim has it.
const LONGEST_INPUT: u64 = 10 << 20;

/// Where containerd 1.x finds a shim again after it was restarted. The stock shim's `start` writes it into the bundle.
const ADDRESS_FILE: &str = "address";

/// Runs the action.
///
/// # Errors
/// When the stock shim cannot be run, or a container that asks for a restore gets no proxy.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let settings = Settings::read()?;
    let mut input = Vec::new();
    io::stdin()
        .take(LONGEST_INPUT)
        .read_to_end(&mut input)
        .attempt(|| "read standard input".into())?;
    // What fails here is not the concern of a container that asks for nothing.
    let guard = process::adopt_orphans()
        .and_then(|()| Guard::new())
        .attempt(|| "prepare for a proxy".into());

    let mut command = settings.stock_command(&arguments.all[1..]);
    command.stdin(as_file(&input).attempt(|| "pass standard input on".into())?);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| settings.not_run(source))?;
    if !output.status.success() {
        // Its words are out already, and it takes back what it did.
        pass_on(&output.stdout)?;
        let code = output
            .status
            .code()
            .and_then(|code| u8::try_from(code).ok());
        return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
    }

    let stock = stock_pid(&settings);
    let params = Params::parse(&input, &arguments.id.to_string_lossy());
    match proxied(arguments, &settings, &params, &output.stdout, guard, stock) {
        Ok(reply) => pass_on(&reply)?,
        Err(error) if asks_for_restore(Path::new(".")) => {
            if let Some(stock) = stock {
                // It is our child and not collected, so the number is still its own.
                let _ = kill(stock, Signal::SIGKILL);
            }
            return Err(error);
        }
        Err(error) => {
            let text = format!(
                "the container goes without Restow: {}",
                restow::chain(&error)
            );
            let id = arguments.id.to_string_lossy();
            log::line(Path::new("."), Level::Warning, &id, &text);
            pass_on(&output.stdout)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The shim that the stock shim's `start` left behind, if it left one.
fn stock_pid(settings: &Settings) -> Option<Pid> {
    process::children_running(&settings.stock)
        .ok()?
        .first()
        .copied()
}

/// Makes sure that there is a proxy, and returns the reply that leads to it.
fn proxied(
    arguments: &Arguments,
    settings: &Settings,
    params: &Params,
    said: &[u8],
    guard: Result<Guard, Error>,
    stock: Option<Pid>,
) -> Result<Vec<u8>, Error> {
    let guard = guard?;
    let reply = Reply::parse(said)?;
    let own = address::beside(&reply.address)?;
    let own_address = address::of(&own);
    match stock {
        Some(stock) => {
            let listener = address::listener(&own)?;
            let started = start_proxy(
                arguments, settings, params, &reply, &own, &listener, guard, stock,
            );
            if let Err(error) = started {
                let _ = fs::remove_file(&own);
                return Err(error);
            }
        }
        None if address::answers(&own) => {}
        None => {
            return Err(Error::System {
                attempt: format!("reach the proxy of this pod at {}", own.display()),
                source: io::Error::other("nobody listens there, though the pod's shim does"),
            });
        }
    }
    correct_address(&reply.address, &own_address)
        .attempt(|| "write the proxy's address into the bundle".into())?;
    Ok(reply.with_address(&own_address))
}

#[allow(clippy::too_many_arguments, reason = "it is one step of one caller")]
fn start_proxy(
    arguments: &Arguments,
    settings: &Settings,
    params: &Params,
    reply: &Reply,
    own: &Path,
    listener: &OwnedFd,
    guard: Guard,
    stock: Pid,
) -> Result<(), Error> {
    let watch = PidFd::open(stock.as_raw()).attempt(|| format!("watch the stock shim {stock}"))?;
    let writer = guard.handed_on().attempt(|| "hand descriptors on".into())?;
    let inherited = [listener.as_fd(), watch.as_fd(), writer];
    for fd in inherited {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).attempt(|| "hand descriptors on".into())?;
    }
    let given = |flag: &OsStr, param: &Option<String>| -> OsString {
        match param {
            Some(param) if flag.is_empty() => param.into(),
            _ => flag.to_owned(),
        }
    };
    let exe = env::current_exe().attempt(|| "find out which program this is".into())?;
    let mut command = Command::new(exe);
    // As the stock shim does, so that both are found among the processes by what containerd calls them.
    command
        .arg0(&arguments.all[0])
        .arg("-namespace")
        .arg(given(&arguments.namespace, &params.namespace))
        .arg("-id")
        .arg(given(&arguments.id, &params.id))
        .arg("-address")
        .arg(given(&arguments.address, &params.grpc_address))
        .arg(PROXY)
        .arg(&reply.address)
        .arg(own)
        .args(inherited.map(|fd| fd.as_raw_fd().to_string()))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(path) = settings.path() {
        command.env("PATH", path);
    }
    if let Some(ttrpc) = &params.ttrpc_address {
        command.env("TTRPC_ADDRESS", ttrpc);
    }
    let mut child = command.spawn().attempt(|| "start the proxy".into())?;
    // Last, because from here on the stock shim ends with what has the writing end: with the proxy, or with us.
    if let Err(error) = guard.set(stock) {
        let _ = child.kill();
        return Err(error).attempt(|| format!("bind the stock shim {stock} to its proxy"));
    }
    process::make_like(Pid::from_raw(child.id().cast_signed()), stock);
    Ok(())
}

/// The reply for containerd.
fn pass_on(reply: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout();
    out.write_all(reply)
        .and_then(|()| out.flush())
        .attempt(|| "reply to containerd".into())
}

/// Bytes as a file to read.
fn as_file(bytes: &[u8]) -> io::Result<Stdio> {
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create(c"restow-input", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Puts the proxy's address where the stock shim's `start` wrote its own.
fn correct_address(stock: &str, own: &str) -> io::Result<()> {
    match fs::read_to_string(ADDRESS_FILE) {
        Ok(found) if found.trim() == stock => {
            let unfinished = PathBuf::from(format!(".{ADDRESS_FILE}.restow"));
            fs::write(&unfinished, own)?;
            fs::rename(unfinished, ADDRESS_FILE)
        }
        // Later versions of containerd keep the address themselves.
        _ => Ok(()),
    }
}
