//! The checkers pass what is right and catch what is wrong: by hand, one violation at a time, and at random.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use synod_sim::check::history::{Append, Freshness, History, Limits, Outcome};
use synod_sim::check::log::{Checked, check};
use synod_sim::check::oracle::{Oracle, OracleViolation, Restarted, Vote};
use synod_sim::check::sample::{Event, Sample};
use synod_sim::check::stream::{Sequence, StreamViolation, Streams};
use synod_sim::check::violation::Violation;
use synod_sim::check::{porcupine, wgl};

use Freshness::{AtLeast, Linearizable, Monotonic, Stale};
use Outcome::{Committed, Duplicate, Rejected, Superseded, Unknown};

// ---- the fast checker, by hand ----

fn append(payload: u64) -> Event {
    Event::Append { client: 1, handle: None, payload }
}

fn append_by(handle: u32, payload: u64) -> Event {
    Event::Append { client: 1, handle: Some(handle), payload }
}

fn done(append: usize, outcome: Outcome) -> Event {
    Event::Appended { append, outcome }
}

fn at(append: usize, index: u64) -> Event {
    done(append, Committed { index })
}

fn read(freshness: Freshness) -> Event {
    Event::Read { client: 2, freshness }
}

fn tail(read: usize, tail: u64) -> Event {
    Event::WasRead { read, tail: Some(tail), first: 1, entries: Vec::new() }
}

fn told(read: usize, first: u64, entries: &[u64]) -> Event {
    Event::WasRead { read, tail: None, first, entries: entries.into() }
}

/// All events happen in the same nanosecond: their order counts.
fn check_events<const N: usize>(log: &[u64], events: [Event; N]) -> Result<Checked, Box<Violation>> {
    let sample = Sample { events: events.map(|event| (5, event)).into(), log: log.into() };
    check(&sample.history(), log)
}

macro_rules! caught {
    ($name:ident, $violation:pat, $log:expr, [$($event:expr),* $(,)?]) => {
        #[test]
        fn $name() {
            let found = check_events(&$log, [$($event),*]).unwrap_err();
            assert!(matches!(*found, $violation), "{found}");
        }
    };
}

#[test]
fn a_good_history_passes() {
    let events = [
        append_by(1, 11),
        append_by(1, 12),
        append(13),
        append(14),
        read(Linearizable),
        at(0, 1),
        tail(0, 2),
        done(1, Unknown),
        read(Stale),
        tail(1, 0),
        append_by(1, 15),
        done(4, Rejected),
        done(3, Superseded),
        read(Linearizable),
        told(2, 2, &[12, 13]),
        done(2, Duplicate),
    ];
    let checked = check_events(&[11, 12, 13], events).unwrap();
    assert_eq!(checked, Checked { committed: 2, recovered: 1, absent: 2, reads: 3 });
}

