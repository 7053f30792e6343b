//! Checkpoints made ready for a container, and those that are refused.

use std::fs;

use serde_json::json;

use super::{Archive, Lab, inventory, pagemap, pstree, spec, spec_dump, write};
use crate::checkpoint::work::Work;
use crate::checkpoint::{Asked, Namespace, Prepared, Store, images, unpack};
use crate::policy::{NodeConfig, OnFailure};
use crate::source::images::ImageDir;

#[test]
fn an_archive_becomes_an_image_directory_of_our_own() {
    let lab = Lab::new();
    lab.keep("team", "x", &Archive::checkpoint().bytes());
    let prepared = lab.prepare("x").unwrap();
    let mut images: Vec<_> = fs::read_dir(prepared.image_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    images.sort();
    assert_eq!(
        images,
        [
            "inventory.img",
            "pagemap-1.img",
            "pages-7.img",
            "pstree.img"
        ]
    );
    assert!(prepared.image_dir().starts_with(lab.path("unpacked")));

    // Another process finds it by the bundle.
    drop(prepared);
    let again = Prepared::of_bundle(&lab.config, &lab.path("bundle")).unwrap();
    assert_eq!(again.checkpoint(), "x");
    again.finish().unwrap();
    assert!(lab.left().is_empty());
    assert!(Prepared::of_bundle(&lab.config, &lab.path("bundle")).is_none());
}

#[test]
fn what_was_prepared_for_a_bundle_that_is_gone_is_collected() {
    let lab = Lab::new();
    lab.keep("team", "x", &Archive::checkpoint().bytes());
    let first = lab.prepare("x").unwrap();
    // Directories of one process may get the same name again.
    let mark = first.image_dir().join("first");
    fs::write(&mark, "").unwrap();
    drop(first);
    // Another container's restore leaves it, while the bundle is there.
    super::private(&lab.path("other"));
    super::private(&lab.path("other/rootfs"));
    let asked = Asked::from_spec(&spec("team", "web", "x"), &lab.config)
        .unwrap()
        .unwrap();
    let other = asked
        .prepare(&lab.path("other"), &lab.path("other/rootfs"))
        .unwrap();
    assert!(mark.exists());
    fs::remove_dir_all(lab.path("bundle")).unwrap();
    other.undo().unwrap();
    let other = asked
        .prepare(&lab.path("other"), &lab.path("other/rootfs"))
        .unwrap();
    assert!(!mark.exists());
    other.undo().unwrap();
    assert!(lab.left().is_empty());
}

#[test]
fn directories_are_taken_over_without_copying_memory() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    for (name, below) in [("plain", ""), ("nested", "checkpoint")] {
        let dir = lab.path("store/team").join(name).join(below);
        fs::create_dir_all(&dir).unwrap();
        write(&dir.join("inventory.img"), &inventory());
        write(&dir.join("pstree.img"), &pstree());
        write(&dir.join("pagemap-1.img"), &pagemap(7, 2));
        write(&dir.join("pages-7.img"), &[1; 8192]);
        let prepared = lab.prepare(name).unwrap();
        let inode = |path| fs::metadata(path).unwrap().ino();
        let images = prepared.image_dir();
        assert_eq!(
            inode(images.join("pages-7.img")),
            inode(dir.join("pages-7.img"))
        );
        assert_ne!(
            inode(images.join("inventory.img")),
            inode(dir.join("inventory.img"))
        );
        prepared.undo().unwrap();
    }
}

#[test]
fn memory_that_was_cut_short_is_refused() {
    let lab = Lab::new();
    let with = |pages: &[u8]| {
        Archive::new()
            .file("checkpoint/inventory.img", &inventory())
            .file("checkpoint/pstree.img", &pstree())
            .file("checkpoint/pagemap-1.img", &pagemap(7, 2))
            .file("checkpoint/pages-7.img", pages)
            .bytes()
    };
    lab.keep("team", "x", &with(&[1; 8191]));
    let error = lab.refusal("x");
    assert!(error.contains("pages-7.img: it has 8191 bytes"), "{error}");
    assert!(
        error.contains("pagemap-1.img says that 8192 bytes"),
        "{error}"
    );
    lab.keep("team", "x", &with(&[1; 8192]));
    lab.prepare("x").unwrap();
}

#[test]
fn a_pod_gets_checkpoints_of_its_own_namespace_alone() {
    let mut lab = Lab::new();
    let of = |namespace: &str| {
        Archive::new()
            .file("spec.dump", spec_dump(namespace).to_string().as_bytes())
            .file("checkpoint/inventory.img", &inventory())
            .file("checkpoint/pstree.img", &pstree())
            .bytes()
    };
    lab.keep("other", "x", &of("other"));
    lab.keep("team", "smuggled", &of("other"));
    write(&lab.path("flat/theirs.tar"), &of("other"));
    write(&lab.path("flat/ours.tar"), &of("team"));
    let nameless = Archive::new()
        .file("checkpoint/inventory.img", &inventory())
        .file("checkpoint/pstree.img", &pstree());
    write(&lab.path("flat/nobodys.tar"), &nameless.bytes());
    assert!(lab.refusal("x").contains("no checkpoint x"));
    for name in ["other/x", "smuggled", "theirs"] {
        let error = lab.refusal(name);
        assert!(error.contains("one of namespace other"), "{name}: {error}");
        assert!(error.contains("cross-namespace"), "{error}");
    }
    assert!(
        lab.refusal("nobodys")
            .contains("Nothing says which namespace")
    );
    lab.prepare("ours").unwrap().undo().unwrap();
    lab.config.checkpoints.cross_namespace = true;
    for name in ["other/x", "smuggled", "theirs", "nobodys"] {
        lab.prepare(name).unwrap().undo().unwrap();
    }
}

