//! One suite, two drivers: what the core relies on must be true of the fake driver that the
//! simulation runs on and of the io_uring driver on this kernel, so that the fake is no kinder
//! than Linux.
//!
//! Each contract is a function over a [`Rig`]; the list at the end runs every contract against the
//! fake (calm, and with late and reordered completions), and against io_uring in every tier of
//! features that this kernel has.

mod contracts;
mod fake;
mod rig;
mod uring;

use contracts::*;

/// Declares every contract as a test per driver.
macro_rules! contracts {
    ($($contract:ident),+ $(,)?) => {
        mod on_the_fake_driver {
            $( #[test] fn $contract() { super::fake::everywhere(|rig| super::$contract(rig)); } )+
        }
        mod on_io_uring {
            $( #[test] fn $contract() { super::uring::everywhere(|rig| super::$contract(rig)); } )+
        }
    };
}

contracts! {
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

/// The kernels up to 6.12 with direct descriptors, which only the fake can be.
#[test]
fn an_old_kernel_holds_a_close_back_until_older_neighbours_have_ended() {
    fake::on_an_old_kernel(a_close_does_not_wait_for_neighbours_unless_the_kernel_is_old);
}
