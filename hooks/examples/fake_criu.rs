//! A criu for tests: says which arguments it got, and answers one request on its socket.
//!
//! `RESTOW_FAKE_OUT` names a file that gets the arguments, one a line, and then `request:` and the request in hexadecimal. The answer is
//! a success of the same kind as the request.

use std::error::Error;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};

use criu_image::wire::Message;
use restow_hooks::seqpacket::{Connection, Received};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let out = std::env::var_os("RESTOW_FAKE_OUT").ok_or("RESTOW_FAKE_OUT is not set")?;
    let mut out = std::fs::File::create(out)?;
    writeln!(out, "{}", args.join("\n"))?;
    let Some(at) = args.iter().position(|arg| arg == "swrk") else {
        return Ok(());
    };
    let number = args.get(at + 1).ok_or("swrk needs a number")?.parse()?;
    #[allow(
        unsafe_code,
        reason = "the descriptor is this process's by the protocol"
    )]
    // SAFETY: whoever started this process handed it over.
    let socket = Connection::new(unsafe { OwnedFd::from_raw_fd(number) })?;
    let Received::Message(request, _) = socket.receive()? else {
        return Ok(());
    };
    write!(out, "request:")?;
    for byte in &request {
        write!(out, "{byte:02x}")?;
    }
    let kind = Message::parse(&request)?.u64(1).unwrap_or(0);
    let mut answer = Message::default();
    answer.set_u64(1, kind);
    answer.set_bool(2, true);
    socket.send(&answer.encode(), &[])?;
    Ok(())
}
