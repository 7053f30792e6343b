//! `containerd-shim-restow-v2`.

use std::process::ExitCode;

fn main() -> ExitCode {
    restow_shim::run(std::env::args_os().collect())
}
