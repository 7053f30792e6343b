//! Writing JSON as Python's `json` module does: `", "` and `": "` on one line, or an indent of four.

use std::io::Write as _;

/// JSON under construction.
#[derive(Debug, Default)]
pub(super) struct Json {
    pub(super) text: Vec<u8>,
    pretty: bool,
    depth: usize,
    /// Nothing was written since the last opening bracket.
    first: bool,
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// How many bytes make one line of base64.
pub(super) const BASE64_LINE: usize = 57;

impl Json {
    pub(super) fn new(pretty: bool) -> Self {
        Self {
            pretty,
            ..Self::default()
        }
    }

    /// Starts an object or an array.
    pub(super) fn open(&mut self, bracket: u8) {
        self.text.push(bracket);
        self.depth += 1;
        self.first = true;
    }

    pub(super) fn close(&mut self, bracket: u8) {
        self.depth -= 1;
        if !self.first {
            self.line();
        }
        self.first = false;
        self.text.push(bracket);
    }

    /// Goes to the next element.
    pub(super) fn item(&mut self) {
        if !self.first {
            self.text.push(b',');
            if !self.pretty {
                self.text.push(b' ');
            }
        }
        self.first = false;
        self.line();
    }

    pub(super) fn key(&mut self, key: &str) {
        self.item();
        self.text.push(b'"');
        // Names of the schema need no escapes.
        self.text.extend_from_slice(key.as_bytes());
        self.text.extend_from_slice(b"\": ");
    }

    fn line(&mut self) {
        if self.pretty {
            self.text.push(b'\n');
            self.text.resize(self.text.len() + 4 * self.depth, b' ');
        }
    }

    pub(super) fn u64(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = DIGITS[usize::from((number % 10).to_le_bytes()[0])];
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.text.extend_from_slice(&digits[at..]);
    }

    pub(super) fn i64(&mut self, number: i64) {
        if number < 0 {
            self.text.push(b'-');
        }
        self.u64(number.unsigned_abs());
    }

    pub(super) fn raw(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    /// Formatted text that needs no escapes, in quotes.
    pub(super) fn quoted(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.push(b'"');
        // Writing to a vector does not fail.
        let _ = self.text.write_fmt(text);
        self.text.push(b'"');
    }

    /// Text in quotes; bytes that are not UTF-8 become lone surrogates.
    pub(super) fn string(&mut self, text: &[u8]) {
        self.text.push(b'"');
        if text
            .iter()
            .all(|byte| (b' '..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\'))
        {
            self.text.extend_from_slice(text);
        } else {
            for chunk in text.utf8_chunks() {
                chunk.valid().chars().for_each(|c| self.char(c));
                chunk
                    .invalid()
                    .iter()
                    .for_each(|byte| self.escape(0xdc00 | u16::from(*byte)));
            }
        }
        self.text.push(b'"');
    }

    fn char(&mut self, c: char) {
        match c {
            '"' => self.raw("\\\""),
            '\\' => self.raw("\\\\"),
            '\n' => self.raw("\\n"),
            '\r' => self.raw("\\r"),
            '\t' => self.raw("\\t"),
            '\u{8}' => self.raw("\\b"),
            '\u{c}' => self.raw("\\f"),
            ' '..='~' => self.text.push(c as u8),
            _ => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| self.escape(*unit)),
        }
    }

    fn escape(&mut self, unit: u16) {
        self.raw("\\u");
        for shift in [12, 8, 4, 0] {
            self.text.push(DIGITS[usize::from(unit >> shift & 0xf)]);
        }
    }

    /// Bytes as base64, in quotes.
    pub(super) fn base64(&mut self, bytes: &[u8]) {
        self.text.push(b'"');
        self.base64_lines(bytes);
        self.text.push(b'"');
    }

    /// Whole lines of base64; only the last call of one text may have a length that is no multiple of
    /// [`BASE64_LINE`].
    pub(super) fn base64_lines(&mut self, bytes: &[u8]) {
        for line in bytes.chunks(BASE64_LINE) {
            for group in line.chunks(3) {
                let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
                let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
                for at in 0..4 {
                    let digit = BASE64[(bits >> (18 - 6 * at) & 0x3f) as usize];
                    self.text.push(if at > group.len() { b'=' } else { digit });
                }
            }
            self.raw("\\n");
        }
    }
}

/// The bytes of a base64 text; white space in it does not count.
pub(super) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0u32, 0, 0);
    for byte in text.iter().filter(|byte| !byte.is_ascii_whitespace()) {
        if *byte == b'=' {
            padding += 1;
            continue;
        }
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(digit);
        count += 1;
        if count == 4 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match (count, padding) {
        (0, 0) => {}
        (2, 2) => bytes.push((bits >> 4).to_be_bytes()[3]),
        (3, 1) => bytes.extend_from_slice(&(bits >> 2).to_be_bytes()[2..]),
        _ => return None,
    }
    Some(bytes)
}

/// Quoted-printable text in quotes, with soft breaks that keep lines within 76 characters.
///
/// Line ends are encoded as well (`crit` keeps them as they are), so that every name comes back as it was.
pub(super) fn quoted_printable(json: &mut Json, bytes: &[u8]) {
    const LINE: usize = 76;
    let mut text = Vec::with_capacity(bytes.len());
    let mut column = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let last = at + 1 == bytes.len();
        let literal = match byte {
            b' ' | b'\t' => !last,
            // A dot alone on a line ends a mail.
            b'.' => {
                column != 0
                    || bytes
                        .get(at + 1)
                        .is_some_and(|next| !matches!(next, b'\n' | b'\r' | 0))
            }
            b'!'..=b'<' | b'>'..=b'~' => true,
            _ => false,
        };
        let width = if literal { 1 } else { 3 };
        // The last column is for the `=` of a soft break.
        if column + width >= LINE && !(literal && last) {
            text.extend_from_slice(b"=\n");
            column = 0;
        }
        if literal {
            text.push(*byte);
        } else {
            text.push(b'=');
            text.extend(
                [byte >> 4, byte & 0xf]
                    .map(|digit| DIGITS[usize::from(digit)].to_ascii_uppercase()),
            );
        }
        column += width;
    }
    json.string(&text);
}

/// The bytes of a quoted-printable text.
pub(super) fn from_quoted_printable(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'=' {
            bytes.push(*byte);
            continue;
        }
        rest = match rest {
            [] => rest,
            [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] => rest,
            [high, low, rest @ ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                bytes.push(u8::try_from(digit(high)? << 4 | digit(low)?).ok()?);
                rest
            }
            _ => return None,
        };
    }
    Some(bytes)
}
