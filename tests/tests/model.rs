//! The check of the real core under every schedule of a small scope.
//!
//! The whole space of the scope is larger than a test has time for, so it is entered from two ends: breadth first,
//! where every short schedule is seen, and depth first, where long ones are. `SYNOD_MODEL_STATES` says how many states
//! each of the two comes to, counting one again for each way to it; `--nocapture` tells what was seen.

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};
use synod_sim::model::{Bug, Check, Scope};

const SCOPE: Scope =
    Scope { proposers: 2, ballots: 2, proposals: 2, crashes: 1, retries: 1, heartbeats: true, bug: None };

/// How many states each of the two searches comes to, if not told otherwise.
const STATES: usize = 12_000_000;

/// Waits for the end of a search, and fails with the schedule if a property does not hold. Returns how many distinct
/// states were seen.
fn finish(name: &str, checker: impl Checker<Check>) -> usize {
    let began = Instant::now();
    let checker = checker.join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} distinct of {}, {depth} deep, {:?}", checker.state_count(), began.elapsed());
    for property in checker.model().properties() {
        if property.expectation == Expectation::Always {
            checker.assert_no_discovery(property.name);
        }
    }
    states
}

#[test]
fn the_core_holds_in_a_small_scope() {
    let asked = std::env::var("SYNOD_MODEL_STATES").ok();
    let states = asked.map_or(STATES, |states| states.parse().expect("SYNOD_MODEL_STATES is a number"));
    let check = || Check::new(SCOPE).checker().threads(2).target_state_count(states);
    let wide = finish("breadth first", check().spawn_bfs());
    let deep = finish("depth first", check().spawn_dfs());
    assert!(wide + deep > states / 4, "{wide} and {deep} distinct states of {states} each");
}

#[test]
fn the_scope_has_what_the_check_is_about() {
    let sometimes: Vec<&str> = Check::new(SCOPE)
        .properties()
        .iter()
        .filter(|property| property.expectation == Expectation::Sometimes)
        .map(|property| property.name)
        .collect();
    let all = HasDiscoveries::AllOf(sometimes.iter().copied().collect());
    let check = Check::new(SCOPE).checker().threads(2).target_state_count(2 * STATES).finish_when(all);
    let checker = check.spawn_bfs().join();
    println!("{} distinct states", checker.unique_state_count());
    for name in sometimes {
        assert!(checker.discovery(name).is_some(), "no schedule in which {name}");
    }
}

#[test]
fn one_ballot_is_checked_whole() {
    let scope = Scope { proposers: 1, ballots: 1, proposals: 1, crashes: 0, retries: 0, heartbeats: false, bug: None };
    let states = finish("one ballot", Check::new(scope).checker().threads(2).spawn_bfs());
    assert!(states > 1000, "{states}");
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::EarlyVotes, Bug::ForgottenPromise, Bug::ForgottenAccepts, Bug::EmptyReports] {
        let scope = Scope { ballots: 1, proposals: 1, retries: 0, heartbeats: false, bug: Some(bug), ..SCOPE };
        let check = Check::new(scope).checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
        let checker = check.target_state_count(STATES).spawn_bfs().join();
        let found: Vec<&str> = checker.discoveries().into_keys().collect();
        println!("{bug:?}: {} distinct states, {found:?}", checker.unique_state_count());
        let properties = checker.model().properties();
        let failed = properties.iter().any(|p| p.expectation == Expectation::Always && found.contains(&p.name));
        assert!(failed, "{bug:?} is not found");
    }
}
