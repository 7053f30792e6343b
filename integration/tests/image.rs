//! The installer's image: made with the Dockerfile, and run on a node with what the DaemonSet gives it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use restow_integration::containerd::Containerd;
use restow_integration::installation::{INSTALLED, answers, complaints_of, differences, snapshot};
use restow_integration::podman::{Podman, deploy};
use restow_integration::suite::Suite;
use restow_integration::{on_both_suites, root, tools};

on_both_suites!(the_image_installs_and_takes_back_as_the_daemonset_does);

const IMAGE: &str = "localhost/restow:latest";
/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands in for systemd's, which a node has not got: whoever made the node restarts what is asked for, and answers with an exit code.
const SYSTEMCTL: &str = "#!/bin/sh\nset -e\necho \"$*\" > /run/systemctl.new\nmv /run/systemctl.new /run/systemctl.call\n\
    until [ -e /run/systemctl.done ]; do sleep 0.05; done\ncode=$(cat /run/systemctl.done)\nrm /run/systemctl.done\nexit $code\n";

/// A list of words in a manifest, after `key: `.
fn list(manifest: &str, key: &str) -> Result<Vec<String>> {
    let path = deploy("kubernetes").join(manifest);
    let text = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
    let mut lines = text.lines().map(str::trim);
    let list = |line: &str| {
        serde_json::from_str::<Vec<String>>(line.strip_prefix(key)?.strip_prefix(": ")?).ok()
    };
    lines
        .find_map(list)
        .with_context(|| format!("{manifest} has no list {key}"))
}

/// A node with podman and containerd.
struct Lab {
    podman: Podman,
    containerd: Containerd,
}

impl Lab {
    fn new(suite: Suite) -> Result<Self> {
        let podman = Podman::bare(suite)?;
        let containerd = Containerd::on(podman.engine().shared_node())?;
        let systemctl = podman.path("/usr/bin/systemctl");
        fs::write(&systemctl, SYSTEMCTL).context("Write systemctl")?;
        podman
            .engine()
            .run("chmod", &["755", "/usr/bin/systemctl"])?;
        Ok(Self { podman, containerd })
    }

