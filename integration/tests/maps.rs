//! Explicit maps: what a user says about an object wins over the rules.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::container::{Container, inode};
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::journey::{Journey, Verdict};
use restow_integration::on_both_suites;
use restow_integration::pod::{ContainerOptions, PodOptions};
use restow_integration::scenario::{Stock, compare};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;
use serde_json::Value;

on_both_suites!(
    maps_1_files_below_a_path_are_below_another,
    maps_1_files_of_a_mount_that_is_gone_are_on_one_that_only_the_new_pod_has,
    maps_2_files_of_a_cgroup_are_those_of_another,
    maps_3_a_mount_has_another_source,
    maps_3_a_mount_has_another_source_by_its_id,
    maps_4_an_open_file_is_handed_in_from_the_node,
    maps_4_an_open_file_is_handed_in_by_its_inode,
    one_that_matches_nothing_forbids_the_restore,
    a_pod_sets_only_what_the_node_allows,
);

/// The node's configuration of Restow.
const CONFIG: &str = "/etc/restow/config.toml";
/// The checkpoint of a journey, as a path of the node.
const SOURCE: &str = "/var/lib/kubelet/checkpoints/journey/checkpoint/source.json";

fn write(engine: &Engine, path: &str, text: &str) -> Result<()> {
    let path = engine.node().path(path);
    let dir = path.parent().context("A file needs a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("Create {}", dir.display()))?;
    fs::write(&path, text).with_context(|| format!("Write {}", path.display()))
}

/// A container that asks for a map, which its node allows.
fn with_map(engine: &Engine, container: ContainerOptions, map: &str) -> Result<ContainerOptions> {
    if engine.mode() == Mode::Stock {
        return Ok(container);
    }
    let config = "allowed-maps = ['path', 'cgroup', 'mount', 'file']\nmap-roots = ['/srv']\n";
    write(engine, CONFIG, config)?;
    let mut container = container;
    container
        .annotations
        .push(("restow.dev/map".to_owned(), map.to_owned()));
    Ok(container)
}

/// Between two pods whose names have one length, as their volumes' files then have.
fn journey(container: ContainerOptions, there: ContainerOptions) -> Journey {
    let mut journey = Journey::new(container);
    journey.to = PodOptions::new("pod-b");
    journey.container_there = Some(there);
    journey
}

fn maps_1_files_below_a_path_are_below_another(suite: Suite) -> Result<()> {
    compare(
        "Maps 1",
        Stack::v2(suite),
        Stock::Wrong(&["Can't open file data/old/file"]),
        |engine| {
            write(engine, "/srv/one/old/file", "content of one")?;
            write(engine, "/srv/two/new/file", "content of two")?;
            let container = ContainerOptions::new(1)
                .open("all:r:3:/data/old/file")
                .open("each:r:5:/data/old/file");
            let there = with_map(
                engine,
                container.clone().bind(Bind::new("/srv/two", "/data")),
                "path:/data/old=/data/new",
            )?;
            let container = container.bind(Bind::new("/srv/one", "/data"));
            let expected = inode(&engine.node().path("/srv/two/new/file"))?;
            journey(container, there).run(engine, |there| {
                there.check_file("/data/old/file", expected)?;
                there.check_progress()?;
                Ok("4 descriptors are on the file in the new place, offsets kept".to_owned())
            })
        },
    )
}

fn maps_1_files_of_a_mount_that_is_gone_are_on_one_that_only_the_new_pod_has(
    suite: Suite,
) -> Result<()> {
    compare(
        "Maps 1, other mount",
        Stack::v2(suite),
        Stock::Wrong(&["No mapping for"]),
        |engine| {
            let container = ContainerOptions::new(1)
                .open("all:r:3:/old/pod")
                .open("each:rw:1:/old/pod");
            let there = with_map(engine, container.clone().volume("/new"), "path:/old=/new")?;
            journey(container.volume("/old"), there).run(engine, |there| {
                let volume = there.pod.dir() + "/volumes/kubernetes.io~empty-dir/volume-0/pod";
                there.check_file("/old/pod", inode(&there.engine.node().path(volume))?)?;
                there.check_progress()?;
                Ok(
                    "4 descriptors are on the volume that only pod B has, flags and offsets kept"
                        .to_owned(),
                )
            })
        },
    )
}

fn maps_2_files_of_a_cgroup_are_those_of_another(suite: Suite) -> Result<()> {
    compare(
        "Maps 2",
        Stack::v2(suite),
        Stock::Wrong(&["not pod B's file"]),
        |engine| {
            // Beside the pods', so that no rule has a word on them.
            for name in ["old-service", "new-service"] {
                fs::create_dir(engine.node().cgroup_root().join(name))
                    .with_context(|| format!("Make the cgroup {name}"))?;
            }
            let held = "/sys/fs/cgroup/old-service/cgroup.events";
            let container = ContainerOptions::new(1)
                .host_cgroups()
                .open(format!("all:r:0:{held}"))
                .open(format!("each:r:4:{held}"));
            let there = with_map(
                engine,
                container.clone(),
                "cgroup:/old-service=/new-service",
            )?;
            let root = engine.node().cgroup_root();
            let expected = inode(&root.join("new-service/cgroup.events"))?;
            journey(container, there).run(engine, |there| {
                there.check_file(held, expected)?;
                there.check_progress()?;
                Ok("4 descriptors are on the other cgroup's file".to_owned())
            })
        },
    )
}

/// What Maps 3 looks at: the volume of pod B is one of the node's directories instead.
fn other_source(
    engine: &Engine,
    map: &str,
    before_restore: Option<fn(&Container<'_>) -> Result<()>>,
) -> Result<Verdict> {
    write(engine, "/srv/two/pod", "other")?;
    let container = ContainerOptions::new(1)
        .volume("/data")
        .open("all:r:2:/data/pod");
    let there = if map.is_empty() {
        container.clone()
    } else {
        with_map(engine, container.clone(), map)?
    };
    let expected = inode(&engine.node().path("/srv/two/pod"))?;
    let mut journey = journey(container, there);
    journey.before_restore = before_restore;
    journey.run(engine, |there| {
        there.check_file("/data/pod", expected)?;
        let content = there.container.exec(&["/probe", "cat", "/data/pod"])?;
        ensure!(content == "other", "/data/pod reads {content:?}");
        Ok("the mount and the descriptor are of the directory that the map names".to_owned())
    })
}

fn maps_3_a_mount_has_another_source(suite: Suite) -> Result<()> {
    compare(
        "Maps 3",
        Stack::v2(suite),
        Stock::Wrong(&["not pod B's file"]),
        |engine| other_source(engine, "mount:/data=/srv/two", None),
    )
}

fn maps_3_a_mount_has_another_source_by_its_id(suite: Suite) -> Result<()> {
    compare(
        "Maps 3, by its id",
        Stack::v2(suite),
        Stock::Wrong(&["not pod B's file"]),
        |engine| {
            other_source(
                engine,
                "",
                Some(|container| {
                    configured(container, |source| {
                        let mounts = source["mounts"].as_array()?;
                        let mount = mounts
                            .iter()
                            .find(|mount| mount["mount_point"] == "/data")?;
                        Some(format!("mount:mnt_id={}=/srv/two", mount["mnt_id"]))
                    })
                }),
            )
        },
    )
}

/// Writes a map that the checkpoint tells into the node's configuration.
fn configured(container: &Container<'_>, map: impl FnOnce(&Value) -> Option<String>) -> Result<()> {
    let engine = container.engine();
    if engine.mode() == Mode::Stock {
        return Ok(());
    }
    let text = fs::read(engine.node().path(SOURCE)).context("Read source.json")?;
    let source: Value = serde_json::from_slice(&text).context("Understand source.json")?;
    let map = map(&source).context("source.json does not have what the map names")?;
    write(engine, CONFIG, &format!("maps = ['{map}']\n"))
}

/// What Maps 4 looks at: a log of whoever started the container, which the new pod gets another one for.
fn handed_in(
    engine: &Engine,
    map: &str,
    before_restore: Option<fn(&Container<'_>) -> Result<()>>,
) -> Result<Verdict> {
    write(engine, "/var/log/of-the-caller", "words of the caller")?;
    write(engine, "/srv/log", "other words of another caller")?;
    let container = ContainerOptions::new(1)
        .left_open("/var/log/of-the-caller")
        .open("all:fd:2:3");
    let there = if map.is_empty() {
        container.clone()
    } else {
        with_map(engine, container.clone(), map)?
    };
    let expected = inode(&engine.node().path("/srv/log"))?;
    let mut journey = journey(container, there);
    journey.before_restore = before_restore;
    journey.run(engine, |there| {
        there.check_file("3", expected)?;
        there.check_progress()?;
        Ok("the descriptor is on the file of the node that the map names, offset kept".to_owned())
    })
}

fn maps_4_an_open_file_is_handed_in_from_the_node(suite: Suite) -> Result<()> {
    compare(
        "Maps 4",
        Stack::v2(suite),
        Stock::Wrong(&["Can't lookup mount"]),
        |engine| handed_in(engine, "file:/var/log/of-the-caller=node:/srv/log", None),
    )
}

fn maps_4_an_open_file_is_handed_in_by_its_inode(suite: Suite) -> Result<()> {
    compare(
        "Maps 4, by its inode",
        Stack::v2(suite),
        Stock::Wrong(&["Can't lookup mount"]),
        |engine| {
            handed_in(
                engine,
                "",
                Some(|container| {
                    configured(container, |source| {
                        let file = source["unreachable"].as_array()?.first()?;
                        Some(format!(
                            "file:{}:{}=node:/srv/log",
                            file["mnt_id"], file["ino"]
                        ))
                    })
                }),
            )
        },
    )
}

/// The restore has to be refused with these words in the reason.
fn refused(suite: Suite, map: &str, config: &str, words: &[&str]) -> Result<()> {
    let engine = Engine::start(Stack::v2(suite), Mode::Restow)?;
    write(&engine, CONFIG, config)?;
    let container = ContainerOptions::new(0)
        .volume("/data")
        .open("all:r:0:/data/pod");
    let mut there = container.clone();
    there
        .annotations
        .push(("restow.dev/map".to_owned(), map.to_owned()));
    let verdict = journey(container, there).run(&engine, |_| bail!("it was restored"))?;
    let Verdict::Wrong(text) = verdict else {
        bail!("It was restored with the map {map}")
    };
    println!("refused | {suite} | {text}");
    for word in words {
        ensure!(text.contains(word), "No {word:?} in {text}");
    }
    Ok(())
}

fn one_that_matches_nothing_forbids_the_restore(suite: Suite) -> Result<()> {
    refused(
        suite,
        "path:/dada=/data",
        "allowed-maps = ['path']\n",
        &[
            "path:/dada=/data",
            "no open file or watch of the checkpoint is below /dada",
        ],
    )
}

fn a_pod_sets_only_what_the_node_allows(suite: Suite) -> Result<()> {
    refused(
        suite,
        "mount:/data=/etc",
        "allowed-maps = ['mount']\nmap-roots = ['/srv']\n",
        &["/etc", "below none of the map-roots"],
    )
}
