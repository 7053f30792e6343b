//! What reaches whoever checkpoints or restores a container when CRIU fails, with Restow before it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use restow::explain::Report;
use restow_integration::engine::{Engine, Mode, Runtime, Stack};
use restow_integration::suite::Suite;
use restow_integration::tools;
use serde_json::{Value, json};

const DIR: &str = "/tmp/container";
const KEPT: &str = "CRIU's log is kept as ";

/// A container of the snag, alone on a node.
struct Scene {
    engine: Engine,
}

/// What a call of the runtime said.
struct Said {
    success: bool,
    text: String,
}

impl Scene {
    fn new(suite: Suite, runtime: Runtime, snag: &[&str]) -> Result<Self> {
        let stack = Stack {
            runtime,
            ..Stack::v2(suite)
        };
        let scene = Self {
            engine: Engine::start(stack, Mode::Restow)?,
        };
        let rootfs = scene.path("rootfs");
        for dir in ["dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(dir))?;
        }
        for dir in ["images", "work"] {
            fs::create_dir_all(scene.path(dir))?;
        }
        fs::copy(tools::snag()?, rootfs.join("snag"))?;
        fs::write(rootfs.join("file"), "as it was")?;
        ensure!(scene.shell("runc spec")?.success, "runc makes no spec");
        let config = scene.path("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
        let args = [&["/snag", "--here"][..], snag].concat();
        spec["process"]["args"] = json!(args);
        spec["process"]["terminal"] = json!(false);
        spec["root"]["readonly"] = json!(false);
        spec["annotations"] = json!({"restow.dev/enabled": "true"});
        fs::write(&config, serde_json::to_vec(&spec)?)?;
        scene.run(&format!(
            "{} run --detach --pid-file pid snag < /dev/null > /dev/null 2>&1",
            scene.runtime()
        ))?;
        scene.run("until [ -e rootfs/ready ]; do kill -0 $(cat pid) || exit; done")?;
        Ok(scene)
    }

    fn runtime(&self) -> &'static str {
        self.engine.runtime().program()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.engine.node().path(DIR).join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))
    }

    /// Runs a script where the bundle is; its output goes through a file of the node, since CRIU dumps what the runtime inherits.
    fn shell(&self, script: &str) -> Result<Said> {
        let script =
            format!("cd {DIR} && exec > said 2>&1; export PATH=/opt/restow/bin:$PATH; {script}");
        fs::create_dir_all(self.path(""))?;
        let status = self
            .engine
            .node()
            .command("sh")
            .args(["-c", &script])
            .status()?;
        Ok(Said {
            success: status.success(),
            text: self.read("said")?,
        })
    }

    fn run(&self, script: &str) -> Result<()> {
        let said = self.shell(script)?;
        ensure!(said.success, "{script}: {}", said.text);
        Ok(())
    }

    /// A checkpoint that fails, after which the container goes on.
    fn failed_checkpoint(&self) -> Result<String> {
        let checkpoint = format!(
            "{} checkpoint --image-path images --work-path work snag",
            self.runtime()
        );
        let said = self.shell(&checkpoint)?;
        ensure!(!said.success, "The checkpoint succeeded");
        self.run("kill -0 $(cat pid)")
            .context("The container does not run any more")?;
        Ok(said.text)
    }

    /// A restore that fails, and leaves nothing.
    fn failed_restore(&self, options: &str) -> Result<String> {
        let program = self.runtime();
        let said = self.shell(&format!(
            "{program} {options} restore --detach --image-path images --work-path work --bundle . again < /dev/null"
        ))?;
        ensure!(!said.success, "The restore succeeded");
        self.shell(&format!("{program} delete --force again"))?;
        Ok(said.text)
    }

    /// The log that is kept, as the sentence says, is there and is explained by the same cause.
    fn check_kept(&self, sentence: &str, cause: &str) -> Result<()> {
        let path = sentence
            .split_once(KEPT)
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .with_context(|| format!("No path of a kept log: {sentence}"))?;
        // runc's own log has the line in quotes.
        let path = path.trim_end_matches(['"', '\'']);
        ensure!(path.starts_with("/var/log/restow/"), "{path}");
        let kept = self.engine.node().path(path);
        let text = fs::read(&kept).with_context(|| format!("Read {}", kept.display()))?;
        let report = Report::read(text.as_slice())?;
        let found = report.decisive().map(|found| found.cause);
        ensure!(
            found == Some(cause),
            "The kept log is explained as {found:?}"
        );
        ensure!(
            String::from_utf8_lossy(&text).contains(KEPT),
            "The kept log does not say where it is"
        );
        Ok(())
    }
}

