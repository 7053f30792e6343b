//! Logs of failures, kept where the work directory of whoever called criu does not take them along when it goes.
//!
//! podman and containerd remove a failed operation's directory with CRIU's log in it. A copy stays in [`DIR`], bounded by number and
//! size; the oldest go first.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::last_words::MARK;

/// Where they are kept.
pub const DIR: &str = "/var/log/restow";

/// So many are kept.
const MOST: usize = 32;
/// All together have no more bytes than this.
const ALL_BYTES: u64 = 128 << 20;
/// Of a longer log the start and the end are kept: what it was about, and why it failed.
const START_BYTES: u64 = 1 << 20;
const END_BYTES: u64 = 15 << 20;

/// Copies `log` to `dir` as `<time>-<container>-<operation>.log`, says `last` in it as its last line, and removes what is too much there.
/// `operation` is `dump` or `restore`.
///
/// # Errors
/// When it cannot be read, or `dir` cannot be made or written.
pub fn keep(
    dir: &Path,
    log: &mut File,
    container: &str,
    operation: &str,
    last: impl FnOnce(&Path) -> String,
) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = stamp(SystemTime::now()) + &ending(container, operation);
    let path = dir.join(name);
    let mut kept = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let copied = copy(log, &mut kept)
        .and_then(|()| kept.write_all(format!("{MARK}{}\n", last(&path)).as_bytes()));
    if let Err(error) = copied {
        // Half a log would pass for a whole one.
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    rotate(dir, &path);
    Ok(path)
}

/// The newest of the logs in `dir` that were kept of this container's `operation`, and not before `since`: an earlier container may have
/// had the same id.
#[must_use]
pub fn newest(dir: &Path, container: &str, operation: &str, since: SystemTime) -> Option<PathBuf> {
    let (since, ending) = (stamp(since), ending(container, operation));
    let entries = fs::read_dir(dir).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // All times have the same length. Behind a longer one is the beginning of another container's id.
    let of_this = names.filter(|name| {
        name.strip_suffix(&ending)
            .is_some_and(|time| time.len() == since.len() && *time >= *since)
    });
    of_this.max().map(|name| dir.join(name))
}

/// The time, as names begin with it: so that they sort by it.
fn stamp(time: SystemTime) -> String {
    let time = humantime::format_rfc3339_millis(time).to_string();
    time.replace(':', "-")
}

/// How the names of a container's logs end, behind the time.
fn ending(container: &str, operation: &str) -> String {
    let container: String = container
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
        .take(64)
        .collect();
    format!("-{container}-{operation}.log")
}

fn copy(log: &mut File, kept: &mut File) -> io::Result<()> {
    let length = log.seek(SeekFrom::End(0))?;
    log.rewind()?;
    if length <= START_BYTES + END_BYTES {
        io::copy(&mut log.take(START_BYTES + END_BYTES), kept)?;
        return Ok(());
    }
    io::copy(&mut log.take(START_BYTES), kept)?;
    let left_out = length - START_BYTES - END_BYTES;
    writeln!(kept, "\n(00.0) restow: {left_out} bytes are left out here")?;
    log.seek(SeekFrom::Start(length - END_BYTES))?;
    io::copy(&mut log.take(END_BYTES), kept)?;
    Ok(())
}

/// Removes the oldest logs beyond the bounds, but never `newest`. What cannot be removed stays.
fn rotate(dir: &Path, newest: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut logs: Vec<(PathBuf, u64)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let name = name.to_str()?;
            let ours = name.ends_with("-dump.log") || name.ends_with("-restore.log");
            let meta = entry.metadata().ok()?;
            (ours && meta.is_file()).then(|| (entry.path(), meta.len()))
        })
        .collect();
    // Names start with the time.
    logs.sort();
    let mut bytes: u64 = logs.iter().map(|(_, size)| size).sum();
    let mut count = logs.len();
    for (path, size) in &logs {
        if (count <= MOST && bytes <= ALL_BYTES) || path == newest {
            break;
        }
        if fs::remove_file(path).is_ok() {
            count -= 1;
            bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn log(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file
    }

    #[test]
    fn a_log_is_kept_with_the_reason_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("restow");
        let path = keep(
            &place,
            &mut log(b"(00.1) x\n"),
            "web/../1",
            "dump",
            |path| format!("why; kept as {}", path.display()),
        )
        .unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with("Z-web..1-dump.log"), "{name}");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!(
                "(00.1) x\nError (restow): why; kept as {}\n",
                path.display()
            )
        );
    }

    #[test]
    fn the_newest_log_is_this_containers_and_no_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let write = |name: &str| fs::write(dir.path().join(name), "x").unwrap();
        write("1970-01-01T00-00-10.000Z-web-restore.log");
        write("1970-01-01T00-00-20.000Z-web-restore.log");
        write("1970-01-01T00-00-30.000Z-web-dump.log");
        write("1970-01-01T00-00-30.000Z-my-web-restore.log");
        let newest = |container, since| newest(dir.path(), container, "restore", at(since));
        let second = dir.path().join("1970-01-01T00-00-20.000Z-web-restore.log");
        assert_eq!(newest("web", 0), Some(second.clone()));
        assert_eq!(newest("web", 20), Some(second));
        assert_eq!(newest("web", 21), None);
        assert_eq!(newest("b", 0), None);
        let own = keep(dir.path(), &mut log(b"x"), "web", "restore", |_| {
            String::new()
        })
        .unwrap();
        assert_eq!(newest("web", 21), Some(own));
    }

    #[test]
    fn old_logs_go_and_other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes"), "mine").unwrap();
        for number in 0..MOST + 5 {
            fs::write(
                dir.path()
                    .join(format!("2000-01-01T00-00-{number:03}Z-c-restore.log")),
                "old",
            )
            .unwrap();
        }
        let kept = keep(dir.path(), &mut log(b"new"), "c", "restore", |_| {
            String::new()
        })
        .unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        left.sort();
        assert_eq!(left.len(), MOST + 1);
        assert!(left.contains(&kept) && left.contains(&dir.path().join("notes")));
        assert!(!left.contains(&dir.path().join("2000-01-01T00-00-005Z-c-restore.log")));
        assert!(left.contains(&dir.path().join("2000-01-01T00-00-006Z-c-restore.log")));
    }

    #[test]
    fn of_a_long_log_the_ends_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut long = log(b"first\n");
        long.set_len(100 << 20).unwrap();
        long.seek(SeekFrom::End(0)).unwrap();
        long.write_all(b"last\n").unwrap();
        let path = keep(dir.path(), &mut long, "c", "dump", |_| "why".to_owned()).unwrap();
        let text = fs::read(&path).unwrap();
        assert!(text.len() as u64 <= START_BYTES + END_BYTES + 200);
        assert!(text.starts_with(b"first\n") && text.ends_with(b"last\nError (restow): why\n"));
    }
}
