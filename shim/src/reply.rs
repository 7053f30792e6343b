//! What a shim says to `start`: where it listens. Three spellings, all of which are repeated with another address and nothing else
//! changed, so that what later versions add is kept.
//!
//! * containerd up to 1.6, and task API 2 in 1.7: the address alone.
//! * 1.7 to 2.2: JSON, `{"version":3,"address":"unix:///…","protocol":"ttrpc"}`.
//! * 2.3 and later: protobuf, `containerd.runtime.bootstrap.v1.BootstrapResult`.
//!
//! `BootstrapParams`, what 2.3 sends on standard input, is read here too.

use criu_image::wire::Message;
use serde_json::Value;

use crate::error::Error;

/// `BootstrapResult.address` and `.protocol`.
const ADDRESS: u32 = 2;
const PROTOCOL: u32 = 3;

/// A reply to `start`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    spelling: Spelling,
    /// The address, with its scheme.
    pub address: String,
    /// `ttrpc`, or what later versions may bring.
    pub protocol: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Spelling {
    Text,
    Json(Value),
    Protobuf(Message<'static>),
}

impl Reply {
    /// Reads a reply.
    ///
    /// # Errors
    /// When it is none of the three.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::text(bytes)
            .or_else(|| Self::json(bytes))
            .or_else(|| Self::protobuf(bytes))
            .ok_or_else(|| Error::Reply(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn text(bytes: &[u8]) -> Option<Self> {
        let address = std::str::from_utf8(bytes).ok()?.trim();
        // In protobuf the first byte is a tag below the letters.
        let scheme = address.split_once("://")?.0;
        let scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        scheme.then(|| Self {
            spelling: Spelling::Text,
            address: address.into(),
            protocol: "ttrpc".into(),
        })
    }

    fn json(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let address = value["address"].as_str()?.to_owned();
        let protocol = value["protocol"].as_str().unwrap_or("ttrpc").to_owned();
        Some(Self {
            spelling: Spelling::Json(value),
            address,
            protocol,
        })
    }

    fn protobuf(bytes: &[u8]) -> Option<Self> {
        let message = Message::parse(bytes).ok()?;
        let address = message.str(ADDRESS)?.to_owned();
        let protocol = message.str(PROTOCOL).unwrap_or("ttrpc").to_owned();
        let known = address.contains("://");
        known.then(|| Self {
            spelling: Spelling::Protobuf(message.into_owned()),
            address,
            protocol,
        })
    }

    /// The same reply with another address.
    #[must_use]
    pub fn with_address(&self, address: &str) -> Vec<u8> {
        match &self.spelling {
            Spelling::Text => address.into(),
            Spelling::Json(value) => {
                let mut value = value.clone();
                value["address"] = address.into();
                value.to_string().into_bytes()
            }
            Spelling::Protobuf(message) => {
                let mut message = message.clone();
                message.set_bytes(ADDRESS, address);
                message.encode()
            }
        }
    }
}

/// What `BootstrapParams` says that the proxy needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// The container's id.
    pub id: Option<String>,
    /// containerd's namespace.
    pub namespace: Option<String>,
    /// Where containerd's ttrpc services listen.
    pub ttrpc_address: Option<String>,
    /// containerd's own socket.
    pub grpc_address: Option<String>,
}

impl Params {
    /// Reads standard input of `start`. Up to containerd 2.2 it is an `Any` with the runtime's options, whose first field is a type's
    /// name where `BootstrapParams` has an id and whose second is a message where it has the namespace; what is no `BootstrapParams`
    /// of this container says nothing.
    #[must_use]
    pub fn parse(bytes: &[u8], id: &str) -> Self {
        let Ok(message) = Message::parse(bytes) else {
            return Self::default();
        };
        if message
            .str(1)
            .is_none_or(|found| !id.is_empty() && found != id)
        {
            return Self::default();
        }
        let text = |number| {
            message
                .str(number)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        Self {
            id: text(1),
            namespace: text(2),
            ttrpc_address: text(5),
            grpc_address: text(6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_repeated_as_an_address() {
        let reply = Reply::parse(b"unix:///run/containerd/s/abc\n").unwrap();
        assert_eq!(reply.address, "unix:///run/containerd/s/abc");
        assert_eq!(reply.with_address("unix:///x"), b"unix:///x");
    }

    #[test]
    fn json_keeps_what_it_has_besides() {
        let reply = br#"{"version":3,"address":"unix:///a","protocol":"ttrpc","later":[1]}"#;
        let reply = Reply::parse(reply).unwrap();
        assert_eq!(reply.protocol, "ttrpc");
        assert_eq!(
            reply.with_address("unix:///b"),
            br#"{"version":3,"address":"unix:///b","protocol":"ttrpc","later":[1]}"#
        );
    }

    #[test]
    fn protobuf_keeps_what_it_has_besides() {
        let mut message = Message::default();
        message.set_u64(1, 3);
        message.set_bytes(2, "unix:///a");
        message.set_bytes(3, "ttrpc");
        message.push_bytes(6, [10, 0]);
        let reply = Reply::parse(&message.encode()).unwrap();
        assert_eq!((&*reply.address, &*reply.protocol), ("unix:///a", "ttrpc"));
        message.set_bytes(2, "unix:///b");
        assert_eq!(reply.with_address("unix:///b"), message.encode());
    }

    #[test]
    fn anything_else_is_none() {
        for reply in [&b""[..], b"shim: failed", b"{}", b"\x08\x03"] {
            assert!(Reply::parse(reply).is_err(), "{reply:?}");
        }
    }

    #[test]
    fn options_of_older_versions_are_no_parameters() {
        let mut any = Message::default();
        any.set_bytes(1, "containerd.runc.v1.Options");
        any.set_bytes(2, [0x4a, 0]);
        assert_eq!(Params::parse(&any.encode(), "web"), Params::default());
        let mut params = Message::default();
        params.set_bytes(1, "web");
        params.set_bytes(2, "k8s.io");
        params.set_bytes(5, "/run/containerd/containerd.sock.ttrpc");
        let read = Params::parse(&params.encode(), "web");
        assert_eq!(read.namespace.as_deref(), Some("k8s.io"));
        assert_eq!(
            read.ttrpc_address.as_deref(),
            Some("/run/containerd/containerd.sock.ttrpc")
        );
    }
}
