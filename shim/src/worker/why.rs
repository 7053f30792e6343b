//! Why a restore failed, in words, where the runtime only names a log: Restow's criu writes the reason at the end of CRIU's log, and keeps a
//! copy of the log of an operation that failed.

use std::fs;
use std::path::{Path, PathBuf};

use restow::host::{kept, last_words};

/// Where runc and crun have CRIU write it below the stock shim, in the bundle.
const LOGS: [&str; 3] = ["work/restore.log", "criu-restore.log", "restore.log"];

/// The reason in the log of the container's last restore, or in a copy of it.
pub(super) fn cause(bundle: &Path, id: &str) -> Option<String> {
    let own = LOGS.iter().map(|log| bundle.join(log));
    own.chain(kept_log(Path::new(kept::DIR), bundle, id))
        .find_map(|log| last_words::reason(&log))
}

/// The copy. What is older than the bundle is of another container with this id.
fn kept_log(dir: &Path, bundle: &Path, id: &str) -> Option<PathBuf> {
    let spec = fs::metadata(bundle.join("config.json")).ok()?;
    kept::newest(dir, id, "restore", spec.modified().ok()?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn the_reason_is_of_this_bundles_restore() {
        let (dir, bundle) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keep = |reason: &str| {
            let path = bundle.path().join("criu.log");
            File::create(&path)
                .unwrap()
                .write_all(b"(00.1) x\n")
                .unwrap();
            let mut log = File::open(&path).unwrap();
            let said = |_: &Path| reason.to_owned();
            kept::keep(dir.path(), &mut log, "web", "restore", said).unwrap();
        };
        let found = || last_words::reason(&kept_log(dir.path(), bundle.path(), "web")?);
        keep("of an earlier container");
        // Names of logs have milliseconds, and times of files may be a tick older.
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(bundle.path().join("config.json"), "{}").unwrap();
        assert_eq!(found(), None);
        keep("of this one");
        assert_eq!(found().unwrap(), "of this one");
        fs::write(
            bundle.path().join("restore.log"),
            "Error (restow): its own log\n",
        )
        .unwrap();
        assert_eq!(cause(bundle.path(), "web").unwrap(), "its own log");
    }
}
