//! `delete`: containerd has lost a shim and has cleaned up after it. The stock shim's `delete` does that; what is ours goes too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use restow::host::PidFd;
use serde_json::Value;

use crate::address;
use crate::arguments::Arguments;
use crate::client;
use crate::error::Error;
use crate::settings::Settings;

/// Runs the action.
///
/// # Errors
/// When the stock shim cannot be run.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let settings = Settings::read()?;
    let bundle = match arguments.bundle.is_empty() {
        true => PathBuf::from("."),
        false => PathBuf::from(&arguments.bundle),
    };
    // `delete` of the stock shim may take the bundle away.
    let addresses = addresses(&bundle);
    for (stock, own) in &addresses {
        end_unproxied(stock, own, &arguments.id.to_string_lossy());
    }
    let status = settings
        .stock_command(&arguments.all[1..])
        .stdin(Stdio::null())
        .status()
        .map_err(|source| settings.not_run(source))?;
    for (stock, own) in &addresses {
        address::remove_stale(own);
        address::remove_stale(stock);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The sockets of stock shim and proxy, as the bundle has them: in `address` (containerd 1.x, and the stock shim's `start`) and in
/// `bootstrap.json` (2.x). Each names one of the two.
fn addresses(bundle: &Path) -> Vec<(PathBuf, PathBuf)> {
    let plain = fs::read_to_string(bundle.join("address")).ok();
    let json = fs::read(bundle.join("bootstrap.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .and_then(|value| value["address"].as_str().map(str::to_owned));
    let mut pairs: Vec<(PathBuf, PathBuf)> = Vec::new();
    for found in plain.into_iter().chain(json) {
        let found = found.trim();
        let stock = found.strip_suffix(address::SUFFIX).unwrap_or(found);
        if let (Some(path), Ok(own)) = (address::path(stock), address::beside(stock))
            && !pairs.iter().any(|(_, known)| *known == own)
        {
            pairs.push((path.to_owned(), own));
        }
    }
    pairs
}

/// Ends a stock shim that has no proxy: `start` was killed before it could bind the two.
fn end_unproxied(stock: &Path, own: &Path, id: &str) {
    if address::answers(own) || !own_is_refused(own) || !address::answers(stock) {
        return;
    }
    if let Ok(pid) = client::shim_pid(stock, id)
        && let Ok(held) = PidFd::open(pid)
        && client::shim_pid(stock, id).is_ok_and(|again| again == pid)
    {
        // By the descriptor: the number may be another process's by now.
        let _ = held.kill();
    }
}

/// Whether there was a proxy's socket, at which nobody listens any more. Without one the container went without a proxy.
fn own_is_refused(own: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(own)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
