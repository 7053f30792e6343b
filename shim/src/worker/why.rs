//! Why a restore failed, in words, where the runtime only names a log: Restow's criu writes the reason at the end of CRIU's log, and keeps a
//! copy of the log of an operation that failed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use restow::host::kept;

/// What stands before the reason.
const MARK: &str = "Error (restow): ";
/// The reason is in the last of a log, in bytes.
const END: u64 = 64 << 10;

/// The reason in the log of the container's last restore, or in a copy of it.
pub(super) fn cause(bundle: &Path, id: &str) -> Option<String> {
    let logs = ["work/restore.log", "criu-restore.log", "restore.log"];
    let own = logs.iter().map(|log| bundle.join(log));
    own.chain(kept_log(Path::new(kept::DIR), id))
        .find_map(|log| reason(&log))
}

/// The newest copy of a log of this container's restores; their names begin with the time.
fn kept_log(dir: &Path, id: &str) -> Option<PathBuf> {
    let ending = kept::ending(id, "restore");
    let logs = fs::read_dir(dir).ok()?.flatten();
    logs.map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(&ending))
        .max()
}

/// The last reason that Restow wrote into a log.
fn reason(log: &Path) -> Option<String> {
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
    use super::*;

    #[test]
    fn the_newest_copy_of_this_containers_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "2026-01-01T00-00-00.000Z-web-restore.log",
            "Error (restow): the first\n",
        );
        write(
            "2026-01-02T00-00-00.000Z-web-restore.log",
            "(00.1) x\nError (restow): the second\n",
        );
        write(
            "2026-01-03T00-00-00.000Z-web-dump.log",
            "Error (restow): of a dump\n",
        );
        write(
            "2026-01-03T00-00-00.000Z-other-restore.log",
            "Error (restow): another's\n",
        );
        let log = kept_log(dir.path(), "web").unwrap();
        assert_eq!(reason(&log).unwrap(), "the second");
        assert!(kept_log(dir.path(), "b").is_none());
    }

    #[test]
    fn of_a_long_log_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("restore.log");
        fs::write(
            &log,
            format!("{}\nError (restow): why\n", "x".repeat(200_000)),
        )
        .unwrap();
        assert_eq!(reason(&log).unwrap(), "why");
        fs::write(&log, "nothing of ours").unwrap();
        assert!(reason(&log).is_none());
    }
}
