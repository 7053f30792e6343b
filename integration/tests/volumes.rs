//! Volumes and single files that are bind mounts, after a restore in another pod.

use std::fs;

use anyhow::{Context, Result, ensure};
use restow_integration::container::inode;
use restow_integration::engine::{Engine, Stack};
use restow_integration::journey::Journey;
use restow_integration::on_both_suites;
use restow_integration::pod::ContainerOptions;
use restow_integration::scenario::{Stock, compare};
use restow_integration::spec::Bind;
use restow_integration::suite::Suite;

on_both_suites!(
    mounts_5_the_termination_log_is_the_new_pods,
    mounts_6_a_volume_comes_from_its_new_source,
    mounts_6_a_log_goes_on_at_the_end_of_the_new_volumes,
    mounts_7_a_sub_path_file_is_the_new_pods,
    mounts_8_nested_and_reordered_mounts_are_joined_by_mount_point,
    mounts_8_stacked_mounts_are_joined_in_order,
    mounts_12_an_unlinked_file_on_a_volume_moves_with_its_content,
    mounts_13_a_volume_in_memory_is_the_new_pods,
);

fn mounts_5_the_termination_log_is_the_new_pods(suite: Suite) -> Result<()> {
    let container = ContainerOptions::new(1)
        .open("all:w:0:/dev/termination-log")
        .open("each:a:0:/dev/termination-log");
    compare(
        "Mounts 5",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            Journey::new(container.clone()).run(engine, |there| {
                let log = there.container.rootfs().with_file_name("config.json");
                let spec: serde_json::Value =
                    serde_json::from_slice(&fs::read(&log).context("Read the spec")?)?;
                let mounts = spec["mounts"]
                    .as_array()
                    .context("The spec has no mounts")?;
                let source = mounts
                    .iter()
                    .find(|mount| mount["destination"] == "/dev/termination-log")
                    .and_then(|mount| mount["source"].as_str())
                    .context("The spec has no termination log")?;
                let inode = inode(&there.engine.node().path(source))?;
                for report in &there.reports {
                    ensure!(
                        report.files.len() == 2,
                        "process {} holds {} files",
                        report.process,
                        report.files.len()
                    );
                    for file in &report.files {
                        ensure!(
                            file.inode == inode,
                            "fd {} of process {} is another file",
                            file.fd,
                            report.process
                        );
                    }
                }
                Ok("both descriptors write to pod B's termination log".to_owned())
            })
        },
    )
}

/// A volume with a file `data`, as a path of the node.
fn volume(engine: &Engine, name: &str, text: &str) -> Result<String> {
    let path = format!("/var/lib/kubelet/volumes/{name}");
    let target = engine.node().path(&path);
    fs::create_dir_all(&target).with_context(|| format!("Create the volume {path}"))?;
    fs::write(target.join("data"), text).with_context(|| format!("Fill the volume {path}"))?;
    Ok(path)
}

fn mounts_6_a_volume_comes_from_its_new_source(suite: Suite) -> Result<()> {
    compare(
        "Mounts 6",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            let with = |volume: String| {
                ContainerOptions::new(1)
                    .bind(Bind::new(volume, "/volume"))
                    .open("all:rw:4:/volume/data")
                    .open("each:a:0:/volume/data")
                    .probe("--cwd", "/volume")
            };
            let mut journey = Journey::new(with(volume(engine, "of-a", "0123456789")?));
            journey.container_there = Some(with(volume(engine, "of-b", "abcdefghij")?));
            journey.run(engine, |there| {
                for report in &there.reports {
                    let file = &report.files[0];
                    ensure!(
                        report.cwd == "/volume",
                        "process {} is in {}",
                        report.process,
                        report.cwd
                    );
                    ensure!(
                        file.content.as_deref() == Some("abcdefghij"),
                        "fd {} reads {:?}",
                        file.fd,
                        file.content
                    );
                    ensure!(file.offset == 4, "fd {} is at {}", file.fd, file.offset);
                }
                there.check_progress()?;
                Ok("descriptors and working directory are on pod B's volume".to_owned())
            })
        },
    )
}

