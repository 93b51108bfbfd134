//! What goes wrong between a server and its peers, on purpose: too few buffers, cut frames, resets, slow readers,
//! descriptors running out, stops in the middle of everything.
//!
//! Each test runs in a process of its own, so that it can count descriptors, threads and limits, and is written for
//! any engine: the list at the end of this file says which engines run it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod accepting;
mod bed;
mod closing;
mod cuts;
mod ends;
mod failures;
mod flights;
mod frames;
mod leases;
mod mail;
mod memory;
mod peers;
mod publishers;
mod pushes;
mod quiet;
mod replies;
mod resets;
mod runtimes;
mod scarce;
mod sends;
mod services;
mod sizes;
mod slots;
mod sources;
mod stopping;
mod tickets;
mod ticks;
mod timeouts;
mod turns;

macro_rules! tests {
    ($($module:ident { $($test:ident,)+ })+) => {
        /// With the ring engine.
        mod ring {
            $($(
                #[test]
                fn $test() {
                    let name = concat!("ring::", stringify!($test));
                    crate::bed::isolated(name, crate::bed::Engine::Ring, crate::$module::$test);
                }
            )+)+
        }

        /// With the portable engine.
        mod portable {
            $($(
                #[test]
                fn $test() {
                    let name = concat!("portable::", stringify!($test));
                    crate::bed::isolated(name, crate::bed::Engine::Portable, crate::$module::$test);
                }
            )+)+
        }
    };
}

