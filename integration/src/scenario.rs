//! A scenario is run first without Restow, to show that it can fail, then with it.

use std::env;

use anyhow::{Context, Result, bail};

use crate::engine::{Engine, Manager, Mode, Runtime, Stack};
use crate::journey::Verdict;
use crate::kubelet::NotInPods;
use crate::node::{CgroupView, hierarchies};
use crate::record::{Entry, Outcome};
use crate::suite::Suite;

/// What the distribution's runtime and CRIU make of a scenario on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// It fails, or gives something wrong, and one of these says that it is for the reason the scenario is about.
    Wrong(&'static [&'static str]),
    /// It is right already; Restow must not spoil it.
    Right,
}

impl Stock {
    /// The same of runc, and `crun` of crun.
    #[must_use]
    pub fn crun(self, crun: Stock) -> Expectation {
        Expectation {
            runc: self,
            crun: Some(crun),
        }
    }
}

/// What the bare runtimes make of a scenario. A [`Stock`] alone is what runc does; crun is then not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    runc: Stock,
    crun: Option<Stock>,
}

impl Expectation {
    /// What is said of the runtime of `stack`.
    ///
    /// Nothing is said of pods: what bare runtimes do is judged without a manager, where nothing else can be the reason.
    fn of(self, stack: Stack) -> Option<Stock> {
        if stack.manager == Manager::Containerd {
            return None;
        }
        match stack.runtime {
            Runtime::Runc => Some(self.runc),
            Runtime::Crun => self.crun,
        }
    }

    /// The first reason that is found in what stock did.
    fn reason(self, stack: Stack, text: &str) -> Option<&'static str> {
        if stack.runtime == Runtime::Crun
            && stack.suite == Suite::Testing
            && text.contains(CRUN_1_28_MASKED)
        {
            return Some(CRUN_1_28_MASKED);
        }
        // Where nothing is said of crun, what shows runc's fault shows the same one of crun's.
        match self.of(stack).unwrap_or(self.runc) {
            Stock::Wrong(reasons) => reasons
                .iter()
                .find(|reason| text.contains(**reason))
                .copied(),
            Stock::Right => None,
        }
    }
}

impl From<Stock> for Expectation {
    fn from(runc: Stock) -> Self {
        Self { runc, crun: None }
    }
}

/// What shows that cgroups are the old pod's, or nobody's: where the tasks are, and what the files are.
pub const OLD_CGROUP: &[&str] = &[
    "the cgroup of pod A has come back",
    "tasks are in the container's cgroup of pod B",
    "tasks are in the container's own cgroup of pod B",
    "tasks are in the sub-cgroup of pod B",
    "service/worker/cgroup.procs: No such file",
    "service/worker/cgroup.events: No such file",
    "service/idle/cgroup.events: No such file",
    "not pod B's",
    "Can't open file sys/fs/cgroup",
    "Can't open file host/",
    "Unable to open /sys/fs/cgroup",
];

/// What is right since the runtime passes CRIU the new cgroup: crun does, runc does since 1.2; before, everything lands in the old pod's.
#[must_use]
pub fn fixed_by_runc_1_2(suite: Suite) -> Expectation {
    match suite {
        Suite::Stable => Stock::Wrong(OLD_CGROUP).crun(Stock::Right),
        Suite::Testing => Stock::Right.crun(Stock::Right),
    }
}

/// What bare crun 1.28 says of every container with masked paths: it mounts one empty directory over those that are directories,
/// and does not name it to CRIU at the restore.
const CRUN_1_28_MASKED: &str = "(null) mountpoint";

/// Why containerd 1.7 is not run with its own shim: it answers no call that could ask for a restore (`CheckpointContainer` came with 2.0,
/// the restore by `CreateContainer` with 2.1).
pub const NO_RESTORE: &str = "containerd 1.7 has no restore of a pod's container";

