//! Reading JSON a value at a time.
//!
//! Texts are bytes here: lone surrogates stand for bytes that are not UTF-8, which general JSON libraries refuse.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Arrays and objects nest no deeper than this: two levels of JSON for each level of messages, and some.
const MAX_DEPTH: usize = 2 * super::MAX_DEPTH + 16;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A whole number; CRIU has no others.
    Number(i128),
    Text(Vec<u8>),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// What the value is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// A stream of JSON.
pub(super) struct Parser<R> {
    input: BufReader<R>,
    name: PathBuf,
    at: u64,
}

type Parsed<T> = Result<T, Error>;

impl<R: Read> Parser<R> {
    pub(super) fn new(name: PathBuf, input: R) -> Self {
        Self {
            input: BufReader::with_capacity(1 << 16, input),
            name,
            at: 0,
        }
    }

    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// An error at the place that was reached.
    pub(super) fn error<T>(&self, what: impl Into<String>) -> Parsed<T> {
        Err(Error::at(
            &self.name,
            usize::try_from(self.at).unwrap_or(usize::MAX),
            what,
        ))
    }

    fn peek(&mut self) -> Parsed<Option<u8>> {
        match self.input.fill_buf() {
            Ok(bytes) => Ok(bytes.first().copied()),
            Err(error) => Err(Error::io(&self.name, "it cannot be read", error)),
        }
    }

    fn bump(&mut self) {
        self.input.consume(1);
        self.at += 1;
    }

    fn next_byte(&mut self) -> Parsed<u8> {
        match self.peek()? {
            Some(byte) => {
                self.bump();
                Ok(byte)
            }
            None => self.error("the JSON ends too early"),
        }
    }

