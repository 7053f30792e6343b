//! A container that is held still, so that nothing it does after its checkpoint is lost.
//!
//! Whatever becomes of this process, the container goes on: a process of its own, which no signal to ours reaches, thaws it when ours is
//! gone without having said what becomes of it. Once it is to end, because it runs elsewhere or its checkpoint is kept, that process ends it.

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sys::signal::Signal;
use restow_cri::{ContainerId, Containerd};

use super::find::Subject;
use super::node::{Node, call};
use crate::Failure;

/// containerd's numbers of a task's states (`api/types/task/task.proto`).
const RUNNING: i32 = 2;
const PAUSED: i32 = 4;

/// What is said to the guard when it is not needed any more.
const DONE: u8 = b'd';
/// What is said to it when the container is to end, and not to go on.
const END: u8 = b'e';

/// How long a killed container may take until it is gone. It has nothing to do any more; this is for disks that hang.
const KILLED: Duration = Duration::from_secs(60);

/// A frozen container. Dropped, it goes on: the guard sees to it.
#[derive(Debug)]
pub struct Frozen {
    client: Containerd,
    id: ContainerId,
    name: String,
    guard: Guard,
    /// Somebody else had frozen it.
    before: bool,
}

impl Frozen {
    /// Freezes a running container; one that is frozen already stays so.
    ///
    /// # Errors
    /// When it does not run or cannot be frozen. It then runs as before.
    pub async fn freeze(node: &Node, subject: &Subject) -> Result<Self, Failure> {
        let client = node.containerd(&subject.containerd_namespace).await?;
        let name = subject.display();
        let before = match client.task(&subject.id).await {
            Ok(process) if process.status == RUNNING => false,
            Ok(process) if process.status == PAUSED => true,
            Ok(process) => {
                let state = format!("{:?}", process.status()).to_lowercase();
                return Err(Failure::Refused(anyhow!(
                    "{name} does not run, it is {state}"
                )));
            }
            Err(error) if error.is_not_found() => {
                return Err(Failure::Refused(anyhow!("{name} does not run")));
            }
            Err(error) => return Err(call(error)),
        };
        let guard = Guard::start(node, subject, before)?;
        if !before {
            client.pause(&subject.id).await.map_err(|error| {
                Failure::Refused(
                    anyhow::Error::from(error)
                        .context(format!("{name} cannot be held still, and goes on running")),
                )
            })?;
        }
        Ok(Self {
            client,
            id: subject.id.clone(),
            name,
            guard,
            before,
        })
    }

    /// Lets it go on, unless somebody else had frozen it before.
    ///
    /// # Errors
    /// When containerd does not do it.
    pub async fn thaw(self) -> Result<(), Failure> {
        if !self.before {
            let thawed = self.client.resume(&self.id).await;
            thawed.map_err(|error| {
                Failure::Refused(anyhow::Error::from(error).context(format!(
                    "{} is frozen and does not go on; try `ctr task resume`",
                    self.name
                )))
            })?;
        }
        self.guard.done();
        Ok(())
    }

    /// Ends it, without it having done anything more.
    ///
    /// # Errors
    /// When containerd does not do it.
    pub async fn end(mut self) -> Result<(), Failure> {
        self.guard.say(END);
        let ended = end(&self.client, &self.id).await;
        ended.map_err(|error| {
            Failure::Refused(
                anyhow::Error::from(error).context(format!("{} cannot be ended", self.name)),
            )
        })?;
        self.guard.done();
        Ok(())
    }
}

/// Kills a frozen container and sees it end.
async fn end(client: &Containerd, id: &ContainerId) -> Result<(), restow_cri::Error> {
    let signal = u32::try_from(Signal::SIGKILL as i32).unwrap_or(9);
    client.kill(id, signal, true).await?;
    // In a frozen cgroup of version 1 a signal waits for this; version 2 kills at once, and then there may be nothing to resume.
    let thawed = client.resume(id).await;
    match tokio::time::timeout(KILLED, client.wait(id)).await {
        Ok(Err(error)) if !error.is_not_found() => Err(error),
        Ok(_) => Ok(()),
        Err(_) => thawed,
    }
}

/// The process that thaws a container when this one is gone.
#[derive(Debug)]
struct Guard(Child);

impl Guard {
    fn start(node: &Node, subject: &Subject, idle: bool) -> Result<Self, Failure> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("thaw-when-left")
            .arg(node.socket())
            .arg(&subject.containerd_namespace)
            .arg(subject.id.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal from the terminal is for the whole group.
            .process_group(0);
        if idle {
            command.arg("--idle");
        }
        let child = command.spawn();
        Ok(Self(child.context(
            "Start the process that lets the container go on",
        )?))
    }

    fn say(&mut self, word: u8) {
        if let Some(pipe) = &mut self.0.stdin {
            // One that is gone needs no telling.
            let _ = pipe.write_all(&[word]);
        }
    }

    fn done(mut self) {
        self.say(DONE);
        // It closes the pipe, and waits.
        let _ = self.0.wait();
    }
}

/// The guard's own command line: not for people.
#[derive(Debug, clap::Args)]
pub struct GuardArgs {
    socket: PathBuf,
    namespace: String,
    id: String,
    /// It was frozen before.
    #[arg(long)]
    idle: bool,
}

/// What is left to do when the other process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Thaw,
    End,
}

impl Left {
    /// Reads what is said until the other process is done or gone.
    fn after(said: impl BufRead) -> Self {
        let mut left = Self::Thaw;
        for word in said.bytes().map_while(Result::ok) {
            match word {
                DONE => return Self::Nothing,
                END => left = Self::End,
                _ => {}
            }
        }
        left
    }
}

/// Waits until the process that started this is done or gone, and does what is left in the second case.
///
/// # Errors
/// When containerd does not do it.
pub fn guard(args: &GuardArgs) -> Result<ExitCode, Failure> {
    let left = Left::after(std::io::stdin().lock());
    if left == Left::Nothing || (left == Left::Thaw && args.idle) {
        return Ok(ExitCode::SUCCESS);
    }
    super::block_on(async {
        let client = Containerd::connect(&args.socket, &args.namespace)
            .await
            .map_err(call)?;
        let id = ContainerId(args.id.clone());
        match left {
            Left::End => end(&client, &id).await,
            _ => client.resume(&id).await,
        }
        .map_err(call)
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_leaves_what_was_said_last() {
        assert_eq!(Left::after(&b""[..]), Left::Thaw);
        assert_eq!(Left::after(&b"e"[..]), Left::End);
        assert_eq!(Left::after(&b"d"[..]), Left::Nothing);
        assert_eq!(Left::after(&b"ed"[..]), Left::Nothing);
    }
}
