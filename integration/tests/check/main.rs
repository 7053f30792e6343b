//! `restow check` on running containers, and the real dump after it: what it calls a blocker CRIU refuses, what it says
//! nothing about CRIU dumps, and what needs an option works with it.

mod asked;
mod moves;
mod objects;
mod trees;

use moves::{
    check_what_criu_keeps_is_no_finding, check_what_is_no_finding_can_be_restored_elsewhere,
    check_what_restow_takes_care_of_is_no_blocker,
};
use objects::{
    check_connections, check_files, check_kernel_objects_that_criu_refuses, check_processes,
    check_sockets,
};
use restow_integration::on_both_suites;
use trees::{
    check_a_tree_that_changes_all_the_time, check_process_trees_without_a_container,
    check_says_why_it_cannot_look,
};

on_both_suites!(
    check_kernel_objects_that_criu_refuses,
    check_files,
    check_sockets,
    check_connections,
    check_processes,
    check_what_criu_keeps_is_no_finding,
    check_what_is_no_finding_can_be_restored_elsewhere,
    check_what_restow_takes_care_of_is_no_blocker,
    check_a_tree_that_changes_all_the_time,
    check_process_trees_without_a_container,
    check_says_why_it_cannot_look,
);
