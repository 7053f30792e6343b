//! Explicit maps.

use std::collections::BTreeSet;

use super::super::*;
use super::{
    DATA_MOUNT, OLD, blockers, looked_up, source, target, watched, with_file, with_mounts,
    with_unreachable, with_watch,
};
use crate::policy::Maps;
use crate::policy::maps::Origin;

fn maps(text: &str) -> Maps {
    let mut maps = Maps::default();
    maps.add(text, Origin::Command, "test").unwrap();
    maps
}

/// Plans with these maps; everything looked up is there with 100 bytes, except what `absent` names.
fn mapped(source: &Source, mut target: Target, text: &str, absent: &[&str]) -> Plan {
    target.maps = maps(text);
    place_container(source, &mut target);
    let target = looked_up(source, target, 100, absent);
    plan(source, &watched(source, target, &[]), &Policy::default())
}

fn file(plan: &Plan) -> &FilePlan {
    plan.files.iter().find(|file| file.id == FileId(3)).unwrap()
}

#[test]
fn a_path_map_moves_files_and_watches_below_it() {
    let source = with_file(source(true), 3, "/srv/old/a/f", 1, |_| {});
    let source = with_watch(source, Some("/srv/old/w"), 1, 7);
    let plan = mapped(&source, target(), "path:/srv/old=/data/new", &[]);
    assert_eq!(blockers(&plan), [""; 0]);
    let moved = file(&plan);
    assert_eq!(moved.new, ContainerPath::new("/data/new/a/f"));
    assert_eq!(moved.new_object.as_deref(), Some("/pods/2222/data/new/a/f"));
    assert!(moved.rule == Rule::Map && moved.expect.is_some());
    assert_eq!(moved.edit, FileEdit::default(), "CRIU's checks stay");
    let watch = &plan.watches[0];
    assert_eq!(
        (watch.new.to_string().as_str(), watch.rule),
        ("/data/new/w", Rule::Map)
    );
    let note = plan
        .findings
        .iter()
        .find(|finding| finding.rule == Rule::Map)
        .unwrap();
    assert!(
        note.to_string()
            .starts_with("note: map path:/srv/old=/data/new (test): it applies to 2 objects"),
        "{note}"
    );
}

#[test]
fn a_mapped_file_has_to_be_there_and_of_the_size_it_had() {
    let sized = |size| {
        let source = with_file(source(true), 3, "/srv/f", 1, |file| file.size = Some(size));
        blockers(&mapped(&source, target(), "path:/srv=/data", &[])).join("\n")
    };
    assert_eq!(sized(100), "");
    assert!(
        sized(99).contains("has 100 bytes; it had 99"),
        "{}",
        sized(99)
    );
    let source = with_file(source(true), 3, "/srv/f", 1, |_| {});
    let text = blockers(&mapped(
        &source,
        target(),
        "path:/srv=/data",
        &["/pods/2222/data/f"],
    ));
    assert!(
        text.join("").contains("/data/f, where nothing is"),
        "{text:?}"
    );
}

#[test]
fn a_file_on_a_mount_that_is_attached_later_is_handed_in_and_a_directory_cannot_be() {
    let below_new = || with_mounts(target(), &["/late"]);
    let source = with_file(source(true), 3, "/srv/f", 1, |_| {});
    let plan = mapped(&source, below_new(), "path:/srv=/late", &[]);
    assert_eq!(blockers(&plan), [""; 0]);
    let moved = file(&plan);
    assert_eq!(moved.new, ContainerPath::new("/late/f"));
    let handed = moved.handed.as_ref().map(Lookup::path);
    assert_eq!(handed.map(|path| path.to_string()), moved.new_object);
    assert!(moved.handed.is_some());
    let directory = with_file(source, 3, "/srv/f", 1, |file| {
        file.mode = Some(libc::S_IFDIR | 0o755);
    });
    let text = blockers(&mapped(&directory, below_new(), "path:/srv=/late", &[])).join("\n");
    assert!(
        text.contains("attached when files are open already"),
        "{text}"
    );
}

