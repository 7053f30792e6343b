//! The shipped example of the node's configuration has every setting, with its default.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use restow::policy::NodeConfig;

#[test]
fn the_example_is_valid_and_says_what_is_so_without_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config.toml");
    let text = fs::read_to_string(path).unwrap();
    let settings = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, settings.collect::<Vec<_>>().join("\n")).unwrap();
    let config = NodeConfig::read(&file).unwrap();
    // Places that are looked for unless they are named, and what is allowed unless it is listed.
    let found = NodeConfig {
        criu: None,
        runtime: None,
        lib_dir: None,
        stock_shim: None,
        allowed_annotations: None,
        ..config
    };
    assert_eq!(format!("{found:?}"), format!("{:?}", NodeConfig::default()));
}
