//! What Restow has written at the end of a log of CRIU's: why it refused an operation, or why CRIU failed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// What stands before it. Runtimes that quote CRIU's log show lines with `Error`.
pub(super) const MARK: &str = "Error (restow): ";

/// It is in the last of a log, in bytes.
const END: u64 = 64 << 10;

/// The last reason in the log; `None` when there is none, or the log cannot be read.
#[must_use]
pub fn reason(log: &Path) -> Option<String> {
    let text = end_of(log).ok()?;
    let said = text.lines().rev().find_map(|line| line.split_once(MARK));
    said.map(|(_, reason)| reason.to_owned())
}

fn end_of(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut bytes = Vec::new();
    file.take(END).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_reason_is_read_from_the_end_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("restore.log");
        let long = "x".repeat(200_000);
        fs::write(
            &log,
            format!("{MARK}first\n{long}\n{MARK}before\n{MARK}why\n(00.1) bye\n"),
        )
        .unwrap();
        assert_eq!(reason(&log).unwrap(), "why");
        fs::write(&log, format!("{MARK}first\n{long}\n")).unwrap();
        assert!(reason(&log).is_none());
        assert!(reason(&dir.path().join("none")).is_none());
    }
}
