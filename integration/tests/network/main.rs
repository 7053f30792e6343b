//! Sockets: where they listen after a move, and what becomes of connections.

mod connections;
mod listening;
mod locks;
mod place;

use connections::{
    network_2_connections_to_the_outside_are_kept, network_2_connections_to_the_outside_end,
    network_2_connections_to_the_outside_forbid_the_checkpoint,
    network_2_who_has_not_been_accepted_yet_is_no_obstacle,
    network_2_without_the_old_address_nothing_can_be_kept, network_3_connections_inside_survive,
    network_3_what_is_in_flight_inside_arrives,
};
use listening::{
    network_1_a_checkpoint_without_a_record_moves_too,
    network_1_listening_sockets_are_bound_to_the_new_pods_addresses,
    network_1_udp_sockets_stay_connected, network_1_unix_sockets_are_there_by_path_and_by_name,
    network_1_what_is_in_the_way_is_named,
};
use locks::{
    network_2_the_rest_of_the_pod_goes_on, network_2_the_source_goes_on_with_its_connections,
    network_3_a_dump_that_locked_with_nftables_moves_too, no_death_leaves_a_network_locked,
};
use restow_integration::on_both_suites;

on_both_suites!(
    network_1_listening_sockets_are_bound_to_the_new_pods_addresses,
    network_2_connections_to_the_outside_end,
    network_2_connections_to_the_outside_are_kept,
    network_2_without_the_old_address_nothing_can_be_kept,
    network_2_connections_to_the_outside_forbid_the_checkpoint,
    network_3_connections_inside_survive,
    network_3_what_is_in_flight_inside_arrives,
    network_2_the_rest_of_the_pod_goes_on,
    network_2_the_source_goes_on_with_its_connections,
    network_1_what_is_in_the_way_is_named,
    network_1_a_checkpoint_without_a_record_moves_too,
    network_1_unix_sockets_are_there_by_path_and_by_name,
    network_1_udp_sockets_stay_connected,
    network_2_who_has_not_been_accepted_yet_is_no_obstacle,
    network_3_a_dump_that_locked_with_nftables_moves_too,
    no_death_leaves_a_network_locked,
);
