//! The index against a plain map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use synod_wal::{Index, Place};

fn place(generation: u64, slot: u64) -> Place {
    Place { generation, offset: 4096 + slot * 16, bytes: 112, ballot: slot + 1 }
}

#[derive(Debug, Clone)]
enum Step {
    Insert { uid: u128, slot: u64, generation: u64 },
    Trim { uid: u128, up_to: u64 },
    Forget { generation: u64 },
    Remove { uid: u128 },
}

fn step() -> impl Strategy<Value = Step> {
    let uid = 0..3u128;
    prop_oneof![
        8 => (uid.clone(), 0..60u64, 1..6u64).prop_map(|(uid, slot, generation)| Step::Insert { uid, slot, generation }),
        2 => (uid.clone(), 0..40u64).prop_map(|(uid, up_to)| Step::Trim { uid, up_to }),
        1 => (1..6u64).prop_map(|generation| Step::Forget { generation }),
        1 => uid.prop_map(|uid| Step::Remove { uid }),
    ]
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_map(steps in prop::collection::vec(step(), 0..120)) {
        let mut index = Index::new();
        let mut places: BTreeMap<(u128, u64), Place> = BTreeMap::new();
        let mut trimmed: BTreeMap<u128, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert { uid, slot, generation } => {
                    index.insert(uid, slot, place(generation, slot));
                    if trimmed.get(&uid).is_none_or(|up_to| *up_to < slot) {
                        places.insert((uid, slot), place(generation, slot));
                    }
                }
                Step::Trim { uid, up_to } => {
                    index.trim(uid, up_to);
                    let trimmed = trimmed.entry(uid).or_insert(up_to);
                    *trimmed = up_to.max(*trimmed);
                    places.retain(|(other, slot), _| *other != uid || *trimmed < *slot);
                }
                Step::Forget { generation } => {
                    index.forget(generation);
                    places.retain(|_, place| place.generation != generation);
                    prop_assert_eq!(index.segment_slots(generation).count(), 0);
                }
                Step::Remove { uid } => {
                    index.remove(uid);
                    trimmed.remove(&uid);
                    places.retain(|(other, _), _| *other != uid);
                }
            }
            for uid in 0..3 {
                for slot in 0..64 {
                    prop_assert_eq!(index.get(uid, slot), places.get(&(uid, slot)).copied());
                }
            }
            prop_assert_eq!(index.memory_bytes() == 0, places.is_empty());
            // A segment's highest slots bound what still lies there.
            for ((uid, slot), place) in &places {
                let highest = index.segment_slots(place.generation).find(|(other, _)| other == uid);
                prop_assert!(highest.is_some_and(|(_, highest)| *slot <= highest));
            }
        }
    }
}

#[test]
fn memory_follows_what_is_held() {
    let mut index = Index::new();
    (0..100_000).for_each(|slot| index.insert(7, slot, place(1 + slot / 50_000, slot)));
    let full = index.memory_bytes();
    assert!((100_000 * 24..120_000 * 32).contains(&full), "{full}");
    index.trim(7, 49_999);
    index.forget(1);
    assert!((full * 4 / 10..full * 6 / 10).contains(&index.memory_bytes()));
    // One slot far away takes one chunk.
    let before = index.memory_bytes();
    index.insert(7, u64::MAX - 1, place(2, 3));
    assert!(index.memory_bytes() < before + 4096);
    index.forget(2);
    assert_eq!(index.memory_bytes(), 0);
}

#[test]
fn a_later_record_replaces_a_slot() {
    let mut index = Index::new();
    index.insert(7, 5, place(1, 5));
    index.insert(7, 5, place(2, 5));
    assert_eq!(index.get(7, 5), Some(place(2, 5)));
    index.forget(1);
    assert_eq!(index.get(7, 5), Some(place(2, 5)));
}

#[test]
fn a_range_stops_at_a_hole_and_at_its_bytes_but_gives_the_first() {
    let mut index = Index::new();
    for slot in [3, 4, 5, 7] {
        index.insert(7, slot, place(1, slot));
    }
    let slots = |from, bytes| index.range(7, from, bytes).map(|(slot, _)| slot).collect::<Vec<_>>();
    assert_eq!(slots(3, u64::MAX), [3, 4, 5]);
    assert_eq!(slots(3, 224), [3, 4]);
    assert_eq!(slots(3, 0), [3]);
    assert_eq!(slots(6, u64::MAX), Vec::<u64>::new());
    assert_eq!(index.range(8, 0, u64::MAX).count(), 0);
}
