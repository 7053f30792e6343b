//! Moving containers: `restow checkpoint`, `restore`, `migrate`, `list` and `rm`.
//!
//! ```text
//! find ─▶ checkpoint ─▶ store (archive or directory, with pod.json) ─▶ restore: identity ─▶ pod files ─▶ CRI
//!             │  by CRI, or by containerd's own API
//!             └─ frozen: nothing a container does between its checkpoint and its end is lost
//! ```
//!
//! * [`node`]: a node by its socket: its files, its store, its clients.
//! * [`find`]: what a name on the command line stands for.
//! * [`recipe`]: `pod.json`, what the pod was made from.
//! * [`identity`]: the same with another name and uid; plain data.
//! * [`checkpoint`], [`restore`], [`migrate`], [`list`]: the commands.

pub mod checkpoint;
pub mod find;
pub mod frozen;
pub mod handlers;
pub mod identity;
pub mod layout;
pub mod list;
pub mod migrate;
pub mod node;
pub mod pod_files;
pub mod progress;
pub mod recipe;
pub mod restore;
pub mod through;
pub mod trust;
pub mod why;

use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context, anyhow};

use crate::Failure;

/// containerd's socket on a node that is as most are.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// Which node.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// containerd's socket
    #[arg(long, value_name = "SOCKET", default_value = SOCKET)]
    pub socket: PathBuf,
}

/// Runs what talks to containerd, until it is done or interrupted (SIGINT, SIGTERM): what it holds is given back then.
///
/// # Errors
/// Those of `work`, and when it is interrupted.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("Start the runtime for calls to containerd")?;
    runtime.block_on(work)
}

/// Ends with an error once this process is told to end.
pub async fn interrupted() -> Failure {
    use tokio::signal::unix::{SignalKind, signal};
    let both = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = both else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Failure::Refused(anyhow!("Interrupted"))
}

/// `work`, unless this process is told to end before.
///
/// # Errors
/// Those of `work`, and when it is interrupted.
pub async fn or_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        failure = interrupted() => Err(failure),
    }
}
