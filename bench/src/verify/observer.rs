//! What one replica applied in one group, in little memory and in constant time per entry that comes in order.
//!
//! Invariants: each applied entry is counted exactly once, as fresh (in a run), duplicate, malformed or untracked; the
//! checksum depends on every entry's bytes and on their order.

use serde::{Deserialize, Serialize};

use super::Stamp;
use crate::runs::RunSet;

/// Producers that an observer tells apart; entries of further ones are only counted.
pub const PRODUCERS_MAX: usize = 65_536;
/// Gaps that an observer remembers over all producers; entries that would need more are only counted.
pub const RUNS_MAX: usize = 1 << 20;

/// Watches the entries that a replica applies in one group.
///
/// Serialises to JSON, so that a replica can save it and go on after a restart: what it applied next must be the entry
/// behind the last one observed, [`Observer::entries`] in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Saved")]
pub struct Observer {
    /// Sorted by producer.
    producers: Vec<ProducerLog>,
    entries: u64,
    duplicates: u64,
    reorderings: u64,
    malformed: u64,
    untracked: u64,
    crc: u32,
    /// Runs over all producers.
    #[serde(skip)]
    run_count: usize,
    /// Where the last entry's producer stands: the next one is likely its own.
    #[serde(skip)]
    current: usize,
}

/// What one producer got into a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerLog {
    /// The producer's number.
    pub producer: u64,
    /// Its sequences.
    pub runs: RunSet,
}

impl Observer {
    /// An observer of an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes applied entries, in order.
    pub fn apply_batch<'a>(&mut self, entries: impl IntoIterator<Item = &'a [u8]>) {
        let mut crc = self.crc;
        let mut count = 0;
        for entry in entries {
            count += 1;
            crc = link(crc, entry);
            let Some(stamp) = Stamp::read(entry) else {
                self.malformed += 1;
                continue;
            };
            let in_order = self
                .producers
                .get_mut(self.current)
                .is_some_and(|log| log.producer == stamp.producer && log.runs.extend_by_one(stamp.sequence));
            if !in_order {
                self.apply_unexpected(stamp);
            }
        }
        self.crc = crc;
        self.entries += count;
    }

    /// An entry of another producer than the last, or one that does not follow its producer's last.
    #[cold]
    fn apply_unexpected(&mut self, stamp: Stamp) {
        self.current = match self.producers.binary_search_by_key(&stamp.producer, |log| log.producer) {
            Ok(at) => at,
            Err(_) if self.producers.len() == PRODUCERS_MAX => {
                self.untracked += 1;
                return;
            }
            Err(at) => {
                self.producers.insert(at, ProducerLog { producer: stamp.producer, runs: RunSet::new() });
                at
            }
        };
        let runs = &mut self.producers[self.current].runs;
        if runs.extend_by_one(stamp.sequence) {
            return;
        }
        if stamp.sequence <= runs.last() {
            self.reorderings += 1;
            if runs.contains(stamp.sequence) {
                self.duplicates += 1;
                return;
            }
        }
        if self.run_count == RUNS_MAX {
            self.untracked += 1;
            return;
        }
        let before = runs.runs().len();
        let fresh = runs.insert(stamp.sequence, stamp.sequence);
        assert_eq!(fresh, 1, "a sequence that the set does not contain is new to it");
        self.run_count = self.run_count - before + runs.runs().len();
    }

    /// Entries observed, whatever their kind: the dense count that a replica resumes behind.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Entries that were there before.
    #[must_use]
    pub const fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Entries with a sequence not above the highest seen of their producer; duplicates are among them.
    #[must_use]
    pub const fn reorderings(&self) -> u64 {
        self.reorderings
    }

    /// Entries without a stamp.
    #[must_use]
    pub const fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Entries that were counted but not remembered, beyond [`PRODUCERS_MAX`] or [`RUNS_MAX`].
    #[must_use]
    pub const fn untracked(&self) -> u64 {
        self.untracked
    }

    /// The running checksum: a CRC-32C over the bytes of all entries, with a mark behind each.
    #[must_use]
    pub const fn crc(&self) -> u32 {
        self.crc
    }

    /// What each producer got in, by producer.
    #[must_use]
    pub fn producers(&self) -> &[ProducerLog] {
        &self.producers
    }
}

