//! Schedules to the millisecond, each by its name: see `synod_sim::schedules`.

use synod_sim::schedules;

/// A test for each schedule.
macro_rules! tests {
    ($($name:ident,)+) => {
        $(#[test]
        fn $name() {
            let named = |of: &&schedules::Schedule| of.name == stringify!($name);
            (schedules::all().find(named).expect("a schedule has this name").run)();
        })+

        #[test]
        fn every_schedule_has_a_test_of_its_name() {
            let tests = [$(stringify!($name)),+];
            let without: Vec<_> = schedules::all().map(|of| of.name).filter(|name| !tests.contains(name)).collect();
            assert!(without.is_empty(), "{without:?}");
        }
    };
}

tests! {
    a_lease_counts_from_when_heartbeats_were_sent,
    a_lease_read_asks_nobody,
    a_follower_reads_at_its_leaders_point,
    a_lease_lapses_before_its_voters_elect_another,
    a_lease_ends_before_voters_whose_clocks_run_fast_elect,
    a_stale_leader_reads_nothing_by_its_lease,
    a_voter_that_restarts_promises_nobody_at_once,
    a_binding_in_a_lapsed_epoch_makes_no_lease,
    a_transfer_that_fails_leaves_no_lease,
    a_transfer_hands_over_and_loses_nothing,
    a_round_that_was_asked_before_a_read_does_not_confirm_it,
    a_vote_is_never_in_the_log_without_its_group,
    what_waits_for_longer_than_queue_ms_max_is_refused,
    a_large_entry_is_put_together_without_the_clock,
    a_group_moves_whole_or_not_at_all,
    a_guest_ends_whole_or_not_at_all,
    a_voter_that_moves_stays_bound,
    no_ballot_is_begun_again_after_a_power_cut,
    a_change_of_voters_waits_for_what_was_proposed_before_it,
    one_who_knows_older_voters_is_promised_nothing,
    a_node_that_is_introduced_under_load_becomes_a_voter,
    introductions_reach_who_was_away_and_one_of_them_counts,
    what_the_log_counts_on_a_checkpoint_for_is_in_it,
    checkpoint_and_log_join_after_a_restart,
    who_lacks_a_state_lets_others_lead,
    a_frame_in_anothers_place_is_damage,
    every_proposal_is_answered,
    slots_hold_no_more_entries_than_they_may,
    followers_of_a_busy_group_learn_what_all_have,
    a_voter_that_is_waited_for_hurries,
    a_laggard_of_a_quiet_cluster_does_not_wait,
    a_laggard_gains_on_a_busy_group,
    who_has_applied_something_else_than_most_ends,
    idle_groups_cost_no_message,
    elections_of_many_groups_do_not_flood_a_slow_peer,
    elections_of_many_groups_share_frames,
    groups_go_home_in_growing_numbers,
    a_leader_stays_while_its_connections_stand_still,
    a_leader_is_lost_behind_connections_that_stand_still,
    a_lane_ends_with_its_connection,
    datagrams_of_an_older_connection_change_nothing,
    without_answers_heartbeats_go_over_the_connections,
    a_node_without_datagrams_is_spoken_to_over_its_connections,
    no_disorder_of_datagrams_makes_a_lease_longer,
}
