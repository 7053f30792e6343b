//! What a program took, as `probe time` and `probe shim` write it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Measured by the process that called the program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Took {
    /// From its start to its end, in milliseconds.
    pub wall: f64,
    /// What processors worked for it and for what it waited for, in milliseconds.
    pub processor: f64,
}

impl Took {
    /// Reads what the probe wrote.
    ///
    /// # Errors
    /// When it has not written that.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("Read {}", file.display()))?;
        let mut microseconds = text.split_whitespace().map(str::parse::<f64>);
        let mut next = || microseconds.next()?.ok().map(|number| number / 1e3);
        next()
            .zip(next())
            .map(|(wall, processor)| Self { wall, processor })
            .with_context(|| format!("{} does not hold two numbers: {text:?}", file.display()))
    }
}
