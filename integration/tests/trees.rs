//! Process trees without a container, checkpointed and restored with criu's own command line.

use anyhow::{Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::{Engine, Mode, Stack};
use restow_integration::journey::Verdict;
use restow_integration::on_both_suites;
use restow_integration::scenario::{Expectation, OLD_CGROUP, Stock, compare};
use restow_integration::suite::Suite;
use restow_integration::tree::{Tree, TreeJourney, TreePod, View};

on_both_suites!(
    trees_1_read_only_files_of_the_pods_cgroup_are_the_new_pods,
    trees_2_between_the_nodes_view_and_private_namespaces,
    trees_3_a_file_that_is_not_there_is_named_or_inert,
    trees_4_the_pods_own_files_follow,
    trees_5_sub_cgroups_and_watches_follow,
    trees_6_descriptors_without_a_path_are_handed_over,
);

/// No runtime takes part, so both are the same.
fn wrong(reasons: &'static [&'static str]) -> Expectation {
    Stock::Wrong(reasons).crun(Stock::Wrong(reasons))
}

fn right() -> Expectation {
    Stock::Right.crun(Stock::Right)
}

/// One description that all share, one for each process, at different offsets.
fn files(from: View, to: View) -> TreeJourney {
    TreeJourney::new(from, to, 2)
        .open("all:r:3:{cgroup}/cgroup.events")
        .open("each:r:5:{cgroup}/cgroup.events")
        .open("0:r:0:{cgroup}/cpu.stat")
        .open("1:r:7:{cgroup}/cpu.stat")
}

fn trees_1_read_only_files_of_the_pods_cgroup_are_the_new_pods(suite: Suite) -> Result<()> {
    // What a user tries next, when pod A's cgroup has come back.
    let ignore: &[&str] = &["Can't open file sys/fs/cgroup/kubepods"];
    for (case, restore, reasons) in [
        ("Trees 1", vec![], OLD_CGROUP),
        (
            "Trees 1, ignoring cgroups",
            vec!["--manage-cgroups=ignore"],
            ignore,
        ),
    ] {
        let mut journey = files(View::Node, View::Node);
        journey.restore = restore;
        compare(case, Stack::v2(suite), wrong(reasons), |engine| {
            journey.run(engine, |there| {
                there.check_placement()?;
                there.check_cgroup_file("cgroup.events")?;
                there.check_cgroup_file("cpu.stat")?;
                Ok(
                    "descriptors of parent and children are on pod B's files, shared as before"
                        .into(),
                )
            })
        })?;
    }
    Ok(())
}

fn trees_2_between_the_nodes_view_and_private_namespaces(suite: Suite) -> Result<()> {
    for (case, from, to, stock) in [
        (
            "Trees 2, into a private namespace",
            View::Node,
            View::Private,
            wrong(OLD_CGROUP),
        ),
        (
            "Trees 2, out of one",
            View::Private,
            View::Node,
            wrong(OLD_CGROUP),
        ),
        (
            "Trees 2, between two",
            View::Private,
            View::Private,
            right(),
        ),
    ] {
        let journey = files(from, to);
        compare(case, Stack::v2(suite), stock, |engine| {
            journey.run(engine, |there| {
                there.check_placement()?;
                there.check_cgroup_file("cgroup.events")?;
                there.check_cgroup_file("cpu.stat")?;
                Ok("paths are those of pod B's view, descriptors are on pod B's files".into())
            })
        })?;
    }
    Ok(())
}

fn trees_3_a_file_that_is_not_there_is_named_or_inert(suite: Suite) -> Result<()> {
    let absent = |mode: &str| {
        let mut journey = TreeJourney::new(View::Node, View::Node, 2)
            .open("all:r:3:{cgroup}/cgroup.events")
            .open(&format!("each:{mode}:0:{{cgroup}}/extra/cgroup.procs"));
        journey.sub_cgroups = vec!["extra"];
        journey
    };
    let stack = Stack::v2(suite);
    compare("Trees 3, remap", stack, wrong(OLD_CGROUP), |engine| {
        let verdict = absent("r").run(engine, |there| {
            there.check_placement()?;
            Ok("restored".into())
        })?;
        Ok(refused(
            engine,
            verdict,
            &["/extra/cgroup.procs does not exist", "cgroup-files"],
        ))
    })?;
    let ignore = vec!["--restow-set", "cgroup-files=ignore"];
    compare("Trees 3, ignore", stack, wrong(OLD_CGROUP), |engine| {
        let mut journey = absent("r");
        journey.restow.clone_from(&ignore);
        journey.run(engine, |there| {
            there.check_placement()?;
            there.check_cgroup_file("cgroup.events")?;
            let mut inert = there.after.iter().flat_map(|report| &report.files);
            ensure!(
                inert.all(|file| !file.opened.ends_with("procs")
                    || file.link == "/dev/null" && file.content.as_deref() == Some("")),
                "a descriptor is not inert: {:?}",
                there.after
            );
            Ok("the descriptors read as empty, all others are on pod B's files".into())
        })
    })?;
    compare("Trees 3, write", stack, wrong(OLD_CGROUP), |engine| {
        let mut journey = absent("w");
        journey.restow.clone_from(&ignore);
        let verdict = journey.run(engine, |there| {
            there.check_placement()?;
            Ok("restored".into())
        })?;
        Ok(refused(engine, verdict, &["open for writing"]))
    })
}

