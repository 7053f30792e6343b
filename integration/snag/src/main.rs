//! Has one thing that a checkpoint or restore fails on, and waits.
//!
//! `restow-snag NAME [ARGUMENT]…` goes to the background as the leader of a session of its own, with nothing open but `/dev/null` and the
//! snag, and prints the number of its process once everything is made. `restow-snag --here NAME …` stays where it is, with the descriptors
//! it was given, and makes `/ready` when everything is made: for the first process of a container.

mod files;
mod memory;
mod processes;
mod sockets;
mod sys;

use std::process::ExitCode;

use sys::Result;

/// What is held until the end.
pub(crate) type Held = Vec<std::os::fd::OwnedFd>;

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let here = args.first().is_some_and(|arg| arg == "--here");
    if here {
        args.remove(0);
    }
    let Some(name) = args.first().cloned() else {
        eprintln!("Usage: restow-snag [--here] NAME [ARGUMENT]…");
        return ExitCode::from(2);
    };
    let made = if here {
        make(&name, &args[1..])
    } else {
        sys::in_background(|| make(&name, &args[1..]))
    };
    match made {
        Ok(held) => {
            std::mem::forget(held);
            if here {
                // Whoever checkpoints the container waits for this.
                if let Err(error) = std::fs::write("/ready", name) {
                    eprintln!("/ready: {error}");
                }
            }
            sys::wait_forever()
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(name: &str, args: &[String]) -> Result<Held> {
    let made = [
        files::make(name, args),
        sockets::make(name, args),
        memory::make(name, args),
        processes::make(name, args),
    ];
    made.into_iter()
        .flatten()
        .next()
        .unwrap_or_else(|| Err("there is no such snag".to_owned()))
}

/// An argument of a snag.
pub(crate) fn arg(args: &[String], at: usize) -> Result<&str> {
    let found = args.get(at).map(String::as_str);
    found.ok_or_else(|| format!("argument {} is missing", at + 1))
}
