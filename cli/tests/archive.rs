//! Archives: what is found in them, and what hostile ones cost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod fuzz;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use criu_image::views::{FsEntry, InventoryEntry, View};
use criu_image::{Builder, Kind};
use fuzz::archive;
use proptest::prelude::*;
use restow_cli::input::{ImageSet, Input, Limits, read_packed, read_tar};

/// A member's header, as tar writes it.
fn header(name: &str, size: u64, kind: u8) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    header[100..108].copy_from_slice(b"0000600\0");
    let digits = format!("{size:011o}\0");
    if digits.len() == 12 {
        header[124..136].copy_from_slice(digits.as_bytes());
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut all = header(name, content.len() as u64, b'0');
    all.extend_from_slice(content);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

fn inventory() -> Vec<u8> {
    let mut builder = Builder::new(Kind::Inventory);
    builder.push(
        &InventoryEntry {
            img_version: 2,
            ..InventoryEntry::default()
        }
        .to_message(),
    );
    builder.finish()
}

fn fs_image() -> Vec<u8> {
    let mut builder = Builder::new(Kind::Fs);
    builder.push(
        &FsEntry {
            cwd_id: 1,
            root_id: 2,
            umask: None,
        }
        .to_message(),
    );
    builder.finish()
}

/// A checkpoint as containerd writes it, with memory in it.
fn checkpoint() -> Vec<u8> {
    [
        member("config.dump", b"{}"),
        header("checkpoint/", 0, b'5'),
        member("./checkpoint/inventory.img", &inventory()),
        member("checkpoint/pages-1.img", &[7; 100_000]),
        member("checkpoint/fs-1.img", &fs_image()),
        member("rootfs/var/checkpoint/inventory.img", &inventory()),
        vec![0; 1024],
    ]
    .concat()
}

fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn check(set: &ImageSet) {
    assert_eq!(
        set.names().collect::<Vec<_>>(),
        ["fs-1.img", "inventory.img"]
    );
    assert_eq!(set.others().get("pages-1.img"), Some(&100_000));
    let image = set.image("fs-1.img", Kind::Fs).unwrap().unwrap();
    assert_eq!(
        image
            .only_record()
            .unwrap()
            .view::<FsEntry>()
            .unwrap()
            .root_id,
        2
    );
}

#[test]
fn images_are_found_in_archives_of_every_compression() {
    for bytes in [
        checkpoint(),
        gzip(&checkpoint()),
        zstd::encode_all(checkpoint().as_slice(), 3).unwrap(),
    ] {
        let (_dir, path) = written("checkpoint.tar", &bytes);
        check(&Input::set(&path).unwrap());
    }
}

#[test]
fn archives_that_podman_exports_are_read() {
    for name in ["podman.tar.gz", "podman.tar.zst"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../testdata/archives")
            .join(name);
        let set = Input::set(&path).unwrap();
        let mut processes = 0;
        for record in set
            .image("pstree.img", Kind::Pstree)
            .unwrap()
            .unwrap()
            .records()
        {
            record.unwrap();
            processes += 1;
        }
        assert_eq!(processes, 2);
        assert!(
            set.others().keys().any(|name| name.starts_with("pages-")),
            "their sizes are known"
        );
    }
}

#[test]
fn long_names_and_posix_headers_are_understood() {
    let deep = "a/".repeat(80);
    let name = format!("{deep}checkpoint/inventory.img");
    let mut gnu = header("././@LongLink", name.len() as u64 + 1, b'L');
    gnu.extend(name.bytes());
    gnu.resize(gnu.len().next_multiple_of(512), 0);
    let gnu = [gnu, member("cut short", &inventory()), vec![0; 1024]].concat();
    let line = format!(" path={name}\n");
    let length = line.len() + 3;
    let pax = [
        member("pax", format!("{length}{line}").as_bytes()),
        member("cut short", &inventory()),
        vec![0; 1024],
    ]
    .concat();
    let mut pax = pax;
    pax[156] = b'x';
    // The checksum has to be right again.
    pax[148..156].fill(b' ');
    let sum: u32 = pax[..512].iter().map(|byte| u32::from(*byte)).sum();
    pax[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for bytes in [gnu, pax] {
        let dirs = read_tar(bytes.as_slice(), &Limits::default()).unwrap();
        assert_eq!(
            dirs.keys().map(String::as_str).collect::<Vec<_>>(),
            [name.rsplit_once('/').unwrap().0]
        );
    }
}

#[test]
fn an_archive_cut_short_anywhere_is_an_error_or_has_less() {
    let whole = checkpoint();
    for length in (0..whole.len()).step_by(97) {
        let _ = read_tar(&whole[..length], &Limits::default());
        let (_dir, path) = written("x.tar", &whole[..length]);
        let _ = Input::open(&path);
    }
    // In the middle of the pages, also when they are passed over by seeking.
    let (_dir, path) = written("x.tar", &whole[..60_000]);
    let error = format!("{:#}", Input::open(&path).unwrap_err());
    assert!(error.contains("The archive is damaged"), "{error}");
}

#[test]
fn archives_that_ask_for_too_much_are_refused() {
    let limits = Limits {
        images: 10_000,
        members: 100,
        expansion: 10_000,
    };
    let refused = |bytes: Vec<u8>, expected: &str| {
        let error = format!("{:#}", read_tar(bytes.as_slice(), &limits).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    // Lengths that are not there cost nothing.
    refused(header("files.img", 1 << 40, b'0'), "take more than 0 MiB");
    refused(header("x", u64::MAX / 2 + 2, b'0'), "longer than any file");
    refused(header("././@LongLink", 1 << 32, b'L'), "too long");
    refused(header("pax", 1 << 32, b'x'), "too long");
    refused(
        member("fs-1.img", &[0; 6000]).repeat(2),
        "take more than 0 MiB",
    );
    refused(header("file", 0, b'0').repeat(200), "more than 100 members");
    refused(vec![b'x'; 512], "checksum is wrong");
}

/// A source of zeros behind some bytes.
struct Bomb {
    left: u64,
}

impl std::io::Read for Bomb {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        buffer[..got].fill(0);
        self.left -= got as u64;
        Ok(got)
    }
}

#[test]
fn a_bomb_is_refused_in_bounded_memory() {
    // Two tebibytes of pages in a file of a few megabytes: the compressor shrinks zeros 30,000 times.
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packed
        .write_all(&member("checkpoint/inventory.img", &inventory()))
        .unwrap();
    packed
        .write_all(&header("checkpoint/pages-1.img", 2 << 40, b'0'))
        .unwrap();
    std::io::copy(&mut Bomb { left: 3 << 30 }, &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    let limits = Limits {
        expansion: 1000,
        ..Limits::default()
    };
    let error = format!("{:#}", read_packed(packed.as_slice(), &limits).unwrap_err());
    assert!(
        error.contains("unpacks to more than 1000 times its size"),
        "{error}"
    );
    // The same with record images stops at what may be held.
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packed
        .write_all(&header("checkpoint/files.img", 600 << 20, b'0'))
        .unwrap();
    std::io::copy(&mut Bomb { left: 1 << 20 }, &mut packed).unwrap();
    let error = format!(
        "{:#}",
        read_packed(packed.finish().unwrap().as_slice(), &Limits::default()).unwrap_err()
    );
    assert!(error.contains("take more than 512 MiB"), "{error}");
}

#[test]
fn links_are_not_followed_and_circles_of_parents_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for (dir, parent) in [(&a, "../b"), (&b, "../a")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("inventory.img"), inventory()).unwrap();
        std::os::unix::fs::symlink(parent, dir.join("parent")).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", a.join("fs-1.img")).unwrap();
    let set = Input::set(&a).unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["inventory.img"]);
    let error = set.parents().unwrap_err().to_string();
    assert!(error.contains("the parent links go in a circle"), "{error}");
    fs::remove_file(b.join("parent")).unwrap();
    assert_eq!(set.parents().unwrap().len(), 1);
}

#[test]
fn old_layouts_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("inventory.img"), inventory()).unwrap();
    fs::write(dir.path().join("reg-files.img"), b"").unwrap();
    let error = Input::set(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("it has reg-files.img, a layout that criu left behind"),
        "{error}"
    );
}

fn testdata(corpus: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/fuzz")
        .join(corpus);
    fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn the_corpus_of_archives() {
    let corpus = testdata("archive");
    assert!(!corpus.is_empty());
    for path in corpus {
        archive(&fs::read(path).unwrap());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), at in 0..512usize, byte: u8) {
        archive(&bytes);
        let mut damaged = checkpoint();
        damaged[at] = byte;
        // With a checksum that is right again.
        damaged[148..156].fill(b' ');
        let sum: u32 = damaged[..512].iter().map(|byte| u32::from(*byte)).sum();
        damaged[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive(&damaged);
    }
}
