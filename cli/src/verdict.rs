//! Exit codes of the commands that answer a question: can this be moved?

use std::process::ExitCode;

use restow::finding::Severity;

/// Yes.
const YES: u8 = 0;
/// Yes, with warnings.
const WARNINGS: u8 = 1;
/// No. The numbers between are those of failed commands.
const NO: u8 = 5;

/// The exit code that says how severe the worst finding is.
#[must_use]
pub fn exit_code(worst: Option<Severity>) -> ExitCode {
    ExitCode::from(match worst {
        Some(Severity::Blocker) => NO,
        Some(Severity::Warning) => WARNINGS,
        Some(Severity::Note) | None => YES,
    })
}
