//! Archives of stock podman and of Restow, and a restore in place of a start.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::engine::{Mode, Runtime};
use restow_integration::podman::{IMAGE, OPT_IN, Podman};
use restow_integration::suite::Suite;

use crate::{ARCHIVE, HELD, goes_on};

pub(crate) fn archives_of_stock_restore_with_restow(suite: Suite) -> Result<()> {
    let podman = Podman::start(suite, Mode::Restow)?;
    let stock = podman.stock();
    // podman's archive keeps the annotations, and has no source.json.
    stock.probe("plain", &["--network", "none"], &HELD)?;
    let before = stock.report("plain")?;
    stock.run(&["container", "checkpoint", "--export", ARCHIVE, "plain"])?;
    stock.run(&["rm", "plain"])?;
    podman.run(&[
        "container",
        "restore",
        "--import",
        ARCHIVE,
        "--name",
        "moved",
    ])?;
    goes_on(&podman, "moved", &before)?;
    // One that asked for nothing, where the node opts everything in.
    let run = [
        "run",
        "--detach",
        "--name",
        "silent",
        "--network",
        "none",
        IMAGE,
        "/probe",
        "run",
        "--reports",
        "/reports",
    ];
    stock.run(&[&run[..], &HELD].concat())?;
    stock.wait_for("silent", "its probe", || {
        Ok(stock.run(&["logs", "silent"])?.contains("holding"))
    })?;
    let before = stock.report("silent")?;
    stock.run(&["container", "checkpoint", "--export", ARCHIVE, "silent"])?;
    stock.run(&["rm", "silent"])?;
    fs::create_dir_all(podman.path("/etc/restow")).context("Make /etc/restow")?;
    fs::write(podman.path("/etc/restow/config.toml"), "enable = \"all\"\n").context("Configure")?;
    podman.run(&["container", "restore", "--import", ARCHIVE, "--name", "all"])?;
    goes_on(&podman, "all", &before)?;
    println!(
        "podman: archives of stock | {suite} | restored with Restow, with and without annotations"
    );
    Ok(())
}

pub(crate) fn archives_of_restow_restore_with_stock(suite: Suite) -> Result<()> {
    let podman = Podman::start(suite, Mode::Restow)?;
    podman.probe("held", &["--network", "none"], &HELD)?;
    let before = podman.report("held")?;
    podman.run(&["container", "checkpoint", "--export", ARCHIVE, "held"])?;
    podman.run(&["rm", "held"])?;
    let stock = podman.stock();
    let restored = stock.run(&[
        "container",
        "restore",
        "--import",
        ARCHIVE,
        "--name",
        "bare",
    ]);
    // The name is as long as the old one, because /etc/hosts is open and has it in it. Bare runc 1.1 puts it into the old container's
    // cgroup, as with its own archives. Everywhere else it has to be right.
    let own = restored.and_then(|_| goes_on(&stock, "bare", &before).map(drop));
    let known = (suite, Runtime::chosen()) == (Suite::Stable, Runtime::Runc);
    match own {
        Ok(()) => println!("podman: archives of Restow | {suite} | restored with stock"),
        Err(error) if known => println!(
            "podman: archives of Restow | {suite} | stock cannot, as with its own: {error:#}"
        ),
        Err(error) => return Err(error),
    }
    Ok(())
}

pub(crate) fn a_new_container_is_restored_from_an_archive_in_the_store(suite: Suite) -> Result<()> {
    let podman = Podman::start(suite, Mode::Restow)?;
    podman.probe("first", &["--network", "none"], &HELD)?;
    let before = podman.report("first")?;
    let store = "/var/lib/restow/checkpoints/_node";
    fs::create_dir_all(podman.path(store)).context("Make the store")?;
    let archive = format!("{store}/counted.tar.zst");
    podman.run(&["container", "checkpoint", "--export", &archive, "first"])?;
    podman.run(&["rm", "first"])?;

    let from = [
        "--annotation",
        OPT_IN,
        "--annotation",
        "restow.dev/restore-from=counted",
    ];
    let program = [
        "--network",
        "none",
        IMAGE,
        "/probe",
        "run",
        "--reports",
        "/reports",
    ];
    let create = |verb: &[&str]| podman.run(&[verb, &from, &program, &HELD].concat());
    create(&["run", "--detach", "--name", "again"])?;
    goes_on(&podman, "again", &before)?;
    podman.run(&["stop", "again"])?;
    let code = podman.run(&["wait", "again"])?;
    ensure!(code == "0", "It ended with {code}");

    // Created, looked at, and started later.
    create(&["create", "--name", "later"])?;
    podman.run(&["init", "later"])?;
    ensure!(
        podman.inspect("later", "{{.State.Status}}")? == "initialized",
        "podman init did not create it"
    );
    let id = podman.inspect("later", "{{.Id}}")?;
    let state = podman.engine().run(
        &format!(
            "/usr/local/lib/restow/restow-{}",
            podman.engine().runtime().program()
        ),
        &["state", &id],
    )?;
    ensure!(state.contains("\"created\""), "Its state is {state}");
    ensure!(
        podman.run(&["logs", "later"])?.is_empty(),
        "It has run before it was started"
    );
    podman.run(&["start", "later"])?;
    goes_on(&podman, "later", &before)?;
    podman.run(&["rm", "--force", "again", "later"])?;

    // Without a checkpoint nothing is started, unless that is wanted.
    let program = [
        "--annotation",
        "restow.dev/restore-from=gone",
        "--network",
        "none",
        IMAGE,
        "/probe",
        "pause",
    ];
    let started = podman.run(&[&["run", "--detach", "--name", "none"][..], &program].concat());
    let error = match started {
        Ok(id) => bail!("It was started: {id}"),
        Err(error) => error,
    };
    ensure!(
        format!("{error:#}").contains("There is no checkpoint gone"),
        "podman said: {error:#}"
    );
    let wanted = [
        "run",
        "--detach",
        "--name",
        "fresh",
        "--annotation",
        "restow.dev/on-failure=start",
    ];
    podman.run(&[&wanted[..], &program].concat())?;
    ensure!(
        podman.inspect("fresh", "{{.State.Running}}")? == "true",
        "It was not started"
    );
    println!(
        "podman: restore-from | {suite} | run, init and start restore from the store; a missing checkpoint starts nothing"
    );
    Ok(())
}
