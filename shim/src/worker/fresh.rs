//! Starting a container afresh whose restore has failed at `Start`: it is deleted and made again, without a checkpoint.
//!
//! Its standard streams have not been opened yet: the stock shim opens them when a restore has succeeded
//! (`createdCheckpointState.Start` in containerd's `process/init_state.go`).

use std::path::Path;

use criu_image::wire::Message;

use crate::client::{Client, Failure};
use crate::task::Request;

/// Does it; the answer to `Start`.
///
/// # Errors
/// When the stock shim refuses one of the three calls.
pub(super) fn start(create: &Request<'_>, start: &[u8], stock: &Path) -> Result<Vec<u8>, Failure> {
    let lost = |source| Failure::Connection {
        method: "Delete".into(),
        source,
    };
    let mut client = Client::connect(stock, None).map_err(lost)?;
    let service = create.service();
    let mut delete = Message::default();
    delete.set_bytes(1, create.id());
    client.call(service, "Delete", &delete)?;
    client.call(service, "Create", &create.call())?;
    let started = Request::parse(start);
    let empty = Message::default();
    let call = started
        .as_ref()
        .map_or(empty, |start| start.call().into_owned());
    client.call(service, "Start", &call)
}
