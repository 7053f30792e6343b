//! Connections.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{Error, Result};

/// Largest message that is taken, in bytes: the limit of containerd's own clients (`defaults.DefaultMaxRecvMsgSize`). gRPC's
/// default of 4 MiB is too small for the list of a full node.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// How long a connection may take. A call has no limit of its own: a checkpoint takes what it takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel over a Unix socket.
pub(crate) async fn connect(socket: &Path) -> Result<Channel> {
    // First by hand: tonic's error hides the kernel's.
    let first = UnixStream::connect(socket).await;
    drop(first.map_err(|source| Error::Connect {
        socket: socket.to_owned(),
        source,
    })?);
    let path: PathBuf = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    // The address is not used, but has to be one.
    Endpoint::from_static("http://[::]")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|source| Error::Transport {
            socket: socket.to_owned(),
            source,
        })
}