caught!(a_lost_append, Violation::Lost(Append { payload: 11, .. }), [], [append(11), at(0, 1)]);
caught!(a_lost_duplicate, Violation::Lost(_), [], [append(11), done(0, Duplicate)]);
caught!(an_append_at_another_index, Violation::Moved { index: 2, .. }, [12, 11], [append(11), at(0, 1), append(12)]);
caught!(an_append_twice, Violation::Doubled { first: 1, second: 2, .. }, [11, 11], [append(11), at(0, 1)]);
caught!(an_unknown_append_twice, Violation::Doubled { .. }, [11, 11], [append(11), done(0, Unknown)]);
caught!(a_rejected_append_in_the_log, Violation::TookEffect { index: 1, .. }, [11], [append(11), done(0, Rejected)]);
caught!(a_superseded_append_in_the_log, Violation::TookEffect { .. }, [11], [append(11), done(0, Superseded)]);
caught!(an_entry_of_nobody, Violation::Phantom { payload: 12, index: 2 }, [11, 12], [append(11), at(0, 1)]);
caught!(a_test_that_reuses_a_payload, Violation::PayloadReused(..), [11], [append(11), append(11)]);
caught!(
    appends_against_real_time,
    Violation::RealTime { low_index: 1, high_index: 2, .. },
    [12, 11],
    [append(11), at(0, 2), append(12), at(1, 1)]
);
caught!(
    an_unknown_append_before_it_was_asked_for,
    Violation::RealTime { low: Append { outcome: Unknown, .. }, .. },
    [12, 11],
    [append(11), at(0, 2), append(12)]
);
caught!(
    a_stale_tail,
    Violation::StaleRead { index: 1, .. },
    [11],
    [append(11), at(0, 1), read(Linearizable), tail(0, 0)]
);
caught!(
    a_tail_from_the_future,
    Violation::FutureRead { index: 1, .. },
    [11],
    [read(Linearizable), tail(0, 1), append(11), at(0, 1)]
);
caught!(
    a_stale_read_from_the_future,
    Violation::FutureRead { .. },
    [11],
    [read(Stale), told(0, 1, &[11]), append(11), at(0, 1)]
);
caught!(
    tails_that_go_back,
    Violation::ReadsWentBack { .. },
    [11],
    [append(11), read(Linearizable), tail(0, 1), read(Linearizable), tail(1, 0), at(0, 1)]
);
caught!(
    a_tail_below_what_a_stale_read_saw,
    Violation::ReadsWentBack { .. },
    [11],
    [append(11), read(Stale), tail(0, 1), read(Linearizable), tail(1, 0), at(0, 1)]
);
caught!(a_tail_beyond_the_log, Violation::BeyondLog { end: 1, .. }, [11], [append(11), read(Stale), tail(0, 2)]);
caught!(
    entries_above_the_tail,
    Violation::BeyondTail(_),
    [11],
    [append(11), read(Stale), Event::WasRead { read: 0, tail: Some(0), first: 1, entries: vec![11] }]
);
caught!(
    a_read_of_another_entry,
    Violation::ReadDiffers { index: 2, told: 13, agreed: 12, .. },
    [11, 12, 13],
    [append(11), append(12), append(13), read(Stale), told(0, 1, &[11, 13])]
);
caught!(a_read_that_is_too_old, Violation::TooOld(_), [11], [append(11), read(AtLeast(1)), tail(0, 0)]);
caught!(
    a_client_that_goes_back,
    Violation::ClientWentBack { .. },
    [11],
    [append(11), read(Monotonic), tail(0, 1), read(Monotonic), tail(1, 0)]
);
caught!(
    a_handle_out_of_order,
    Violation::HandleReordered { index: 1, .. },
    [12, 11],
    [append_by(1, 11), append_by(1, 12), at(1, 1), at(0, 2)]
);
caught!(
    a_handle_that_goes_on_after_a_refusal,
    Violation::HandleGap { absent: Append { outcome: Rejected, .. }, index: 1, .. },
    [12],
    [append_by(1, 11), append_by(1, 12), done(0, Rejected), at(1, 1)]
);
caught!(
    a_handle_with_a_hole,
    Violation::HandleGap { absent: Append { outcome: Unknown, .. }, .. },
    [12],
    [append_by(1, 11), append_by(1, 12), done(0, Unknown), done(1, Unknown)]
);

#[test]
fn a_violation_tells_of_the_operations_involved() {
    let found = check_events(&[11], [append(11), at(0, 1), read(Linearizable), tail(0, 0)]).unwrap_err();
    let expected = "stale: the Linearizable read of client 2 (invoked at 5 ns (event 3), returned at 5 ns (event 4), \
                    tail 0) missed the append of payload 11 by client 1 (invoked at 5 ns (event 1), returned at 5 ns \
                    (event 2), committed at index 1), at index 1";
    assert_eq!(found.to_string(), expected);
}

#[test]
fn handles_do_not_bind_each_other() {
    check_events(&[12, 11], [append_by(1, 11), append_by(2, 12), done(1, Unknown), at(0, 2)]).unwrap();
}

#[test]
fn concurrent_appends_and_reads_may_stand_in_any_order() {
    let events = [append(11), append(12), read(Linearizable), read(Linearizable), tail(0, 2), tail(1, 0)];
    check_events(&[12, 11], events).unwrap();
}

#[test]
fn a_full_history_says_so() {
    let mut history = History::new(1, Limits { operations: 1, entries_read: 2 });
    history.append(1, 1, None, 11).unwrap();
    assert!(history.append(1, 1, None, 12).is_err());
    let read = history.read(1, 1, Stale).unwrap();
    assert!(history.read(1, 1, Stale).is_err());
    assert!(history.was_read(2, read, None, 1, &[1, 2, 3]).is_err());
    history.was_read(2, read, None, 1, &[1, 2]).unwrap();
}

#[test]
fn a_million_operations() {
    // 64 appends in flight and a read with every eighth.
    let mut history = History::new(1, Limits::default());
    let mut open = std::collections::VecDeque::new();
    let log: Vec<u64> = (1..=1_000_000_u64).collect();
    for &index in &log {
        open.push_back((index, history.append(index, 1, Some(1), index).unwrap()));
        if open.len() == 64 {
            let (index_done, id) = open.pop_front().unwrap();
            history.appended(index, id, Committed { index: index_done });
            if index % 8 == 0 {
                let read = history.read(index, 2, Linearizable).unwrap();
                history.was_read(index, read, Some(index), index, &[index]).unwrap();
            }
        }
    }
    let began = std::time::Instant::now();
    let checked = check(&history, &log).unwrap();
    println!("{checked:?} in {:?}", began.elapsed());
    assert_eq!((checked.committed, checked.recovered), (999_937, 63));
}

// ---- delivered streams ----

fn sequence(client: u64, sequence: u64) -> Option<Sequence> {
    Some(Sequence { client, sequence })
}