fn mounts_6_a_log_goes_on_at_the_end_of_the_new_volumes(suite: Suite) -> Result<()> {
    const SIZE: &str = "has bad size";
    for log_of_b in ["b", "the log of pod B, longer than the one of pod A"] {
        compare(
            &format!("Mounts 6 (log of {} bytes)", log_of_b.len()),
            Stack::v2(suite),
            Stock::Wrong(&[SIZE]),
            |engine| {
                let with = |volume: String| {
                    ContainerOptions::new(1)
                        .bind(Bind::new(volume, "/volume"))
                        .open("all:log:0:/volume/data")
                        .open("each:rlog:0:/volume/data")
                };
                let mut journey = Journey::new(with(volume(engine, "of-a", "the log of A")?));
                journey.container_there = Some(with(volume(engine, "of-b", log_of_b)?));
                journey.run(engine, |there| {
                    let log = engine.node().path("/var/lib/kubelet/volumes/of-b/data");
                    let text = fs::read_to_string(log).context("Read the log")?;
                    ensure!(text == format!("{log_of_b}++++"), "pod B's log is {text:?}");
                    for report in &there.reports {
                        let end = text.len() as u64;
                        let past = report
                            .files
                            .iter()
                            .find(|file| file.content.is_some() && file.offset > end);
                        ensure!(past.is_none(), "{past:?} is behind the end");
                    }
                    Ok("both processes write on at the end of pod B's log".to_owned())
                })
            },
        )?;
    }
    Ok(())
}

fn mounts_8_nested_and_reordered_mounts_are_joined_by_mount_point(suite: Suite) -> Result<()> {
    compare(
        "Mounts 8",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            let with = |pod: &str, reorder: bool| -> Result<ContainerOptions> {
                let outer = volume(
                    engine,
                    &format!("outer-of-{pod}"),
                    &format!("outer of {pod}"),
                )?;
                let inner = volume(
                    engine,
                    &format!("inner-of-{pod}"),
                    &format!("inner of {pod}"),
                )?;
                fs::create_dir_all(engine.node().path(&outer).join("inner"))
                    .context("Create a mount point")?;
                let mut binds = vec![
                    Bind::new(outer, "/v"),
                    Bind::new(&inner, "/v/inner"),
                    Bind::new(&inner, "/again").readonly(),
                ];
                if reorder {
                    binds.rotate_right(1);
                }
                let container = binds
                    .into_iter()
                    .fold(ContainerOptions::new(1), ContainerOptions::bind);
                Ok(container
                    .open("all:r:0:/v/data")
                    .open("each:r:0:/v/inner/data")
                    .open("each:r:1:/again/data"))
            };
            let mut journey = Journey::new(with("a", false)?);
            journey.container_there = Some(with("b", true)?);
            journey.run(engine, |there| {
                for report in &there.reports {
                    let read: Vec<_> = report
                        .files
                        .iter()
                        .map(|file| file.content.as_deref().unwrap_or_default())
                        .collect();
                    ensure!(
                        read == ["outer of b", "inner of b", "inner of b"],
                        "process {} reads {read:?}",
                        report.process
                    );
                }
                Ok("each descriptor is on the mount of pod B with its mount point".to_owned())
            })
        },
    )
}

fn mounts_8_stacked_mounts_are_joined_in_order(suite: Suite) -> Result<()> {
    compare(
        "Mounts 8 (stacked)",
        Stack::v2(suite),
        Stock::Wrong(&["at /v are"]),
        |engine| {
            let with = |pod: &str| -> Result<ContainerOptions> {
                let mut container = ContainerOptions::new(1);
                for layer in ["lower", "upper"] {
                    let name = format!("{layer}-of-{pod}");
                    let source = volume(engine, &name, &format!("{layer} of {pod}"))?;
                    container = container.bind(Bind::new(source, "/v"));
                }
                Ok(container.open("all:r:0:/v/data").open("each:r:3:/v/data"))
            };
            let mut journey = Journey::new(with("a")?);
            journey.container_there = Some(with("b")?);
            journey.run(engine, |there| {
                for report in &there.reports {
                    let mut files = report.files.iter();
                    let other = files.find(|file| file.content.as_deref() != Some("upper of b"));
                    ensure!(
                        other.is_none(),
                        "process {} holds {other:?}",
                        report.process
                    );
                    let roots = report.mountinfo.lines().filter_map(|line| {
                        let mut fields = line.split(' ').skip(3);
                        let root = fields.next()?;
                        (fields.next()? == "/v").then_some(root)
                    });
                    let roots: Vec<_> = roots.collect();
                    ensure!(
                        roots.len() == 2
                            && roots[0].ends_with("lower-of-b")
                            && roots[1].ends_with("upper-of-b"),
                        "at /v are {roots:?}"
                    );
                }
                Ok("pod B's volumes are stacked as in its spec".to_owned())
            })
        },
    )
}

