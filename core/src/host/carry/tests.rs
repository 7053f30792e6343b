//! A volume of each kind of entry, packed and unpacked; and archives that want out.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::ids::{ContainerPath, HostPath};
use crate::source::manifest::CarriedVolume;

fn carried(packed: &Packed) -> CarriedVolume {
    CarriedVolume {
        mount_point: ContainerPath::new("/data"),
        file: "volume.tar.zst".into(),
        size: packed.size,
        sha256: packed.sha256.clone(),
        content: packed.content,
        entries: packed.entries,
    }
}

fn packed(volume: &Path, archive: &Path) -> Packed {
    let out = File::create(archive).unwrap();
    pack(&HostPath::new(volume), out, &mut |_| {}).unwrap()
}

/// A directory with what a program may leave there.
fn volume() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/deep"), "deep").unwrap();
    fs::write(at("file"), "content").unwrap();
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o4710)).unwrap();
    xattr::set(at("file"), "user.word", b"x\n=y").unwrap();
    fs::hard_link(at("file"), at("sub/same")).unwrap();
    symlink("/etc/passwd", at("link")).unwrap();
    fs::write(at("é".repeat(70).as_str()), "long").unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"island", 512 << 20).unwrap();
    File::create(at("hole")).unwrap().set_len(1 << 20).unwrap();
    nix::unistd::mkfifo(&at("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    for name in ["file", "sub"] {
        File::open(at(name)).unwrap().set_modified(old).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    dir
}

#[test]
fn what_is_packed_is_unpacked_with_links_holes_owners_times_and_attributes() {
    let (from, to, beside) = (
        volume(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let archive = beside.path().join("archive");
    let packed = packed(from.path(), &archive);
    assert_eq!(packed.left_out, ["socket (a socket)"]);
    assert!(packed.size < 1 << 20, "{packed:?}");
    let mut there = unpack(
        File::open(&archive).unwrap(),
        &carried(&packed),
        &HostPath::new(to.path()),
    )
    .unwrap();
    there.keep();
    drop(there);

    let at = |name: &str| to.path().join(name);
    assert_eq!(fs::read_to_string(at("sub/deep")).unwrap(), "deep");
    assert_eq!(
        fs::read_to_string(at("é".repeat(70).as_str())).unwrap(),
        "long"
    );
    let (file, same) = (
        fs::metadata(at("file")).unwrap(),
        fs::metadata(at("sub/same")).unwrap(),
    );
    assert_eq!(file.ino(), same.ino());
    assert_eq!(file.mode() & 0o7777, 0o4710);
    assert_eq!(
        xattr::get(at("file"), "user.word").unwrap().unwrap(),
        b"x\n=y"
    );
    for name in ["file", "sub"] {
        let meta = fs::metadata(at(name)).unwrap();
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (1_000_000_000, 123_456_789),
            "{name}"
        );
    }
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("/etc/passwd"));
    let sparse = File::open(at("sparse")).unwrap();
    let mut island = [0; 6];
    sparse.read_exact_at(&mut island, 512 << 20).unwrap();
    let meta = sparse.metadata().unwrap();
    assert_eq!((&island, meta.len()), (b"island", 1 << 30));
    assert!(
        meta.blocks() < 1 << 10,
        "{} blocks are not sparse",
        meta.blocks()
    );
    assert_eq!(fs::metadata(at("hole")).unwrap().len(), 1 << 20);
    let pipe = fs::metadata(at("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o777 == 0o640);
    assert!(!at("socket").exists());
    assert_eq!(fs::metadata(to.path()).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn content_that_is_not_kept_is_taken_away_and_nothing_beside_it() {
    let (from, to, beside) = (
        volume(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let archive = beside.path().join("archive");
    let packed = packed(from.path(), &archive);
    let volume = HostPath::new(to.path());
    let there = unpack(File::open(&archive).unwrap(), &carried(&packed), &volume).unwrap();
    let again = unpack(File::open(&archive).unwrap(), &carried(&packed), &volume).unwrap_err();
    assert!(again.to_string().contains("is not empty"), "{again}");
    fs::write(to.path().join("of another"), "").unwrap();
    drop(there);
    let left: Vec<_> = fs::read_dir(to.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["of another"]);
}

/// An archive as a stranger makes it, said to be what it is.
fn strangers(entries: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> (File, CarriedVolume) {
    let mut tar = tar::Builder::new(Vec::new());
    entries(&mut tar);
    let tar = tar.into_inner().unwrap();
    let mut summed = Summed::new(tempfile::tempfile().unwrap());
    summed
        .write_all(&zstd::encode_all(tar.as_slice(), 1).unwrap())
        .unwrap();
    let packed = Packed {
        size: summed.bytes,
        sha256: summed.sum(),
        content: tar.len() as u64,
        entries: 1,
        left_out: Vec::new(),
    };
    let mut file = summed.inner;
    std::io::Seek::rewind(&mut file).unwrap();
    (file, carried(&packed))
}

fn header(name: &str, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    header
}

#[test]
fn nothing_in_an_archive_leads_out_of_the_volume() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let through = |tar: &mut tar::Builder<Vec<u8>>, last: tar::Header| {
        let mut link = header("out", tar::EntryType::Symlink);
        link.set_link_name(outside.path()).unwrap();
        link.set_cksum();
        tar.append(&link, io::empty()).unwrap();
        tar.append(&last, io::empty()).unwrap();
    };
    let hard = |to: &Path| {
        let mut link = header("hard", tar::EntryType::Link);
        let bytes = to.as_os_str().as_encoded_bytes();
        link.as_gnu_mut().unwrap().linkname[..bytes.len()].copy_from_slice(bytes);
        link.set_cksum();
        link
    };
    let regular = tar::EntryType::Regular;
    let cases: [(&str, (File, CarriedVolume)); 7] = [
        (
            "above",
            strangers(|tar| tar.append(&header("../x", regular), io::empty()).unwrap()),
        ),
        (
            "absolute",
            strangers(|tar| tar.append(&header("/tmp/x", regular), io::empty()).unwrap()),
        ),
        (
            "through a link",
            strangers(|tar| through(tar, header("out/x", regular))),
        ),
        (
            "over a link",
            strangers(|tar| through(tar, header("out", regular))),
        ),
        (
            "a hard link out",
            strangers(|tar| tar.append(&hard(&secret), io::empty()).unwrap()),
        ),
        (
            "a hard link through a link",
            strangers(|tar| through(tar, hard(Path::new("out/secret")))),
        ),
        (
            "a device",
            strangers(|tar| {
                tar.append(&header("dev", tar::EntryType::Char), io::empty())
                    .unwrap();
            }),
        ),
    ];
    for (name, (archive, carried)) in cases {
        let volume = tempfile::tempdir().unwrap();
        let result = unpack(archive, &carried, &HostPath::new(volume.path()));
        assert!(result.is_err(), "{name} was unpacked");
        assert_eq!(
            fs::read_dir(volume.path()).unwrap().count(),
            0,
            "{name} left something"
        );
        assert_eq!(
            fs::read_dir(outside.path()).unwrap().count(),
            1,
            "{name} got out"
        );
        assert_eq!(
            fs::metadata(&secret).unwrap().nlink(),
            1,
            "{name} has the secret"
        );
    }
}

#[test]
fn an_archive_that_is_not_what_the_manifest_says_leaves_nothing() {
    let fill = |tar: &mut tar::Builder<Vec<u8>>| {
        let mut file = header("a", tar::EntryType::Regular);
        file.set_size(5);
        file.set_cksum();
        tar.append(&file, b"words".as_slice()).unwrap();
    };
    let wrong: [fn(&mut CarriedVolume); 4] = [
        |carried| carried.size += 1,
        |carried| carried.sha256 = "0".repeat(64),
        |carried| carried.content = 512,
        |carried| carried.content = u64::MAX,
    ];
    for change in wrong {
        let (archive, mut carried) = strangers(fill);
        change(&mut carried);
        let volume = tempfile::tempdir().unwrap();
        assert!(unpack(archive, &carried, &HostPath::new(volume.path())).is_err());
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
    }
}