#[test]
fn equal_streams_pass_also_after_restarts() {
    let mut streams = Streams::new(4);
    for replica in 1..=3 {
        streams.start(1, replica, 1).unwrap();
        for index in 1..=20_u64 {
            streams.deliver(1, replica, index, &index.to_le_bytes(), sequence(index % 2, index)).unwrap();
        }
    }
    // One replays its log, one goes on behind a checkpoint in the window, one behind an older one.
    for (replica, from) in [(1, 1), (2, 19), (3, 9)] {
        streams.start(1, replica, from).unwrap();
        for index in from..=20 {
            streams.deliver(1, replica, index, &index.to_le_bytes(), sequence(index % 2, index)).unwrap();
        }
    }
    assert_eq!(streams.positions(1), [(1, 20), (2, 20), (3, 20)].into());
    // Indexes 9 to 16 of replica 3 lay below the window, and 17 had nothing to go by.
    assert_eq!(streams.unchecked(), 9);
}

#[test]
fn a_gap_a_repetition_and_a_missing_start_are_caught() {
    let mut streams = Streams::new(8);
    assert!(matches!(streams.deliver(1, 1, 1, b"a", None), Err(StreamViolation::NotStarted { .. })));
    streams.start(1, 1, 1).unwrap();
    streams.deliver(1, 1, 1, b"a", None).unwrap();
    assert!(matches!(streams.deliver(1, 1, 3, b"c", None), Err(StreamViolation::Gap { expected: 2, .. })));
    assert!(matches!(streams.deliver(1, 1, 1, b"a", None), Err(StreamViolation::Gap { expected: 2, .. })));
    assert!(matches!(streams.start(1, 2, 3), Err(StreamViolation::StartsBeyond { end: 1, .. })));
    streams.start(1, 2, 2).unwrap();
}

#[test]
fn a_divergent_stream_is_caught() {
    let mut streams = Streams::new(8);
    for replica in 1..=2 {
        streams.start(1, replica, 1).unwrap();
        streams.deliver(1, replica, 1, b"a", None).unwrap();
    }
    streams.deliver(1, 1, 2, b"b", sequence(1, 1)).unwrap();
    let found = streams.deliver(1, 2, 2, b"x", sequence(1, 1));
    assert!(matches!(found, Err(StreamViolation::Diverged { index: 2, replica: 2, first: 1, .. })), "{found:?}");
    let found = streams.deliver(1, 2, 2, b"b", sequence(1, 2));
    assert!(matches!(found, Err(StreamViolation::Diverged { .. })), "{found:?}");
}

#[test]
fn a_divergence_below_the_window_is_caught_when_the_window_is_reached() {
    let mut streams = Streams::new(2);
    streams.start(1, 1, 1).unwrap();
    (1..=5).for_each(|index| streams.deliver(1, 1, index, b"a", None).unwrap());
    streams.start(1, 2, 1).unwrap();
    streams.deliver(1, 2, 1, b"x", None).unwrap();
    streams.deliver(1, 2, 2, b"a", None).unwrap();
    streams.deliver(1, 2, 3, b"a", None).unwrap();
    assert!(matches!(streams.deliver(1, 2, 4, b"a", None), Err(StreamViolation::Diverged { index: 4, .. })));
}

#[test]
fn a_session_delivered_twice_is_caught() {
    let mut streams = Streams::new(8);
    streams.start(1, 1, 1).unwrap();
    streams.deliver(1, 1, 1, b"a", sequence(9, 1)).unwrap();
    streams.deliver(1, 1, 2, b"b", sequence(9, 2)).unwrap();
    let found = streams.deliver(1, 1, 3, b"b", sequence(9, 2));
    assert!(matches!(found, Err(StreamViolation::Repeated { index: 3, last: 2, .. })), "{found:?}");
}

// ---- the oracle ----

fn vote(slot: u64, ballot: u64, value: u64) -> Vote {
    Vote { slot, ballot, value }
}

#[test]
fn the_oracle_knows_what_is_chosen_and_forgets_it() {
    let mut oracle = Oracle::new(2);
    for slot in 1..=1_000 {
        oracle.voted(1, 1, vote(slot, 5, slot)).unwrap();
        assert_eq!(oracle.chosen(1, slot), None);
        assert!(oracle.learned(1, 1, slot, slot).is_err());
        // Told twice by one, it stays one vote.
        oracle.voted(1, 1, vote(slot, 5, slot)).unwrap();
        assert_eq!(oracle.chosen(1, slot), None);
        oracle.voted(1, 2, vote(slot, 5, slot)).unwrap();
        oracle.learned(1, 3, slot, slot).unwrap();
        if slot % 10 == 0 {
            oracle.settle(1, slot - 5).unwrap();
        }
        assert!(oracle.slots_kept() <= 15);
    }
    assert!(matches!(oracle.settle(1, 1_001), Err(OracleViolation::SettledUnchosen { slot: 1_001, .. })));
    assert_eq!(oracle.slots_kept(), 0);
    oracle.learned(1, 1, 3, 3).unwrap();
}