fn mounts_7_a_sub_path_file_is_the_new_pods(suite: Suite) -> Result<()> {
    compare(
        "Mounts 7",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            let with = |volume: &str| {
                ContainerOptions::new(1)
                    .bind(Bind::new(format!("{volume}/data"), "/etc/app.conf").readonly())
                    .open("all:r:3:/etc/app.conf")
                    .open("each:r:0:/etc/app.conf")
            };
            let mut journey = Journey::new(with(&volume(engine, "of-a", "setting = old")?));
            let new = volume(engine, "of-b", "setting = new")?;
            journey.container_there = Some(with(&new));
            journey.run(engine, |there| {
                let expected = inode(&engine.node().path(new).join("data"))?;
                there.check_file("/etc/app.conf", expected)?;
                Ok("descriptors on the single file are on pod B's".to_owned())
            })
        },
    )
}

fn mounts_12_an_unlinked_file_on_a_volume_moves_with_its_content(suite: Suite) -> Result<()> {
    compare(
        "Mounts 12 (unlinked)",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            let with = |volume: String| {
                ContainerOptions::new(1)
                    .bind(Bind::new(volume, "/volume"))
                    .open("all:rw:4:/volume/data")
            };
            let mut journey = Journey::new(with(volume(engine, "of-a", "only in memory")?));
            journey.container_there = Some(with(volume(engine, "of-b", "pod B's own")?));
            journey.before_checkpoint = Some(|engine| {
                fs::remove_file(engine.node().path("/var/lib/kubelet/volumes/of-a/data"))
                    .context("Unlink the file")
            });
            journey.run(engine, |there| {
            for report in &there.reports {
                let file = &report.files[0];
                ensure!(file.content.as_deref() == Some("only in memory"), "fd {} reads {:?}", file.fd, file.content);
                ensure!(file.offset == 4, "fd {} is at {}", file.fd, file.offset);
            }
            let beside = fs::read_to_string(engine.node().path("/var/lib/kubelet/volumes/of-b/data"));
            ensure!(beside.is_ok_and(|text| text == "pod B's own"), "pod B's file of the same name was touched");
            Ok("the unlinked file is there with its content, pod B's file of that name is untouched".to_owned())
        })
        },
    )
}

fn mounts_13_a_volume_in_memory_is_the_new_pods(suite: Suite) -> Result<()> {
    compare(
        "Mounts 13",
        Stack::v2(suite),
        Stock::Right.crun(Stock::Right),
        |engine| {
            let with = |name: &str, text: &str| -> Result<ContainerOptions> {
                let path = format!("/var/lib/kubelet/volumes/{name}");
                fs::create_dir_all(engine.node().path(&path))
                    .with_context(|| format!("Create {path}"))?;
                engine.run("mount", &["-t", "tmpfs", "-o", "size=1m", "memory", &path])?;
                let bind = Bind::new(volume(engine, name, text)?, "/cache");
                Ok(ContainerOptions::new(1)
                    .bind(bind)
                    .open("all:rw:2:/cache/data"))
            };
            let mut journey = Journey::new(with("of-a", "0123456789")?);
            journey.container_there = Some(with("of-b", "abcdefghij")?);
            journey.run(engine, |there| {
                for report in &there.reports {
                    let file = &report.files[0];
                    ensure!(
                        file.content.as_deref() == Some("abcdefghij"),
                        "fd {} reads {:?}",
                        file.fd,
                        file.content
                    );
                }
                Ok("the descriptor is on pod B's tmpfs".to_owned())
            })
        },
    )
}
