//! The event that a checkpoint was made: `TaskCheckpointed`, topic `/tasks/checkpointed`, which nobody else publishes. Sent as the stock
//! shim sends its own: to containerd's ttrpc service for events, whose address is in the environment.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criu_image::wire::Message;

use crate::address;
use crate::arguments::Arguments;
use crate::client::Client;
use crate::log::{self, Level};
use crate::task::any;

/// Where containerd listens for events.
const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const TOPIC: &str = "/tasks/checkpointed";
const TYPE: &str = "containerd.events.TaskCheckpointed";

/// Publishes it. An event that cannot be published is a line in the log, as it is for the stock shim.
pub(super) fn checkpointed(arguments: &Arguments, id: &[u8], path: &[u8]) {
    let Some(address) = std::env::var_os(TTRPC_ADDRESS).filter(|address| !address.is_empty())
    else {
        return;
    };
    let text = address.to_string_lossy();
    let socket = address::path(&text).map_or_else(|| PathBuf::from(&*text), Path::to_owned);
    let request = request(
        &arguments.namespace.to_string_lossy(),
        id,
        path,
        SystemTime::now(),
    );
    let sent = Client::connect(&socket, Some(Duration::from_secs(5)))
        .map_err(|error| error.to_string())
        .and_then(|mut client| {
            client
                .call(SERVICE, "Forward", &request)
                .map_err(|error| restow::chain(&error))
        });
    if let Err(reason) = sent {
        let text = format!("cannot publish {TOPIC}: {reason}");
        log::line(
            Path::new("."),
            Level::Warning,
            &String::from_utf8_lossy(id),
            &text,
        );
    }
}

/// `ForwardRequest` with its `Envelope` (`api/services/ttrpc/events/v1/events.proto`).
fn request(namespace: &str, id: &[u8], path: &[u8], now: SystemTime) -> Message<'static> {
    let mut event = Message::default();
    event.set_bytes(1, id);
    event.set_bytes(2, path);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut timestamp = Message::default();
    timestamp.set_u64(1, since.as_secs());
    timestamp.set_u64(2, since.subsec_nanos().into());
    let mut envelope = Message::default();
    envelope.set_bytes(1, timestamp.encode());
    envelope.set_bytes(2, namespace);
    envelope.set_bytes(3, TOPIC);
    envelope.set_bytes(4, any(TYPE, &event));
    let mut request = Message::default();
    request.set_bytes(1, envelope.encode());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_is_in_an_envelope() {
        let now = UNIX_EPOCH + Duration::new(7, 5);
        let request = request("k8s.io", b"web", b"/images", now);
        let envelope = request.message(1).unwrap().unwrap();
        assert_eq!(
            (envelope.str(2), envelope.str(3)),
            (Some("k8s.io"), Some(TOPIC))
        );
        let timestamp = envelope.message(1).unwrap().unwrap();
        assert_eq!((timestamp.u64(1), timestamp.u64(2)), (Some(7), Some(5)));
        let any = envelope.message(4).unwrap().unwrap();
        assert_eq!(any.str(1), Some(TYPE));
        let event = any.message(2).unwrap().unwrap();
        assert_eq!((event.str(1), event.str(2)), (Some("web"), Some("/images")));
    }
}