#[test]
fn two_values_at_one_ballot_are_caught() {
    let mut oracle = Oracle::new(2);
    oracle.voted(1, 1, vote(1, 5, 100)).unwrap();
    let found = oracle.voted(1, 2, vote(1, 5, 101));
    assert!(matches!(found, Err(OracleViolation::BallotWithTwoValues { other: 100, .. })), "{found:?}");
    oracle.voted(2, 2, vote(1, 5, 101)).unwrap();
}

#[test]
fn two_chosen_values_are_caught_in_either_order() {
    // The higher ballot is seen first: a quorum of each.
    let mut oracle = Oracle::new(2);
    oracle.voted(1, 1, vote(1, 6, 101)).unwrap();
    oracle.voted(1, 2, vote(1, 6, 101)).unwrap();
    oracle.voted(1, 3, vote(1, 5, 100)).unwrap();
    let found = oracle.voted(1, 4, vote(1, 5, 100));
    assert!(matches!(found, Err(OracleViolation::TwoChosen { first: 101, second: 100, .. })), "{found:?}");
}

#[test]
fn a_vote_against_a_chosen_value_is_caught_in_either_order() {
    let mut oracle = Oracle::new(2);
    oracle.voted(1, 1, vote(1, 5, 100)).unwrap();
    oracle.voted(1, 2, vote(1, 5, 100)).unwrap();
    oracle.voted(1, 3, vote(1, 6, 100)).unwrap();
    let found = oracle.voted(1, 3, vote(1, 7, 101));
    assert!(matches!(found, Err(OracleViolation::AgainstChosen { chosen: 100, ballot: 5, .. })), "{found:?}");

    let mut oracle = Oracle::new(2);
    oracle.voted(1, 3, vote(1, 7, 101)).unwrap();
    oracle.voted(1, 1, vote(1, 5, 100)).unwrap();
    let found = oracle.voted(1, 2, vote(1, 5, 100));
    assert!(matches!(found, Err(OracleViolation::AgainstChosen { chosen: 100, ballot: 5, .. })), "{found:?}");
}

#[test]
fn a_minority_may_be_overruled() {
    let mut oracle = Oracle::new(2);
    oracle.voted(1, 1, vote(1, 5, 100)).unwrap();
    for member in 1..=3 {
        oracle.promised(1, member, 6).unwrap();
        oracle.voted(1, member, vote(1, 6, 101)).unwrap();
    }
    assert_eq!(oracle.chosen(1, 1), Some(101));
    let found = oracle.learned(1, 1, 1, 100);
    assert!(matches!(found, Err(OracleViolation::NotChosen { chosen: Some(101), .. })), "{found:?}");
}

#[test]
fn promises_and_votes_that_go_back_are_caught() {
    let mut oracle = Oracle::new(2);
    oracle.promised(1, 1, 5).unwrap();
    let found = oracle.promised(1, 1, 4);
    assert!(matches!(found, Err(OracleViolation::PromiseWentBack { promised: 5, now: 4, .. })), "{found:?}");
    let found = oracle.voted(1, 1, vote(1, 4, 100));
    assert!(matches!(found, Err(OracleViolation::BelowPromise { promised: 5, .. })), "{found:?}");
    // An accept implies a promise.
    oracle.voted(1, 1, vote(1, 7, 100)).unwrap();
    let found = oracle.voted(1, 1, vote(2, 6, 200));
    assert!(matches!(found, Err(OracleViolation::BelowPromise { promised: 7, .. })), "{found:?}");
    let found = oracle.restarted(1, 1, &Restarted { promised: 5, chosen_to: 0, accepted: &[vote(1, 7, 100)] });
    assert!(matches!(found, Err(OracleViolation::PromiseWentBack { promised: 7, now: 5, .. })), "{found:?}");
}

#[test]
fn a_vote_lost_over_a_restart_is_caught() {
    let mut oracle = Oracle::new(3);
    oracle.voted(1, 1, vote(1, 5, 100)).unwrap();
    oracle.voted(1, 1, vote(1, 7, 101)).unwrap();
    oracle.voted(1, 1, vote(2, 7, 200)).unwrap();
    let mut restart =
        |chosen_to, accepted: &[Vote]| oracle.restarted(1, 1, &Restarted { promised: 9, chosen_to, accepted });
    restart(0, &[vote(1, 7, 101), vote(2, 7, 200)]).unwrap();
    restart(0, &[vote(1, 8, 102), vote(2, 7, 200)]).unwrap();
    restart(1, &[vote(2, 7, 200)]).unwrap();
    restart(2, &[]).unwrap();
    for (chosen_to, accepted) in [
        (1, &[][..]),
        (0, &[vote(2, 7, 200)]),
        (0, &[vote(1, 5, 100), vote(2, 7, 200)]),
        (0, &[vote(1, 7, 100), vote(2, 7, 200)]),
    ] {
        let found = restart(chosen_to, accepted);
        assert!(matches!(found, Err(OracleViolation::VoteLost { .. })), "{accepted:?}: {found:?}");
    }
}

