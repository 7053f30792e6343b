//! The rules of `restow check` at a dump, on the container that still runs.
//!
//! What CRIU is certain to refuse ends the dump before CRIU starts, so that the container does not even stand still for it. A
//! rule that an option or a plugin of CRIU's could overrule does not: CRIU decides, and when it fails, what was found is
//! said beside its own words, with the process, the object and the way round.

use restow::check::{self, Circumstances, Finding, Rule};
use restow::finding::Severity;
use restow::host::journal::Journal;
use restow::host::live;
use restow::ids::HostPid;
use restow::policy::Policy;

/// No text has more findings than this; `restow check` lists them all.
const LISTED: usize = 8;

/// What was found before a dump that went on.
#[derive(Debug, Default)]
pub struct Precheck {
    blockers: Vec<String>,
}

impl Precheck {
    /// Looks at the tree below `init`, and notes what it finds.
    ///
    /// # Errors
    /// In words, when CRIU cannot dump it whatever its options are.
    pub fn run(init: HostPid, policy: &Policy, journal: &mut Journal) -> Result<Self, String> {
        let mut facts = match live::read(init) {
            Ok(facts) => facts,
            // CRIU may still be able to; if not, it will say why.
            Err(error) => {
                journal.line(format_args!("not checked: {error}"));
                return Ok(Self::default());
            }
        };
        facts.node = live::kernel();
        let policy = Some(policy.clone());
        let mut findings = check::check(&facts, &Circumstances { policy });
        // Told by one look it means nothing, and whoever froze the container meant it.
        findings.retain(|finding| finding.rule != Rule::Uninterruptible);
        for finding in findings.iter().take(LISTED) {
            journal.line(format_args!("{}: {finding}", finding.severity));
        }
        if findings.len() > LISTED {
            let more = findings.len() - LISTED;
            journal.line(format_args!(
                "and {more} more findings of restow check {init}"
            ));
        }
        let blockers: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker)
            .collect();
        let certain = blockers.iter().filter(|finding| finding.rule.certain());
        let certain: Vec<String> = certain.map(ToString::to_string).collect();
        if !certain.is_empty() {
            return Err(text("The checkpoint is not possible", &certain));
        }
        Ok(Self {
            blockers: blockers.iter().map(ToString::to_string).collect(),
        })
    }

    /// Why CRIU may have failed, when something was found.
    pub fn reason(&self) -> Option<String> {
        let said = "CRIU failed; what it cannot dump here";
        (!self.blockers.is_empty()).then(|| text(said, &self.blockers))
    }
}

fn text(what: &str, findings: &[String]) -> String {
    let shown = findings[..findings.len().min(LISTED)].join("; ");
    match findings.len().saturating_sub(LISTED) {
        0 => format!("{what}: {shown}"),
        more => format!("{what}: {shown}; and {more} more"),
    }
}
