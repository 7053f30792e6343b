//! Holds one of each kind of object that CRIU keeps, says so, and waits.
//!
//! `restow-zoo DIR [unix-only]` is the first process of a container; it makes its files below DIR. With `unix-only` it has no
//! sockets but unix ones: criu 4.1 cannot dump others on Linux 6.16 and later, which refuse it SO_PASSCRED for them. What this kernel or container does not
//! have is told on standard error and left out.

mod files;
mod ipc;
mod sockets;
mod sys;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use sys::Result;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("Usage: restow-zoo DIR");
        return ExitCode::FAILURE;
    };
    // `restow-zoo ready DIR`, in the same container: whether everything is made.
    if dir == "ready" {
        let made = std::env::args_os()
            .nth(2)
            .is_some_and(|dir| Path::new(&dir).join("ready").exists());
        return if made {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let dir = Path::new(&dir);
    let unix_only = std::env::args_os().nth(2).is_some();
    if let Err(error) = fs::create_dir_all(dir) {
        eprintln!("{}: {error}", dir.display());
        return ExitCode::FAILURE;
    }
    // Shared with the children: before them.
    keep("shared memory", sys::shared_memory());
    keep("nested cgroups", cgroups());
    let child = sys::fork_waiting(|| {
        keep("a seccomp filter", sys::allow_all_filter());
        keep("a session of its own", sys::new_session());
    });
    keep("a child", child.clone());
    for (what, made) in files::all(dir)
        .into_iter()
        .chain(sockets::all(dir, unix_only))
        .chain(ipc::all())
    {
        keep(what, made);
    }
    if let Ok(child) = child {
        keep("pidfd", sys::pidfd(child));
        keep(
            "a task in a nested cgroup",
            fs::write("/sys/fs/cgroup/inner/deep/cgroup.procs", child.to_string())
                .map_err(|error| error.to_string()),
        );
    }
    if let Err(error) = fs::write(dir.join("ready"), "ready\n") {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    sys::wait_forever()
}

/// Processes may only be in leaves when controllers are passed down, so none are.
fn cgroups() -> Result<()> {
    fs::create_dir_all("/sys/fs/cgroup/inner/deep").map_err(|error| error.to_string())
}

fn keep<T>(what: &str, made: Result<T>) {
    match made {
        Ok(kept) => {
            // Held until the end.
            std::mem::forget(kept);
            println!("{what}");
        }
        Err(error) => eprintln!("no {what}: {error}"),
    }
}
