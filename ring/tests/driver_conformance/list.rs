//! Every contract, as tests of one driver.

/// Declares each contract as a test, which `$everywhere` runs against a driver in all its variants.
macro_rules! test_contracts_on {
    ($everywhere:path) => {
        test_contracts_on! {
            $everywhere;
            accepts_go_to_the_chosen_slots,
            clients_that_wait_are_counted,
            a_cancelled_accept_leaves_its_slot_free,
            an_accept_into_an_occupied_slot_replaces_the_socket_silently,
            nothing_there_is_said_at_once,
            a_full_socket_takes_a_part_then_nothing_then_more,
            a_poll_reports_bytes_that_are_there_already,
            the_peers_end_is_reported_by_poll_and_receive,
            an_end_is_awaited_past_unread_bytes,
            a_reset_is_reported_by_poll_receive_and_send,
            an_armed_poll_ends_by_itself_when_the_peer_resets,
            a_shutdown_ends_one_direction,
            what_was_sent_before_a_close_arrives,
            a_close_with_unread_input_resets,
            data_for_a_closed_socket_breaks_the_connection,
            close_while_armed_sends_no_end_until_the_op_ends,
            a_close_does_not_wait_for_neighbours_unless_the_kernel_is_old,
            a_cancel_that_races_success_loses_nothing,
            a_cancel_of_nothing_says_so,
            a_cancel_hits_its_target_alone,
            ops_of_one_socket_take_effect_in_order,
            ops_on_an_empty_slot_fail_without_harm,
            a_block_in_the_kernel_is_out_of_reach,
            links_connect_carry_bytes_and_end,
            a_refused_connect_says_so,
            a_connect_to_nowhere_can_be_cancelled,
            the_waker_ends_a_wait_and_counts_once,
            slots_are_started_ring_by_ring,
        }
    };
    ($everywhere:path; $($contract:ident),+ $(,)?) => {
        $( #[test] fn $contract() { $everywhere(|rig| crate::contracts::$contract(rig)); } )+
    };
}
