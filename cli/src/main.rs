//! The command `restow`.

use std::process::ExitCode;

fn main() -> ExitCode {
    restow_cli::main()
}