// ---- at random ----

/// The same cases in every run; a failure prints the shrunk choices.
fn config(cases: u32, seed: u64) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..ProptestConfig::default() }
}

fn choices(max: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 0..max)
}

/// Faults that must be seen wherever they can be planted.
const FAULTS: [fn(&mut Sample, usize) -> Option<()>; 16] = [
    lose_an_entry,
    double_an_entry,
    swap_two_committed,
    swap_against_real_time,
    tell_another_index,
    add_a_phantom,
    let_a_refused_one_take_effect,
    call_a_committed_one_rejected,
    call_a_committed_one_superseded,
    lower_a_tail,
    raise_a_tail,
    tell_another_entry,
    lower_a_bound,
    send_a_client_back,
    swap_within_a_handle,
    open_a_hole_in_a_handle,
];

fn pick<T>(from: Vec<T>, with: usize) -> Option<T> {
    let count = from.len();
    from.into_iter().nth(with.checked_rem(count)?)
}

/// (event, append, index) of all appends that were told their index.
fn committed(sample: &Sample) -> Vec<(usize, usize, u64)> {
    let of = |(at, (_, event)): (usize, &(u64, Event))| match event {
        Event::Appended { append, outcome: Committed { index } } => Some((at, *append, *index)),
        _ => None,
    };
    sample.events.iter().enumerate().filter_map(of).collect()
}

/// (event, handle, payload) of all appends, in their order.
fn appends(sample: &Sample) -> Vec<(usize, u32, u64)> {
    let of = |(at, (_, event)): (usize, &(u64, Event))| match event {
        Event::Append { handle, payload, .. } => Some((at, handle.unwrap_or(0), *payload)),
        _ => None,
    };
    sample.events.iter().enumerate().filter_map(of).collect()
}

/// (event, event of the invocation, client, freshness, tail) of all reads that told a tail.
fn tails(sample: &Sample) -> Vec<(usize, usize, u32, Freshness, u64)> {
    let asked = |(at, (_, event)): (usize, &(u64, Event))| match event {
        Event::Read { client, freshness } => Some((at, *client, *freshness)),
        _ => None,
    };
    let asked: Vec<_> = sample.events.iter().enumerate().filter_map(asked).collect();
    let of = |(at, (_, event)): (usize, &(u64, Event))| match event {
        Event::WasRead { read, tail: Some(tail), .. } => {
            let (call, client, freshness) = asked[*read];
            Some((at, call, client, freshness, *tail))
        }
        _ => None,
    };
    sample.events.iter().enumerate().filter_map(of).collect()
}

fn retell(sample: &mut Sample, at: usize, told: u64) {
    let Event::WasRead { tail, entries, .. } = &mut sample.events[at].1 else { panic!("it is a read's return") };
    *tail = Some(told);
    entries.clear();
}

fn reoutcome(sample: &mut Sample, at: usize, new: Outcome) {
    let Event::Appended { outcome, .. } = &mut sample.events[at].1 else { panic!("it is an append's return") };
    *outcome = new;
}

/// Swaps two entries, and tells their new indexes to whoever was told one.
fn swap(sample: &mut Sample, a: u64, b: u64) {
    sample.log.swap(a as usize - 1, b as usize - 1);
    for (at, _, index) in committed(sample) {
        let index = if index == a {
            b
        } else if index == b {
            a
        } else {
            index
        };
        reoutcome(sample, at, Committed { index });
    }
}

fn lose_an_entry(sample: &mut Sample, with: usize) -> Option<()> {
    let (_, _, index) = pick(committed(sample), with)?;
    sample.log.remove(index as usize - 1);
    Some(())
}

fn double_an_entry(sample: &mut Sample, with: usize) -> Option<()> {
    let payload = pick(sample.log.clone(), with)?;
    sample.log.push(payload);
    Some(())
}

fn swap_two_committed(sample: &mut Sample, with: usize) -> Option<()> {
    let (a, b) = (pick(committed(sample), with)?.2, pick(committed(sample), with / 64)?.2);
    sample.log.swap(a as usize - 1, b as usize - 1);
    (a != b).then_some(())
}

fn swap_against_real_time(sample: &mut Sample, with: usize) -> Option<()> {
    let (returned, _, low) = pick(committed(sample), with)?;
    let calls = appends(sample);
    let later = committed(sample).into_iter().filter(|(_, append, _)| returned < calls[*append].0);
    let (_, _, high) = pick(later.collect(), with / 64)?;
    swap(sample, low, high);
    Some(())
}

