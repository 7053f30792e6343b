//! Checkpoints made to do harm. Each is refused with a sentence that names what it tried, and leaves nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use tar::EntryType;

use super::{Archive, Lab, inventory, pagemap, private, pstree, spec, write};
use crate::checkpoint::Prepared;

/// A checkpoint with one more member.
fn with(name: &str, kind: EntryType, link: &str) -> Vec<u8> {
    Archive::checkpoint()
        .entry(name, kind, link, 0o777, b"")
        .bytes()
}

/// A checkpoint whose writable layer has this.
fn with_layer(layer: Archive) -> Vec<u8> {
    Archive::checkpoint()
        .file("rootfs-diff.tar", &layer.bytes())
        .bytes()
}

/// The sentence with which an archive is refused.
fn refusal(archive: &[u8]) -> String {
    let lab = Lab::new();
    let before = fs::read_dir(lab.path("")).unwrap().count();
    lab.keep("team", "x", archive);
    write(&lab.rootfs().join("file"), b"of the image");
    let error = lab.refusal("x");
    assert!(error.contains("store/team/x.tar"), "it is named: {error}");
    assert_eq!(fs::read_dir(lab.rootfs()).unwrap().count(), 1);
    assert_eq!(
        fs::read(lab.rootfs().join("file")).unwrap(),
        b"of the image"
    );
    // The directory for unpacked ones is new.
    assert_eq!(fs::read_dir(lab.path("")).unwrap().count(), before + 1);
    error
}

fn refused(archive: &[u8], words: &[&str]) {
    let error = refusal(archive);
    for word in words {
        assert!(error.contains(word), "{word:?} in: {error}");
    }
}

#[test]
fn links_devices_and_pipes_in_the_archive() {
    for (kind, word) in [
        (EntryType::Symlink, "a symbolic link"),
        (EntryType::Link, "a hard link"),
        (EntryType::Fifo, "a named pipe"),
    ] {
        for name in ["checkpoint/pages-9.img", "somewhere/else"] {
            refused(&with(name, kind, "/etc/shadow"), &[name, word]);
        }
    }
    for (kind, word) in [
        (EntryType::Char, "a character device"),
        (EntryType::Block, "a block device"),
    ] {
        refused(&with("checkpoint/core-9.img", kind, "8:0"), &[word]);
    }
    refused(
        &with("checkpoint/parent", EntryType::Symlink, "../../other"),
        &["pre-dump"],
    );
}

#[test]
fn paths_out_of_the_archive() {
    for name in [
        "../escaped",
        "checkpoint/../../escaped",
        "/tmp/escaped",
        "checkpoint/./../x",
    ] {
        refused(
            &with(name, EntryType::Regular, ""),
            &[name, "leads out of it"],
        );
    }
}

