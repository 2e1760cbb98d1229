//! The only node of a cluster: what its log says of a new group, and what waits for its slot.

use synod::{Outcome, Overload, ProposeError, Rejection};

use crate::disk::Dice;
use crate::schedules::{Schedule, schedules};
use crate::shards::{Setup, Shards, Told};
use crate::sim::machine::Kind;

const GROUP: u64 = 5;

/// Without a summary of the directory before the first record of the group, what follows it in the log would belong to
/// nobody after a start, and the group would begin anew.
fn a_vote_is_never_in_the_log_without_its_group() {
    let mut acknowledged = 0;
    for turns in 0..60 {
        let mut lone = Shards::lone(turns + 1, |_| ());
        lone.step_until(0, "it does not lead", |lone| lone.leads(0));
        lone.step_until(0, "it makes no group", |lone| {
            if lone.shard(0).made_groups().is_empty() {
                lone.change_groups(0, GROUP, true, 1000);
            }
            lone.step(0);
            lone.shard(0).uid(GROUP).is_some()
        });
        let uid = lone.shard(0).uid(GROUP);
        lone.step_until(0, "nobody leads the group", |lone| lone.leads_in(GROUP, 0));
        let outcome = lone.submit(GROUP, 0, b"kept");
        for _ in 0..turns {
            lone.step(0);
        }
        let is_acknowledged = matches!(*outcome.lock().unwrap(), Some(Ok(_)));
        lone.cut_power(0, &mut Dice::new(1));
        lone.start(0);
        assert_eq!(lone.shard(0).uid(GROUP), uid, "behind {turns} turns the group is lost");
        lone.step_until(0, "nobody leads the group again", |lone| {
            let info = lone.shard(0).info(GROUP).unwrap();
            info.epoch > 0 && info.applied_slot == info.chosen_slot
        });
        let next_index = lone.shard(0).info(GROUP).unwrap().next_index;
        if is_acknowledged {
            acknowledged += 1;
            assert_eq!(next_index, 2, "behind {turns} turns what was acknowledged is lost");
        }
    }
    assert!(acknowledged > 30, "hardly anything was acknowledged: {acknowledged}");
}

/// What waits for its slot for longer than `queue_ms_max` is refused, with a hint, and was never proposed.
fn what_waits_for_longer_than_queue_ms_max_is_refused() {
    let mut lone = Shards::lone(1, |config| config.queue_ms_max = 50);
    lone.step_until(0, "it does not lead", |lone| lone.leads(0));
    for _ in 0..500 {
        lone.step_ms(0);
    }
    // The disk answers nothing: the first is in its slot, and waits there; the others wait for a frame.
    let epoch = lone.shard(0).epoch(1).unwrap();
    lone.nodes[0].stalled = true;
    let in_slot = lone.submit(1, 0, b"entry");
    lone.step_ms(0);
    let waiting = [lone.submit(1, 0, b"entry"), lone.submit(1, 0, b"entry")];
    let ordered = lone.submit_ordered(0, (9, epoch));
    for _ in 0..49 {
        lone.step_ms(0);
    }
    let is_told = |told: &Told<Outcome>| told.lock().unwrap().is_some();
    assert!(!waiting.iter().any(is_told) && !is_told(&ordered), "they may wait so long");
    lone.step_ms(0);
    lone.step_ms(0);
    for told in waiting.iter().chain([&ordered]) {
        match *told.lock().unwrap() {
            Some(Err(ProposeError::Rejected(Rejection::Overloaded { what: Overload::Wait, retry_after_ms }))) => {
                assert!((1..=1000).contains(&retry_after_ms));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!is_told(&in_slot), "what is in its slot has no such limit");
    // Later ones are let in again, and the refused ones have left no trace. The ordered handle stays closed.
    let again = lone.submit(1, 0, b"entry");
    lone.nodes[0].stalled = false;
    lone.release_disk(0);
    let closed = lone.submit_ordered(0, (9, epoch));
    lone.step_until(0, "they are not committed", |_| is_told(&in_slot) && is_told(&again) && is_told(&closed));
    let index = |told: &Told<Outcome>| told.lock().unwrap().unwrap().map(|committed| committed.first_index);
    assert_eq!((index(&in_slot), index(&again)), (Ok(1), Ok(2)));
    assert!(matches!(index(&closed), Err(ProposeError::Rejected(_))), "{:?}", index(&closed));
}

/// However many parts an entry has: only so many a turn, and the next turn does not wait for a tick or for news.
fn a_large_entry_is_put_together_without_the_clock() {
    let setup = Setup { part_bytes: 16, machines: Some(Kind::InMemory), ..Setup::default() };
    let mut lone = Shards::lone_of(setup, |_| ());
    lone.step_until(0, "it does not lead", |lone| lone.leads(0));
    let outcome = lone.propose_in(1, 0, &[7; 16 * 100]);
    assert!(matches!(*outcome.lock().unwrap(), Some(Ok(_))), "its machine has it in the same moment");
    assert_eq!(lone.machine_index(0), 1);
}

/// All of them.
pub const SCHEDULES: &[Schedule] = schedules! {
    a_vote_is_never_in_the_log_without_its_group shows GroupsAreNotRecorded,
    what_waits_for_longer_than_queue_ms_max_is_refused,
    a_large_entry_is_put_together_without_the_clock,
};
