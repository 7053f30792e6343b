//! `restow criu` is criu: its options, exit codes and messages, and what the user has of his own.

mod calls;
mod faults;
mod options;
mod running;

use faults::{
    a_criu_that_is_killed_leaves_nothing, a_restore_that_fails_leaves_nothing,
    a_tree_that_is_not_as_planned_does_not_run,
};
use options::{the_options_are_those_of_criu, wrong_calls_are_answered_by_criu};
use restow_integration::on_both_suites;
use running::{
    a_checkpoint_of_criu_alone_is_restored, a_foreground_restore_is_criu_until_the_tree_ends,
    a_tree_can_be_dumped_and_goes_on, a_tree_on_a_terminal_goes_on_on_another,
    cgroups_are_criu_s_when_the_user_says_so, scripts_and_descriptors_of_the_user_work_beside_ours,
    the_interposer_before_criu_is_no_hindrance,
};

on_both_suites!(
    the_options_are_those_of_criu,
    wrong_calls_are_answered_by_criu,
    a_tree_can_be_dumped_and_goes_on,
    a_foreground_restore_is_criu_until_the_tree_ends,
    a_tree_on_a_terminal_goes_on_on_another,
    scripts_and_descriptors_of_the_user_work_beside_ours,
    a_restore_that_fails_leaves_nothing,
    a_criu_that_is_killed_leaves_nothing,
    a_tree_that_is_not_as_planned_does_not_run,
    a_checkpoint_of_criu_alone_is_restored,
    cgroups_are_criu_s_when_the_user_says_so,
    the_interposer_before_criu_is_no_hindrance,
);
