//! Changes of a root file system, applied and undone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::{Archive, Lab};

/// Everything in a tree: kind, permissions, times, attributes and content.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, path: &Path, all: &mut BTreeMap<PathBuf, String>) {
        let meta = path.symlink_metadata().unwrap();
        let content = if meta.is_symlink() {
            format!("{:?}", fs::read_link(path).unwrap())
        } else if meta.is_file() {
            format!("{:?}", fs::read(path).unwrap())
        } else {
            String::new()
        };
        let user = xattr::get(path, "user.mark").ok().flatten();
        all.insert(
            path.strip_prefix(root).unwrap().to_path_buf(),
            format!(
                "{:o} {}:{} {}.{} {user:?} {content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec()
            ),
        );
        if meta.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                walk(root, &entry.unwrap().path(), all);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

/// A root file system with something of each kind.
fn image(root: &Path) {
    for dir in [
        "etc",
        "var",
        "var/cache",
        "var/cache/deep",
        "opaque",
        "tool",
    ] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for (file, content) in [
        ("etc/kept", "kept"),
        ("etc/changed", "old"),
        ("etc/deleted", "deleted"),
        ("var/cache/deep/file", "cached"),
        ("opaque/old", "old"),
        ("tool/x", "a directory that becomes a file"),
        ("plain", "a file that becomes a directory"),
    ] {
        fs::write(root.join(file), content).unwrap();
    }
    symlink("kept", root.join("etc/link")).unwrap();
    nix::unistd::mkfifo(&root.join("var/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::set_permissions(root.join("var/cache"), fs::Permissions::from_mode(0o1777)).unwrap();
    // Where the file system has none, nothing of it is compared.
    let _ = xattr::set(root.join("etc/changed"), "user.mark", b"old");
}

fn layer() -> Archive {
    Archive::new()
        .directory("./")
        .directory("etc/")
        .file("etc/changed", b"new")
        .file("etc/.wh.deleted", b"")
        .file("etc/made", b"made")
        .entry("etc/again", EntryType::Link, "etc/made", 0o644, b"")
        .entry("etc/link", EntryType::Symlink, "/elsewhere", 0o777, b"")
        .file("var/.wh.cache", b"")
        .entry("var/pipe", EntryType::Fifo, "", 0o600, b"")
        .directory("opaque/")
        .file("opaque/new", b"new")
        .file("opaque/.wh..wh..opq", b"")
        .file("tool", b"a file")
        .entry("plain", EntryType::Directory, "", 0o700, b"")
        .file("plain/inside", b"inside")
        .file("not/listed/above", b"x")
        .entry("gone", EntryType::Char, "0:0", 0, b"")
        .entry("etc/program", EntryType::Regular, "", 0o4711, b"#!")
}

fn lab(layer: Archive, deleted: Option<&str>) -> Lab {
    let lab = Lab::new();
    image(&lab.rootfs());
    fs::write(lab.rootfs().join("gone"), "gone").unwrap();
    let mut archive = Archive::checkpoint().file("rootfs-diff.tar", &layer.bytes());
    if let Some(list) = deleted {
        archive = archive.file("deleted.files", list.as_bytes());
    }
    lab.keep("team", "x", &archive.bytes());
    lab
}

#[test]
fn written_changed_and_deleted_files() {
    let lab = lab(layer(), None);
    lab.prepare("x").unwrap();
    let root = lab.rootfs();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("etc/kept"), "kept");
    assert_eq!(read("etc/changed"), "new");
    assert_eq!(read("etc/made"), "made");
    assert_eq!(read("opaque/new"), "new");
    assert_eq!(read("tool"), "a file");
    assert_eq!(read("plain/inside"), "inside");
    assert_eq!(read("not/listed/above"), "x");
    assert_eq!(
        fs::read_link(root.join("etc/link")).unwrap(),
        Path::new("/elsewhere")
    );
    for gone in [
        "etc/deleted",
        "var/cache",
        "opaque/old",
        "gone",
        "etc/.wh.deleted",
    ] {
        assert!(root.join(gone).symlink_metadata().is_err(), "{gone}");
    }
    let meta = |path: &str| fs::metadata(root.join(path)).unwrap();
    assert_eq!(meta("etc/made").ino(), meta("etc/again").ino());
    assert_eq!(meta("etc/program").mode() & 0o7777, 0o4711);
    assert_eq!(meta("etc/changed").mtime(), 1_700_000_000);
    assert_eq!(
        meta("etc").mtime(),
        1_700_000_000,
        "set after what is in it"
    );
    assert_eq!(meta("plain").mode() & 0o7777, 0o700);
    assert_eq!(meta("").mtime(), 1_700_000_000);
}

#[test]
fn the_list_of_deletions_that_podman_writes() {
    let lab = lab(
        Archive::new().file("var/cache/new", b"new"),
        Some(r#"["/etc/deleted", "/var/cache", "/not/there"]"#),
    );
    lab.prepare("x").unwrap();
    let root = lab.rootfs();
    assert!(!root.join("etc/deleted").exists());
    assert!(!root.join("var/cache/deep").exists());
    assert!(
        root.join("var/cache/new").exists(),
        "it came with the changes"
    );
    let empty = self::lab(Archive::new(), Some("null"));
    empty.prepare("x").unwrap();
}

#[test]
fn undone_it_is_as_it_was() {
    let lab = lab(layer(), Some(r#"["/etc/kept"]"#));
    let before = snapshot(&lab.rootfs());
    let prepared = lab.prepare("x").unwrap();
    assert_ne!(snapshot(&lab.rootfs()), before);
    prepared.undo().unwrap();
    assert_eq!(snapshot(&lab.rootfs()), before);
    assert!(lab.left().is_empty());
}

#[test]
fn a_layer_that_fails_halfway_is_undone() {
    let lab = lab(
        layer().entry("dev/sda", EntryType::Block, "8:0", 0o600, b""),
        None,
    );
    let before = snapshot(&lab.rootfs());
    assert!(lab.refusal("x").contains("dev/sda"));
    assert_eq!(snapshot(&lab.rootfs()), before);
}

#[test]
fn what_a_killed_process_left_is_undone_by_the_next() {
    let lab = lab(layer(), None);
    let before = snapshot(&lab.rootfs());
    drop(lab.prepare("x").unwrap());
    let after = snapshot(&lab.rootfs());
    // The next starts from what the image had, not from what was applied already.
    let again = lab.prepare("x").unwrap();
    let without_times = |all: BTreeMap<PathBuf, String>| all.into_keys().collect::<Vec<_>>();
    assert_eq!(without_times(snapshot(&lab.rootfs())), without_times(after));
    again.undo().unwrap();
    assert_eq!(snapshot(&lab.rootfs()), before);
}

#[test]
fn a_journal_cut_short_undoes_what_was_done() {
    let lab = lab(layer(), None);
    let before = snapshot(&lab.rootfs());
    let prepared = lab.prepare("x").unwrap();
    let journal = prepared.image_dir().with_file_name("undo.jsonl");
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend_from_slice(b"{\"made\":{\"pa");
    fs::write(&journal, bytes).unwrap();
    prepared.undo().unwrap();
    assert_eq!(snapshot(&lab.rootfs()), before);
}

#[test]
fn attributes_that_are_the_nodes_do_not_come_with_a_layer() {
    let lab = Lab::new();
    let root = lab.rootfs();
    if xattr::set(&root, "user.mark", b"x").is_err() {
        println!("left out: this file system has no extended attributes");
        return;
    }
    let pax = |records: &[(&str, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        let records = records.iter().map(|(key, value)| (*key, value.as_bytes()));
        builder.append_pax_extensions(records).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_path("file").unwrap();
        header.set_mode(0o644);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_size(1);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let layer = pax(&[
        ("SCHILY.xattr.user.mark", "a\nvalue"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.security.selinux", "system_u:object_r:x:s0"),
        ("mtime", "1700000000.5"),
    ]);
    let archive = Archive::checkpoint().file("rootfs-diff.tar", &layer);
    lab.keep("team", "x", &archive.bytes());
    lab.prepare("x").unwrap();
    let file = root.join("file");
    let names: Vec<_> = xattr::list(&file).unwrap().collect();
    assert!(
        names
            .iter()
            .all(|name| name == "user.mark" || name == "security.selinux"),
        "{names:?}"
    );
    assert_eq!(
        xattr::get(&file, "user.mark").unwrap().unwrap(),
        b"a\nvalue"
    );
    assert_eq!(fs::metadata(&file).unwrap().mtime_nsec(), 500_000_000);
}

#[test]
fn a_user_namespace_of_its_own_is_refused_in_words() {
    let lab = lab(layer(), None);
    let mut spec = super::spec("team", "web", "x");
    spec["linux"]["namespaces"] = serde_json::json!([{"type": "user"}]);
    let error = lab.prepare_as(&spec).unwrap_err().to_string();
    assert!(error.contains("user namespace"), "{error}");
}
