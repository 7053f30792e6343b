//! What the fuzz target checks, so that ordinary tests replay the corpus with the same checks.

use restow_cli::input::{Limits, read_packed, read_tar};

/// Archives of all kinds: no panic, and bounded memory.
pub(crate) fn archive(bytes: &[u8]) {
    let limits = Limits {
        images: 1 << 20,
        members: 1000,
        expansion: 1000,
    };
    let _ = read_tar(bytes, &limits);
    let _ = read_packed(bytes, &limits);
}