#[test]
fn an_image_of_oci_and_a_set_without_processes() {
    for layout in ["oci-layout", "./oci-layout"] {
        let image = Archive::new()
            .file(layout, br#"{"imageLayoutVersion": "1.0.0"}"#)
            .file("blobs/sha256/00", b"");
        refused(
            &image.bytes(),
            &["oci-layout", "an OCI image", "restow checkpoint"],
        );
    }
    let empty = Archive::new()
        .file("spec.dump", super::spec_dump("team").to_string().as_bytes())
        .entry(
            "checkpoint/inventory.img",
            EntryType::Regular,
            "",
            0o644,
            &inventory(),
        );
    refused(&empty.bytes(), &["pstree.img"]);
}

#[test]
fn the_same_file_twice() {
    let archive = Archive::checkpoint().file("checkpoint/pages-7.img", &[2; 8192]);
    refused(&archive.bytes(), &["checkpoint/pages-7.img", "twice"]);
    let archive = Archive::checkpoint().file("pages-7.img", &[2; 8192]);
    refused(&archive.bytes(), &["pages-7.img", "twice"]);
}

#[test]
fn more_than_the_node_allows() {
    let mut lab = Lab::new();
    lab.keep("team", "x", &Archive::checkpoint().bytes());
    lab.config.checkpoints.max_entries = 3;
    assert!(lab.refusal("x").contains("more than 3 entries"));
    lab.config.checkpoints.max_entries = 100;
    lab.config.checkpoints.max_size_gib = 0;
    assert!(lab.refusal("x").contains("larger than 0 GiB"));
}

#[test]
fn a_bomb() {
    // Two tebibytes of pages in a few hundred kilobytes.
    let lab = Lab::new();
    private(&lab.path("store/team"));
    let file = fs::File::create(lab.path("store/team/x.tar.zst")).unwrap();
    let mut packed = zstd::Encoder::new(file, 1).unwrap();
    let start = Archive::checkpoint().bytes();
    packed.write_all(&start[..start.len() - 1024]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("checkpoint/pages-9.img").unwrap();
    header.set_size(2 << 40);
    header.set_cksum();
    packed.write_all(header.as_bytes()).unwrap();
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), 1 << 20),
        &mut packed,
    )
    .unwrap();
    packed.finish().unwrap();
    let error = lab.refusal("x");
    assert!(error.contains("larger than 1024 GiB"), "{error}");
}

#[test]
fn a_bomb_that_says_it_is_small() {
    let lab = Lab::new();
    private(&lab.path("store/team"));
    let mut file = fs::File::create(lab.path("store/team/x.tar.zst")).unwrap();
    // Not a part of a checkpoint, so that it is not even written.
    let mut header = tar::Header::new_gnu();
    header.set_path("left/out").unwrap();
    header.set_size(4 << 30);
    header.set_cksum();
    file.write_all(&zstd::encode_all(&header.as_bytes()[..], 1).unwrap())
        .unwrap();
    // Streams one after another are one.
    let zeros = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 32 << 20), 1).unwrap();
    for _ in 0..40 {
        file.write_all(&zeros).unwrap();
    }
    let error = lab.refusal("x");
    assert!(
        error.contains("unpacks to more than 10000 times its size"),
        "{error}"
    );
}

#[test]
fn images_that_ask_for_memory() {
    let record = |name: &str, magic: [u8; 8], length: u32| {
        let bytes = [&magic[..], &length.to_le_bytes(), &[0; 64]].concat();
        Archive::checkpoint().file(name, &bytes).bytes()
    };
    // Magic numbers of `ids-*` and `pagemap-*`.
    let ids = [0x19, 0x43, 0x56, 0x54, 0x30, 0x20, 0x43, 0x54];
    refused(
        &record("checkpoint/ids-9.img", ids, 1 << 30),
        &["ids-9.img", "more than the 16777216"],
    );
    let pagemap = [0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56];
    refused(
        &record("checkpoint/pagemap-9.img", pagemap, 1 << 20),
        &["pagemap-9.img", "more than the 128"],
    );
}

#[test]
fn memory_that_is_not_there() {
    let archive = Archive::new()
        .file("checkpoint/inventory.img", &inventory())
        .file("checkpoint/pstree.img", &pstree())
        .file("checkpoint/pagemap-1.img", &pagemap(7, u64::from(u32::MAX)));
    refused(&archive.bytes(), &["pages-7.img: it is missing"]);
}

#[test]
fn damaged_images() {
    let archive = Archive::new().file("checkpoint/core-1.img", b"no image");
    refused(&archive.bytes(), &["core-1.img"]);
    refused(
        &Archive::new().file("spec.dump", b"{}").bytes(),
        &["inventory.img"],
    );
    refused(
        &Archive::new().file("spec.dump", b"no json").bytes(),
        &["spec.dump"],
    );
}

