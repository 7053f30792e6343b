//! podman: checkpoints exported, restored under another name, on another node, in pods; archives of stock and of Restow.
//!
//! Each case is run by stock podman first, and prints what came of it.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use restow_integration::engine::{Mode, Runtime};
use restow_integration::on_both_suites;
use restow_integration::podman::{IMAGE, OPT_IN, Podman};
use restow_integration::report::Report;
use restow_integration::suite::Suite;

on_both_suites!(
    a_container_moves_to_another_name,
    a_container_moves_to_another_node,
    a_container_moves_into_and_out_of_a_pod,
    a_volume_is_left_out_or_travels_as_podman_does_it,
    static_addresses_and_connections_are_kept_on_request,
    archives_of_stock_restore_with_restow,
    archives_of_restow_restore_with_stock,
    a_new_container_is_restored_from_an_archive_in_the_store,
    the_same_commands_give_the_same_with_either_runtime,
);

/// What the probe holds: a file of its cgroup, and one that podman manages.
const HELD: [&str; 4] = [
    "--open",
    "all:r:0:/sys/fs/cgroup/cgroup.events",
    "--open",
    "each:r:3:/etc/hosts",
];
const ARCHIVE: &str = "/tmp/archive.tar.zst";

/// Runs a case on stock podman for the record, then with Restow, where it has to be right.
fn both(name: &str, suite: Suite, case: impl Fn(&Podman) -> Result<()>) -> Result<()> {
    let stock_only = std::env::var("RESTOW_MODES").is_ok_and(|modes| modes == "stock");
    for mode in [Mode::Stock, Mode::Restow] {
        if mode == Mode::Restow && stock_only {
            println!("{name}: Restow NOT RUN (RESTOW_MODES=stock)");
            continue;
        }
        let podman = Podman::start(suite, mode)?;
        let on = format!("podman: {name} | {suite} ({})", podman.engine().versions()?);
        match case(&podman) {
            Ok(()) => println!("{on} | {mode}: right"),
            Err(error) if mode == Mode::Stock => println!("{on} | stock: WRONG: {error:#}"),
            Err(error) => return Err(error).context(on),
        }
    }
    Ok(())
}

/// Checks that a container goes on from `before`, in its own cgroup and with its own files.
fn goes_on(podman: &Podman, name: &str, before: &Report) -> Result<Report> {
    let after = podman.report(name)?;
    ensure!(
        after.counter >= before.counter && after.memory_intact,
        "It started afresh: it has counted to {}, after {}",
        after.counter,
        before.counter
    );
    // podman says where the process is, which may be the old container's cgroup.
    let id = podman.inspect(name, "{{.Id}}")?;
    let path = podman.inspect(name, "{{.State.CgroupPath}}")?;
    ensure!(path.contains(&id), "{name} is {id}, and is in {path}");
    let cgroup = podman.cgroup_inode(name, "cgroup.events")?;
    for file in &after.files {
        ensure!(
            file.errno.is_none(),
            "{} cannot be read: {:?}",
            file.opened,
            file.errno
        );
        if file.opened.ends_with("cgroup.events") {
            ensure!(
                file.inode == cgroup,
                "{} is inode {}, not {cgroup} of its cgroup",
                file.opened,
                file.inode
            );
        }
        if file.opened == "/etc/hosts" {
            let id = podman.inspect(name, "{{.HostsPath}}")?;
            let content = fs::read_to_string(podman.path(id)).context("Read its hosts file")?;
            ensure!(
                file.content.as_deref() == Some(&content),
                "/etc/hosts is not its own: {:?}",
                file.content
            );
        }
    }
    let line = after
        .cgroup
        .lines()
        .find(|line| line.starts_with("0::"))
        .unwrap_or_default();
    ensure!(line == "0::/", "It sees itself in the cgroup {line}");
    Ok(after)
}