    /// The next byte that is no white space.
    pub(super) fn token(&mut self) -> Parsed<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.bump(),
                other => return Ok(other),
            }
        }
    }

    /// Takes this sign, or tells what is there instead.
    pub(super) fn expect(&mut self, sign: u8) -> Parsed<()> {
        match self.token()? {
            Some(found) if found == sign => {
                self.bump();
                Ok(())
            }
            Some(found) => self.error(format!(
                "expected '{}', found '{}'",
                char::from(sign),
                char::from(found).escape_default()
            )),
            None => self.error(format!("expected '{}', the JSON ends", char::from(sign))),
        }
    }

    /// Takes a comma, or the closing bracket; tells whether there is one more.
    pub(super) fn more(&mut self, close: u8, first: bool) -> Parsed<bool> {
        match self.token()? {
            Some(found) if found == close => {
                self.bump();
                Ok(false)
            }
            Some(_) if first => Ok(true),
            _ => {
                self.expect(b',')?;
                Ok(true)
            }
        }
    }

    /// A member's name and its colon.
    pub(super) fn key(&mut self) -> Parsed<String> {
        if self.token()? != Some(b'"') {
            return self.error("expected a name in quotes");
        }
        let text = self.text()?;
        self.expect(b':')?;
        match String::from_utf8(text) {
            Ok(text) => Ok(text),
            Err(_) => self.error("a name is not UTF-8"),
        }
    }

    /// A whole value.
    pub(super) fn value(&mut self) -> Parsed<Value> {
        self.nested(0)
    }

    fn nested(&mut self, depth: usize) -> Parsed<Value> {
        if depth > MAX_DEPTH {
            return self.error(format!("the JSON nests deeper than {MAX_DEPTH}"));
        }
        match self.token()? {
            Some(b'{') => {
                self.bump();
                let mut members = Vec::new();
                while self.more(b'}', members.is_empty())? {
                    let key = self.key()?;
                    members.push((key, self.nested(depth + 1)?));
                }
                Ok(Value::Object(members))
            }
            Some(b'[') => {
                self.bump();
                let mut items = Vec::new();
                while self.more(b']', items.is_empty())? {
                    items.push(self.nested(depth + 1)?);
                }
                Ok(Value::Array(items))
            }
            Some(b'"') => self.text().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'a'..=b'z') => self.word(),
            Some(other) => self.error(format!(
                "expected a value, found '{}'",
                char::from(other).escape_default()
            )),
            None => self.error("expected a value, the JSON ends"),
        }
    }

    fn number(&mut self) -> Parsed<Value> {
        let text =
            self.run(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))?;
        match text.parse() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => self.error(format!("{text} is not a whole number")),
        }
    }

    fn word(&mut self) -> Parsed<Value> {
        let text = self.run(|byte| byte.is_ascii_lowercase())?;
        match text.as_str() {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            other => self.error(format!("{other} is no JSON value")),
        }
    }

    /// A run of such bytes; no word or number is long.
    fn run(&mut self, which: fn(u8) -> bool) -> Parsed<String> {
        let mut text = String::new();
        while let Some(byte) = self.peek()?.filter(|byte| which(*byte)) {
            self.bump();
            text.push(char::from(byte));
            if text.len() > 48 {
                return self.error(format!("{text}... is no JSON value"));
            }
        }
        Ok(text)
    }

    /// A text, from its opening quote on.
    fn text(&mut self) -> Parsed<Vec<u8>> {
        self.bump();
        let mut text = Vec::new();
        loop {
            // Up to the next sign that means something else than itself.
            let (plain, found) = {
                let bytes = match self.input.fill_buf() {
                    Ok(bytes) => bytes,
                    Err(error) => return Err(Error::io(&self.name, "it cannot be read", error)),
                };
                let plain = bytes
                    .iter()
                    .position(|byte| matches!(byte, b'"' | b'\\'))
                    .unwrap_or(bytes.len());
                text.extend_from_slice(&bytes[..plain]);
                (plain, bytes.get(plain).copied())
            };
            self.input.consume(plain);
            self.at += plain as u64;
            match found {
                Some(b'"') => {
                    self.bump();
                    return Ok(text);
                }
                Some(_) => self.escape(&mut text)?,
                None if plain == 0 => return self.error("a text has no end"),
                None => {}
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Parsed<()> {
        self.bump();
        let byte = match self.next_byte()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                let mut unit = self.unit()?;
                // A high surrogate is followed by a low one.
                while (0xd800..0xdc00).contains(&unit) {
                    if self.next_byte()? != b'\\' || self.next_byte()? != b'u' {
                        return self.error("a high surrogate stands alone");
                    }
                    let low = self.unit()?;
                    match char::decode_utf16([unit, low]).next() {
                        Some(Ok(c)) => {
                            text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                            return Ok(());
                        }
                        _ => {
                            unit = if (0xd800..0xdc00).contains(&low) {
                                low
                            } else {
                                0xdfff
                            }
                        }
                    }
                }
                match char::from_u32(u32::from(unit)) {
                    Some(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    None if (0xdc80..0xdd00).contains(&unit) => text.push(unit.to_le_bytes()[0]),
                    None => return self.error("a surrogate stands for no byte"),
                }
                return Ok(());
            }
            byte @ (b'"' | b'\\' | b'/') => byte,
            other => {
                return self.error(format!(
                    "\\{} is no escape",
                    char::from(other).escape_default()
                ));
            }
        };
        text.push(byte);
        Ok(())
    }

    fn unit(&mut self) -> Parsed<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let byte = self.next_byte()?;
            match char::from(byte)
                .to_digit(16)
                .and_then(|digit| u16::try_from(digit).ok())
            {
                Some(digit) => unit = unit << 4 | digit,
                None => return self.error("\\u needs four hexadecimal digits"),
            }
        }
        Ok(unit)
    }

    /// Checks that nothing follows.
    pub(super) fn end(&mut self) -> Parsed<()> {
        match self.token()? {
            None => Ok(()),
            Some(_) => self.error("something follows the JSON"),
        }
    }
}
