//! Numbers of the benchmarks: samples, what can be said about a difference, and limits.
//!
//! Runs of two programs are interleaved, so that what disturbs the machine disturbs both. The difference of two programs is the
//! median of the differences within each round; how sure it is, its 95 % interval tells, which the sign test gives for any
//! distribution (order statistics of the differences).

use std::collections::hash_map::RandomState;
use std::fmt;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use criu_image::Image;
use serde::Serialize;

use crate::container::Checkpoint;
use crate::engine::Engine;
use crate::root::Root;
use crate::suite::Suite;

/// A whole number of ticks of any kernel: they tick 100, 250 or 1000 times a second.
const TICKS_MICROS: u64 = 20_000;

/// Waits for a random part of the kernel's tick. What is called when something else has just ended begins with a tick, and what waits for
/// the kernel ends with one: times would be multiples of it.
pub fn any_moment() {
    let random = RandomState::new().build_hasher().finish();
    thread::sleep(Duration::from_micros(random % TICKS_MICROS));
}

/// Measured values, in one unit.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// In the order in which they were measured.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The median; of an even number the mean of the middle two. Not a number when there are none.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The least value.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The greatest value.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// The value below which this part of all lies, between values in proportion.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "there are far fewer than 2^52 values, and the part is between 0 and 1"
    )]
    pub fn quantile(&self, part: f64) -> f64 {
        let sorted = self.sorted();
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let at = part * last as f64;
        let below = at.floor() as usize;
        let above = (below + 1).min(last);
        sorted[below] + (sorted[above] - sorted[below]) * (at - at.floor())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// What `self` is more than `base`, round by round.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&base.0)
                .map(|(own, base)| own - base)
                .collect(),
        )
    }

    /// The interval that has the median of what was sampled in it with at least 95 % confidence; `None` below six values, of which
    /// nothing can be said that surely.
    #[must_use]
    pub fn interval(&self) -> Option<(f64, f64)> {
        let sorted = self.sorted();
        let count = sorted.len();
        // With k values cut off at each end, the median is outside with twice the probability of at most k heads in `count` throws.
        let mut tail = 0.5_f64.powi(i32::try_from(count).ok()?);
        let mut term = tail;
        let mut cut = None;
        for k in 0..count {
            if 2.0 * tail > 0.05 {
                break;
            }
            cut = Some(k);
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            {
                term *= (count - k) as f64 / (k + 1) as f64;
            }
            tail += term;
        }
        let cut = cut?;
        Some((sorted[cut], sorted[count - 1 - cut]))
    }
}

/// How a measured value stands to a limit that it must not be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Not over it.
    Within,
    /// Not over it, but another series of runs may say otherwise.
    ProbablyWithin,
    /// Over it, but another series of runs may say otherwise.
    ProbablyOver,
    /// Over it.
    Over,
}

impl Standing {
    /// Of a value that has no uncertainty worth a word.
    #[must_use]
    pub fn of_value(value: f64, limit: f64) -> Self {
        if value <= limit {
            Self::Within
        } else {
            Self::Over
        }
    }

    /// Of the median of `sample`, with its interval.
    #[must_use]
    pub fn of(sample: &Sample, limit: f64) -> Self {
        let within = sample.median() <= limit;
        let sure = sample
            .interval()
            .is_some_and(|(low, high)| if within { high <= limit } else { low > limit });
        match (within, sure) {
            (true, true) => Self::Within,
            (true, false) => Self::ProbablyWithin,
            (false, false) => Self::ProbablyOver,
            (false, true) => Self::Over,
        }
    }

    /// Whether the limit is kept.
    #[must_use]
    pub fn held(self) -> bool {
        matches!(self, Self::Within | Self::ProbablyWithin)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Within => "within",
            Self::ProbablyWithin => "within (not sure)",
            Self::ProbablyOver => "over (not sure)",
            Self::Over => "over",
        })
    }
}

