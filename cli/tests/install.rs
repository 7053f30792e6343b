//! `restow install` and `restow uninstall` on roots in temporary directories: neither root's rights nor a node are needed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use restow_cli::Failure;
use restow_cli::node::install::{self, install};
use restow_cli::node::programs::Source;
use restow_cli::node::report::Report;
use restow_cli::node::uninstall::{self, uninstall};

/// As Debian's package of containerd 1.7 has it.
const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n";
const MAIN: &str = "etc/containerd/config.toml";

struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// A node with these files, and Restow's programs beside it.
    fn with(files: &[(&str, &str)]) -> Self {
        let machine = Self { dir: directory() };
        for (path, text) in files {
            machine.write(&format!("root/{path}"), text, 0o640);
        }
        for name in ["crun", "runc", "podman", "criu"] {
            machine.write(&format!("root/usr/sbin/{name}"), "#!/bin/sh\n", 0o755);
        }
        fs::create_dir_all(machine.at("root/var/lib")).unwrap();
        machine.build("1");
        machine
    }

    /// Puts programs of this version beside the node.
    fn build(&self, version: &str) {
        for name in [
            "criu",
            "restow",
            "containerd-shim-restow-v2",
            "restow-runtime",
        ] {
            self.write(
                &format!("built/{name}"),
                &format!("{name} {version}"),
                0o755,
            );
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str, mode: u32) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        // Long ago: whoever writes it again is found out.
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(then).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at("root").join(path)).unwrap()
    }

    fn arguments(&self) -> install::Args {
        install::Args {
            root: self.at("root"),
            prefix: None,
            engines: Vec::new(),
            handler: "restow".to_owned(),
            criu_in_path: true,
            hooks: true,
            restart: false,
            stay: false,
            dry_run: false,
            json: false,
        }
    }

    fn install_with(
        &self,
        before: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<Report, Failure> {
        install(
            &self.arguments(),
            &Source::in_directory(&self.at("built")),
            before,
        )
    }

    fn install(&self) -> Report {
        self.install_with(&mut |_| Ok(())).unwrap()
    }

    fn uninstall_with(
        &self,
        force: bool,
        before: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<Option<Report>, Failure> {
        let args = uninstall::Args {
            root: self.at("root"),
            force,
            restart: false,
            stay: false,
            dry_run: false,
            json: false,
        };
        uninstall(&args, before)
    }

    fn uninstall(&self) {
        self.uninstall_with(false, &mut |_| Ok(())).unwrap();
    }

    /// Everything on the node, with content, permissions and times.
    fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                let mut text = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
                if meta.is_symlink() {
                    text += &format!(" -> {}", path.read_link().unwrap().display());
                } else if meta.is_file() {
                    let content = fs::read_to_string(&path).unwrap();
                    text += &format!(" {} {}:\n{content}", meta.mtime(), meta.nlink());
                } else {
                    walk(&path, found);
                }
                found.insert(path, text);
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.at("root"), &mut found);
        found
    }
}

/// In memory where that can be: everything is synchronised to the disk here, hundreds of times.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Nodes that differ in what has to be done; `None` after the last.
fn machine_of(number: usize) -> Option<(&'static str, Machine)> {
    Some(match number {
        0 => ("nothing there", Machine::with(&[])),
        1 => ("containerd 1.7", Machine::with(&[(MAIN, DEBIAN)])),
        2 => {
            let linked = Machine::with(&[("srv/containerd.toml", DEBIAN)]);
            fs::create_dir_all(linked.at("root/etc/containerd")).unwrap();
            symlink("/srv/containerd.toml", linked.at("root").join(MAIN)).unwrap();
            ("containerd 1.7, a link", linked)
        }
        3 => {
            let files = [
                (MAIN, "version = 3\nimports = []\n"),
                ("etc/crio/crio.conf", ""),
            ];
            ("containerd 2 and CRI-O", Machine::with(&files))
        }
        4 => {
            let files = [("etc/containers/containers.conf.d/10.conf", "[engine]\n")];
            ("podman configured", Machine::with(&files))
        }
        _ => return None,
    })
}

