//! Every cause that `restow explain` knows, provoked on a node with the real criu and explained from the log it wrote.
//!
//! A provocation is a snag (a small program that has one thing), a checkpoint or a restore, and what goes wrong in between; its log has to
//! be explained by the cause's name and the object's.

mod containers;
mod dump;
mod images;
mod lab;
mod mounts;
mod restore;
mod surroundings;

use std::collections::BTreeSet;

use anyhow::Result;
use containers::{
    a_criu_that_cannot_start_is_told_in_words, a_criu_that_is_killed_is_told_in_words,
    a_failed_checkpoint_says_why, a_failed_restore_says_why,
};
use lab::{Lab, Provocation};
use restow_integration::on_both_suites;
use restow_integration::suite::Suite;

on_both_suites!(
    dumps_that_fail,
    restores_that_fail,
    images_that_are_damaged,
    mounts_that_do_not_fit,
    surroundings_that_lack_something,
    a_failed_checkpoint_says_why,
    a_failed_restore_says_why,
    a_criu_that_is_killed_is_told_in_words,
    a_criu_that_cannot_start_is_told_in_words,
);

fn dumps_that_fail(suite: Suite) -> Result<()> {
    Lab::start(suite)?.try_all(dump::ALL)
}

fn restores_that_fail(suite: Suite) -> Result<()> {
    Lab::start(suite)?.try_all(restore::ALL)
}

fn images_that_are_damaged(suite: Suite) -> Result<()> {
    Lab::start(suite)?.try_all(images::ALL)
}

fn mounts_that_do_not_fit(suite: Suite) -> Result<()> {
    Lab::start(suite)?.try_all(mounts::ALL)
}

fn surroundings_that_lack_something(suite: Suite) -> Result<()> {
    Lab::start(suite)?.try_all(surroundings::ALL)
}

fn all() -> impl Iterator<Item = &'static Provocation> {
    [
        dump::ALL,
        restore::ALL,
        images::ALL,
        mounts::ALL,
        surroundings::ALL,
    ]
    .into_iter()
    .flatten()
}

/// Causes that are in the table for CRIU's source, and why no provocation is here.
const NOT_PROVOKED: &[(&str, &str)] = &[
    (
        "restow-refused",
        "Restow's own words, in the tests of its refusals",
    ),
    (
        "runtime-said-no",
        "CRIU's words for a veto, in the tests of Restow's verification",
    ),
];

#[test]
fn every_cause_is_provoked() {
    let provoked: BTreeSet<&str> = all().map(|provocation| provocation.cause).collect();
    let known: BTreeSet<&str> = restow::explain::all()
        .map(|(_, cause)| cause.name)
        .collect();
    let excused: BTreeSet<&str> = NOT_PROVOKED.iter().map(|(cause, _)| *cause).collect();
    assert!(
        provoked.is_subset(&known) && excused.is_subset(&known),
        "Not in the table: {:?}",
        provoked
            .union(&excused)
            .filter(|name| !known.contains(*name))
            .collect::<Vec<_>>()
    );
    let missing: Vec<_> = known
        .iter()
        .filter(|name| !provoked.contains(*name) && !excused.contains(*name))
        .collect();
    assert!(
        missing.is_empty(),
        "Neither provoked nor excused: {missing:?}"
    );
    assert!(provoked.is_disjoint(&excused), "Both provoked and excused");
    assert!(
        provoked.len() >= 40,
        "{} causes are provoked",
        provoked.len()
    );
    println!("{} of {} causes are provoked", provoked.len(), known.len());
}