#[test]
fn a_container_without_a_pod_is_roots() {
    let lab = Lab::new();
    lab.keep("team", "x", &Archive::checkpoint().bytes());
    lab.keep("_node", "y", &Archive::checkpoint().bytes());
    for name in ["team/x", "y"] {
        let spec = json!({"annotations": {"restow.dev/restore-from": name}});
        lab.prepare_as(&spec).unwrap().undo().unwrap();
    }
}

#[test]
fn an_annotation_for_the_whole_pod_means_no_other_container() {
    let lab = Lab::new();
    lab.keep("team", "x", &Archive::checkpoint().bytes());
    let mut other = spec("team", "sidecar", "x");
    let error = lab.prepare_as(&other).unwrap_err().to_string();
    assert!(
        error.contains("one of container web, this container is sidecar"),
        "{error}"
    );
    other["annotations"]["restow.dev/restore-from.sidecar"] = "x".into();
    lab.prepare_as(&other).unwrap();
    // Nor the sandbox.
    for kind in [
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri-o.ContainerType",
    ] {
        let mut sandbox = spec("team", "", "x");
        let annotations = sandbox["annotations"].as_object_mut().unwrap();
        annotations.remove("io.kubernetes.cri.container-type");
        annotations.insert(kind.to_owned(), "sandbox".into());
        assert!(Asked::from_spec(&sandbox, &lab.config).unwrap().is_none());
    }
}

#[test]
fn what_a_spec_asks_for() {
    let config = NodeConfig::default();
    let ask = |annotations| Asked::from_spec(&json!({"annotations": annotations}), &config);
    assert!(ask(json!({})).unwrap().is_none());
    assert!(
        ask(json!({"restow.dev/enabled": "true"}))
            .unwrap()
            .is_none()
    );
    let asked = ask(json!({"restow.dev/restore-from": "x"}))
        .unwrap()
        .unwrap();
    assert_eq!(
        (asked.name().name(), asked.on_failure()),
        ("x", OnFailure::Fail)
    );
    let asked = ask(json!({"restow.dev/restore-from": "x", "restow.dev/on-failure": "start"}));
    assert_eq!(asked.unwrap().unwrap().on_failure(), OnFailure::Start);
    for wrong in [
        json!({"restow.dev/restore-from": "../x"}),
        json!({"restow.dev/restore-from": "x", "restow.dev/on-failure": "perhaps"}),
        json!({"restow.dev/restore-form": "x"}),
    ] {
        assert!(ask(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn the_table_of_the_nodes_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let text = "[checkpoints]\nroots = [\"/a\", \"/b\"]\nflat-roots = [\"/c\"]\ncross-namespace = true\nunpack = \"/d\"\n\
                max-size-gib = 3\nmax-entries = 4\n";
    fs::write(&file, text).unwrap();
    let settings = NodeConfig::read(&file).unwrap().checkpoints;
    assert_eq!(settings.roots, ["/a", "/b"].map(std::path::PathBuf::from));
    assert_eq!(settings.flat_roots, ["/c"].map(std::path::PathBuf::from));
    assert!(settings.cross_namespace);
    assert_eq!((settings.max_size(), settings.max_entries), (3 << 30, 4));
    fs::write(&file, "[checkpoints]\nroot = \"/a\"\n").unwrap();
    assert!(
        NodeConfig::read(&file).is_err(),
        "a misspelt one is not ignored"
    );
}

#[test]
fn archives_that_podman_exports_are_unpacked() {
    let lab = Lab::new();
    let archives = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/archives");
    for file in ["podman.tar.gz", "podman.tar.zst"] {
        let store = Store::open(&lab.config);
        let name = file.parse().unwrap();
        let put = store.put(&name, &Namespace::node(), &archives.join(file), true);
        let path = put.unwrap();
        assert!(path.ends_with(format!("_node/{file}")));
        let entry = store.find(&name, &Namespace::node()).unwrap();
        assert_eq!(
            entry.about().unwrap().image.as_deref(),
            Some("localhost/zoo:latest")
        );
        // Its changes belong to root, who the tests need not be: only what is looked at first.
        let work = Work::new(&lab.path("unpacked")).unwrap();
        unpack::archive(entry.file().unwrap(), &work, &lab.config.checkpoints).unwrap();
        let dir = fs::File::open(work.images()).unwrap();
        images::check(&ImageDir::open(dir.into()).unwrap()).unwrap();
        assert!(work.meta().join("rootfs-diff.tar").exists());
        assert!(!work.images().join("devshm-checkpoint.tar").exists());
    }
}
