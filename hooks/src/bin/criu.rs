//! The program named `criu`: see the documentation of the library.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    restow_hooks::interpose::run(&args)
}
