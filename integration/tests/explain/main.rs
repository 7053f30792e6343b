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
    a_failed_checkpoint_says_why, a_failed_restore_says_why, a_refusal_and_a_veto_are_told_as_such,
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
    a_refusal_and_a_veto_are_told_as_such,
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

#[test]
fn every_cause_is_provoked() {
    let benched = all().map(|provocation| provocation.cause);
    let provoked: BTreeSet<&str> = benched.chain(containers::CAUSES).collect();
    let known: BTreeSet<&str> = restow::explain::all()
        .map(|(_, cause)| cause.name)
        .collect();
    let invented: Vec<_> = provoked.difference(&known).collect();
    assert!(invented.is_empty(), "Not in the table: {invented:?}");
    let missing: Vec<_> = known.difference(&provoked).collect();
    assert!(missing.is_empty(), "Not provoked: {missing:?}");
    assert!(
        provoked.len() >= 40,
        "{} causes are provoked",
        provoked.len()
    );
    println!("{} causes are provoked", provoked.len());
}