fn tell_another_index(sample: &mut Sample, with: usize) -> Option<()> {
    let (at, _, index) = pick(committed(sample), with)?;
    reoutcome(sample, at, Committed { index: if with.is_multiple_of(2) { index + 1 } else { index - 1 } });
    Some(())
}

fn add_a_phantom(sample: &mut Sample, with: usize) -> Option<()> {
    let place = with % (sample.log.len() + 1);
    sample.log.insert(place, 3);
    Some(())
}

fn let_a_refused_one_take_effect(sample: &mut Sample, with: usize) -> Option<()> {
    let calls = appends(sample);
    let of = |(_, event): &(u64, Event)| match event {
        Event::Appended { append, outcome: Rejected | Superseded } => Some(calls[*append].2),
        _ => None,
    };
    let payload = pick(sample.events.iter().filter_map(of).collect(), with)?;
    sample.log.push(payload);
    Some(())
}

fn call_a_committed_one_rejected(sample: &mut Sample, with: usize) -> Option<()> {
    let (at, ..) = pick(committed(sample), with)?;
    reoutcome(sample, at, Rejected);
    Some(())
}

fn call_a_committed_one_superseded(sample: &mut Sample, with: usize) -> Option<()> {
    let (at, ..) = pick(committed(sample), with)?;
    reoutcome(sample, at, Superseded);
    Some(())
}

/// A linearizable read misses the last append that was acknowledged before it.
fn lower_a_tail(sample: &mut Sample, with: usize) -> Option<()> {
    let acknowledged = committed(sample);
    let bound = |call| acknowledged.iter().filter(|(at, ..)| *at < call).map(|(_, _, index)| *index).max();
    let of = |(at, call, _, freshness, _): (usize, usize, u32, Freshness, u64)| {
        (freshness == Linearizable).then_some(())?;
        Some((at, bound(call)?))
    };
    let (at, bound) = pick(tails(sample).into_iter().filter_map(of).collect(), with)?;
    retell(sample, at, bound - 1);
    Some(())
}

/// A read of any kind sees an append that was invoked only after it had returned, or never.
fn raise_a_tail(sample: &mut Sample, with: usize) -> Option<()> {
    let (at, ..) = pick(tails(sample), with)?;
    let calls = appends(sample);
    let later = |payload: &u64| calls.iter().any(|(call, _, other)| other == payload && at < *call);
    let index = sample.log.iter().position(later).unwrap_or(sample.log.len()) as u64 + 1;
    retell(sample, at, index);
    Some(())
}

fn tell_another_entry(sample: &mut Sample, with: usize) -> Option<()> {
    let lists = sample.events.iter_mut().filter_map(|(_, event)| match event {
        Event::WasRead { entries, .. } if !entries.is_empty() => Some(entries),
        _ => None,
    });
    let list = pick(lists.collect(), with)?;
    let place = with / 64 % list.len();
    list[place] ^= 1;
    Some(())
}

fn lower_a_bound(sample: &mut Sample, with: usize) -> Option<()> {
    let of = |(at, _, _, freshness, _)| match freshness {
        AtLeast(bound) if 0 < bound => Some((at, bound)),
        _ => None,
    };
    let (at, bound) = pick(tails(sample).into_iter().filter_map(of).collect(), with)?;
    retell(sample, at, bound - 1);
    Some(())
}

fn send_a_client_back(sample: &mut Sample, with: usize) -> Option<()> {
    let monotonic: Vec<_> = tails(sample).into_iter().filter(|read| read.3 == Monotonic).collect();
    let floor = |(_, call, client, ..): &(usize, usize, u32, Freshness, u64)| {
        monotonic.iter().filter(|other| other.0 < *call && other.2 == *client).map(|other| other.4).max()
    };
    let floors = monotonic.iter().filter_map(|read| Some((read.0, floor(read).filter(|floor| 0 < *floor)?)));
    let (at, floor) = pick(floors.collect(), with)?;
    retell(sample, at, floor - 1);
    Some(())
}

/// (handle, index) of what is in the log, by handle and in its order.
fn handled(sample: &Sample) -> Vec<(u32, u64)> {
    let index = |payload| sample.log.iter().position(|other| *other == payload).map(|place| place as u64 + 1);
    let calls = appends(sample).into_iter().filter(|(_, handle, _)| *handle != 0);
    let mut handled: Vec<_> = calls.filter_map(|(_, handle, payload)| Some((handle, index(payload)?))).collect();
    handled.sort_unstable();
    handled
}

fn swap_within_a_handle(sample: &mut Sample, with: usize) -> Option<()> {
    let handled = handled(sample);
    let pairs = handled.windows(2).filter(|two| two[0].0 == two[1].0);
    let (a, b) = pick(pairs.map(|two| (two[0].1, two[1].1)).collect(), with)?;
    swap(sample, a, b);
    Some(())
}