fn a_container_moves_to_another_name(suite: Suite) -> Result<()> {
    both("another name", suite, |podman| {
        podman.probe("old", &["--network", "none"], &HELD)?;
        let before = podman.report("old")?;
        podman.run(&["container", "checkpoint", "--export", ARCHIVE, "old"])?;
        podman.run(&["rm", "old"])?;
        podman.run(&["container", "restore", "--import", ARCHIVE, "--name", "new"])?;
        let after = goes_on(podman, "new", &before)?;
        // Another generation, and twice from the same archive.
        podman.run(&[
            "container",
            "checkpoint",
            "--export",
            "/tmp/second.tar.zst",
            "new",
        ])?;
        podman.run(&["rm", "new"])?;
        for name in ["third", "fourth"] {
            podman.run(&[
                "container",
                "restore",
                "--import",
                "/tmp/second.tar.zst",
                "--name",
                name,
            ])?;
            goes_on(podman, name, &after)?;
        }
        podman.run(&["exec", "third", "/probe", "cat", "/etc/hosts"])?;
        podman.run(&["stop", "third"])?;
        podman.run(&["rm", "--force", "third", "fourth"]).map(drop)
    })
}

fn a_container_moves_to_another_node(suite: Suite) -> Result<()> {
    both("another node", suite, |podman| {
        podman.probe("web", &["--network", "none"], &HELD)?;
        let before = podman.report("web")?;
        podman.run(&["container", "checkpoint", "--export", ARCHIVE, "web"])?;
        let other = Podman::start(suite, podman.engine().mode())?;
        podman.send_image(&other)?;
        podman.send(ARCHIVE, &other)?;
        podman.run(&["rm", "web"])?;
        other.run(&["container", "restore", "--import", ARCHIVE])?;
        goes_on(&other, "web", &before).map(drop)
    })
}

fn a_container_moves_into_and_out_of_a_pod(suite: Suite) -> Result<()> {
    both("pods", suite, |podman| {
        let pod = |name: &str| {
            let infra = [
                "--infra-image",
                IMAGE,
                "--infra-command",
                "/probe pause",
                "--network",
                "none",
                "--share",
                "ipc,uts,net",
            ];
            podman.run(&[&["pod", "create", "--name", name][..], &infra].concat())
        };
        pod("one")?;
        pod("two")?;
        podman.probe("in", &["--pod", "one"], &HELD)?;
        let before = podman.report("in")?;
        podman.run(&["container", "checkpoint", "--export", ARCHIVE, "in"])?;
        podman.run(&["rm", "in"])?;
        podman.run(&[
            "container",
            "restore",
            "--import",
            ARCHIVE,
            "--pod",
            "two",
            "--name",
            "there",
        ])?;
        let after = goes_on(podman, "there", &before)?;
        let pod_of = podman.inspect("there", "{{.Pod}}")?;
        ensure!(
            pod_of == podman.run(&["pod", "inspect", "two", "--format", "{{.ID}}"])?,
            "It is in pod {pod_of}"
        );
        ensure!(
            after.hostname == "two",
            "It has the host name {}",
            after.hostname
        );
        podman
            .run(&["pod", "rm", "--force", "one", "two"])
            .map(drop)
    })
}

fn a_volume_is_left_out_or_travels_as_podman_does_it(suite: Suite) -> Result<()> {
    both("volumes", suite, |podman| {
        let open = [
            "--open",
            "all:rlog:0:/data/log",
            "--open",
            "all:r:0:/sys/fs/cgroup/cgroup.events",
        ];
        podman.run(&["volume", "create", "kept"])?;
        let at = podman.run(&["volume", "inspect", "--format", "{{.Mountpoint}}", "kept"])?;
        fs::write(podman.path(&at).join("log"), "first\n").context("Write to the volume")?;
        podman.probe(
            "vol",
            &["--network", "none", "--volume", "kept:/data"],
            &open,
        )?;
        let before = podman.report("vol")?;
        podman.run(&[
            "container",
            "checkpoint",
            "--ignore-volumes",
            "--export",
            ARCHIVE,
            "vol",
        ])?;
        podman.run(&["rm", "vol"])?;
        // The volume is somebody else's business, and has changed.
        fs::write(podman.path(&at).join("log"), "first\nsecond\n")
            .context("Write to the volume")?;
        podman.run(&[
            "container",
            "restore",
            "--ignore-volumes",
            "--import",
            ARCHIVE,
            "--name",
            "vol2",
        ])?;
        let after = goes_on(podman, "vol2", &before)?;
        let text = fs::read_to_string(podman.path(&at).join("log")).context("Read the volume")?;
        ensure!(
            text.starts_with("first\nsecond\n"),
            "The volume was changed: {text:?}"
        );

        // With its content, where it is not there any more.
        podman.run(&[
            "container",
            "checkpoint",
            "--export",
            "/tmp/with.tar.zst",
            "vol2",
        ])?;
        podman.run(&["rm", "vol2"])?;
        podman.run(&["volume", "rm", "kept"])?;
        podman.run(&[
            "container",
            "restore",
            "--import",
            "/tmp/with.tar.zst",
            "--name",
            "vol3",
        ])?;
        goes_on(podman, "vol3", &after)?;
        let text = fs::read_to_string(podman.path(&at).join("log")).context("Read the volume")?;
        ensure!(
            text.starts_with("first\nsecond\n"),
            "The volume did not travel: {text:?}"
        );
        Ok(())
    })
}