#[test]
fn links_in_a_directory() {
    let lab = Lab::new();
    let dir = lab.path("store/team/x/checkpoint");
    fs::create_dir_all(&dir).unwrap();
    write(&dir.join("inventory.img"), &inventory());
    write(&dir.join("pstree.img"), &pstree());
    symlink("/etc/shadow", dir.join("pages-1.img")).unwrap();
    assert!(lab.refusal("x").contains("pages-1.img"));
    fs::remove_file(dir.join("pages-1.img")).unwrap();
    fs::rename(&dir, lab.path("images")).unwrap();
    symlink(lab.path("images"), &dir).unwrap();
    assert!(lab.refusal("x").contains("checkpoint"));
}

#[test]
fn a_layer_that_leads_out() {
    for name in [
        "../escaped",
        "/escaped",
        "etc/../../escaped",
        ".wh...",
        "etc/.wh...",
    ] {
        refused(&with_layer(Archive::new().file(name, b"x")), &[name]);
    }
    refused(
        &with_layer(Archive::new().entry("shadow", EntryType::Link, "/etc/shadow", 0, b"")),
        &["shadow", "leads out of it"],
    );
    refused(
        &with_layer(Archive::new().entry("shadow", EntryType::Link, "../../etc/shadow", 0, b"")),
        &["leads out of it"],
    );
}

