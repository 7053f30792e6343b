//! One direction of a connection: frames go on as their bytes come, except those that are held back to be looked at.
//!
//! Nothing here reads or writes. Bytes come in as they arrive; what may go on is appended to `out`, whole frames that were held are
//! returned. A frame of ours goes out between two others.

use std::collections::VecDeque;

use crate::frame::{HEADER, Header, LONGEST};
use crate::task::PEEK;

/// How much of a frame is collected before it is decided whether it is held.
const HEAD: usize = HEADER + PEEK;

/// The state between two pieces of a stream.
#[derive(Debug)]
pub struct Flow {
    /// The beginning of the frame that is coming in, before it is decided on.
    head: [u8; HEAD],
    have: usize,
    state: State,
    /// Frames of ours that wait for the end of one that is on its way.
    waiting: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
enum State {
    /// At, or shortly behind, the beginning of a frame; nothing of it has gone on.
    Head,
    /// So much of a frame is still to be passed on.
    Pass(usize),
    /// A frame is being collected.
    Hold { frame: Vec<u8>, total: usize },
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            state: State::Head,
            waiting: VecDeque::new(),
        }
    }
}

impl Flow {
    /// Takes what came. `hold` is asked about each frame, with the beginning of its payload, and may give it another stream. Frames longer
    /// than a peer may send are never held: whoever gets them refuses them.
    ///
    /// It stops behind a frame that is held, and tells how much it took: a peer refuses a request whose stream's number is lower than that of
    /// one before, so what comes behind must not go on first.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        hold: &mut dyn FnMut(&mut Header, &[u8]) -> bool,
        out: &mut Vec<u8>,
        held: &mut Vec<Vec<u8>>,
    ) -> usize {
        let (all, before) = (bytes.len(), held.len());
        while !bytes.is_empty() && held.len() == before {
            match &mut self.state {
                State::Head => {
                    let wanted = self.wanted();
                    let taken = (wanted - self.have).min(bytes.len());
                    self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                    self.have += taken;
                    bytes = &bytes[taken..];
                    if self.have == self.wanted() {
                        self.decide(hold, out, held);
                    }
                }
                State::Pass(left) => {
                    let taken = (*left).min(bytes.len());
                    out.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::Head;
                        self.release(out);
                    }
                }
                State::Hold { frame, total } => {
                    let taken = (*total - frame.len()).min(bytes.len());
                    frame.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    if frame.len() == *total {
                        held.push(std::mem::take(frame));
                        self.state = State::Head;
                    }
                }
            }
        }
        all - bytes.len()
    }

    /// How much of the frame has to be there to go on: the header, then what it says, up to a limit.
    fn wanted(&self) -> usize {
        if self.have < HEADER {
            return HEADER;
        }
        Header::of(&self.head).map_or(HEADER, |header| HEADER + header.length.min(PEEK))
    }

    fn decide(
        &mut self,
        hold: &mut dyn FnMut(&mut Header, &[u8]) -> bool,
        out: &mut Vec<u8>,
        held: &mut Vec<Vec<u8>>,
    ) {
        let head = &mut self.head[..self.have];
        let Some(mut header) = Header::of(head) else {
            return;
        };
        let total = HEADER + header.length;
        let left = total - head.len();
        let keep = hold(&mut header, &head[HEADER..]) && header.length <= LONGEST;
        header.put_stream(head);
        if keep {
            if left == 0 {
                held.push(head.to_vec());
            } else {
                let mut frame = Vec::with_capacity(total);
                frame.extend_from_slice(head);
                self.state = State::Hold { frame, total };
            }
        } else {
            out.extend_from_slice(head);
            if left == 0 {
                self.release(out);
            } else {
                self.state = State::Pass(left);
            }
        }
        self.have = 0;
    }

    /// Sends a frame of ours, or one that was held: at once, or behind the frame that is on its way.
    pub fn inject(&mut self, frame: Vec<u8>, out: &mut Vec<u8>) {
        match self.state {
            State::Pass(_) => self.waiting.push_back(frame),
            _ => out.extend_from_slice(&frame),
        }
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        for frame in self.waiting.drain(..) {
            out.extend_from_slice(&frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::encode;

    /// Feeds `bytes` in pieces of `size`, holding frames of type 1.
    fn run(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut flow, mut out, mut held) = (Flow::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            let mut rest = piece;
            while !rest.is_empty() {
                let hold = &mut |header: &mut Header, _: &[u8]| header.kind == 1;
                let taken = flow.feed(rest, hold, &mut out, &mut held);
                rest = &rest[taken..];
            }
        }
        (out, held)
    }

    #[test]
    fn frames_are_cut_right_however_they_arrive() {
        let passed = [
            encode(1, 2, 0, b""),
            encode(3, 2, 0, &[7; 5]),
            encode(5, 3, 1, &[8; 64]),
            encode(7, 3, 1, &[9; 5000]),
        ];
        let kept = [
            encode(9, 1, 0, &[1; 300]),
            encode(11, 1, 0, b""),
            encode(13, 1, 0, b"ab"),
        ];
        let stream = [
            &passed[0][..],
            &kept[0],
            &passed[1],
            &kept[1],
            &passed[2],
            &kept[2],
            &passed[3],
        ]
        .concat();
        for size in [1, 2, 9, 10, 11, 73, 74, 75, 1000, stream.len()] {
            let (out, held) = run(&stream, size);
            assert_eq!(out, passed.concat(), "in pieces of {size}");
            assert_eq!(held, kept, "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_of_ours_goes_between_two_others() {
        let (mut flow, mut out, mut held) = (Flow::default(), Vec::new(), Vec::new());
        let (long, own) = (encode(1, 2, 0, &[5; 500]), encode(3, 2, 0, b"own"));
        let hold = &mut |_: &mut Header, _: &[u8]| false;
        flow.feed(&long[..200], hold, &mut out, &mut held);
        flow.inject(own.clone(), &mut out);
        flow.feed(&long[200..], hold, &mut out, &mut held);
        assert_eq!(out, [&long[..], &own].concat());
        out.clear();
        // Of what has not gone on yet, nothing is to be waited for.
        flow.feed(&long[..5], hold, &mut out, &mut held);
        flow.inject(own.clone(), &mut out);
        flow.feed(&long[5..], hold, &mut out, &mut held);
        assert_eq!(out, [&own[..], &long].concat());
    }

    #[test]
    fn nothing_overtakes_a_frame_that_is_looked_at() {
        let (looked_at, behind) = (encode(3, 1, 0, b"start"), encode(5, 2, 0, b"wait"));
        let stream = [&looked_at[..], &behind].concat();
        let (mut flow, mut out, mut held) = (Flow::default(), Vec::new(), Vec::new());
        let hold = &mut |header: &mut Header, _: &[u8]| header.kind == 1;
        let taken = flow.feed(&stream, hold, &mut out, &mut held);
        assert_eq!((taken, out.len()), (looked_at.len(), 0));
        flow.inject(held.remove(0), &mut out);
        flow.feed(&stream[taken..], hold, &mut out, &mut held);
        assert_eq!(out, stream);
    }

    #[test]
    fn what_is_too_long_to_be_a_frame_is_not_collected() {
        let mut header = encode(1, 1, 0, b"");
        header[..4].copy_from_slice(&0xffff_ffffu32.to_be_bytes());
        let bytes = [&header[..], &[0; 100]].concat();
        let (out, held) = run(&bytes, 50);
        assert_eq!((out, held), (bytes, Vec::new()));
    }

    #[test]
    fn a_frame_is_decided_on_by_the_beginning_of_its_payload() {
        let mut seen = Vec::new();
        let frame = encode(1, 1, 0, &[6; 1000]);
        let (mut flow, mut out, mut held) = (Flow::default(), Vec::new(), Vec::new());
        let mut hold = |header: &mut Header, head: &[u8]| {
            seen.push((header.length, head.len()));
            true
        };
        flow.feed(&frame, &mut hold, &mut out, &mut held);
        assert_eq!(seen, [(1000, PEEK)]);
        assert_eq!(held, [frame]);
    }
}