#[test]
fn a_file_map_is_about_that_very_file_and_its_size_does_not_count() {
    let source = with_file(source(true), 3, "/srv/f", 1, |file| {
        file.size = Some(500);
        file.pos = 400;
    });
    let text = "file:/srv/f=/data/other\npath:/srv=/nowhere";
    let plan = mapped(&source, target(), text, &[]);
    assert_eq!(blockers(&plan), [""; 0]);
    let moved = file(&plan);
    assert_eq!(moved.new, ContainerPath::new("/data/other"));
    assert!(moved.edit.drop_size && moved.edit.drop_mode && moved.handed.is_none());
    assert_eq!(
        moved.edit.pos,
        Some(100),
        "an offset behind the end is the end"
    );
}

#[test]
fn a_file_on_a_foreign_mount_is_named_by_its_inode_and_handed_in() {
    let source = with_unreachable(source(true), "/var/lib/old/f", 77);
    let plan = mapped(&source, target(), "file:file[4d:9]=node:/srv/shared/f", &[]);
    assert_eq!(blockers(&plan), [""; 0]);
    let (key, lookup, file) = plan.handed().next().unwrap();
    assert_eq!(
        (key.as_str(), lookup.path().to_string().as_str()),
        ("restow[3]", "/srv/shared/f")
    );
    assert_eq!(
        lookup.root,
        HostPath::new("/srv/shared"),
        "nothing leads out of its directory"
    );
    assert!(file.rule == Rule::Map && file.expect.is_some());

    let by_path = mapped(&source, target(), "file:/var/lib/old/f=/data/f", &[]);
    assert_eq!(blockers(&by_path), [""; 0]);
    let file = self::file(&by_path);
    assert!(file.edit.detach && file.new == ContainerPath::new("/data/f"));

    let absent = mapped(&source, target(), "file:77:9=node:/srv/f", &["/srv/f"]);
    assert!(
        blockers(&absent)
            .join("")
            .contains("/srv/f, which does not exist")
    );
}

#[test]
fn a_mount_map_gives_a_source_by_place_or_by_id() {
    let source = with_file(source(true), 3, "/data/f", DATA_MOUNT, |_| {});
    for which in ["/data", "mnt_id=12"] {
        let plan = mapped(&source, target(), &format!("mount:{which}=/srv/other"), &[]);
        assert_eq!(blockers(&plan), [""; 0]);
        let mount = plan
            .mounts
            .iter()
            .find(|mount| mount.mnt_id == MountId(DATA_MOUNT))
            .unwrap();
        assert_eq!(
            (&mount.source, mount.rule),
            (&HostPath::new("/srv/other"), Rule::Map)
        );
        assert_eq!(file(&plan).new_object.as_deref(), Some("/srv/other/f"));
    }
    let mut without = target();
    without.mounts.retain(|mount| mount.key != "/data");
    let plan = mapped(&source, without.clone(), "mount:/data=/srv/other", &[]);
    assert_eq!(
        blockers(&plan),
        [""; 0],
        "it also gives one that the new pod has not got"
    );
    let gone = mapped(&source, without, "mount:/etc/hosts=/srv/hosts", &[]);
    assert!(
        blockers(&gone)
            .join("")
            .contains("say where it is with a map")
    );
    let absent = mapped(&source, target(), "mount:/data=/srv/other", &["/srv/other"]);
    assert!(
        blockers(&absent)
            .join("")
            .contains("/srv/other, which does not exist")
    );
}

#[test]
fn a_mount_map_changes_a_mount_that_only_the_new_pod_has() {
    let target = with_mounts(target(), &["/added"]);
    let plan = mapped(&source(true), target, "mount:/added=/srv/other", &[]);
    assert_eq!(blockers(&plan), [""; 0]);
    let added = &plan.added_mounts[0];
    assert_eq!(
        (&added.source, added.rule),
        (&HostPath::new("/srv/other"), Rule::Map)
    );
}