#[test]
fn a_layer_that_writes_through_its_own_link() {
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().to_str().unwrap();
    for layer in [
        Archive::new()
            .entry("out", EntryType::Symlink, out, 0o777, b"")
            .file("out/written", b"x"),
        Archive::new()
            .entry("out", EntryType::Symlink, out, 0o777, b"")
            .directory("out/made/below"),
        Archive::new()
            .entry("out", EntryType::Symlink, out, 0o777, b"")
            .entry("linked", EntryType::Link, "out/secret", 0o777, b""),
        Archive::new()
            .entry("out", EntryType::Symlink, out, 0o777, b"")
            .file("out/.wh.secret", b""),
        Archive::new()
            .entry("out", EntryType::Symlink, out, 0o777, b"")
            .file("out/.wh..wh..opq", b""),
    ] {
        let secret = outside.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        refused(&with_layer(layer), &["cannot be applied"]);
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_layer_that_writes_through_a_link_of_the_image() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    for layer in [
        Archive::new().file("link/written", b"x"),
        Archive::new().file("link/.wh.secret", b""),
    ] {
        let lab = Lab::new();
        symlink(outside.path(), lab.rootfs().join("link")).unwrap();
        lab.keep("team", "x", &with_layer(layer));
        assert!(lab.refusal("x").contains("link/"));
        assert!(lab.rootfs().join("link").is_symlink());
    }
    // A link is replaced, not followed.
    let lab = Lab::new();
    let secret = outside.path().join("secret");
    symlink(&secret, lab.rootfs().join("link")).unwrap();
    lab.keep(
        "team",
        "x",
        &with_layer(Archive::new().file("link", b"new")),
    );
    lab.prepare("x").unwrap();
    assert_eq!(fs::read(lab.rootfs().join("link")).unwrap(), b"new");
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
}

#[test]
fn devices_in_a_layer() {
    for (kind, word) in [
        (EntryType::Char, "a character device"),
        (EntryType::Block, "a block device"),
    ] {
        let layer = Archive::new().entry("dev/sda", kind, "8:0", 0o666, b"");
        refused(&with_layer(layer), &["dev/sda", word]);
    }
}

#[test]
fn a_layer_with_too_much() {
    let mut lab = Lab::new();
    let layer = (0..20).fold(Archive::new(), |layer, n| layer.file(&format!("f{n}"), b""));
    lab.keep("team", "x", &with_layer(layer));
    lab.config.checkpoints.max_entries = 10;
    assert!(lab.refusal("x").contains("more than 10 changes"));
    assert_eq!(fs::read_dir(lab.rootfs()).unwrap().count(), 0);
}

#[test]
fn deletions_that_lead_out() {
    for list in [
        r#"["/../../etc"]"#,
        r#"["/"]"#,
        r#"["../x"]"#,
        r#"{"no": "list"}"#,
    ] {
        let archive = Archive::checkpoint().file("deleted.files", list.as_bytes());
        refused(&archive.bytes(), &["cannot be applied"]);
    }
}

#[test]
fn rights_that_the_pod_has_not_got() {
    let lab = Lab::new();
    let owner = nix::unistd::geteuid().as_raw();
    let layer = Archive::new().entry("bin/su", EntryType::Regular, "", 0o4755, b"#!");
    lab.keep("team", "x", &with_layer(layer));
    let mut user = spec("team", "web", "x");
    user["process"]["user"]["uid"] = (owner + 1).into();
    let error = lab.prepare_as(&user).unwrap_err().to_string();
    assert!(error.contains("bin/su: it is set-user-id"), "{error}");
    assert!(!lab.rootfs().join("bin").exists());
}

#[test]
fn what_spec_and_config_in_it_say_is_not_believed() {
    let lab = Lab::new();
    let smuggled = serde_json::json!({
        "process": {"user": {"uid": 0}, "capabilities": {"bounding": ["CAP_SYS_ADMIN"]}, "noNewPrivileges": false},
        "root": {"path": "/"},
        "mounts": [{"destination": "/host", "type": "bind", "source": "/", "options": ["rbind"]}],
        "linux": {"devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}], "namespaces": []},
        "annotations": {
            "cdi.k8s.io/x": "vendor.com/gpu=all",
            "restow.dev/restore-from": "other/thing",
            "restow.dev/map": "path:/=/",
            "io.kubernetes.cri.sandbox-namespace": "team",
            "io.kubernetes.cri.container-name": "web",
        },
    });
    let config = br#"{"rootfsImageName": "evil.example/image:latest", "rootfsImage": "../../etc", "id": "../../../x"}"#;
    let archive = Archive::new()
        .file("spec.dump", smuggled.to_string().as_bytes())
        .file("config.dump", config)
        .file("checkpoint/inventory.img", &inventory())
        .file("checkpoint/pstree.img", &pstree());
    lab.keep("team", "x", &archive.bytes());
    let bundle = lab.path("bundle/config.json");
    fs::write(&bundle, "the pod's").unwrap();
    let prepared = lab.prepare("x").unwrap();
    assert_eq!(fs::read(&bundle).unwrap(), b"the pod's");
    assert_eq!(fs::read_dir(lab.rootfs()).unwrap().count(), 0);
    let images = fs::read_dir(prepared.image_dir()).unwrap().count();
    assert_eq!(images, 2, "no spec is among what CRIU and the runtime get");
}

#[test]
fn what_was_checked_is_what_is_used() {
    let lab = Lab::new();
    lab.keep("team", "archive", &Archive::checkpoint().bytes());
    let dir = lab.path("store/team/directory");
    private(&dir);
    write(&dir.join("inventory.img"), &inventory());
    write(&dir.join("pstree.img"), &pstree());
    for (name, path) in [
        ("archive", "archive.tar"),
        ("directory", "directory/inventory.img"),
    ] {
        let prepared = lab.prepare(name).unwrap();
        // In place, so that a link or an open file would see it.
        fs::write(lab.path("store/team").join(path), b"changed").unwrap();
        let image = prepared.image_dir().join("inventory.img");
        assert_eq!(fs::read(image).unwrap(), inventory());
        prepared.undo().unwrap();
    }
}

#[test]
fn the_directory_for_unpacked_ones_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    lab.keep("team", "x", &Archive::checkpoint().bytes());
    private(&lab.path("unpacked"));
    fs::set_permissions(lab.path("unpacked"), fs::Permissions::from_mode(0o777)).unwrap();
    let error = lab.refusal("x");
    assert!(
        error.contains("unpacked can be changed by others"),
        "{error}"
    );
    assert!(Prepared::of_bundle(&lab.config, Path::new("/nowhere")).is_none());
}
