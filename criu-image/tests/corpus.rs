//! Replays the corpora of the fuzz targets, and every real image, with the targets' checks.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

fn replay(corpus: &str, check: fn(&[u8])) {
    let dir = testdata().join("fuzz").join(corpus);
    let files = files(&dir);
    assert!(!files.is_empty(), "{} has no corpus", dir.display());
    for path in files {
        check(&fs::read(path).unwrap());
    }
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

/// All files below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

#[test]
fn the_corpus_of_framing() {
    replay("framing", fuzz::framing);
}

#[test]
fn the_corpus_of_views() {
    replay("views", fuzz::views);
}

#[test]
fn the_corpus_of_json_decode() {
    replay("json_decode", fuzz::json_decode);
}

#[test]
fn the_corpus_of_json_encode() {
    replay("json_encode", fuzz::json_encode);
}

#[test]
fn every_real_image_comes_back_byte_for_byte() {
    let images: Vec<_> = files(&testdata())
        .into_iter()
        .filter(|path| {
            path.file_name().is_some_and(|name| {
                matches!(
                    criu_image::Named::of(&name.to_string_lossy()),
                    criu_image::Named::Record(_)
                )
            })
        })
        .collect();
    assert!(images.len() > 20, "the real images are missing");
    for path in images {
        let bytes = fs::read(&path).unwrap();
        criu_image::Image::detect(&path, bytes.clone()).unwrap_or_else(|error| panic!("{error}"));
        fuzz::framing(&bytes);
        fuzz::json_decode(&bytes);
        // Every file of every kind, read and written back.
        if let Ok(image) =
            criu_image::Image::from_bytes(&path, bytes.clone(), criu_image::Kind::Files)
        {
            let changed = image.rewrite::<criu_image::Error>(|record| {
                record.with(&record.view::<criu_image::views::FileEntry>()?)
            });
            assert_eq!(changed.unwrap(), bytes);
        }
    }
}