fn static_addresses_and_connections_are_kept_on_request(suite: Suite) -> Result<()> {
    let moved = both("static address", suite, |podman| {
        podman.run(&[
            "network",
            "create",
            "--disable-dns",
            "--subnet",
            "10.89.7.0/24",
            "net",
        ])?;
        let open = [&HELD[..], &["--socket", "0:listen:10.89.7.10:8080"]].concat();
        podman.probe("addr", &["--network", "net", "--ip", "10.89.7.10"], &open)?;
        let before = podman.report("addr")?;
        podman.run(&[
            "container",
            "checkpoint",
            "--tcp-established",
            "--export",
            ARCHIVE,
            "addr",
        ])?;
        podman.run(&["rm", "addr"])?;
        podman.run(&[
            "container",
            "restore",
            "--tcp-established",
            "--import",
            ARCHIVE,
        ])?;
        goes_on(podman, "addr", &before)?;
        let address = podman.inspect("addr", "{{.NetworkSettings.Networks.net.IPAddress}}")?;
        ensure!(address == "10.89.7.10", "It has the address {address}");
        ensure!(
            asked(podman, "10.89.7.10:8080")?,
            "Its listener does not answer"
        );
        podman.run(&["rm", "--force", "addr"])?;

        // Beside another that has the address: without it, and bound to the new one where Restow is.
        let taken = [
            "run",
            "--detach",
            "--name",
            "taken",
            "--network",
            "net",
            "--ip",
            "10.89.7.10",
            IMAGE,
            "/probe",
            "pause",
        ];
        podman.run(&taken)?;
        podman.run(&[
            "container",
            "restore",
            "--ignore-static-ip",
            "--ignore-static-mac",
            "--import",
            ARCHIVE,
            "--name",
            "addr2",
        ])?;
        goes_on(podman, "addr2", &before)?;
        let address = podman.inspect("addr2", "{{.NetworkSettings.Networks.net.IPAddress}}")?;
        ensure!(
            address != "10.89.7.10" && !address.is_empty(),
            "It has the address {address:?}"
        );
        ensure!(
            asked(podman, &format!("{address}:8080"))?,
            "Its listener is not at {address}"
        );
        Ok(())
    });
    match moved {
        Err(error) if format!("{error:#}").contains("socket-options-refused") => {
            println!(
                "podman: static address | {suite}: SKIPPED: this criu dumps no sockets on this kernel"
            );
            Ok(())
        }
        moved => moved,
    }
}

/// Whether something answers there.
fn asked(podman: &Podman, address: &str) -> Result<bool> {
    let output = podman
        .engine()
        .node()
        .command("/opt/probe")
        .args(["ask", "tcp", address])
        .output();
    Ok(output.context("Start the probe")?.status.success())
}

