//! Thin clients for what stands over gRPC on a node's socket: the container runtime interface ([`Cri`]) and containerd's own
//! API ([`Containerd`]).
//!
//! They add to the generated clients what every caller needs: a socket, the limits that containerd's own clients use, errors that
//! name the call and its object, and the namespace. Everything else is reached through [`Cri::runtime`] and its siblings with the
//! types in [`api`] and [`containerd_client`].
//!
//! All calls are asynchronous and need a tokio runtime with I/O and time; a current-thread one is enough:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! let pods = runtime.block_on(async {
//!     let cri = restow_cri::Cri::connect("/run/containerd/containerd.sock").await?;
//!     cri.pods(None).await
//! })?;
//! # Ok(())
//! # }
//! ```

mod containerd;
mod content;
mod cri;
mod error;
mod ids;
mod peer;
mod snapshot;
mod socket;
mod task;

pub use containerd::{Containerd, K8S_NAMESPACE, Lease};
pub use containerd_client;
pub use cri::Cri;
pub use error::Error;
pub use ids::{ContainerId, PodId};
/// The messages of the container runtime interface, version 1.
pub use k8s_cri::v1 as api;
pub use peer::Peer;
pub use task::CheckpointOptions;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
