//! What `restow install` and `restow uninstall` say.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::carry_out::Action;
use crate::output::visible;

/// What was done, or would be.
#[derive(Debug, Default)]
pub struct Report {
    /// Each path with what it is and what is done to it.
    pub paths: Vec<(String, String, Action)>,
    /// Services that have to be restarted before it counts.
    pub restart: Vec<String>,
    /// They have been restarted.
    pub restarted: bool,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Nothing was done.
    pub dry_run: bool,
}

impl Report {
    /// Notes a path.
    pub fn path(&mut self, path: &Path, what: &str, action: Action) {
        self.paths
            .push((path.display().to_string(), what.to_owned(), action));
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let paths = self
            .paths
            .iter()
            .map(|(path, what, action)| json!({ "path": path, "what": what, "action": action }));
        json!({
            "dry_run": self.dry_run,
            "paths": paths.collect::<Vec<_>>(),
            "restart": self.restart,
            "restarted": self.restarted,
            "notes": self.notes,
        })
    }

    /// For people; `done` is the last line.
    #[must_use]
    pub fn text(&self, done: &str) -> String {
        let mut text = String::new();
        let width = self.paths.iter().map(|(path, _, _)| path.chars().count());
        let width = width.max().unwrap_or(0);
        for (path, what, action) in &self.paths {
            let word = match action {
                Action::Keep => "is there",
                Action::Found => "was there",
                Action::Create => "create",
                Action::Replace => "replace",
                Action::Edit => "edit",
                Action::Remove => "remove",
            };
            let _ = writeln!(
                text,
                "{word:<9}  {:<width$}  {}",
                visible(path),
                visible(what)
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "note       {}", visible(note));
        }
        if !self.restart.is_empty() && !self.restarted {
            let names = self.restart.join(" ");
            let _ = writeln!(
                text,
                "note       nothing was restarted: `systemctl restart {names}` makes the configuration count (containers go on running)"
            );
        }
        let _ = writeln!(text, "{done}");
        text
    }
}