fn archives_of_stock_restore_with_restow(suite: Suite) -> Result<()> {
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

fn archives_of_restow_restore_with_stock(suite: Suite) -> Result<()> {
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

fn a_new_container_is_restored_from_an_archive_in_the_store(suite: Suite) -> Result<()> {
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

/// What podman's own checkpoint tests do (`test/system/520-checkpoint.bats`, `test/e2e/checkpoint_test.go`): a name for each, and
/// commands that have to succeed or fail alike.
const COMMANDS: &[(&str, &[&str])] = &[
    (
        "run",
        &[
            "run",
            "--detach",
            "--name",
            "a",
            "--network",
            "none",
            IMAGE,
            "/probe",
            "run",
        ],
    ),
    (
        "checkpoint nothing",
        &["container", "checkpoint", "no-such"],
    ),
    ("restore nothing", &["container", "restore", "no-such"]),
    ("restore a running one", &["container", "restore", "a"]),
    ("checkpoint", &["container", "checkpoint", "a"]),
    (
        "its state",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.Running}} {{.State.Checkpointed}}",
            "a",
        ],
    ),
    ("checkpoint twice", &["container", "checkpoint", "a"]),
    ("restore", &["container", "restore", "a"]),
    (
        "its state",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.Running}} {{.State.Restored}}",
            "a",
        ],
    ),
    (
        "leave running",
        &["container", "checkpoint", "--leave-running", "a"],
    ),
    (
        "its state",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.Running}}",
            "a",
        ],
    ),
    ("keep", &["container", "checkpoint", "--keep", "a"]),
    (
        "restore with keep",
        &["container", "restore", "--keep", "a"],
    ),
    ("pause", &["pause", "a"]),
    ("checkpoint a paused one", &["container", "checkpoint", "a"]),
    ("unpause", &["unpause", "a"]),
    (
        "export",
        &[
            "container",
            "checkpoint",
            "--export",
            "/tmp/c.tar.gz",
            "--compress",
            "gzip",
            "a",
        ],
    ),
    (
        "import under a name that is taken",
        &["container", "restore", "--import", "/tmp/c.tar.gz"],
    ),
    (
        "import",
        &[
            "container",
            "restore",
            "--import",
            "/tmp/c.tar.gz",
            "--name",
            "b",
        ],
    ),
    (
        "name without import",
        &["container", "restore", "--name", "x", "a"],
    ),
    (
        "export without compression",
        &[
            "container",
            "checkpoint",
            "--export",
            "/tmp/d.tar",
            "--compress",
            "none",
            "b",
        ],
    ),
    ("remove", &["rm", "a"]),
    ("remove", &["rm", "b"]),
    (
        "import again",
        &["container", "restore", "--import", "/tmp/d.tar"],
    ),
    ("exec", &["exec", "b", "/probe", "writable", "/tmp"]),
    ("stop", &["stop", "b"]),
    (
        "its end",
        &[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "b",
        ],
    ),
    ("start afresh", &["start", "b"]),
    (
        "no root file system",
        &[
            "container",
            "checkpoint",
            "--ignore-rootfs",
            "--export",
            "/tmp/e.tar",
            "b",
        ],
    ),
    ("remove", &["rm", "b"]),
    (
        "import without root file system",
        &[
            "container",
            "restore",
            "--ignore-rootfs",
            "--import",
            "/tmp/e.tar",
        ],
    ),
    (
        "what there is",
        &["ps", "--all", "--format", "{{.Names}} {{.State}}"],
    ),
    ("restart", &["restart", "--time", "1", "b"]),
    ("kill", &["kill", "b"]),
    ("wait", &["wait", "b"]),
    ("remove all", &["rm", "--force", "--all"]),
];

fn the_same_commands_give_the_same_with_either_runtime(suite: Suite) -> Result<()> {
    let account = |mode| -> Result<Vec<String>> {
        let podman = Podman::start(suite, mode)?;
        let mut lines = Vec::new();
        for (name, args) in COMMANDS {
            let output = podman.command(args).output().context("Start podman")?;
            let said = if output.status.success() {
                &output.stdout
            } else {
                &output.stderr
            };
            let said = String::from_utf8_lossy(said);
            lines.push(format!(
                "{name}: {}: {}",
                output.status,
                without_names(&said)
            ));
        }
        Ok(lines)
    };
    let (stock, ours) = (account(Mode::Stock)?, account(Mode::Restow)?);
    for (stock, ours) in stock.iter().zip(&ours) {
        println!("podman: {suite} | {stock}");
        ensure!(stock == ours, "With stock: {stock}\nwith Restow: {ours}");
    }
    Ok(())
}

/// What a runtime says, without what differs from run to run: ids, times, and where the runtime is.
fn without_names(said: &str) -> String {
    let words = said
        .split_whitespace()
        .filter(|word| !word.starts_with("time="));
    let words: Vec<&str> = words.collect();
    let text = words
        .join(" ")
        .replace("/usr/local/lib/restow/restow-", "/usr/bin/");
    let is_hex = |c: char| c.is_ascii_hexdigit();
    let parts = text.split_inclusive(|c: char| !is_hex(c)).map(|part| {
        let (hex, rest) = part.split_at(part.trim_end_matches(|c: char| !is_hex(c)).len());
        if hex.len() >= 12 {
            format!("ID{rest}")
        } else {
            part.to_owned()
        }
    });
    parts.collect()
}
