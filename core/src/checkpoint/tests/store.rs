//! Names, and where checkpoints are found, put and removed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{Archive, Lab, private, write};
use crate::checkpoint::{CheckpointName, Error, Form, Namespace, Store};

fn name(text: &str) -> CheckpointName {
    text.parse().unwrap()
}

fn team() -> Namespace {
    Namespace::new("team").unwrap()
}

#[test]
fn a_name_is_never_a_path() {
    for text in [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/b/c",
        "a/",
        "/a",
        "a\0b",
        "a\nb",
        ".hidden",
        "team/.x",
        ".tar",
        "../../etc/x.tar",
        "team/..",
        "team//x",
    ] {
        assert!(text.parse::<CheckpointName>().is_err(), "{text:?}");
    }
    assert!("x".repeat(201).parse::<CheckpointName>().is_err());
    for text in ["a", "team/a", "checkpoint-pod_ns-web-2026-11-27T13:00:00Z"] {
        assert_eq!(name(text).to_string(), text);
    }
    assert_eq!(
        name("team/x.tar.zst"),
        name("team/x"),
        "an ending is no part of it"
    );
}

#[test]
fn what_is_put_is_found_listed_and_removed() {
    let lab = Lab::new();
    let store = Store::open(&lab.config);
    let archive = lab.path("x.tar");
    fs::write(&archive, Archive::checkpoint().bytes()).unwrap();
    let path = store.put(&name("one"), &team(), &archive, false).unwrap();
    assert_eq!(path, lab.path("store/team/one.tar"));
    let directory = lab.path("unpacked-by-hand");
    fs::create_dir_all(directory.join("checkpoint")).unwrap();
    fs::write(
        directory.join("checkpoint/inventory.img"),
        super::inventory(),
    )
    .unwrap();
    store
        .put(&name("other/two"), &team(), &directory, false)
        .unwrap();

    let found = store.find(&name("one"), &team()).unwrap();
    assert_eq!((found.form, found.namespace()), (Form::Tar, Some(&team())));
    assert_eq!(found.size().unwrap(), fs::metadata(&archive).unwrap().len());
    let about = found.about().unwrap();
    assert_eq!(about.pod.as_deref(), Some("pod-a"));
    assert_eq!(about.container.as_deref(), Some("web"));
    let listed = store.list().unwrap();
    let listed: Vec<_> = listed
        .into_iter()
        .map(|entry| entry.unwrap().name.to_string())
        .collect();
    assert_eq!(listed, ["other/two", "team/one"]);

    store.remove(&name("one"), &team()).unwrap();
    store.remove(&name("other/two"), &team()).unwrap();
    assert!(matches!(
        store.find(&name("one"), &team()),
        Err(Error::NotFound { .. })
    ));
    assert!(store.list().unwrap().is_empty());
    let left = fs::read_dir(lab.path("store/.incoming")).unwrap().count();
    assert_eq!(left, 0, "nothing is left");
}

#[test]
fn one_that_is_there_is_replaced_only_when_that_is_wanted() {
    let lab = Lab::new();
    let store = Store::open(&lab.config);
    let put = |content: &[u8], form: Form, replace| {
        let incoming = store.incoming(&name("x"), &team(), form).unwrap();
        match form {
            Form::Directory => fs::write(incoming.path().join("inventory.img"), content).unwrap(),
            _ => fs::write(incoming.path(), content).unwrap(),
        }
        incoming.commit(replace)
    };
    put(b"first", Form::Tar, false).unwrap();
    let error = put(b"second", Form::TarZstd, false).unwrap_err();
    assert!(error.to_string().contains("team/x already"), "{error}");
    assert_eq!(fs::read(lab.path("store/team/x.tar")).unwrap(), b"first");
    put(b"second", Form::Tar, true).unwrap();
    assert_eq!(fs::read(lab.path("store/team/x.tar")).unwrap(), b"second");
    put(b"third", Form::Directory, true).unwrap();
    assert!(
        !lab.path("store/team/x.tar").exists(),
        "another form of it is gone"
    );
    put(b"fourth", Form::Directory, true).unwrap();
    assert_eq!(
        fs::read(lab.path("store/team/x/inventory.img")).unwrap(),
        b"fourth"
    );
    assert_eq!(
        fs::read_dir(lab.path("store/.incoming")).unwrap().count(),
        0
    );
}

#[test]
fn one_that_is_not_committed_leaves_nothing_and_is_not_found() {
    let lab = Lab::new();
    let store = Store::open(&lab.config);
    let incoming = store.incoming(&name("x"), &team(), Form::Tar).unwrap();
    fs::write(incoming.path(), b"half").unwrap();
    assert!(store.find(&name("x"), &team()).is_err());
    assert!(store.list().unwrap().is_empty());
    drop(incoming);
    assert_eq!(
        fs::read_dir(lab.path("store/.incoming")).unwrap().count(),
        0
    );
}

#[test]
fn links_lead_nowhere() {
    let lab = Lab::new();
    let store = Store::open(&lab.config);
    lab.keep("team", "real", &Archive::checkpoint().bytes());
    symlink(
        lab.path("store/team/real.tar"),
        lab.path("store/team/link.tar"),
    )
    .unwrap();
    symlink(lab.path("store/team"), lab.path("store/linked")).unwrap();
    let error = store.find(&name("link"), &team()).unwrap_err().to_string();
    assert!(error.contains("links are not followed"), "{error}");
    let error = store.find(&name("linked/real"), &team()).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[test]
fn what_others_can_change_is_not_read() {
    let lab = Lab::new();
    let store = Store::open(&lab.config);
    lab.keep("team", "x", &Archive::checkpoint().bytes());
    let chmod = |path: &str, mode| {
        fs::set_permissions(lab.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    for path in ["store", "store/team", "store/team/x.tar"] {
        chmod(path, 0o777);
        let error = store.find(&name("x"), &team()).unwrap_err().to_string();
        assert!(
            error.contains("can be changed by others"),
            "{path}: {error}"
        );
        assert!(error.contains(path), "{error}");
        chmod(path, 0o700);
    }
    store.find(&name("x"), &team()).unwrap();
}

#[test]
fn what_is_missing_is_said_with_where_it_was_looked_for() {
    let lab = Lab::new();
    let error = Store::open(&lab.config)
        .find(&name("x"), &team())
        .unwrap_err();
    let error = error.to_string();
    assert!(error.contains("no checkpoint x on this node"), "{error}");
    assert!(error.contains("store/team"), "{error}");
    assert!(error.contains("flat"), "{error}");
}

#[test]
fn flat_roots_are_searched_last() {
    let lab = Lab::new();
    let store = Store::open(&lab.config);
    let file = "checkpoint-pod_team-web-2026-11-27T13:00:00Z";
    write(
        &lab.path("flat").join(format!("{file}.tar")),
        &Archive::checkpoint().bytes(),
    );
    let found = store.find(&name(file), &team()).unwrap();
    assert_eq!(found.namespace(), None, "only the archive says it");
    private(&lab.path("store/team"));
    lab.keep("team", file, &Archive::checkpoint().bytes());
    let found = store.find(&name(file), &team()).unwrap();
    assert_eq!(found.namespace(), Some(&team()));
}