/// One line of a benchmark's result: something measured, and its limit.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What it is about.
    pub what: String,
    /// What was measured, with unit.
    pub measured: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The most it may be.
    pub limit: f64,
    /// How it stands.
    pub standing: Standing,
}

impl Line {
    /// A line about one value.
    #[must_use]
    pub fn of_value(
        what: impl Into<String>,
        measured: f64,
        unit: &'static str,
        limit: f64,
    ) -> Self {
        Self {
            what: what.into(),
            measured,
            unit,
            limit,
            standing: Standing::of_value(measured, limit),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<66} {:>10.2} {:<8} limit {:>6} {:<8} {}",
            self.what, self.measured, self.unit, self.limit, self.unit, self.standing
        )
    }
}

/// The suites to measure, all or the one that is wanted, with what nodes are made from.
///
/// # Errors
/// When a root file system cannot be made.
pub fn suites(wanted: Option<Suite>) -> Result<Vec<Suite>> {
    let mut suites = Suite::ALL.to_vec();
    suites.retain(|suite| wanted.is_none_or(|wanted| wanted == *suite));
    for suite in &suites {
        Root::build(*suite, &mut |step| eprintln!("{step}"))?;
    }
    Ok(suites)
}

/// How a benchmark ends: with success when its limits are kept.
#[must_use]
pub fn exit(held: Result<bool>) -> ExitCode {
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What CRIU measured of its own dump, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Freezing {
    /// Until the tree stood still: CRIU looks at once and then every 100 ms, so this is nearly nothing or a little over 100.
    pub freezing: f64,
    /// While it stood still.
    pub frozen: f64,
}

impl Freezing {
    /// Reads `stats-dump` (`stats.proto`: `dump_stats_entry.freezing_time` and `.frozen_time`, in microseconds).
    pub fn of(engine: &Engine, checkpoint: &Checkpoint) -> Result<Self> {
        let dirs = [&checkpoint.work, &checkpoint.images];
        let bytes = dirs
            .iter()
            .find_map(|dir| fs::read(engine.node().path(dir).join("stats-dump")).ok())
            .context("CRIU left no stats-dump")?;
        let image = Image::detect("stats-dump", bytes)?;
        let entry = image.only_record()?.message()?;
        let dump = entry
            .message(1)
            .ok()
            .flatten()
            .context("stats-dump has no dump in it")?;
        let field = |number| f64::from(dump.u32(number).unwrap_or(0)) / 1e3;
        Ok(Self {
            freezing: field(1),
            frozen: field(2),
        })
    }
}

/// A time in milliseconds.
#[must_use]
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample(values.to_vec())
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_the_two() {
        assert!((sample(&[4.0, 1.0, 3.0, 2.0]).median() - 2.5).abs() < 1e-9);
        assert!((sample(&[5.0, 1.0, 3.0]).median() - 3.0).abs() < 1e-9);
        assert!(sample(&[]).median().is_nan());
    }

    #[test]
    fn the_interval_of_twenty_is_the_sixth_to_the_fifteenth() {
        // The table of the sign test: 20 throws, 95 %, five cut off at each end.
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(sample(&values).interval(), Some((6.0, 15.0)));
        assert_eq!(sample(&values[..6]).interval(), Some((1.0, 6.0)));
        assert_eq!(sample(&values[..5]).interval(), None);
    }

    #[test]
    fn what_is_not_sure_says_so() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let values = sample(&values);
        assert_eq!(Standing::of(&values, 15.0), Standing::Within);
        assert_eq!(Standing::of(&values, 14.0), Standing::ProbablyWithin);
        assert_eq!(Standing::of(&values, 6.0), Standing::ProbablyOver);
        assert_eq!(Standing::of(&values, 5.0), Standing::Over);
    }

    #[test]
    fn differences_are_taken_round_by_round() {
        let over = sample(&[3.0, 103.0]).over(&sample(&[1.0, 100.0]));
        assert_eq!((over.min(), over.max()), (2.0, 3.0));
    }
}