/// With Restow the restore has to be refused in these words; stock is judged by what it did.
fn refused(engine: &Engine, verdict: Verdict, words: &[&str]) -> Verdict {
    match engine.mode() {
        Mode::Stock => verdict,
        Mode::Restow => verdict.refused(words),
    }
}

fn trees_4_the_pods_own_files_follow(suite: Suite) -> Result<()> {
    let journey = TreeJourney::new(View::Private, View::Private, 2)
        .open("all:r:4:/etc/hosts")
        .open("each:r:0:/etc/hosts");
    compare(
        "Trees 4",
        Stack::v2(suite),
        wrong(&["File etc/hosts has bad size"]),
        |engine| {
            journey.run(engine, |there| {
                there.check_placement()?;
                for report in &there.after {
                    for file in &report.files {
                        let content = file.content.as_deref().unwrap_or_default();
                        ensure!(content.contains("another-bbbb"), "not pod B's: {file:?}");
                    }
                }
                Ok("every descriptor on /etc/hosts is on pod B's".into())
            })
        },
    )
}

fn trees_5_sub_cgroups_and_watches_follow(suite: Suite) -> Result<()> {
    fn move_child(pod: &TreePod<'_>, tree: &Tree<'_>) -> Result<()> {
        let child = tree.descendants()?[1];
        let procs = format!("{}/worker/cgroup.procs", pod.cgroup_inside());
        let script = format!("echo {child} > {procs}");
        ensure!(pod.command(&["sh", "-c", &script]).status()?.success());
        Ok(())
    }
    for (case, from, to) in [
        ("Trees 5", View::Node, View::Node),
        (
            "Trees 5, out of a private namespace",
            View::Private,
            View::Node,
        ),
    ] {
        let mut journey = TreeJourney::new(from, to, 2)
            .open("1:r:2:{cgroup}/worker/cgroup.events")
            .open("all:watch:0:{cgroup}/cgroup.events");
        journey.sub_cgroups = vec!["worker"];
        journey.before_dump = Some(move_child);
        compare(case, Stack::v2(suite), wrong(OLD_CGROUP), |engine| {
            journey.run(engine, |there| {
                ensure!(!there.old_dir.exists(), "the cgroup of pod A has come back");
                let procs = |dir: &str| {
                    let path = there.pod.cgroup_dir().join(dir).join("cgroup.procs");
                    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
                };
                ensure!(
                    (procs(""), procs("worker")) == (2, 1),
                    "{} tasks are in the container's own cgroup of pod B, {} in the sub-cgroup",
                    procs(""),
                    procs("worker")
                );
                there.check_cgroup_file("worker/cgroup.events")?;
                let watched = inode(&there.pod.cgroup_dir().join("cgroup.events"))?;
                there.check_file(&format!("{}/cgroup.events", there.old_inside), watched)?;
                Ok("the child is in the sub-cgroup of pod B, the watch is on pod B's file".into())
            })
        })?;
    }
    Ok(())
}

fn trees_6_descriptors_without_a_path_are_handed_over(suite: Suite) -> Result<()> {
    fn remove_cgroup(pod: &TreePod<'_>, _: &Tree<'_>) -> Result<()> {
        Ok(std::fs::remove_dir(pod.cgroup_dir().join("gone"))?)
    }
    let stock = wrong(&["Can't create link remap", "Can't lookup mount"]);
    for (case, foreign) in [
        ("Trees 6, removed cgroup", false),
        ("Trees 6, foreign mount", true),
    ] {
        let mut journey =
            TreeJourney::new(View::Node, View::Node, 2).open("each:r:1:{cgroup}/cgroup.events");
        journey.restow = vec!["--restow-set", "cgroup-files=ignore"];
        journey.foreign_input = foreign;
        if !foreign {
            journey = journey.open("all:r:0:{cgroup}/gone/cgroup.events");
            journey.sub_cgroups = vec!["gone"];
            journey.before_dump = Some(remove_cgroup);
        }
        compare(case, Stack::v2(suite), stock, |engine| {
            journey.run(engine, |there| {
                there.check_placement()?;
                there.check_cgroup_file("cgroup.events")?;
                let input = format!("/proc/{}/fd/0", there.after[0].pid);
                let input = engine.run("readlink", &[&input])?;
                ensure!(input.trim() == "/dev/null", "standard input is {input}");
                Ok("the dump succeeds, and what has no counterpart is inert".into())
            })
        })?;
    }
    Ok(())
}