fn on_both_runtimes(
    name: &str,
    suite: Suite,
    run: impl Fn(Runtime) -> Result<String>,
) -> Result<()> {
    for runtime in [Runtime::Runc, Runtime::Crun] {
        let said = run(runtime).with_context(|| format!("{name} with {}", runtime.program()))?;
        println!("{name} | {suite}, {} | {}", runtime.program(), said.trim());
    }
    Ok(())
}

fn line_with<'t>(text: &'t str, words: &str) -> Result<&'t str> {
    match text.lines().find(|line| line.contains(words)) {
        Some(line) => Ok(line),
        None => bail!("No {words:?} in: {text}"),
    }
}

pub(crate) fn a_failed_checkpoint_says_why(suite: Suite) -> Result<()> {
    on_both_runtimes("failed checkpoint", suite, |runtime| {
        let scene = Scene::new(suite, runtime, &["packet-pipe"])?;
        let said = scene.failed_checkpoint()?;
        let line = line_with(&said, "restow: fd 4 of process ")?;
        ensure!(
            line.contains(": pipe: the pipe was made with O_DIRECT"),
            "{line}"
        );
        ensure!(line.contains("[pipe-of-packets]; "), "{line}");
        scene.check_kept(line, "pipe-of-packets")?;
        let log = scene.read("work/dump.log")?;
        let last = log.lines().last().unwrap_or_default();
        ensure!(
            last.starts_with("Error (restow): fd 4 of process "),
            "{last}"
        );
        line_with(&scene.read("work/restow.log")?, "failed: fd 4 of process ")?;
        if suite == Suite::Testing {
            // What these runtimes quote is enough to go by.
            let quoted = said.replace("(restow)", "");
            let report = Report::read(quoted.as_bytes())?;
            let cause = report
                .decisive()
                .context("The quoted log is not explained")?;
            ensure!(
                cause.cause == "pipe-of-packets",
                "The quoted log is explained as {cause}"
            );
        }
        Ok(line.to_owned())
    })
}

pub(crate) fn a_failed_restore_says_why(suite: Suite) -> Result<()> {
    on_both_runtimes("failed restore", suite, |runtime| {
        let scene = Scene::new(suite, runtime, &["open", "/file"])?;
        let program = scene.runtime();
        scene.run(&format!(
            "{program} checkpoint --image-path images --work-path work snag"
        ))?;
        scene.shell(&format!("{program} delete --force snag"))?;
        fs::write(scene.path("rootfs/file"), "longer than it was")?;
        let said = scene.failed_restore("")?;
        let log = scene.read("work/restore.log")?;
        // A helper of CRIU's can have the last word.
        let last = line_with(&log, "Error (restow)")?;
        ensure!(
            last.starts_with(
                "Error (restow): fd 3 of process 1: file /file: the file is 18 bytes long and was 9"
            ),
            "{last}"
        );
        scene.check_kept(last, "file-size-changed")?;
        // The older runtimes only name the log, the newer ones quote it.
        let line = line_with(&said, "restow: fd 3 of process 1: file /file: the file is")?;
        scene.check_kept(line, "file-size-changed")?;
        match suite {
            Suite::Stable => line_with(&said, "restore.log")?,
            Suite::Testing => line_with(&said, "Error (restow): fd 3 of process 1")?,
        };
        let line = line.to_owned();

        // Restow's own word, before CRIU starts.
        scene.run("mkdir images/pstree.kept; mv images/pstree.img images/pstree.kept")?;
        let said = scene.failed_restore("")?;
        line_with(&said, "restow: ")?;
        scene.run("mv images/pstree.kept/pstree.img images; rmdir images/pstree.kept")?;

        // Who gives a log reads that; the rest is the container's output.
        let said = scene.failed_restore("--log runtime.log --log-format json")?;
        ensure!(
            !said.contains("restow: "),
            "What is the container's output has been written to: {said}"
        );
        Ok(line)
    })
}

