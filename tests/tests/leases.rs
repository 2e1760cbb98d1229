//! Leases, read points and transfers on schedules of their own: see `synod_sim::leases`.

use synod_sim::leases::SCHEDULES;

#[test]
fn a_lease_counts_from_when_heartbeats_were_sent() {
    check("a_lease_counts_from_when_heartbeats_were_sent");
}

#[test]
fn a_lease_read_asks_nobody() {
    check("a_lease_read_asks_nobody");
}

#[test]
fn a_follower_reads_at_its_leaders_point() {
    check("a_follower_reads_at_its_leaders_point");
}

#[test]
fn a_lease_lapses_before_its_voters_elect_another() {
    check("a_lease_lapses_before_its_voters_elect_another");
}

#[test]
fn a_stale_leader_reads_nothing_by_its_lease() {
    check("a_stale_leader_reads_nothing_by_its_lease");
}

#[test]
fn a_voter_that_restarts_promises_nobody_at_once() {
    check("a_voter_that_restarts_promises_nobody_at_once");
}

#[test]
fn a_binding_in_a_lapsed_epoch_makes_no_lease() {
    check("a_binding_in_a_lapsed_epoch_makes_no_lease");
}

#[test]
fn a_transfer_that_fails_leaves_no_lease() {
    check("a_transfer_that_fails_leaves_no_lease");
}

#[test]
fn a_transfer_hands_over_and_loses_nothing() {
    check("a_transfer_hands_over_and_loses_nothing");
}

#[test]
fn a_round_that_was_asked_before_a_read_does_not_confirm_it() {
    check("a_round_that_was_asked_before_a_read_does_not_confirm_it");
}

#[test]
fn every_schedule_has_a_test_of_its_name() {
    let tests = include_str!("leases.rs");
    assert!(SCHEDULES.iter().all(|(name, _)| tests.contains(&format!("fn {name}()"))));
}

fn check(name: &str) {
    let (_, run) = SCHEDULES.iter().find(|(of, _)| *of == name).expect("a schedule has this name");
    run();
}