tests! {
    sizes {
        the_smallest_ring_loses_nothing_and_keeps_the_order,
        a_burst_of_a_thousand_connections_shares_sixteen_buffers,
        a_full_socket_does_not_come_before_others,
        a_fast_sender_leaves_room_for_the_others,
    }
    cuts {
        a_frame_may_be_cut_anywhere,
        every_byte_may_come_alone,
        one_segment_may_hold_many_frames,
        a_frame_may_straddle_any_number_of_buffers,
        a_frame_may_be_larger_than_everything,
        segments_may_have_any_size,
    }
    leases {
        a_service_may_keep_more_frames_than_there_are_buffers,
        frames_may_be_dropped_on_another_thread,
        frames_may_outlive_their_worker,
    }
    ends {
        who_ends_its_side_is_answered_first,
        who_is_ended_by_the_server_gets_its_answer_and_no_reset,
        a_reset_costs_the_connection_that_was_reset,
        an_end_right_behind_data_is_noticed,
        a_storm_of_resets_leaves_nothing_behind,
        who_leaves_without_a_byte_is_forgotten,
    }
    sends {
        answers_that_are_sent_in_bits_stay_whole_and_in_order,
        an_answer_may_be_larger_than_the_outbox,
    }
    flights {
        more_sends_may_fail_than_completions_fit,
        sends_may_fail_in_another_order,
    }
    timeouts {
        a_reader_that_never_reads_is_cut,
        a_reader_that_reads_slowly_is_not_cut,
        a_frame_that_never_ends_is_cut,
        who_says_nothing_is_cut,
        nobody_is_cut_for_what_was_before,
        nobody_is_idle_from_the_start,
        a_name_may_have_an_idle_time_of_its_own,
        a_name_may_have_a_longest_frame_of_its_own,
        nobody_is_cut_for_what_held_the_worker_up,
        nobody_is_cut_for_a_call_in_the_same_turn,
        nobody_is_cut_before_all_have_been_looked_at,
    }
    publishers {
        readers_are_told_before_more_is_received,
        readers_see_the_order_in_which_several_workers_publish,
    }
    replies {
        they_are_sent_before_much_more_is_answered,
        they_are_sent_before_much_more_that_waits_is_answered,
    }
    turns {
        who_asks_for_much_that_is_slow_holds_up_nobody_else,
        many_who_ask_for_what_is_slow_share_a_turn,
        what_is_slow_may_follow_what_is_fast,
        what_came_before_a_reset_is_given_to_the_service,
        much_may_come_before_a_reset,
        many_may_reset_while_the_worker_is_busy,
        a_stop_waits_for_the_service_longer_than_for_the_peer,
    }
    memory {
        a_crowd_shares_the_buffers,
        a_worker_that_sleeps_has_told_what_it_holds,
        an_answer_that_memory_has_no_room_for_is_not_begun,
        who_sends_tiny_frames_holds_no_more_than_one_receive,
        buffers_take_no_memory_before_they_are_used,
        whoever_announces_much_and_sends_nothing_costs_nobody_else_a_connection,
        whoever_is_being_ended_in_a_large_frame_holds_nothing_of_it,
    }
    failures {
        a_start_that_fails_leaves_nothing_behind,
        an_engine_that_fails_on_one_worker_ends_the_others,
        a_failed_worker_does_not_hold_up_a_stop,
        services_may_panic_when_they_go,
    }
    runtimes {
        services_may_block_on_runtimes,
    }
    scarce {
        a_probe_names_the_lack_of_descriptors,
        a_start_names_the_lack_of_descriptors,
        what_is_watched_from_the_start_needs_no_descriptor_later,
        who_waits_when_the_server_stops_is_refused,
    }
    slots {
        no_answer_reaches_another_connection,
    }
    accepting {
        a_thousand_connections_are_dealt_evenly,
        each_listener_leads_to_its_own_service,
        above_the_limit_connections_wait_their_turn,
        a_name_at_its_limit_waits_alone,
        who_finds_no_room_stays_in_the_backlog,
        a_disabled_socket_turns_its_clients_away,
        descriptors_may_run_out,
        more_connections_may_wait_than_are_accepted_in_a_turn,
    }
    pushes {
        who_has_read_everything_is_not_behind,
        every_reader_gets_every_message_in_order,
        readers_may_leave_in_the_middle,
        a_reader_that_does_not_keep_up_is_closed,
        many_threads_may_push_at_once,
        what_was_pushed_before_the_end_is_delivered,
        who_reads_is_not_cut_for_what_is_pushed_behind_large_replies,
        who_reads_is_not_cut_for_what_is_pushed_among_deferred_answers,
        a_panic_costs_one_connection,
    }
    ticks {
        an_idle_worker_wakes_up_for_its_services,
    }
    sources {
        what_is_watched_is_read_in_order,
        what_is_always_readable_holds_up_nobody,
        a_start_that_fails_reads_nothing,
        what_panics_when_it_is_let_go_of_costs_nobody_else,
        an_idle_worker_looks_again_at_what_has_failed,
        what_is_silent_can_be_opened_again,
    }
    closing {
        another_worker_may_close_a_connection,
        other_threads_may_close_a_connection,
        who_reads_slowly_gets_what_was_queued_before_it_was_closed,
        a_stop_does_not_keep_a_connection_from_being_closed,
    }
    resets {
        who_takes_nothing_leaves_nothing_in_the_kernel,
        who_is_pushed_too_much_leaves_nothing_in_the_kernel,
        who_holds_too_much_leaves_nothing_in_the_kernel,
        who_is_pushed_too_much_at_once_is_reset_too,
        who_holds_too_much_of_a_frame_leaves_nothing_in_the_kernel,
        who_is_ended_and_takes_nothing_leaves_nothing_in_the_kernel,
        who_is_cut_leaves_nothing_in_the_kernel,
        what_the_kernel_has_at_an_end_is_delivered,
        what_the_kernel_has_at_a_stop_is_delivered,
    }
    peers {
        peers_on_unix_sockets_are_known,
    }
    mail {
        much_mail_does_not_come_before_connections,
        a_worker_that_answers_much_hears_others,
    }
    tickets {
        each_question_is_answered_once,
        who_goes_on_asking_during_a_stop_is_answered_until_the_one_before_is,
    }
    stopping {
        no_connection_is_lost_in_a_stop,
        no_connection_is_lost_between_two_workers,
        whoever_is_connected_sees_an_orderly_end,
        what_arrived_before_a_stop_is_answered,
        a_slow_reader_gets_the_rest_of_its_answer,
        a_reader_that_never_reads_does_not_hold_up_a_stop,
        a_half_received_frame_does_not_hold_up_a_stop,
        a_stop_may_meet_a_storm_of_resets,
        a_stop_waits_for_open_questions,
        questions_that_stay_open_are_abandoned,
    }
    quiet {
        work_that_is_done_costs_no_turns,
        whatever_is_waited_for_costs_no_turns,
        ends_cost_no_turns,
        urgent_data_does_no_harm,
    }
}