/// Runs a scenario on `stack` in both modes, prints and records a line for each, and fails unless stock does what `stock` says
/// and Restow is right.
///
/// `name` is a scenario of [`crate::scenarios`], with its case if it has several. With `RESTOW_MODES=stock` or `RESTOW_MODES=restow` in the
/// environment only that side is run, and the output says so.
pub fn compare(
    name: &str,
    stack: Stack,
    stock: impl Into<Expectation>,
    run: impl Fn(&Engine) -> Result<Verdict>,
) -> Result<()> {
    let stock = stock.into();
    if stack.cgroup_view == CgroupView::Hybrid
        && !hierarchies()?
            .iter()
            .any(|hierarchy| hierarchy.v1.is_some())
    {
        return skip(name, stack, "this host has no cgroup version 1 hierarchies");
    }
    let only = env::var("RESTOW_MODES").unwrap_or_default();
    let no_restore = stack.manager == Manager::Containerd && stack.suite == Suite::Stable;
    let mut faults = Vec::new();
    for mode in [Mode::Stock, Mode::Restow] {
        if !only.is_empty() && only != mode.word() {
            println!("{name}: {mode} NOT RUN (RESTOW_MODES={only})");
            continue;
        }
        if mode == Mode::Stock && no_restore {
            println!(
                "{name} | {} | {mode}: no restore: {NO_RESTORE}",
                stack.suite
            );
            let outcome = Outcome::NoRestore(NO_RESTORE.to_owned());
            Entry::new(name, stack, mode, "", outcome).keep()?;
            continue;
        }
        let verdict = run_once(name, stack, mode, stock, &run)?;
        faults.extend(match mode {
            Mode::Stock => judge_stock(stack, stock, &verdict),
            Mode::Restow => match verdict {
                Verdict::Wrong(text) => Some(format!("wrong with Restow: {text}")),
                Verdict::Right(_) => None,
            },
        });
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("{name}: {}", faults.join("; "))
    }
}

/// Says and records that a scenario cannot be run on this host or this stack.
pub fn skip(name: &str, stack: Stack, why: &str) -> Result<()> {
    println!("{name} | {}: SKIPPED: {why}", stack.suite);
    [Mode::Stock, Mode::Restow]
        .into_iter()
        .try_for_each(|mode| {
            Entry::new(name, stack, mode, "", Outcome::Skipped(why.to_owned())).keep()
        })
}

/// Runs a scenario in one mode, prints and records what became of it.
fn run_once(
    name: &str,
    stack: Stack,
    mode: Mode,
    stock: Expectation,
    run: impl Fn(&Engine) -> Result<Verdict>,
) -> Result<Verdict> {
    let engine = Engine::start(stack, mode)?;
    let versions = engine.versions()?;
    let keep = |outcome, known: Option<&str>| {
        let mut entry = Entry::new(name, stack, mode, &versions, outcome);
        entry.known = known.map(str::to_owned);
        entry.keep()
    };
    let view = if stack.cgroup_view == CgroupView::Hybrid {
        ", hybrid cgroups"
    } else {
        ""
    };
    let verdict = match run(&engine) {
        Ok(verdict) => verdict,
        Err(error) if error.is::<NotInPods>() => {
            println!(
                "{name} | {} ({versions}{view}) | {mode}: SKIPPED: {error}",
                stack.suite
            );
            keep(Outcome::Skipped(error.to_string()), None)?;
            return Ok(Verdict::Right(String::new()));
        }
        Err(error) => {
            keep(Outcome::Broken(format!("{error:#}")), None)?;
            return Err(error)
                .with_context(|| format!("{name} on {} ({versions}{view}), {mode}", stack.suite));
        }
    };
    let (word, text, outcome) = match &verdict {
        Verdict::Right(text) => ("right", text, Outcome::Right(text.clone())),
        Verdict::Wrong(text) => ("WRONG", text, Outcome::Wrong(text.clone())),
    };
    println!(
        "{name} | {} ({versions}{view}) | {mode}: {word}: {text}",
        stack.suite
    );
    let known = stock.reason(stack, text).filter(|_| mode == Mode::Stock);
    keep(outcome, known)?;
    Ok(verdict)
}

/// What is wrong with what stock did, if it did not what is said of it.
fn judge_stock(stack: Stack, stock: Expectation, verdict: &Verdict) -> Option<String> {
    let expected = stock.of(stack)?;
    match (verdict, expected) {
        (Verdict::Right(_), Stock::Right) => None,
        (Verdict::Right(_), Stock::Wrong(_)) => {
            Some("right without Restow, so this does not show anything".to_owned())
        }
        (Verdict::Wrong(text), _) if stock.reason(stack, text).is_some() => None,
        (Verdict::Wrong(text), Stock::Wrong(reasons)) => Some(format!(
            "wrong without Restow, but for another reason than {reasons:?}: {text}"
        )),
        (Verdict::Wrong(text), Stock::Right) => Some(format!(
            "wrong without Restow, against what is written here: {text}"
        )),
    }
}

/// Makes a test of each named scenario on both Debian suites. A scenario is a function of a [`crate::suite::Suite`].
#[macro_export]
macro_rules! on_both_suites {
    ($($scenario:ident),+ $(,)?) => {
        mod stable {
            $(#[test] fn $scenario() -> anyhow::Result<()> {
                $crate::limit::within(stringify!($scenario), || super::$scenario($crate::suite::Suite::Stable))
            })+
        }
        mod testing {
            $(#[test] fn $scenario() -> anyhow::Result<()> {
                $crate::limit::within(stringify!($scenario), || super::$scenario($crate::suite::Suite::Testing))
            })+
        }
    };
}
