//! The numbers of streams on the two sides of a connection.
//!
//! A ttrpc server refuses a request whose stream's number is not above that of every one before ("StreamID cannot be re-used and must
//! increment", `server.go` of github.com/containerd/ttrpc). A `Create` that is held while its checkpoint is prepared would come behind
//! later calls, so each request gets the number that is free when it goes on. As long as none was held, that is its own.

use crate::frame::{Header, REQUEST, RESPONSE};

/// How containerd's numbers and the stock shim's belong together.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// The lowest number that the stock shim takes next.
    next: u32,
    /// Streams that have no answer yet: containerd's number, the stock shim's.
    open: Vec<(u32, u32)>,
}

impl Streams {
    /// The number under which a frame of containerd's goes to the stock shim, when it goes now.
    pub(super) fn up(&mut self, header: Header) -> u32 {
        // Even numbers are no client's; what is wrong with one is the stock shim's to say.
        if header.kind == REQUEST && header.stream % 2 == 1 {
            let stock = header.stream.max(self.next);
            self.next = stock.saturating_add(2);
            self.open.push((header.stream, stock));
            return stock;
        }
        let known = self.open.iter().find(|(own, _)| *own == header.stream);
        known.map_or(header.stream, |(_, stock)| *stock)
    }

    /// The number under which a frame of the stock shim's goes to containerd. An answer ends its stream.
    pub(super) fn down(&mut self, header: Header) -> u32 {
        let Some(at) = self
            .open
            .iter()
            .position(|(_, stock)| *stock == header.stream)
        else {
            return header.stream;
        };
        let (own, _) = self.open[at];
        if header.kind == RESPONSE {
            self.open.swap_remove(at);
            if self.open.is_empty() {
                // What many calls at once needed is not kept for ever.
                self.open = Vec::new();
            }
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32) -> Header {
        Header {
            length: 0,
            stream,
            kind,
            flags: 0,
        }
    }

    #[test]
    fn numbers_stay_as_long_as_the_order_does() {
        let mut streams = Streams::default();
        for stream in [1, 3, 9] {
            assert_eq!(streams.up(frame(REQUEST, stream)), stream);
        }
        for stream in [9, 1, 3] {
            assert_eq!(streams.down(frame(RESPONSE, stream)), stream);
        }
    }

    #[test]
    fn what_was_held_gets_a_number_above_what_went_before() {
        let mut streams = Streams::default();
        // 3 is held while 5 goes on.
        let sent = [1, 5, 3, 7].map(|stream| streams.up(frame(REQUEST, stream)));
        assert_eq!(sent, [1, 5, 7, 9]);
        // Data belongs to the stream that containerd means.
        assert_eq!(streams.up(frame(3, 3)), 7);
        assert_eq!(streams.down(frame(3, 7)), 3);
        let answered = [7, 9, 5, 1].map(|stream| streams.down(frame(RESPONSE, stream)));
        assert_eq!(answered, [3, 7, 5, 1]);
        assert!(streams.open.is_empty());
    }

    #[test]
    fn what_belongs_to_no_call_keeps_its_number() {
        let mut streams = Streams::default();
        assert_eq!(streams.up(frame(REQUEST, 4)), 4);
        assert_eq!(streams.up(frame(3, 11)), 11);
        assert_eq!(streams.down(frame(RESPONSE, 13)), 13);
        assert_eq!(streams.up(frame(REQUEST, 1)), 1);
    }
}