/// Adds an entry to the running checksum.
///
/// The CRC runs on over the bytes; the multiplication, which loses nothing, marks where the entry ended and how long it
/// was. Never a CRC over an entry and that entry's own CRC: that is the same for all entries.
#[inline]
fn link(crc: u32, entry: &[u8]) -> u32 {
    const ODD: u32 = 0x9e37_79b1;
    let length = (entry.len() as u32).wrapping_add(1);
    (crc32c::crc32c_append(crc, entry) ^ length).wrapping_mul(ODD)
}

/// An [`Observer`] as it was saved, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    producers: Vec<ProducerLog>,
    entries: u64,
    duplicates: u64,
    reorderings: u64,
    malformed: u64,
    untracked: u64,
    crc: u32,
}

impl TryFrom<Saved> for Observer {
    type Error = &'static str;

    fn try_from(saved: Saved) -> Result<Self, Self::Error> {
        if !saved.producers.is_sorted_by(|a, b| a.producer < b.producer) {
            return Err("damaged observer: its producers are not sorted; remove the run directory and start again");
        }
        let run_count: usize = saved.producers.iter().map(|log| log.runs.runs().len()).sum();
        if PRODUCERS_MAX < saved.producers.len() || RUNS_MAX < run_count {
            return Err("damaged observer: more producers or runs than it may hold");
        }
        let kinds = [saved.duplicates, saved.malformed, saved.untracked];
        let total = saved
            .producers
            .iter()
            .map(|log| log.runs.count())
            .chain(kinds)
            .try_fold(0_u64, |sum, count| sum.checked_add(count));
        if total != Some(saved.entries) || saved.reorderings < saved.duplicates || saved.entries < saved.reorderings {
            return Err("damaged observer: its counts do not add up; remove the run directory and start again");
        }
        Ok(Self {
            producers: saved.producers,
            entries: saved.entries,
            duplicates: saved.duplicates,
            reorderings: saved.reorderings,
            malformed: saved.malformed,
            untracked: saved.untracked,
            crc: saved.crc,
            run_count,
            current: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An entry that is nothing but its stamp.
    fn bare(producer: u64, sequence: u64) -> Vec<u8> {
        let mut bytes = entry(producer, sequence);
        bytes.truncate(crate::verify::PAYLOAD_BYTES_MIN);
        bytes
    }

    fn entry(producer: u64, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![7; 24];
        Stamp { producer, sequence }.write(&mut bytes);
        bytes
    }

    fn observe(stamps: &[(u64, u64)]) -> Observer {
        let entries: Vec<_> = stamps.iter().map(|&(producer, sequence)| entry(producer, sequence)).collect();
        let mut observer = Observer::new();
        observer.apply_batch(entries.iter().map(Vec::as_slice));
        observer
    }

    #[test]
    fn entries_in_order_need_one_run_per_producer() {
        let observer = observe(&[(9, 1), (9, 2), (4, 1), (9, 3), (4, 2)]);
        let runs: Vec<_> = observer.producers().iter().map(|log| (log.producer, log.runs.runs().len())).collect();
        assert_eq!(runs, [(4, 1), (9, 1)]);
        assert_eq!((observer.entries(), observer.duplicates(), observer.reorderings()), (5, 0, 0));
    }

    #[test]
    fn a_gap_is_no_fault_but_going_back_is() {
        let observer = observe(&[(1, 1), (1, 5), (1, 6)]);
        assert_eq!((observer.duplicates(), observer.reorderings()), (0, 0));
        let observer = observe(&[(1, 1), (1, 5), (1, 3), (1, 6), (1, 5)]);
        assert_eq!((observer.duplicates(), observer.reorderings(), observer.entries()), (1, 2, 5));
        assert_eq!(observer.producers()[0].runs.count(), 4);
    }

    #[test]
    fn entries_without_a_stamp_are_malformed_and_still_checksummed() {
        let mut observer = Observer::new();
        observer.apply_batch([b"short".as_slice(), &entry(1, 0), b""]);
        assert_eq!((observer.malformed(), observer.entries()), (3, 3));
        let mut other = Observer::new();
        other.apply_batch([b"shorT".as_slice(), &entry(1, 0), b""]);
        assert_ne!(observer.crc(), other.crc());
    }

    #[test]
    fn the_checksum_sees_order_and_bytes() {
        let base = observe(&[(1, 1), (2, 1)]);
        assert_ne!(base.crc(), observe(&[(2, 1), (1, 1)]).crc());
        let mut flipped = Observer::new();
        let mut bytes = entry(1, 1);
        bytes[20] ^= 1;
        flipped.apply_batch([bytes.as_slice(), &entry(2, 1)]);
        assert_ne!(base.crc(), flipped.crc());
    }

    #[test]
    fn the_checksum_tells_bare_stamps_and_lengths_apart() {
        let crc_of = |entries: &[&[u8]]| {
            let mut observer = Observer::new();
            observer.apply_batch(entries.iter().copied());
            observer.crc()
        };
        assert_ne!(crc_of(&[&bare(1, 1), &bare(2, 1)]), crc_of(&[&bare(2, 1), &bare(1, 1)]));
        assert_ne!(crc_of(&[&bare(1, 1)]), crc_of(&[&bare(1, 2)]));
        assert_ne!(crc_of(&[b"ab", b"c"]), crc_of(&[b"a", b"bc"]));
        assert_ne!(crc_of(&[b"", b""]), crc_of(&[b""]));
    }

    #[test]
    fn too_many_producers_are_counted_but_not_kept() {
        let mut observer = Observer::new();
        for producer in 0..PRODUCERS_MAX as u64 + 3 {
            observer.apply_batch([entry(producer, 1).as_slice()]);
        }
        assert_eq!((observer.untracked(), observer.producers().len()), (3, PRODUCERS_MAX));
        observer.apply_batch([entry(0, 2).as_slice()]);
        assert_eq!((observer.untracked(), observer.entries()), (3, PRODUCERS_MAX as u64 + 4));
    }

    #[test]
    fn a_damaged_save_is_refused() {
        let good = serde_json::to_value(observe(&[(1, 1), (2, 1), (2, 1)])).unwrap();
        assert!(serde_json::from_value::<Observer>(good.clone()).is_ok());
        for (key, value) in [("entries", 9), ("duplicates", 0), ("reorderings", 0), ("reorderings", 4), ("more", 1)] {
            let mut bad = good.clone();
            bad[key] = value.into();
            assert!(serde_json::from_value::<Observer>(bad).is_err(), "{key}");
        }
        let mut bad = good;
        bad["producers"].as_array_mut().unwrap().reverse();
        assert!(serde_json::from_value::<Observer>(bad).is_err());
    }

    proptest! {
        #[test]
        fn resuming_from_a_save_changes_nothing(
            stamps in prop::collection::vec((0u64..3, 0u64..12), 0..60),
            cut in 0usize..60,
        ) {
            let (head, tail) = stamps.split_at(cut.min(stamps.len()));
            let saved = serde_json::to_string(&observe(head)).unwrap();
            let mut resumed: Observer = serde_json::from_str(&saved).unwrap();
            for &(producer, sequence) in tail {
                resumed.apply_batch([entry(producer, sequence).as_slice()]);
            }
            let whole = observe(&stamps);
            prop_assert_eq!(serde_json::to_string(&resumed).unwrap(), serde_json::to_string(&whole).unwrap());
            prop_assert_eq!(resumed.run_count, whole.run_count);
        }

        #[test]
        fn every_entry_is_counted_once(entries in prop::collection::vec(prop::collection::vec(0u8..3, 0..20), 0..60)) {
            let mut observer = Observer::new();
            observer.apply_batch(entries.iter().map(Vec::as_slice));
            let fresh: u64 = observer.producers().iter().map(|log| log.runs.count()).sum();
            prop_assert_eq!(observer.entries(), entries.len() as u64);
            prop_assert_eq!(fresh + observer.duplicates() + observer.malformed(), observer.entries());
        }

        #[test]
        fn random_text_is_no_observer_and_no_panic(text in "\\PC*") {
            let _ = serde_json::from_str::<Observer>(&text);
        }
    }
}
