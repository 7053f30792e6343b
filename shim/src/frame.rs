//! ttrpc's frames (`PROTOCOL.md` of github.com/containerd/ttrpc): ten bytes of header, then the payload.
//!
//! ```text
//!   length of the payload, 4 bytes │ stream, 4 bytes │ type, 1 byte │ flags, 1 byte │ payload
//! ```

use criu_image::wire::Message;

/// Length of a header in bytes.
pub const HEADER: usize = 10;

/// The longest payload that a peer takes (`messageLengthMax`).
pub const LONGEST: usize = 4 << 20;

/// Type of a request.
pub const REQUEST: u8 = 1;
/// Type of a response.
pub const RESPONSE: u8 = 2;

/// gRPC's status codes, as far as they are used here.
pub const FAILED_PRECONDITION: i32 = 9;
/// See [`FAILED_PRECONDITION`].
pub const INTERNAL: i32 = 13;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload in bytes.
    pub length: usize,
    /// The stream, as the client numbered it.
    pub stream: u32,
    /// What the payload is.
    pub kind: u8,
    /// See the protocol.
    pub flags: u8,
}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = *bytes;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]) as usize,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
            flags,
        }
    }

    /// Writes the stream's number into the frame that this header is of.
    pub fn put_stream(&self, frame: &mut [u8]) {
        if let Some(place) = frame.get_mut(4..8) {
            place.copy_from_slice(&self.stream.to_be_bytes());
        }
    }

    /// The header of a whole frame.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        frame.first_chunk().map(Self::parse)
    }
}

/// A frame with this payload. A payload that is longer than 4 GiB cannot be said; none comes near it.
#[must_use]
pub fn encode(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(payload);
    frame
}

/// A request for a call: `ttrpc.Request`.
#[must_use]
pub fn request(stream: u32, service: &str, method: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = Message::default();
    message.set_bytes(1, service);
    message.set_bytes(2, method);
    message.set_bytes(3, payload);
    encode(stream, REQUEST, 0, &message.encode())
}

/// A response that says that a call failed: `ttrpc.Response` with a `google.rpc.Status`.
#[must_use]
pub fn failure(stream: u32, code: i32, reason: &str) -> Vec<u8> {
    let mut status = Message::default();
    status.set_i32(1, code);
    status.set_bytes(2, reason);
    let mut response = Message::default();
    response.set_bytes(1, status.encode());
    encode(stream, RESPONSE, 0, &response.encode())
}

/// A successful response.
#[must_use]
pub fn success(stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut response = Message::default();
    response.set_bytes(2, payload);
    encode(stream, RESPONSE, 0, &response.encode())
}

/// What a response says: the call's payload, or the code and words of its failure.
///
/// # Errors
/// The failure; what is no response counts as one.
pub fn outcome(frame: &[u8]) -> Result<Vec<u8>, (i32, String)> {
    let wrong = || (INTERNAL, "it is no response".to_owned());
    let payload = frame.get(HEADER..).ok_or_else(wrong)?;
    let message = Message::parse(payload).map_err(|_| wrong())?;
    let status = message.message(1).map_err(|_| wrong())?;
    let code = status
        .as_ref()
        .and_then(|status| status.i32(1))
        .unwrap_or(0);
    if code != 0 {
        let words = status
            .as_ref()
            .and_then(|status| status.str(2))
            .unwrap_or_default();
        return Err((code, words.into()));
    }
    Ok(message.bytes(2).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_is_written() {
        let frame = encode(7, RESPONSE, 3, b"abc");
        assert_eq!(
            Header::of(&frame),
            Some(Header {
                length: 3,
                stream: 7,
                kind: RESPONSE,
                flags: 3
            })
        );
        assert_eq!(Header::of(&frame[..9]), None);
    }

    #[test]
    fn responses_say_how_the_call_ended() {
        assert_eq!(outcome(&success(1, b"x")), Ok(b"x".to_vec()));
        assert_eq!(
            outcome(&failure(1, FAILED_PRECONDITION, "no")),
            Err((FAILED_PRECONDITION, "no".into()))
        );
        // An empty message has no field at all.
        assert_eq!(outcome(&encode(1, RESPONSE, 0, &[])), Ok(Vec::new()));
        assert!(outcome(b"").is_err());
    }
}
