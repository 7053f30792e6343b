//! What is going on, for who waits: a moving line on a terminal, nothing elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the line moves. A person sees no more.
const TICK: Duration = Duration::from_millis(100);

/// Progress of one move. Dropped, its line vanishes.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts it; `quiet` shows nothing.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// What is done now.
    pub fn step(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// How much of `what` is done, in bytes.
    pub fn bytes(&self, what: &str, bytes: u64) {
        if !self.0.is_hidden() {
            self.0
                .set_message(format!("{what}: {}", crate::output::size(bytes)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
