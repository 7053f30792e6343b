//! A shim that behaves like `containerd-shim-runc-v2` as far as its actions and sockets go, and answers every call with what it was
//! asked. For the tests.
//!
//! * `start` prints an address in the spelling of `FAKE_REPLY` (`text`, `json`, `protobuf`) and leaves a process that serves there. The
//!   socket is `FAKE_SOCKETS/<group>`, where the group is `FAKE_GROUP` or the id.
//! * `delete` prints `deleted`; `-v` prints what it was called with.
//! * Calls: `Connect` names the process, `Shutdown` ends it, `Fail` fails, `Later` answers after the next call of the connection, `Path`
//!   tells PATH; all others give back what they got. A stream's number has to be above those before, as ttrpc has it.

// Its socket is handed on by number.
#![allow(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use criu_image::wire::Message;
use restow_shim::arguments::{Action, Arguments};
use restow_shim::frame::{self, HEADER, Header};

/// The number that the socket has in the process that serves, whatever was there before (`ExtraFiles` of Go's `os/exec`).
const SOCKET: i32 = 3;

fn main() -> io::Result<()> {
    let arguments = Arguments::parse(env::args_os().collect());
    let sockets = PathBuf::from(env::var_os("FAKE_SOCKETS").unwrap_or_default());
    let group = env::var_os("FAKE_GROUP").unwrap_or_else(|| arguments.id.clone());
    let path = sockets.join(group);
    match arguments.action {
        Action::Start => start(&arguments, &path),
        Action::Delete => {
            print!("deleted");
            Ok(())
        }
        _ if env::var_os("FAKE_SERVE").is_some() => serve(&path),
        _ => {
            print!("{:?}", &arguments.all[1..]);
            Ok(())
        }
    }
}

fn start(arguments: &Arguments, path: &Path) -> io::Result<()> {
    if let Ok(words) = env::var("FAKE_FAILURE") {
        eprint!("{words}");
        std::process::exit(3);
    }
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input)?;
    fs::write("input", &input)?;
    let address = format!("unix://{}", path.display());
    if UnixStream::connect(path).is_err() {
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        let mut served = Command::new(env::current_exe()?);
        served
            .args(["-id".as_ref(), arguments.id.as_os_str()])
            .env("FAKE_SERVE", "1")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: these calls may be made between fork and exec.
        unsafe {
            served.pre_exec(move || {
                // Already there, it would still be closed.
                let done = match listener.as_raw_fd() {
                    SOCKET => libc::fcntl(SOCKET, libc::F_SETFD, 0),
                    other => libc::dup2(other, SOCKET),
                };
                match done {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
        }
        served.spawn()?;
    }
    fs::write("address", &address)?;
    let reply = match env::var("FAKE_REPLY").as_deref() {
        Ok("json") => {
            format!(r#"{{"version":3,"address":"{address}","protocol":"ttrpc"}}"#).into_bytes()
        }
        Ok("protobuf") => {
            let mut message = Message::default();
            message.set_u64(1, 3);
            message.set_bytes(2, &address);
            message.set_bytes(3, "ttrpc");
            message.encode()
        }
        Ok("nonsense") => b"nonsense".to_vec(),
        _ => address.into_bytes(),
    };
    io::stdout().write_all(&reply)
}

fn serve(path: &Path) -> io::Result<()> {
    // SAFETY: `start` has put it there, and nothing else here owns it.
    let listener = unsafe { UnixListener::from_raw_fd(SOCKET) };
    let own = path.to_owned();
    for connection in listener.incoming() {
        let (connection, own) = (connection?, own.clone());
        std::thread::spawn(move || answer(connection, &own));
    }
    Ok(())
}

fn answer(mut connection: UnixStream, path: &Path) -> io::Result<()> {
    let mut later = None;
    let mut highest = 0;
    loop {
        let mut bytes = [0; HEADER];
        connection.read_exact(&mut bytes)?;
        let header = Header::parse(&bytes);
        let mut payload = vec![0; header.length];
        connection.read_exact(&mut payload)?;
        if header.kind != frame::REQUEST {
            // Of a stream: as it came.
            let echoed = frame::encode(header.stream, header.kind, header.flags, &payload);
            connection.write_all(&echoed)?;
            continue;
        }
        if header.stream <= highest {
            let refusal = "StreamID cannot be re-used and must increment";
            let refusal = frame::failure(header.stream, frame::INTERNAL, refusal);
            connection.write_all(&refusal)?;
            continue;
        }
        highest = header.stream;
        let request = Message::parse(&payload).unwrap_or_default();
        let asked = request.bytes(3).unwrap_or_default();
        let mut said = Message::default();
        let answer = match request.str(2) {
            Some("Later") => {
                later = Some(frame::success(header.stream, asked));
                continue;
            }
            Some("Connect") => {
                said.set_u64(1, u64::from(std::process::id()));
                frame::success(header.stream, &said.encode())
            }
            Some("Path") => {
                said.set_bytes(1, env::var("PATH").unwrap_or_default());
                frame::success(header.stream, &said.encode())
            }
            Some("Fail") => frame::failure(header.stream, frame::INTERNAL, "as asked"),
            Some("Shutdown") => {
                fs::remove_file(path)?;
                connection.write_all(&frame::success(header.stream, &[]))?;
                std::process::exit(0);
            }
            _ => frame::success(header.stream, asked),
        };
        connection.write_all(&answer)?;
        if let Some(later) = later.take() {
            connection.write_all(&later)?;
        }
    }
}
