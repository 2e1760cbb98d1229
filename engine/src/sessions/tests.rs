//! What sessions promise, rule by rule.

use proptest::prelude::*;

use super::*;
use crate::limits::SESSIONS_BYTES_MAX;

/// Opens a session in a slot, in a table of so many; its id is the slot.
fn open(sessions: &mut Sessions, slot: u64, sessions_max: u64) -> u64 {
    sessions.command(Slot(slot), Command::Open { sessions_max });
    slot
}

fn append(sessions: &mut Sessions, id: u64, sequence: u64, slot: u64) -> Judgement {
    sessions.append(id, sequence, 1, (Slot(slot), slot))
}

fn recoded(sessions: &Sessions, slot: u64, next_index: u64) -> Option<Sessions> {
    let mut bytes = Vec::new();
    sessions.encode(Slot(slot), next_index, &mut bytes);
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty(), "whole words");
    let mut numbers = words.iter().map(|word| u64::from_le_bytes(*word));
    let sessions = Sessions::decode(Slot(slot), next_index, &mut numbers);
    assert_eq!(numbers.next(), None);
    sessions
}

#[test]
fn a_duplicate_is_answered_with_its_position() {
    let mut sessions = Sessions::default();
    let id = open(&mut sessions, 2, 8);
    assert_eq!(sessions.append(id, 1, 3, (Slot(3), 10)), Judgement::Next);
    assert_eq!(sessions.append(id, 4, 2, (Slot(5), 20)), Judgement::Next);
    assert_eq!(sessions.append(id, 1, 3, (Slot(6), 30)), Judgement::Duplicate(Some((Slot(3), 10))));
    assert_eq!(sessions.append(id, 4, 2, (Slot(7), 30)), Judgement::Duplicate(Some((Slot(5), 20))));
    assert_eq!(sessions.append(id, 5, 1, (Slot(8), 30)), Judgement::Duplicate(Some((Slot(5), 21))));
    // Parts of two batches have no position of their own.
    assert_eq!(sessions.append(id, 3, 2, (Slot(9), 30)), Judgement::Duplicate(None));
    assert_eq!(sessions.append(id, 6, 1, (Slot(10), 30)), Judgement::Next);
}

#[test]
fn only_the_last_eight_positions_of_a_session_are_known() {
    let mut sessions = Sessions::default();
    let id = open(&mut sessions, 1, 8);
    for sequence in 1..=9 {
        assert_eq!(append(&mut sessions, id, sequence, sequence + 1), Judgement::Next);
    }
    assert_eq!(append(&mut sessions, id, 1, 11), Judgement::Duplicate(None));
    assert_eq!(append(&mut sessions, id, 2, 12), Judgement::Duplicate(Some((Slot(3), 3))));
}

#[test]
fn a_gap_and_what_overlaps_the_end_are_refused() {
    let mut sessions = Sessions::default();
    let id = open(&mut sessions, 1, 8);
    assert_eq!(append(&mut sessions, id, 2, 2), Judgement::Gap);
    assert_eq!(append(&mut sessions, id, 0, 3), Judgement::Gap);
    assert_eq!(append(&mut sessions, id, 1, 4), Judgement::Next);
    assert_eq!(sessions.append(id, 1, 2, (Slot(5), 5)), Judgement::Gap);
    assert_eq!(append(&mut sessions, id, 3, 6), Judgement::Gap);
    assert_eq!(append(&mut sessions, id, 2, 7), Judgement::Next);
}

#[test]
fn sequences_near_the_end_of_all_numbers_are_refused() {
    let mut sessions = Sessions::default();
    let id = open(&mut sessions, 1, 8);
    sessions.by_id.get_mut(&id).unwrap().last = NUMBER_MAX - 1;
    for sequence in [u64::MAX, u64::MAX - 1, NUMBER_MAX + 1] {
        assert_eq!(sessions.append(id, sequence, 2, (Slot(2), 2)), Judgement::Gap);
    }
    assert_eq!(append(&mut sessions, id, NUMBER_MAX, 3), Judgement::Next);
    assert_eq!(append(&mut sessions, id, NUMBER_MAX + 1, 4), Judgement::Gap);
    assert_eq!(append(&mut sessions, id, NUMBER_MAX, 5), Judgement::Duplicate(Some((Slot(3), 3))));
}