    /// Builds the image of programs that are built already.
    fn build(&self) -> Result<()> {
        let context = self.podman.path("/tmp/context");
        fs::create_dir_all(&context).context("Make the build's context")?;
        let programs = tools::programs()?;
        for name in [
            "criu",
            "containerd-shim-restow-v2",
            "restow",
            "restow-runtime",
        ] {
            fs::copy(programs.join(name), context.join(name))
                .with_context(|| format!("Copy {name} to the node"))?;
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile");
        fs::copy(&file, context.join("Dockerfile")).context("Copy the Dockerfile")?;
        let build = [
            "build",
            "--quiet",
            "--target",
            "prebuilt",
            "--tag",
            IMAGE,
            "/tmp/context",
        ];
        self.podman.run(&build).map(drop)
    }

    /// Starts a container as the DaemonSet does, and restarts containerd when it asks for that.
    fn start(&self, name: &str, args: &[String]) -> Result<()> {
        self.run_container(name, args)?;
        self.restart_on_request(name)
    }

    fn run_container(&self, name: &str, args: &[String]) -> Result<()> {
        let rights = list("daemonset.yaml", "add")?.join(",");
        let options = [
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            "none",
            "--pid",
            "host",
            "--read-only",
            "--user",
            "0:0",
            "--cap-drop",
            "ALL",
            "--cap-add",
            &rights,
            "--security-opt",
            "no-new-privileges",
            "--volume",
            "/:/host:rslave",
            IMAGE,
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.podman.run(&[&options[..], &args].concat()).map(drop)
    }

    fn restart_on_request(&self, name: &str) -> Result<()> {
        self.take_request(name)?;
        let before = self.containerd.pid();
        self.containerd.restart("TERM")?;
        ensure!(self.containerd.pid() != before, "It was not restarted");
        self.answer("0")
    }

    fn answer(&self, code: &str) -> Result<()> {
        let done = self.podman.path("/run/systemctl.new");
        fs::write(&done, code).context("Answer")?;
        fs::rename(done, self.podman.path("/run/systemctl.done")).context("Answer")
    }

    fn take_request(&self, name: &str) -> Result<()> {
        let call = self.podman.path("/run/systemctl.call");
        self.wait(name, "it to ask for a restart", || call.exists())?;
        let words = fs::read_to_string(&call).context("Read what is asked")?;
        ensure!(
            words.trim() == "restart containerd",
            "It asks systemd for {words:?}"
        );
        fs::remove_file(&call).context("Take the request")
    }

    /// A restart that fails ends the container, which says so. What it has written stays.
    fn fails_to_restart(&self, name: &str, args: &[String]) -> Result<()> {
        self.run_container(name, args)?;
        self.take_request(name)?;
        self.answer("1")?;
        let code = self.podman.run(&["wait", name])?;
        let log = self.log(name)?;
        ensure!(
            code == "3" && log.contains("does not count yet"),
            "It ends with {code}, and says: {log}"
        );
        self.podman.run(&["rm", name]).map(drop)
    }

    fn wait(&self, name: &str, what: &str, come: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !come() {
            let running = self.podman.inspect(name, "{{.State.Running}}")?;
            if running != "true" || Instant::now() > deadline {
                bail!("Waited in vain for {what}; it says: {}", self.log(name)?);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn log(&self, name: &str) -> Result<String> {
        let output = self.podman.command(&["logs", name]).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// It stays once it is done, and ends when it is told to.
    fn ends_when_told(&self, name: &str, said: &str) -> Result<()> {
        let has_said = || self.log(name).is_ok_and(|log| log.contains(said));
        self.wait(name, said, has_said)?;
        self.podman.run(&["stop", "--time", "10", name])?;
        let code = self.podman.inspect(name, "{{.State.ExitCode}}")?;
        ensure!(code == "0", "It ends with {code}");
        self.podman.run(&["rm", name]).map(drop)
    }
}

fn the_image_installs_and_takes_back_as_the_daemonset_does(suite: Suite) -> Result<()> {
    let lab = Lab::new(suite)?;
    lab.build()?;
    installs_and_takes_back(&lab, suite)
}

fn installs_and_takes_back(lab: &Lab, suite: Suite) -> Result<()> {
    let size = lab.podman.inspect(IMAGE, "{{.Size}}")?;
    let node = lab.podman.engine().node();
    // The suite's own containerd has handlers of the default names.
    let install = [
        list("daemonset.yaml", "args")?,
        ["--handler", "moved"].map(str::to_owned).to_vec(),
    ]
    .concat();
    let before = snapshot(node)?;
    lab.fails_to_restart("first", &install)?;
    // What is started again finds nothing to write, and restarts all the same.
    lab.start("install", &install)?;
    lab.ends_when_told("install", "Restow is installed")?;
    let doctor = node
        .command(format!("{INSTALLED}/restow"))
        .args(["doctor", "--json"])
        .output()
        .context("Start restow doctor")?;
    let bad = complaints_of(answers(&doctor)?)?;
    ensure!(bad.is_empty(), "Doctor is not content: {bad:#?}");
    let settings = lab.podman.engine().run(
        "containerd",
        &["--config", "/etc/containerd/config.toml", "config", "dump"],
    )?;
    ensure!(
        settings.contains("runtimes.moved]"),
        "containerd has not got the handler: {settings}"
    );
    lab.start("uninstall", &list("uninstall/kustomization.yaml", "value")?)?;
    lab.ends_when_told("uninstall", "Restow is uninstalled")?;
    let mut left = differences(&before, &snapshot(node)?);
    // containerd's own state.
    left.retain(|line| !line.starts_with("/var/lib/containerd"));
    ensure!(left.is_empty(), "The node is not as it was: {left:#?}");
    println!("image | {suite} | {size} bytes; installed, containerd restarted, and all taken back");
    Ok(())
}

/// What a build with the Dockerfile does not get is nothing that git keeps.
#[test]
fn a_build_gets_all_sources() -> Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let ignored =
        fs::read_to_string(sources.join(".dockerignore")).context("Read .dockerignore")?;
    for line in ignored.lines() {
        let mut git = Command::new("git");
        git.args(["ls-files", "--"]).current_dir(&sources);
        git.arg(format!(":(glob){line}"))
            .arg(format!(":(glob){line}/**"));
        let output = git.output().context("Start git")?;
        ensure!(
            output.status.success() && output.stdout.is_empty(),
            "{line} of .dockerignore keeps sources out of a build: {}",
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
        );
    }
    Ok(())
}

/// The whole Dockerfile. It takes minutes, and the crates that cargo has fetched on this machine: a node reaches no registry.
#[test]
#[ignore = "it builds all of Restow once more"]
fn the_sources_alone_make_the_image() -> Result<()> {
    let lab = Lab::new(Suite::Stable)?;
    import_builder(&lab.podman)?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut archive = Command::new("git");
    archive.args(["archive", "HEAD"]).current_dir(&sources);
    unpack(
        &mut archive,
        &lab.podman.path("/var/lib/containers/sources"),
    )?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut crates = Command::new("tar");
    let home = home.context("Neither CARGO_HOME nor HOME is set")?;
    crates.args(["--create", "registry/index", "registry/cache"]);
    if home.join("config.toml").exists() {
        crates.arg("config.toml");
    }
    let inside = lab.podman.path("/var/lib/containers/cargo");
    unpack(crates.current_dir(home), &inside)?;
    lab.podman.engine().run(
        "chmod",
        &["--recursive", "a+rwX", "/var/lib/containers/cargo"],
    )?;
    // The host is the node, which has no network.
    let build = [
        "build",
        "--quiet",
        "--isolation",
        "chroot",
        "--network",
        "host",
        // What a user may have who has no CAP_SYS_RESOURCE.
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=4096:4096",
        "--volume",
        "/var/lib/containers/cargo:/usr/local/cargo",
        "--env",
        "CARGO_HOME=/usr/local/cargo",
        "--env",
        "CARGO_NET_OFFLINE=true",
        "--build-arg",
        "BUILDER=localhost/builder",
        "--build-arg",
        "PROFILE=dev",
        "--tag",
        IMAGE,
        "/var/lib/containers/sources",
    ];
    lab.podman.run(&build)?;
    installs_and_takes_back(&lab, Suite::Stable)
}

/// A base image of a Debian root, with Rust as it is here.
fn import_builder(podman: &Podman) -> Result<()> {
    let root = root::of_builder(Suite::Stable, &mut |line| println!("{line}"))?;
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let output = output.context("Start rustc")?.stdout;
    let rust = PathBuf::from(String::from_utf8(output)?.trim_end());
    let name = rust
        .file_name()
        .context("Rust is nowhere")?
        .to_string_lossy();
    let mut tar = Command::new("tar");
    tar.args(["--create", "--exclude=./usr/local", "--directory"]);
    tar.arg(&root).arg(".");
    tar.arg("--directory").arg(rust.with_file_name(""));
    tar.arg(format!("--transform=s,^{name}/,usr/local/,"));
    let mut tar = tar
        .arg(&*name)
        .stdout(Stdio::piped())
        .spawn()
        .context("Start tar")?;
    let pipe = tar.stdout.take().context("tar has no output")?;
    let import = podman
        .command(&["import", "--quiet", "-", "localhost/builder"])
        .stdin(pipe)
        .output()
        .context("Start podman import")?;
    ensure!(
        tar.wait()?.success() && import.status.success(),
        "podman import: {}",
        String::from_utf8_lossy(&import.stderr)
    );
    Ok(())
}

/// Unpacks what `pack` writes.
fn unpack(pack: &mut Command, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("Make {}", into.display()))?;
    let mut packing = pack.stdout(Stdio::piped()).spawn().context("Start")?;
    let pipe = packing.stdout.take().context("No output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--directory"]);
    let status = tar.arg(into).stdin(pipe).status().context("Start tar")?;
    ensure!(
        packing.wait()?.success() && status.success(),
        "Unpacking to {} fails",
        into.display()
    );
    Ok(())
}
