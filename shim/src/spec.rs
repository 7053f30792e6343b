//! What the spec in a bundle mentions, found without parsing it: nearly every container asks for nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use restow::checkpoint::ASKING;

/// Whether the spec in `bundle` may ask for a restore. Nearly none does, and that is found out without parsing.
#[must_use]
pub fn asks_for_restore(bundle: &Path) -> bool {
    mentions(bundle, ASKING)
}

/// Whether this text is in the spec in `bundle`. What cannot be read mentions nothing.
pub(crate) fn mentions(bundle: &Path, text: &[u8]) -> bool {
    let Ok(mut file) = File::open(bundle.join("config.json")) else {
        return false;
    };
    let mut buffer = [0; 8 << 10];
    let mut kept = 0;
    loop {
        let read = match file.read(&mut buffer[kept..]) {
            Ok(0) => return false,
            Ok(read) => kept + read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return false,
        };
        let mut windows = buffer[..read].windows(text.len());
        if windows.any(|window| window == text) {
            return true;
        }
        // What is looked for may be cut in two.
        kept = read.min(text.len() - 1);
        buffer.copy_within(read - kept..read, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_spec_that_asks_is_found_wherever_the_word_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(!asks_for_restore(dir.path()));
        for before in [0, 1, 8180, 8192, 8200, 16370, 40000] {
            let filler = " ".repeat(before);
            fs::write(&path, format!("{filler}\"restow.dev/restore-from\":\"a\"")).unwrap();
            assert!(asks_for_restore(dir.path()), "behind {before} bytes");
            fs::write(&path, format!("{filler}\"restow.dev/enabled\":\"true\"")).unwrap();
            assert!(!asks_for_restore(dir.path()));
        }
        fs::write(&path, r#""restow.dev\/restore-from.web""#).unwrap();
        assert!(asks_for_restore(dir.path()));
    }
}