#[test]
fn an_evicted_session_that_retries_its_first_batch_is_unknown() {
    let mut sessions = Sessions::default();
    let one = open(&mut sessions, 1, 2);
    assert_eq!(append(&mut sessions, one, 1, 2), Judgement::Next);
    let two = open(&mut sessions, 3, 2);
    let three = open(&mut sessions, 4, 2);
    assert_eq!(append(&mut sessions, one, 1, 5), Judgement::Unknown);
    assert_eq!(append(&mut sessions, one, 2, 6), Judgement::Unknown);
    assert_eq!(append(&mut sessions, two, 1, 7), Judgement::Next);
    assert_eq!(append(&mut sessions, three, 1, 8), Judgement::Next);
}

#[test]
fn a_full_table_displaces_the_least_recently_used() {
    let mut sessions = Sessions::default();
    let ids: Vec<u64> = (1..=SESSIONS_MAX as u64).map(|slot| open(&mut sessions, slot, u64::MAX)).collect();
    assert_eq!(sessions.len(), SESSIONS_MAX);
    // The oldest is used again: a duplicate or a gap is a use too.
    append(&mut sessions, ids[0], 9, 2000);
    open(&mut sessions, 2001, u64::MAX);
    assert_eq!(sessions.len(), SESSIONS_MAX);
    assert!(sessions.by_id.contains_key(&ids[0]) && !sessions.by_id.contains_key(&ids[1]));
    // A leader that allows fewer ends more of them.
    open(&mut sessions, 2002, 3);
    assert_eq!(sessions.by_id.keys().copied().collect::<Vec<_>>(), [ids[0], 2001, 2002]);
    open(&mut sessions, 2003, 0);
    assert_eq!(sessions.by_id.keys().copied().collect::<Vec<_>>(), [2003]);
}

#[test]
fn expiry_ends_what_was_not_used_behind_a_slot() {
    let mut sessions = Sessions::default();
    let (one, two) = (open(&mut sessions, 1, 8), open(&mut sessions, 2, 8));
    append(&mut sessions, one, 1, 5);
    assert!(sessions.any_idle_since(Slot(2)) && !sessions.any_idle_since(Slot(1)));
    sessions.command(Slot(6), Command::Expire { unused_since: Slot(4) });
    assert_eq!(append(&mut sessions, two, 1, 7), Judgement::Unknown);
    assert_eq!(append(&mut sessions, one, 2, 8), Judgement::Next);
    sessions.command(Slot(9), Command::Close { session: one });
    sessions.command(Slot(10), Command::Close { session: one });
    assert_eq!(append(&mut sessions, one, 3, 11), Judgement::Unknown);
    assert_eq!(sessions, Sessions::default());
}

#[test]
fn positions_of_a_group_are_bounded_and_each_session_keeps_its_last() {
    let mut sessions = Sessions::default();
    let ids: Vec<u64> = (1..=100).map(|slot| open(&mut sessions, slot, 1000)).collect();
    let mut slot = 100;
    for sequence in 1..=8 {
        for id in &ids {
            slot += 1;
            assert_eq!(append(&mut sessions, *id, sequence, slot), Judgement::Next);
        }
    }
    assert_eq!(sessions.earlier.len(), EARLIER_POSITIONS_MAX);
    let held: usize = sessions.by_id.values().map(|session| session.positions.len()).sum();
    assert_eq!(held, EARLIER_POSITIONS_MAX + ids.len());
    assert_eq!(append(&mut sessions, ids[0], 8, slot + 1), Judgement::Duplicate(Some((Slot(801), 801))));
    assert_eq!(append(&mut sessions, ids[0], 4, slot + 2), Judgement::Duplicate(None));
    assert_eq!(recoded(&sessions, slot + 2, slot + 1), Some(sessions));
}