/// All of them.
fn machines() -> impl Iterator<Item = (&'static str, Machine)> {
    (0..).map_while(machine_of)
}

/// A step at which the process is killed.
struct Killed;

/// Runs `work` with a process that is killed before its step number `last`; whether it came so far.
fn killed_at(last: usize, work: impl FnOnce(&mut dyn FnMut(&str) -> io::Result<()>)) -> bool {
    let mut count = 0;
    let mut before = |_: &str| {
        if count == last {
            std::panic::resume_unwind(Box::new(Killed));
        }
        count += 1;
        Ok(())
    };
    match catch_unwind(AssertUnwindSafe(|| work(&mut before))) {
        Ok(()) => false,
        Err(payload) if payload.is::<Killed>() => true,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

#[test]
fn a_prefix_that_depends_on_where_one_stands_is_refused() {
    let machine = Machine::with(&[(MAIN, DEBIAN)]);
    let args = install::Args {
        prefix: Some(PathBuf::from("opt/restow")),
        ..machine.arguments()
    };
    let source = Source::in_directory(&machine.at("built"));
    let Err(Failure::Usage(error)) = install(&args, &source, &mut |_| Ok(())) else {
        panic!("It is not refused");
    };
    assert!(format!("{error:#}").contains("opt/restow is no absolute path"));
    assert!(!machine.at("root/opt").exists());
    assert!(!machine.at("root/var/lib/restow").exists());
}

#[test]
fn what_was_there_is_there_again() {
    for (name, machine) in machines() {
        let before = machine.snapshot();
        let report = machine.install();
        assert!(
            !report.paths.is_empty() && machine.snapshot() != before,
            "{name}"
        );
        let installed = machine.snapshot();
        let again = machine.install();
        assert!(again.restart.is_empty(), "{name}: {again:?}");
        assert_eq!(
            machine.snapshot(),
            installed,
            "{name}: a second call changes nothing"
        );
        machine.uninstall();
        assert_eq!(machine.snapshot(), before, "{name}");
        machine.uninstall();
        assert_eq!(
            machine.snapshot(),
            before,
            "{name}: nor does it without an installation"
        );
    }
}

#[test]
fn a_kill_at_any_step_of_an_installation_is_made_good() {
    for number in (0..).take_while(|number| machine_of(*number).is_some()) {
        let mut step = 0;
        loop {
            let (name, machine) = machine_of(number).unwrap();
            let before = machine.snapshot();
            let other = machine_of(number).unwrap().1;
            let cut = killed_at(step, |hook| drop(machine.install_with(hook)));
            killed_at(step, |hook| drop(other.install_with(hook)));
            machine.uninstall();
            assert_eq!(
                machine.snapshot(),
                before,
                "{name}: uninstalled after step {step}"
            );
            let before: Vec<_> = before.into_values().collect();
            other.install();
            assert!(
                other
                    .read("var/lib/restow/install.json")
                    .contains("\"installed\"")
            );
            other.uninstall();
            let after: Vec<_> = other.snapshot().into_values().collect();
            assert_eq!(after, before, "{name}: finished after step {step}");
            if !cut {
                break;
            }
            step += 1;
        }
        assert!(step > 10, "only {step} steps were tried");
    }
}

#[test]
fn a_kill_at_any_step_of_taking_it_back_is_made_good() {
    for number in (0..).take_while(|number| machine_of(*number).is_some()) {
        let mut step = 0;
        loop {
            let (name, machine) = machine_of(number).unwrap();
            let before = machine.snapshot();
            machine.install();
            let cut = killed_at(step, |hook| drop(machine.uninstall_with(false, hook)));
            if step % 2 == 1 {
                machine.install();
            }
            machine.uninstall();
            assert_eq!(machine.snapshot(), before, "{name}: step {step}");
            if !cut {
                break;
            }
            step += 1;
        }
        assert!(step > 10, "only {step} steps were tried");
    }
}

#[test]
fn a_failure_at_any_step_leaves_nothing_behind() {
    for (name, machine) in machines() {
        let before = machine.snapshot();
        let mut step = 0;
        loop {
            let mut count = 0;
            let outcome = machine.install_with(&mut |_| {
                count += 1;
                if count > step {
                    return Err(io::Error::other("the disk is full"));
                }
                Ok(())
            });
            match outcome {
                Err(Failure::Input(error)) => {
                    let text = format!("{error:#}");
                    assert!(
                        text.contains("the disk is full") && text.contains("Nothing is installed"),
                        "{text}"
                    );
                    assert_eq!(machine.snapshot(), before, "{name}: step {step}");
                }
                other => {
                    other.unwrap();
                    break;
                }
            }
            step += 1;
        }
        assert!(step > 10);
    }
}

#[test]
fn a_newer_version_takes_the_place_of_the_older() {
    let machine = Machine::with(&[(MAIN, DEBIAN)]);
    let before = machine.snapshot();
    machine.install();
    machine.build("2");
    // crun has gone, and with it its handler.
    fs::remove_file(machine.at("root/usr/sbin/crun")).unwrap();
    assert!(machine.read(MAIN).contains("restow-crun"));
    machine.install();
    assert_eq!(machine.read("usr/local/lib/restow/criu"), "criu 2");
    assert!(!machine.at("root/usr/local/lib/restow/restow-crun").exists());
    assert!(
        !machine.read(MAIN).contains("restow-crun"),
        "{}",
        machine.read(MAIN)
    );
    machine.uninstall();
    machine.write("root/usr/sbin/crun", "#!/bin/sh\n", 0o755);
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn what_is_not_ours_is_not_overwritten() {
    for path in [
        "usr/local/lib/restow/criu",
        "usr/local/sbin/criu",
        "usr/local/bin/restow",
        "etc/containers/containers.conf.d/50-restow.conf",
        "etc/containerd/config.toml.before-restow",
    ] {
        let machine = Machine::with(&[(MAIN, DEBIAN), (path, "somebody's")]);
        let before = machine.snapshot();
        match machine.install_with(&mut |_| Ok(())) {
            Err(Failure::Refused(error)) => assert!(
                error.to_string().starts_with(&format!("/{path} is there")),
                "{error}"
            ),
            other => panic!("{path}: {other:?}"),
        }
        assert_eq!(machine.snapshot(), before);
    }
}

#[test]
fn what_others_have_written_since_stays() {
    let machine = Machine::with(&[(MAIN, DEBIAN)]);
    machine.install();
    let mine = format!(
        "# mine\n{}\n[metrics]\n  address = 'x'\n",
        machine.read(MAIN)
    );
    machine.write(&format!("root/{MAIN}"), &mine, 0o600);
    machine.install();
    assert!(
        machine.read(MAIN).starts_with("# mine\n")
            && machine.read(MAIN).contains("runtimes.restow]")
    );
    machine.write(&format!("root/{MAIN}"), &mine, 0o600);
    machine.uninstall();
    assert_eq!(
        machine.read(MAIN),
        format!("# mine\n{DEBIAN}\n[metrics]\n  address = 'x'\n")
    );
    let mode = machine.at("root").join(MAIN).metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);

    machine.install();
    let snippet = "root/etc/containers/containers.conf.d/50-restow.conf";
    machine.write(snippet, "# mine now", 0o644);
    let before = machine.snapshot();
    match machine.uninstall_with(false, &mut |_| Ok(())) {
        Err(Failure::Refused(error)) => assert!(
            error.to_string().contains("50-restow.conf was changed"),
            "{error}"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(machine.snapshot(), before);
    machine.uninstall_with(true, &mut |_| Ok(())).unwrap();
    assert!(!machine.at(snippet).exists());
}

#[test]
fn a_dry_run_says_it_and_does_nothing() {
    let machine = Machine::with(&[(MAIN, DEBIAN)]);
    let before = machine.snapshot();
    let mut args = machine.arguments();
    args.dry_run = true;
    let source = Source::in_directory(&machine.at("built"));
    let report = install(&args, &source, &mut |_| panic!("a step")).unwrap();
    assert_eq!(report.restart, ["containerd"]);
    let text = report.text("nothing was done");
    assert!(
        text.contains("edit       /etc/containerd/config.toml"),
        "{text}"
    );
    assert_eq!(machine.snapshot(), before);
}
