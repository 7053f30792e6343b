//! The program named `restow-runtime`, `restow-runc` or `restow-crun`: see the documentation of the library.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    restow_hooks::runtime::run(args)
}
