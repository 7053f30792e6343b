//! Why a checkpoint or restore failed, in words: Restow's sentence where the answer has it, else what CRIU's log says.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use restow::explain::Report;

/// More of a log is not read, in bytes.
const LONGEST: u64 = 512 << 20;

/// What the runtime said is made of layers of containerd's; the first of these logs that says more is asked.
#[must_use]
pub fn sentence(said: &str, logs: &[PathBuf]) -> String {
    // The interposer's sentence came through.
    if said.contains("Restow: ") || said.contains("restow: ") {
        return said.to_owned();
    }
    match logs.iter().find_map(|log| cause(log)) {
        Some(cause) if said.contains(&cause) => said.to_owned(),
        Some(cause) => format!("{cause} (the runtime says: {said})"),
        None => said.to_owned(),
    }
}

fn cause(log: &Path) -> Option<String> {
    let file = File::open(log).ok()?;
    Report::read(BufReader::new(file.take(LONGEST)))
        .ok()?
        .sentence()
}