#[test]
fn a_full_table_takes_few_bytes_and_never_too_many() {
    let size = |sessions: &Sessions, slot, next_index| {
        let mut bytes = Vec::new();
        sessions.encode(Slot(slot), next_index, &mut bytes);
        bytes.len()
    };
    // A million slots, in which a thousand sessions take turns with batches of ten.
    let mut sessions = Sessions::default();
    let ids: Vec<u64> = (1..=1024).map(|slot| open(&mut sessions, slot, 1024)).collect();
    let (mut slot, mut index) = (1_000_000, 10_000_001);
    for sequence in 0..8 {
        for id in &ids {
            slot += 1;
            sessions.append(*id, 1 + 10 * sequence, 10, (Slot(slot), index));
            index += 10;
        }
    }
    let bytes = size(&sessions, slot, index);
    assert!(bytes <= 14 * 1024, "{bytes} bytes");
    assert_eq!(recoded(&sessions, slot, index), Some(sessions));
    // Numbers as large as they get.
    let mut worst = Sessions::default();
    let far = NUMBER_MAX - 100_000;
    for at in 0..1024 {
        let id = open(&mut worst, far + at, 1024);
        worst.by_id.get_mut(&id).unwrap().last = far;
    }
    for slot in 0..2048 {
        worst.append(far + slot % 1024, far + 1 + slot / 1024, 1, (Slot(far + 2000 + slot), far));
    }
    assert!(size(&worst, NUMBER_MAX, NUMBER_MAX) <= SESSIONS_BYTES_MAX + 16 + 8);
}

#[test]
fn bytes_that_no_sessions_have_are_refused() {
    let mut sessions = Sessions::default();
    let id = open(&mut sessions, 2, 8);
    append(&mut sessions, id, 1, 3);
    assert_eq!(recoded(&sessions, 3, 4).as_ref(), Some(&sessions));
    // The same bytes in a state whose slot or index lies before what they tell.
    let mut bytes = Vec::new();
    sessions.encode(Slot(3), 4, &mut bytes);
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let decode = |slot, next_index, words: &[u64]| {
        Sessions::decode(Slot(slot), next_index, &mut words.iter().copied()).is_some()
    };
    assert!(decode(3, 4, &words));
    assert!(!decode(2, 4, &words) && !decode(3, 1, &words));
    assert!(!decode(3, 4, &[&[SESSIONS_MAX as u64 + 1], &words[1..]].concat()), "too many sessions");
    assert!(!decode(3, 4, &[&[1, u64::MAX], &words[2..]].concat()), "too many bytes");
    assert!(!decode(3, 4, &[&[2], &words[1..]].concat()), "a session is missing");
    assert!(!decode(3, 4, &[&[0], &words[1..]].concat()), "a session is too much");
}

proptest! {
    /// Whatever is done, the table is the same after it was encoded and decoded, and so is all that follows.
    #[test]
    fn a_table_goes_on_from_its_bytes(steps in prop::collection::vec((0..12_u8, 0..6_u64, 1..5_u64, 1..4_u32), 1..200)) {
        let mut sessions = Sessions::default();
        let (mut slot, mut index, mut ids) = (0, 1, vec![1]);
        for (what, which, sequence, entries) in steps {
            slot += 1;
            let id = ids[which as usize % ids.len()];
            match what {
                0 => ids.push(open(&mut sessions, slot, 3)),
                1 => sessions.command(Slot(slot), Command::Close { session: id }),
                2 => sessions.command(Slot(slot), Command::Expire { unused_since: Slot(slot.saturating_sub(10)) }),
                _ => {
                    let last = sessions.by_id.get(&id).map_or(0, |session| session.last);
                    let sequence = if what < 10 { last + 1 } else { sequence };
                    if sessions.append(id, sequence, entries, (Slot(slot), index)) == Judgement::Next {
                        index += u64::from(entries);
                    }
                }
            }
            let again = recoded(&sessions, slot, index);
            prop_assert_eq!(again.as_ref(), Some(&sessions));
        }
    }

    #[test]
    fn random_words_never_panic(words in prop::collection::vec(any::<u64>(), 0..60), count in 0..5_u64) {
        let bytes = 8 * (words.len() as u64).saturating_sub(2);
        let mut numbers = [count, bytes].into_iter().chain(words);
        let _ = Sessions::decode(Slot(NUMBER_MAX), NUMBER_MAX, &mut numbers);
    }
}
