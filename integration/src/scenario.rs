//! A scenario is run first without Restow, to show that it can fail, then with it.

use anyhow::{Context, Result, bail};

use crate::engine::{Engine, Mode, Runtime, Stack};
use crate::journey::Verdict;
use crate::node::{CgroupView, hierarchies};

/// What the distribution's runtime and CRIU make of a scenario on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// It fails, or gives something wrong, and one of these says that it is for the reason the scenario is about.
    Wrong(&'static [&'static str]),
    /// It is right already; Restow must not spoil it.
    Right,
}

/// What shows that cgroups are the old pod's, or nobody's: where the tasks are, and what the files are.
pub const OLD_CGROUP: &[&str] = &[
    "the cgroup of pod A has come back",
    "tasks are in the container's cgroup of pod B",
    "not pod B's",
    "Can't open file sys/fs/cgroup",
    "Can't open file host/cgroup",
    "Unable to open /sys/fs/cgroup",
];

/// Runs a scenario on `stack` in both modes, prints a line for each, and fails unless stock does what `stock` says and Restow is
/// right.
///
/// With `RESTOW_MODES=stock` in the environment only the stock side is run, and the output says so.
pub fn compare(
    name: &str,
    stack: Stack,
    stock: Stock,
    run: impl Fn(&Engine) -> Result<Verdict>,
) -> Result<()> {
    if stack.cgroup_view == CgroupView::Hybrid
        && !hierarchies()?
            .iter()
            .any(|hierarchy| hierarchy.v1.is_some())
    {
        println!(
            "{name} | {}: SKIPPED: this host has no cgroup version 1 hierarchies",
            stack.suite
        );
        return Ok(());
    }
    let stock_only = std::env::var("RESTOW_MODES").is_ok_and(|modes| modes == "stock");
    let mut faults = Vec::new();
    for mode in [Mode::Stock, Mode::Restow] {
        if mode == Mode::Restow && stock_only {
            println!("{name}: Restow NOT RUN (RESTOW_MODES=stock)");
            continue;
        }
        let engine = Engine::start(stack, mode)?;
        let versions = engine.versions()?;
        let view = if stack.cgroup_view == CgroupView::Hybrid {
            ", hybrid cgroups"
        } else {
            ""
        };
        let verdict = run(&engine)
            .with_context(|| format!("{name} on {} ({versions}{view}), {mode}", stack.suite))?;
        let (word, text) = match &verdict {
            Verdict::Right(text) => ("right", text),
            Verdict::Wrong(text) => ("WRONG", text),
        };
        println!(
            "{name} | {} ({versions}{view}) | {mode}: {word}: {text}",
            stack.suite
        );
        // What is written about the bare runtime is written about runc.
        let judged = mode == Mode::Restow || stack.runtime == Runtime::Runc;
        let fault = match (mode, &verdict, stock) {
            _ if !judged => None,
            (Mode::Restow, Verdict::Wrong(text), _) => Some(format!("wrong with Restow: {text}")),
            (Mode::Stock, Verdict::Right(_), Stock::Wrong(_)) => {
                Some("right without Restow, so this does not show anything".to_owned())
            }
            (Mode::Stock, Verdict::Wrong(text), Stock::Wrong(reasons))
                if !reasons.iter().any(|reason| text.contains(reason)) =>
            {
                Some(format!(
                    "wrong without Restow, but for another reason than {reasons:?}: {text}"
                ))
            }
            (Mode::Stock, Verdict::Wrong(text), Stock::Right) => Some(format!(
                "wrong without Restow, against what is written here: {text}"
            )),
            _ => None,
        };
        faults.extend(fault);
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("{name}: {}", faults.join("; "))
    }
}

/// Makes a test of each named scenario on both Debian suites. A scenario is a function of a [`crate::suite::Suite`].
#[macro_export]
macro_rules! on_both_suites {
    ($($scenario:ident),+ $(,)?) => {
        mod stable {
            $(#[test] fn $scenario() -> anyhow::Result<()> { super::$scenario($crate::suite::Suite::Stable) })+
        }
        mod testing {
            $(#[test] fn $scenario() -> anyhow::Result<()> { super::$scenario($crate::suite::Suite::Testing) })+
        }
    };
}