/// An append that is not the last of its handle vanishes, as if nobody had been told anything of it.
fn open_a_hole_in_a_handle(sample: &mut Sample, with: usize) -> Option<()> {
    let handled = handled(sample);
    let pairs = handled.windows(2).filter(|two| two[0].0 == two[1].0);
    let gone = pick(pairs.map(|two| two[0].1).collect(), with)?;
    let payload = sample.log.remove(gone as usize - 1);
    let append = appends(sample).iter().position(|call| call.2 == payload)?;
    for (_, event) in &mut sample.events {
        match event {
            Event::Appended { append: other, outcome } if *other == append => *outcome = Unknown,
            Event::Appended { outcome: Committed { index }, .. } if gone < *index => *index -= 1,
            Event::WasRead { tail, entries, .. } => {
                // What it saw no longer matters.
                *tail = Some(0);
                entries.clear();
            }
            _ => {}
        }
    }
    Some(())
}

/// Without what the search does not know of: handles, and bounds of reads.
fn plain(mut sample: Sample) -> Sample {
    for (_, event) in &mut sample.events {
        match event {
            Event::Append { handle, .. } => *handle = None,
            Event::Read { freshness, .. } if *freshness != Linearizable => *freshness = Stale,
            _ => {}
        }
    }
    sample
}

