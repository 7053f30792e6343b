//! Lines in containerd's log. A shim writes them into the fifo `log` of its bundle, from which containerd copies them to its own.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A fact.
    Info,
    /// Something is not as it was asked for.
    Warning,
    /// Something failed.
    Error,
}

/// Writes a line to the log of the shim in `bundle`. Without a reader, and when that does not keep up, nothing is written: a shim does
/// not wait for its log.
pub fn line(bundle: &Path, level: Level, container: &str, text: &str) {
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(bundle.join("log"));
    if let Ok(mut log) = opened {
        let _ = log.write_all(format(level, container, text).as_bytes());
    }
}

/// A line as containerd's own log library writes it (logfmt of `logrus`).
fn format(level: Level, container: &str, text: &str) -> String {
    let level = match level {
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let quoted = |text: &str| format!("{text:?}");
    format!(
        "level={level} msg={} container={} runtime=restow\n",
        quoted(&format!("restow: {text}")),
        quoted(container)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(
            format(Level::Warning, "web", "says \"no\"\nand more"),
            "level=warning msg=\"restow: says \\\"no\\\"\\nand more\" container=\"web\" runtime=restow\n"
        );
    }
}
