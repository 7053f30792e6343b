//! The program named `restow-runtime`, `restow-runc` or `restow-crun`, and `restow-oci-hook`: see the documentation of the library.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use restow_hooks::{oci_hook, runtime};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().map(Path::new).and_then(Path::file_name);
    // CRIU calls its action scripts without arguments, which is no call of a runtime.
    let script = args.len() == 1 && std::env::var_os(oci_hook::ACTION).is_some();
    if script || name.is_some_and(|name| name == "restow-oci-hook") {
        oci_hook::run(&args)
    } else {
        runtime::run(args)
    }
}
