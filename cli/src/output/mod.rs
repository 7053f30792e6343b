//! Tables for people, JSON for programs.

mod table;

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

pub use table::{Align, Column, Table};

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether to use colours.
    pub colour: bool,
    /// Width of the terminal in columns; `None` when the output is no terminal, which has no bound.
    pub width: Option<usize>,
}

/// When to use colours
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Style {
    /// As the terminal and the environment ask for.
    #[must_use]
    pub fn new(colour: Colour) -> Self {
        let terminal = io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && !dumb && !set("NO_COLOR"),
        };
        let size = terminal.then(terminal_size::terminal_size).flatten();
        Self {
            colour,
            width: size.map(|(width, _)| usize::from(width.0)),
        }
    }

    /// Text that stands out: bold.
    #[must_use]
    pub fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Text in a colour, by its number in terminals: 31 is red, 32 green, 33 yellow.
    #[must_use]
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Text from an image, with control characters made visible: they could drive the terminal.
#[must_use]
pub fn visible(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// Bytes from an image as visible text.
#[must_use]
pub fn visible_bytes(bytes: &[u8]) -> String {
    visible(&String::from_utf8_lossy(bytes))
}

/// Writes JSON for a program, indented.
pub fn json(value: &Value) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes a text.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A size as people read it.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut whole, mut unit) = (bytes, 0);
    while whole >= 1024 * 1024 && unit + 1 < UNITS.len() {
        whole /= 1024;
        unit += 1;
    }
    format!(
        "{}.{} {}",
        whole / 1024,
        whole % 1024 * 10 / 1024,
        UNITS[unit]
    )
}
