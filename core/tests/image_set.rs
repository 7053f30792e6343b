//! Real image sets of two CRIU versions, read, planned and staged without root.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use restow::finding::Rule;
use restow::ids::{CgroupPath, ContainerPath, HostPath, NsPid};
use restow::plan::{self, Plan};
use restow::policy::Policy;
use restow::source::images::{self, ImageDir};
use restow::source::{Hierarchy, Source, pages};
use restow::stage::Staging;
use restow::target::{CgroupMount, FileFact, ObjectId, Target, TargetMount};

const NEW: &str = "/kubepods/besteffort/pod9999/new";

fn sets() -> [PathBuf; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pod");
    ["criu-4.1.1", "criu-4.2.1"].map(|name| root.join(name).canonicalize().unwrap())
}

fn open(dir: &Path) -> ImageDir {
    ImageDir::open(OwnedFd::from(fs::File::open(dir).unwrap())).unwrap()
}

fn target(source: &Source) -> Target {
    let mut target = Target {
        cgroups: BTreeMap::from([(Hierarchy::v2(), CgroupPath::new(NEW))]),
        cgroup_mounts: vec![CgroupMount {
            hierarchy: Hierarchy::v2(),
            root: CgroupPath::new("/"),
            mount_point: HostPath::new("/sys/fs/cgroup"),
        }],
        hostname: Some("host-b".into()),
        ..Target::default()
    };
    for key in source
        .mounts
        .iter()
        .filter_map(|mount| mount.ext_key.as_ref())
    {
        let source = HostPath::new(format!("/pod-b{key}"));
        target.mounts.push(TargetMount {
            key: key.clone(),
            source,
        });
    }
    for (ino, lookup) in (1..).zip(plan::Questions::of(source, &target, &Policy::default()).files) {
        let fact = FileFact {
            id: ObjectId { dev: 1, ino },
            size: 12,
            mode: 0o100_644,
        };
        target.files.insert(lookup.path(), Some(fact));
    }
    target
}

fn planned(dir: &Path) -> Plan {
    let source = Source::read(&open(dir)).unwrap();
    plan::plan(&source, &target(&source), &Policy::default())
}

