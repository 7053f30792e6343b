//! The table in `docs/errors.md` is made from the code.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use restow::explain;

const START: &str = "<!-- causes -->\n";
const END: &str = "<!-- end of causes -->";

/// Set to make it anew.
const VARIABLE: &str = "RESTOW_BLESS";

fn table() -> String {
    let mut text = String::new();
    let mut last = None;
    for (subject, cause) in explain::all() {
        if last != Some(subject) {
            let _ = write!(
                text,
                "\n### {subject}\n\n| cause | what it means | way round |\n|---|---|---|\n"
            );
            last = Some(subject);
        }
        let cell = |text: String| text.replace('|', "\\|").replace('<', "\\<");
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            cause.name,
            cell(cause.meaning()),
            cell(cause.remedy())
        );
    }
    text.push('\n');
    text
}

#[test]
fn the_documentation_has_all_causes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{START}{}{END}{after}", table());
    if std::env::var_os(VARIABLE).is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "docs/errors.md is not as the code: run this test with {VARIABLE}=1"
        );
    }
}