/// Swaps two neighbours, or moves a tail by one: this may be right or wrong.
fn change_a_little(sample: &mut Sample, with: usize) {
    let read = pick(tails(sample), with / 4);
    match (with % 4, read) {
        (0 | 1, _) if 2 <= sample.log.len() => {
            let low = 1 + (with / 4 % (sample.log.len() - 1)) as u64;
            swap(sample, low, low + 1);
        }
        (2, Some((at, .., tail))) => retell(sample, at, tail + 1),
        (3, Some((at, .., tail))) => retell(sample, at, tail.saturating_sub(1)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(config(1_000, 1))]

    #[test]
    fn valid_histories_pass(choices in choices(600), window in 1_usize..60) {
        let sample = Sample::draw(choices);
        let history = sample.history();
        let checked = check(&history, &sample.log);
        prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
        let windows = wgl::check(&history, &sample.log, window);
        prop_assert!(windows.is_ok(), "{}", windows.unwrap_err());
    }

    #[test]
    fn planted_faults_are_caught(choices in choices(300), with in any::<u32>()) {
        let sample = Sample::draw(choices);
        for (number, fault) in FAULTS.iter().enumerate() {
            let mut altered = sample.clone();
            if fault(&mut altered, with as usize).is_some() {
                prop_assert!(check(&altered.history(), &altered.log).is_err(), "fault {number}: {altered:?}");
            }
        }
    }

    /// Small changes that may or may not break it: both checkers say the same, however it is cut.
    #[test]
    fn the_checkers_agree(choices in choices(60), changes in prop::collection::vec(any::<u32>(), 1..4), window in 1_usize..30) {
        let mut sample = plain(Sample::draw(choices));
        let with = changes[0] as usize;
        // Either one planted fault, or a few changes that may be harmless.
        if with.is_multiple_of(4) {
            FAULTS[with / 4 % FAULTS.len()](&mut sample, with / 64);
        } else {
            changes.iter().for_each(|change| change_a_little(&mut sample, *change as usize));
        }
        let history = sample.history();
        let fast = check(&history, &sample.log);
        // A tail below the entries told with it is no matter of order.
        prop_assume!(!fast.as_ref().is_err_and(|violation| matches!(**violation, Violation::BeyondTail(_))));
        let whole = wgl::check(&history, &sample.log, wgl::OPERATIONS_MAX);
        let parts = wgl::check(&history, &sample.log, window);
        prop_assert_eq!(fast.is_ok(), whole.is_ok(), "fast {:?}, search {:?}: {:?}", fast, whole, sample);
        prop_assert_eq!(fast.is_ok(), parts.is_ok(), "fast {:?}, windows {:?}: {:?}", fast, parts, sample);
        // The exported text says a little less: nothing of stale reads, and of a read's entries only the last.
        let register = porcupine::is_linearizable(&porcupine::events(&history, &sample.log));
        prop_assert!(register || fast.is_err());
    }

    #[test]
    fn exported_histories_come_back(choices in choices(400)) {
        let sample = Sample::draw(choices);
        let events = porcupine::events(&sample.history(), &sample.log);
        prop_assert_eq!(&porcupine::parse(&porcupine::export(&sample.history(), &sample.log)).unwrap(), &events);
        prop_assert!(porcupine::is_linearizable(&events));
    }
}

#[test]
fn each_fault_was_planted() {
    // The random tests mean something only if their faults find a place.
    let number = |n: u32| n.wrapping_mul(0x9e37_79b9).rotate_left(n % 13) ^ n << 7;
    for (fault, plant) in FAULTS.iter().enumerate() {
        let planted = (0..40).filter(|case| {
            let mut sample = Sample::draw((case * 1_000..case * 1_000 + 300).map(number));
            plant(&mut sample, *case as usize * 77).is_some()
        });
        let planted = planted.count();
        assert!(20 <= planted, "fault {fault}: {planted} of 40");
    }
}

// ---- Porcupine's text ----

/// What `events` make of a log, as text.
fn text<const N: usize>(log: &[u64], events: [Event; N]) -> String {
    let sample = Sample { events: events.map(|event| (5, event)).into(), log: log.into() };
    porcupine::export(&sample.history(), log)
}

#[test]
fn porcupine_text_is_as_documented() {
    let events = [
        append(11),
        read(Linearizable),
        at(0, 1),
        tail(0, 1),
        append(12),
        done(1, Unknown),
        append(13),
        done(2, Rejected),
        append(14),
    ];
    let expected = "\
INFO  jepsen.util - 0\t:invoke\t:write\t0
INFO  jepsen.util - 0\t:ok\t:write\t0
INFO  jepsen.util - 0\t:invoke\t:cas\t[0 1]
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - 0\t:ok\t:cas\t[0 1]
INFO  jepsen.util - 1\t:ok\t:read\t1
INFO  jepsen.util - 1\t:invoke\t:cas\t[1 2]
INFO  jepsen.util - 1\t:ok\t:cas\t[1 2]
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:ok\t:read\t2
";
    assert_eq!(text(&[11, 12], events), expected);
}

#[test]
fn porcupine_text_shows_violations() {
    let is_linearizable = |text: &str| porcupine::is_linearizable(&porcupine::parse(text).unwrap());
    assert!(is_linearizable(&text(&[11], [append(11), at(0, 1), read(Linearizable), tail(0, 1)])));
    let stale = text(&[11], [append(11), at(0, 1), read(Linearizable), tail(0, 0)]);
    let lost = text(&[], [append(11), at(0, 1)]);
    let lost_duplicate = text(&[], [append(11), done(0, Duplicate)]);
    let doubled = text(&[11, 11], [append(11), at(0, 1)]);
    let phantom = text(&[11, 12], [append(11), at(0, 1)]);
    let reordered = text(&[12, 11], [append(11), at(0, 2), append(12), at(1, 1)]);
    let rejected = text(&[11], [append(11), done(0, Rejected)]);
    for bad in [stale, lost, lost_duplicate, doubled, phantom, reordered, rejected] {
        assert!(!is_linearizable(&bad), "{bad}");
    }
}

#[test]
fn jepsen_logs_are_read_as_jepsen_writes_them() {
    let lines = "\
lein test jepsen.system.etcd-test
INFO  jepsen.os.debian - :n4 setting up debian
INFO  jepsen.util - 3\t:invoke\t:read\tnil
INFO  jepsen.util - 3\t:ok\t:read\tnil
INFO  jepsen.util - 2\t:invoke\t:cas\t[10 4]
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 2\t:fail\t:cas\t[10 4]
INFO  jepsen.util - 4\t:invoke\t:write\t2
INFO  jepsen.util - 4\t:info\t:write\t:timed-out
INFO  jepsen.util - 5\t:invoke\t:read\tnil
INFO  jepsen.util - 5\t:fail\t:read\t:timed-out
INFO  jepsen.util - 6\t:invoke\t:read\tnil
INFO  jepsen.util - 6\t:ok\t:read\t2
";
    let events = porcupine::parse(lines).unwrap();
    assert_eq!(events.len(), 8);
    assert!(porcupine::is_linearizable(&events));
    let wrong = lines.replace(":read\t2", ":read\t3");
    assert!(!porcupine::is_linearizable(&porcupine::parse(&wrong).unwrap()));
    for bad in [":invoke\t:add\t1", ":done\t:write\t1", ":ok\t:write\tx", ":invoke\t:cas\t1 2", ":fail\t:write\t1"] {
        let text = format!("{lines}INFO  jepsen.util - 9\t{bad}\n");
        assert_eq!(porcupine::parse(&text).unwrap_err().line, 14, "{bad}");
    }
}

#[test]
fn a_thousand_operations_are_searched_in_one_window() {
    let number = |n: u32| n.wrapping_mul(0x9e37_79b9).rotate_left(n % 13) ^ n << 7;
    let sample = Sample::draw((0..2_400).map(number));
    let history = sample.history();
    assert!(700 <= history.appends().len() + history.reads().len());
    check(&history, &sample.log).unwrap();
    assert_eq!(wgl::check(&history, &sample.log, wgl::OPERATIONS_MAX).unwrap(), 1);
    assert!(4 <= wgl::check(&history, &sample.log, 200).unwrap());
}