#[test]
fn a_place_that_a_pod_names_stays_below_the_directory_it_is_allowed() {
    let source = with_file(source(true), 3, "/data/f", DATA_MOUNT, |_| {});
    let mut target = target();
    let root = || Ok(Some(HostPath::new("/srv/shared")));
    let text = "mount:/data=/srv/shared/a/b";
    target
        .maps
        .add_said(text, Origin::Pod, "annotation", false, |_| root())
        .unwrap();
    let wanted = Questions::of(&source, &target, &Policy::default()).files;
    let roots: BTreeSet<_> = wanted
        .iter()
        .filter(|lookup| lookup.path().to_string().starts_with("/srv"))
        .map(|lookup| (lookup.root.to_string(), lookup.rest.display().to_string()))
        .collect();
    let expected = ["a/b", "a/b/f"].map(|rest| ("/srv/shared".to_owned(), rest.to_owned()));
    assert_eq!(roots, expected.into());
}

#[test]
fn a_cgroup_map_wins_over_the_levels() {
    let source = with_file(
        source(false),
        3,
        &format!("/sys/fs/cgroup{OLD}/cpu.stat"),
        10,
        |_| {},
    );
    let plan = mapped(&source, target(), &format!("cgroup:{OLD}=/elsewhere"), &[]);
    assert_eq!(blockers(&plan), [""; 0]);
    assert_eq!(
        file(&plan).new,
        ContainerPath::new("/sys/fs/cgroup/elsewhere/cpu.stat")
    );
    assert_eq!(file(&plan).rule, Rule::Map);
    let placed = plan.cgroup.container.values().collect::<Vec<_>>();
    assert_eq!(
        placed,
        [&crate::ids::CgroupPath::new("/elsewhere")],
        "tasks go there, too"
    );

    let above = mapped(
        &source,
        target(),
        "cgroup:/kubepods/burstable/pod1111=/pods/x",
        &[],
    );
    assert_eq!(
        file(&above).new,
        ContainerPath::new("/sys/fs/cgroup/pods/x/old/cpu.stat")
    );
    let absent = mapped(
        &source,
        target(),
        &format!("cgroup:{OLD}=/elsewhere"),
        &["/sys/fs/cgroup/elsewhere"],
    );
    assert!(
        blockers(&absent)
            .join("")
            .contains("/elsewhere does not exist on this node")
    );
}

#[test]
fn a_map_that_matches_nothing_names_what_is_near() {
    let source = with_file(source(true), 3, "/data/some/file", DATA_MOUNT, |_| {});
    for (map, words) in [
        (
            "path:/date/some=/x",
            "below /date/some; the nearest there are: /data/some/file",
        ),
        (
            "file:/data/other=/x",
            "no open file /data/other; the nearest there are: /data/some/file",
        ),
        ("file:12:34=node:/x", "mnt_id 12 and inode 34 (c:22)"),
        (
            "mount:/dat=/x",
            "mount at /dat; the nearest there are: /data",
        ),
        (
            "mount:mnt_id=99=/x",
            "no mount with mnt_id 99; the nearest there are: 11 (/etc/hosts), 12 (/data)",
        ),
        ("mount:mnt_id=10=/x", "CRIU makes it anew"),
        (
            "cgroup:/system=/x",
            "no process and no open file in /system; the nearest there are: /kubepods/",
        ),
    ] {
        let text = blockers(&mapped(&source, target(), map, &[])).join("\n");
        assert!(
            text.contains(words) && text.contains("(test)"),
            "{map}: {text}"
        );
    }
    let mut target = target();
    let optional = target
        .maps
        .add_said("path:/x=/y", Origin::Node, "n", true, |_| Ok(None));
    optional.unwrap();
    let plan = plan(
        &source,
        &looked_up(&source, target, 100, &[]),
        &Policy::default(),
    );
    assert!(plan.possible(), "an optional one may match nothing");
}