/// A copy of an image set that a test may damage; links are followed.
fn copy(set: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(set).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Everything in a directory, to see that nothing in it changed.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| (entry.path(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn a_checkpoint_says_what_the_container_was() {
    for set in sets() {
        let source = Source::read(&open(&set)).unwrap();
        assert_eq!(source.tasks.len(), 3);
        assert_eq!(source.tasks[0].pid, NsPid(1));
        assert!(source.private_cgroup_namespace);
        assert_eq!(source.uts.as_ref().unwrap().name, "host-a");
        let container = &source.container_cgroups()[&Hierarchy::v2()];
        assert_eq!(
            container.to_string(),
            "/restowtest/kubepods/burstable/poda1a1/ctra1a1"
        );
        let held = source.holders.keys().filter_map(|id| source.files.get(id));
        let held: Vec<_> = held.map(|file| file.path.to_string()).collect();
        for path in [
            "/sys/fs/cgroup/cgroup.events",
            "/sys/fs/cgroup/cpu.stat",
            "/etc/hosts",
        ] {
            assert!(held.iter().any(|other| other == path), "{path} in {held:?}");
        }
        assert_eq!(source.manifest.as_ref().unwrap().runtime, "runc");
        // The images alone say the same.
        let without = copy(&set);
        fs::remove_file(without.path().join("source.json")).unwrap();
        let alone = Source::read(&open(without.path())).unwrap();
        assert!(alone.manifest.is_none() && alone.private_cgroup_namespace);
        assert_eq!(alone.container_cgroups()[&Hierarchy::v2()], *container);
    }
}

#[test]
fn a_plan_covers_every_held_file_of_the_pod() {
    for set in sets() {
        let plan = planned(&set);
        assert!(plan.possible(), "{:?}", plan.findings);
        let rules: Vec<_> = plan
            .files
            .iter()
            .map(|file| (file.rule, file.holders.len()))
            .collect();
        let cgroup = (Rule::CgroupContainer, 3);
        assert_eq!(rules, [cgroup, cgroup, (Rule::RuntimeManaged, 3)]);
    }
}

#[test]
fn staging_edits_what_the_plan_names_links_the_rest_and_leaves_the_originals() {
    for set in sets() {
        let before = content(&set);
        let plan = planned(&set);
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::new(root.path()).unwrap();
        staging.fill(&open(&set), &plan).unwrap();

        for (path, bytes) in &before {
            let staged = staging.path().join(path.file_name().unwrap());
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "files.img" || name.starts_with("utsns-") {
                assert!(
                    !staged.is_symlink() && fs::read(&staged).unwrap() != *bytes,
                    "{name}"
                );
            } else {
                let link = fs::read_link(&staged).unwrap_or_else(|_| panic!("{name} is no link"));
                assert!(link.is_relative(), "{}", link.display());
                assert_eq!(fs::canonicalize(&staged).unwrap(), *path);
            }
        }
        // What is staged is an image set again, with the changes and no others.
        let changed = copy(staging.path());
        let changed = Source::read(&open(changed.path())).unwrap();
        assert_eq!(changed.uts.unwrap().name, "host-b");
        let original = Source::read(&open(&set)).unwrap();
        let differs = changed
            .files
            .values()
            .filter(|file| **file != original.files[&file.id]);
        let differs: Vec<_> = differs.map(|file| (file.path.clone(), file.size)).collect();
        let expected: Vec<(ContainerPath, _)> = plan
            .files
            .iter()
            .map(|file| (file.new.clone(), None))
            .collect();
        assert_eq!(differs, expected);

        staging.remove().unwrap();
        assert_eq!(content(&set), before);
    }
}

#[test]
fn memory_that_is_missing_is_named_and_a_pagemap_of_an_earlier_dump_is_not_believed() {
    for set in sets() {
        let set = copy(&set);
        let dir = open(set.path());
        let error = pages::check(&dir).unwrap_err().to_string();
        assert!(
            error.contains("pages-1.img: it has 27 bytes, and pagemap-1.img says"),
            "{error}"
        );
        // As an earlier dump into the same directory leaves them: a process and a segment whose pages are now another's.
        for number in 1..=3 {
            let pages = set.path().join(format!("pages-{number}.img"));
            let pages = fs::File::options().write(true).open(pages).unwrap();
            pages.set_len(1 << 20).unwrap();
        }
        pages::check(&dir).unwrap();
        let mut pagemap = fs::read(set.path().join("pagemap-7.img")).unwrap();
        let area = [16, 0x80, 0x80, 0x80, 0x80, 1, 32, 4];
        pagemap.extend(u32::try_from(area.len() + 2).unwrap().to_le_bytes());
        pagemap.extend([8, 0].into_iter().chain(area));
        for name in ["pagemap-99.img", "pagemap-shmem-5.img"] {
            fs::write(set.path().join(name), &pagemap).unwrap();
        }
        pages::check(&dir).unwrap();
        // In a process of the checkpoint it would count.
        fs::write(set.path().join("pagemap-7.img"), &pagemap).unwrap();
        let error = pages::check(&dir).unwrap_err().to_string();
        assert!(
            error.contains("pages-3.img: it has 1048576 bytes"),
            "{error}"
        );
    }
}

#[test]
fn the_cost_of_staging_does_not_depend_on_memory() {
    let set = copy(&sets()[1]);
    // 256 GiB of memory pages: reading them would take minutes, copying them would fill the disk.
    let pages = set.path().join("pages-1.img");
    fs::File::options()
        .write(true)
        .open(&pages)
        .unwrap()
        .set_len(256 << 30)
        .unwrap();
    let before = bytes_moved();
    let plan = planned(set.path());
    let root = tempfile::tempdir().unwrap();
    let staging = Staging::new(root.path()).unwrap();
    staging.fill(&open(set.path()), &plan).unwrap();
    let moved = bytes_moved() - before;
    assert!(staging.path().join("pages-1.img").is_symlink());
    assert!(moved < 64 << 20, "{moved} bytes were read or written");
    staging.remove().unwrap();
}

/// Bytes this process has read and written so far (`/proc/<pid>/io`, proc(5)). Tests that run beside count too; all
/// their image sets together are some megabytes.
fn bytes_moved() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let counters = text
        .lines()
        .filter(|line| line.starts_with("rchar") || line.starts_with("wchar"));
    counters
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// What reading, or else staging, a set says against it.
fn refusal(dir: &Path) -> Option<images::Error> {
    let source = match Source::read(&open(dir)) {
        Ok(source) => source,
        Err(error) => return Some(error),
    };
    let plan = plan::plan(&source, &target(&source), &Policy::default());
    let root = tempfile::tempdir().unwrap();
    let staging = Staging::new(root.path()).unwrap();
    let filled = staging.fill(&open(dir), &plan);
    staging.remove().unwrap();
    match filled {
        Err(restow::stage::Error::Image(error)) => Some(error),
        _ => None,
    }
}

#[test]
fn a_damaged_image_is_named_with_offset_and_expectation() {
    const READ: [&str; 10] = [
        "inventory.img",
        "pstree.img",
        "files.img",
        "cgroup.img",
        "core-1.img",
        "ids-1.img",
        "fs-1.img",
        "mm-1.img",
        "fdinfo-2.img",
        "utsns-12.img",
    ];
    for set in sets() {
        for name in READ {
            let original = fs::read(set.join(name)).unwrap();
            let header = if name == "inventory.img" { 4 } else { 8 };
            let mut hostile = original.clone();
            hostile[header..header + 4].fill(0xff);
            let mut foreign = original.clone();
            foreign[header - 4] ^= 0xff;
            let cases = [
                (
                    "empty",
                    vec![],
                    "at byte 0: it is empty, expected a magic number",
                ),
                (
                    "cut in the header",
                    original[..3].to_vec(),
                    "at byte 0: it is cut short after 3 bytes",
                ),
                (
                    "cut in a record",
                    original[..original.len() - 1].to_vec(),
                    "bytes",
                ),
                ("hostile length", hostile, "length of 4294967295 bytes"),
                ("another magic", foreign, "magic number 0x"),
            ];
            for (what, bytes, expected) in cases {
                let damaged = copy(&set);
                fs::write(damaged.path().join(name), bytes).unwrap();
                let before = content(damaged.path());
                let text = refusal(damaged.path())
                    .unwrap_or_else(|| panic!("{name}, {what}: not refused"));
                let text = text.to_string();
                assert!(
                    text.contains(name) && text.contains("at byte "),
                    "{what}: {text}"
                );
                assert!(text.contains(expected), "{what}: {text}");
                assert!(
                    content(damaged.path()) == before,
                    "{name}, {what}: the originals changed"
                );
            }
        }
    }
}

/// Puts `bytes` in place of an image and says why the set is refused.
fn refused_with(name: &str, bytes: &[u8]) -> String {
    let set = copy(&sets()[1]);
    fs::write(set.path().join(name), bytes).unwrap();
    refusal(set.path())
        .unwrap_or_else(|| panic!("{name} is not refused"))
        .to_string()
}

#[test]
fn a_path_that_climbs_is_refused_by_image_and_field() {
    for (name, from, to, field) in [
        (
            "cgroup.img",
            "/kubepods/burstable/poda1a1/",
            "/kubepods/../../../../../xx/",
            "cg_member_entry.path",
        ),
        (
            "files.img",
            "/sys/fs/cgroup/cpu.stat",
            "/sys/../../../../../x/x",
            "reg_file_entry.name",
        ),
    ] {
        assert_eq!(from.len(), to.len());
        let mut bytes = fs::read(sets()[1].join(name)).unwrap();
        while let Some(at) = bytes
            .windows(from.len())
            .position(|window| window == from.as_bytes())
        {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        let text = refused_with(name, &bytes);
        assert!(
            text.contains(name) && text.contains(field) && text.contains("is not believed"),
            "{text}"
        );
    }
}

#[test]
fn images_that_would_exhaust_memory_are_refused_before_they_are_parsed() {
    let header = |name: &str| fs::read(sets()[1].join(name)).unwrap()[..8].to_vec();
    // Millions of empty records.
    let zeros = [header("cgroup.img"), vec![0; 8 << 20]].concat();
    assert!(refused_with("cgroup.img", &zeros).contains("several records, expected one"));
    // One record of millions of fields.
    let length = 17_u32 << 20;
    let large = [
        header("cgroup.img"),
        length.to_le_bytes().to_vec(),
        vec![0; length as usize],
    ]
    .concat();
    assert!(
        refused_with("cgroup.img", &large)
            .contains("record 0 has 17825792 bytes, which is more than")
    );
    assert!(
        refused_with("mm-1.img", &vec![0; 33 << 20])
            .contains("it has 34603008 bytes, which is more than")
    );
}

#[test]
fn the_source_json_of_another_dump_is_not_believed() {
    let set = copy(&sets()[1]);
    let other = fs::read(sets()[0].join("source.json")).unwrap();
    fs::write(set.path().join("source.json"), other).unwrap();
    let source = Source::read(&open(set.path())).unwrap();
    assert!(source.manifest.is_none() && source.foreign_manifest);
    let plan = plan::plan(&source, &target(&source), &Policy::default());
    assert!(
        plan.findings
            .iter()
            .any(|finding| finding.text.contains("of another dump"))
    );
}

#[test]
fn an_image_cut_anywhere_is_an_error_or_harmless_but_never_a_panic() {
    let set = &sets()[1];
    for entry in fs::read_dir(set).unwrap().map(Result::unwrap) {
        let bytes = fs::read(entry.path()).unwrap();
        let damaged = copy(set);
        for length in (0..bytes.len()).step_by((bytes.len() / 20).max(1)) {
            fs::write(damaged.path().join(entry.file_name()), &bytes[..length]).unwrap();
            let _ = refusal(damaged.path());
        }
    }
}

#[test]
fn a_set_without_an_image_that_every_set_has_is_not_whole() {
    for name in [
        "inventory.img",
        "pstree.img",
        "files.img",
        "mountpoints-13.img",
        "utsns-12.img",
        "core-6.img",
        "ids-6.img",
        "fs-6.img",
        "mm-6.img",
    ] {
        let set = copy(&sets()[0]);
        fs::remove_file(set.path().join(name)).unwrap();
        let text = refusal(set.path()).unwrap().to_string();
        assert!(text.contains(&format!("it has no {name}")), "{text}");
    }
}

#[test]
fn an_image_that_is_a_link_is_not_followed() {
    let set = copy(&sets()[0]);
    let files = set.path().join("files.img");
    fs::remove_file(&files).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &files).unwrap();
    let text = refusal(set.path()).unwrap().to_string();
    assert!(text.contains("files.img"), "{text}");
}