/// Causes that are provoked here and not on the bench.
pub(crate) const CAUSES: [&str; 2] = ["restow-refused", "runtime-said-no"];

pub(crate) fn a_refusal_and_a_veto_are_told_as_such(suite: Suite) -> Result<()> {
    on_both_runtimes("refusal and veto", suite, |runtime| {
        let scene = Scene::new(suite, runtime, &["nothing"])?;
        // Restow cannot remove it, and says so before CRIU starts.
        scene.run("mkdir images/source.json")?;
        let said = scene.failed_checkpoint()?;
        line_with(&said, "restow: The old source.json in the image directory")?;
        let report = Report::read(scene.read("work/dump.log")?.as_bytes())?;
        let refusal = report.decisive().context("The refusal is not found")?;
        ensure!(
            refusal.cause == CAUSES[0]
                && refusal
                    .meaning
                    .contains("source.json in the image directory cannot be removed"),
            "{refusal}"
        );
        // It comes into being while CRIU works: Restow vetoes, and CRIU's word for that is a script error.
        scene.run(&format!(
            "rmdir images/source.json; mkdir -p /etc/criu; echo action-script {DIR}/make > /etc/criu/default.conf; \
             printf '#!/bin/sh\\n[ $CRTOOLS_SCRIPT_ACTION != network-lock ] || mkdir {DIR}/images/source.json\\n' > make; chmod +x make"
        ))?;
        let said = scene.failed_checkpoint()?;
        line_with(&said, "restow: source.json cannot be written")?;
        let report = Report::read(scene.read("work/dump.log")?.as_bytes())?;
        let names: Vec<_> = report.causes.iter().map(|cause| cause.cause).collect();
        ensure!(names == CAUSES, "{names:?}");
        let veto = &report.causes[0].meaning;
        ensure!(veto.contains("source.json cannot be written"), "{veto}");
        Ok(format!("{refusal}; {veto}"))
    })
}

pub(crate) fn a_criu_that_is_killed_is_told_in_words(suite: Suite) -> Result<()> {
    on_both_runtimes("criu killed", suite, |runtime| {
        let scene = Scene::new(suite, runtime, &["nothing"])?;
        scene.run(&format!(
            "mkdir -p /etc/criu; echo action-script {DIR}/kill > /etc/criu/default.conf; \
             printf '#!/bin/sh\\n[ $CRTOOLS_SCRIPT_ACTION = network-lock ] && kill -9 $PPID\\nexit 0\\n' > kill; chmod +x kill"
        ))?;
        let said = scene.failed_checkpoint()?;
        let line = line_with(&said, "restow: criu was killed by signal 9, SIGKILL")?;
        scene.check_kept(line, "criu-ended-early")?;
        Ok(line.to_owned())
    })
}

pub(crate) fn a_criu_that_cannot_start_is_told_in_words(suite: Suite) -> Result<()> {
    on_both_runtimes("criu does not start", suite, |runtime| {
        if (suite, runtime) != (Suite::Stable, Runtime::Crun) {
            return Ok("not Restow's to tell: the runtime asks criu for its version first, and fails with that".to_owned());
        }
        let scene = Scene::new(suite, runtime, &["nothing"])?;
        // A name of the same length that no library has.
        scene.run(
            "sed 's/libprotobuf-c.so.1/libprotobuf-c.so.X/' /usr/sbin/criu > broken; chmod +x broken; mkdir -p /etc/restow; \
             echo \"criu = '/tmp/container/broken'\" > /etc/restow/config.toml",
        )?;
        let said = scene.failed_checkpoint()?;
        let line = line_with(&said, "restow: criu cannot start and ended with status 127")?;
        line_with(&scene.read("work/restow.log")?, "failed: criu cannot start")?;
        Ok(line.to_owned())
    })
}
